"""The pages hold what they say: commands and options exist, marked blocks run, links lead
somewhere, the site builds without a warning.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile
from cli_corpus import voice

from mfdistill.cli import main
from mfdistill.commands.parsing import ALIASES, COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.M | re.S)
_EVERY = {"--help", "--help-all", "--json", "--quiet", "--version", "--extend"}


def options(cls: type, prefix: str = "") -> Iterator[str]:
    """Names of all options of a command, without tyro."""
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        marks = getattr(hint, "__metadata__", ())
        base = typing.get_args(hint)[0] if marks else hint
        if dataclasses.is_dataclass(base):
            omitted = "OmitArgPrefixes" in str(hint)
            yield from options(base, prefix if omitted else f"{prefix}{field.name}.")  # type: ignore[arg-type]
            continue
        names = [mark.name for mark in marks if getattr(mark, "name", None)]
        bare = any(getattr(mark, "prefix_name", None) is False for mark in marks)
        yield ("" if bare else prefix) + (names[0] if names else field.name)


def known(command: str) -> set[str]:
    return {
        "--" + name.replace("_", "-") for name in options(COMMANDS[ALIASES.get(command, command)])
    }


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every ``mfdistill ...`` in the blocks of a page."""
    for _, language, block in _FENCE.findall(page.read_text(encoding="utf-8")):
        if language not in ("", "bash", "sh"):
            continue
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|;|\|", line.split(" # ")[0].split("  #")[0]):
                if part.strip().startswith("mfdistill "):
                    yield shlex.split(part.strip(), comments=True)[1:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_exist(page: Path) -> None:
    for words in commands(page):
        while words[:1] == ["--extend"]:
            words = words[2:]
        if words[0].startswith("-") or not words[0].islower():  # COMMAND in general
            continue
        assert words[0] in COMMANDS or words[0] in ALIASES, words
        named = {word.split("=")[0] for word in words if re.match(r"--[a-z]", word)} - _EVERY
        positives = {word.replace("--no-", "--", 1) for word in named}
        assert positives <= known(words[0]), (words, positives - known(words[0]))


def test_every_command_is_found_that_way() -> None:
    for name in COMMANDS:  # what any command has is no option of one
        assert not known(name) & {"--json", "--quiet"}, name
    assert {"--integral.spectral", "--out", "--data", "--lr-schedule"} <= known("student-distill")
    assert sum(len(list(commands(page))) for page in PAGES) > 60


def test_the_tour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its marked blocks, in order, in one folder."""
    monkeypatch.chdir(tmp_path)
    soundfile.write("noisy.wav", voice(1, 0.8, 16000), 16000)
    text = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
    blocks = re.findall(r"<!-- executed -->\n```(\w+)\n(.*?)```", text, re.S)
    assert [language for language, _ in blocks] == ["bash", "bash", "python"]
    for language, block in blocks:
        if language == "python":
            subprocess.run([sys.executable, "-c", block], check=True)
            continue
        for line in block.splitlines():
            assert main(shlex.split(line, comments=True)[1:]) == 0, line
    made = {file.name for file in tmp_path.glob("*.wav")}
    assert made >= {"clean.wav", "vocoded.wav", "streamed.wav", "two-steps.wav", "by-times.wav", "from-python.wav"}  # fmt: skip


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        text = _FENCE.sub("", page.read_text(encoding="utf-8"))
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"https?:|mailto:", target):
                continue
            name, _, anchor = target.partition("#")
            file = (page.parent / name).resolve() if name else page
            assert file.exists(), f"{page.name}: {target}"
            if anchor:
                heads = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.M)
                slugs = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
                assert anchor in slugs, f"{page.name}: {target}"


def test_the_readme_is_one_page() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900


def test_the_licences_name_the_core() -> None:
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    table = (ROOT / "docs" / "licences.md").read_text()
    for line in [*project["dependencies"], *project["optional-dependencies"]["metrics"]]:
        assert f"| {Requirement(line).name.lower()} |" in table, "python benchmarks/licences.py"


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs mkdocs-material (extra docs)")
    pytest.importorskip("mkdocstrings", reason="needs mkdocstrings (extra docs)")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == "", done.stderr
    first = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert "quality.png" in first and "tour.html" in first
    assert (tmp_path / "site" / "benchmarks" / "results" / "quality.png").is_file()
    api = (tmp_path / "site" / "api.html").read_text(encoding="utf-8")
    assert "load_student" in api and "total_derivative" in api
