"""What the core needs and what extras bring: every package is declared, a plain training imports
none of the heavy ones, and what is missing is told in one line.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from cli_corpus import QUICK, SMALL, make_corpus
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mfdistill.data.rows import Rows
from mfdistill.errors import UserError
from mfdistill.extras import OPTIONAL, missing, needed
from mfdistill.metrics.student_t import t_quantile

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
CORE = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
COMES_WITH = {"PIL": "matplotlib", "markupsafe": "jinja2", "yaml": "accelerate"}
"""Imported packages that others of the core bring."""
TOLD_APART = {"torch_pesq", "transformers"}
"""Losses of solver-train, whose options name them."""


def named_in(extra: str) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in EXTRAS[extra]}


def test_every_import_is_declared() -> None:
    core = {name.replace("-", "_") for name in CORE} | set(COMES_WITH)
    for file in sorted((ROOT / "mfdistill").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [item.name for item in node.names] if isinstance(node, ast.Import) else []
            names += (
                [str(node.module)] if isinstance(node, ast.ImportFrom) and not node.level else []
            )
            for top in (name.split(".")[0] for name in names):
                if top in sys.stdlib_module_names or top == "mfdistill" or top in core | TOLD_APART:
                    continue
                assert top in OPTIONAL, f"{file}: {top} is neither in the core nor an extra's"


def test_extras_bring_what_they_say() -> None:
    for module, (package, extra) in OPTIONAL.items():
        name = canonicalize_name(Requirement(package).name)
        assert name not in CORE, module
        if module != "webrtcvad":  # resemblyzer's
            assert name in named_in(extra), (module, extra)
    assert set(COMES_WITH.values()) <= CORE
    core_and_extras = [
        *PROJECT["dependencies"],
        *(line for lines in EXTRAS.values() for line in lines),
    ]
    for line in core_and_extras:
        assert Requirement(line)


def test_what_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    told = missing("pesq", "metric pesq")
    assert told == (
        "metric pesq: the package 'pesq' is not installed; pip install 'pesq', or in a checkout: pip install '.[metrics]'"
    )
    assert missing("torch_pesq", "x").endswith("pip install 'torch_pesq'")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"owner/name: the package 'datasets' .*'\.\[hub\]'"):
        needed("datasets", "owner/name")
    lines = [
        line
        for file in [
            *ROOT.glob("docs/*.md"),
            ROOT / "README.md",
            *(ROOT / "mfdistill").rglob("*.py"),
        ]
        for line in file.read_text(encoding="utf-8").splitlines()
        if re.search(r"pip install '?mfdistill(?!\S* @ git)", line)
    ]
    assert lines == []  # not on an index


def run(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_plain_training_imports_nothing_heavy(tmp_path: Path) -> None:
    """And works where nothing of the extras can be imported."""
    corpus = make_corpus(tmp_path / "corpus")
    code = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[1].split():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.split(".")[0] in sys.argv[1].split() else find(name, *rest)
from mfdistill.cli import main
code = main(sys.argv[2:])
loaded = {name.split(".")[0] for name in sys.modules}
print(sorted(loaded & set(sys.argv[1].split())))
sys.exit(code)
"""
    quick = QUICK[: QUICK.index("--valid-metrics")]
    out = run(
        code, " ".join(OPTIONAL), "teacher-train", "--sample-rate", "8000", "--data", str(corpus), "--data.crop-s", "0.5",
        "--valid-nfe", "1", "--out", str(tmp_path / "run"), *SMALL, *quick,
    )  # fmt: skip
    assert out.splitlines()[-1] == "[]"
    assert (tmp_path / "run" / "report.html").is_file()
    log = (tmp_path / "run" / "log.jsonl").read_text()
    assert "sisdr_1" in log and "pesq" not in log and '"note"' not in log


def test_rows() -> None:
    rows = Rows({"name": ["a", "b", "c"], "n": [1, 2, 3]})
    assert len(rows) == 3 and rows[1] == {"name": "b", "n": 2} and rows["n"] == [1, 2, 3]
    assert rows.select([2, 0])["name"] == ["c", "a"]
    assert rows.select_columns(["n"])[-1] == {"n": 3} and rows.column_names == ["name", "n"]
    with pytest.raises(IndexError):
        rows[3]
    with pytest.raises(ValueError, match="lengths"):
        Rows({"a": [1], "b": []})


@pytest.mark.parametrize("degrees", [1, 2, 3, 8, 27, 823])
def test_quantiles_of_t(degrees: int) -> None:
    if importlib.util.find_spec("scipy") is None:
        pytest.skip("needs scipy")
    from scipy.stats import t

    for probability in (0.6, 0.975, 0.999):
        exact = float(t.ppf(probability, degrees))
        assert abs(t_quantile(probability, degrees) / exact - 1) < 1e-11
