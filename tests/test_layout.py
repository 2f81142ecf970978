"""What the design says about imports: one way between packages, heavy ones only where they are
used, no torch for help.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from structure import counts

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mfdistill"
BASE = {
    "errors",
    "extras",
    "config",
    "checkpoint",
    "companions",
    "integrity",
    "lazy",
    "parts",
    "peers",
    "places",
    "plain",
    "reading",
    "version",
    "walk",
    "weights",
}
LAYERS = ("flow", "networks", "systems", "teachers", "students", "distill", "search", "commands")
BESIDE = {
    "audio": set(),
    "tasks": {"audio", "flow"},
    "data": {"audio", "tasks"},
    "metrics": {"audio"},
    "report": {"metrics"},
}
ALLOWED = {
    **BESIDE,
    "flow": set(),
    "networks": {"flow"},
    "systems": {"networks", "flow", "tasks", "audio"},
    "teachers": {"systems", "networks", "flow", "tasks", "audio"},
    "students": {"teachers", "systems", "networks", "flow", "tasks", "audio"},
    **{
        part: {*LAYERS[: LAYERS.index(part)], *BESIDE} for part in ("distill", "search", "commands")
    },
    "cli": {"commands", "distill"},
    "__main__": {"cli"},
}
HEAVY = {
    *(
        "torchaudio",
        "pesq",
        "pystoi",
        "resemblyzer",
        "speechmos",
        "onnxruntime",
        "librosa",
        "datasets",
        "matplotlib",
        "accelerate",
    ),
    *("tensorboard", "soxr", "scipy", "sklearn", "huggingface_hub", "espeakng_loader"),
    *("onnx", "sounddevice", "vocos", "yaml"),
}
COUNTS = counts()
MOST = {
    "files that name matcha": 4,
    "files that name cosyvoice3": 4,
    "isinstance on task, teacher or student types in commands, distill, search": 0,
    "getattr with a default or hasattr on contract objects": 0,
    "circles": 0,
    "Any": 300,
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(tree: ast.AST, nested: bool) -> Iterator[str]:
    """Full names of imported modules; without ``nested`` only those that are loaded with the
    file.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the whole module"
            yield from (
                [f"{node.module}.{name.name}" for name in node.names]
                if node.module == "mfdistill"
                else [str(node.module)]
            )
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not nested:
            continue
        elif (
            isinstance(node, ast.If)
            and isinstance(node.test, ast.Name)
            and node.test.id == "TYPE_CHECKING"
            and not nested
        ):
            continue
        else:
            yield from imports(node, nested)


def part(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("name", sorted({part(file) for file in FILES} - BASE - {"__init__"}))
def test_imports_run_one_way(name: str) -> None:
    for file in (file for file in FILES if part(file) == name):
        for module in imports(ast.parse(file.read_text(encoding="utf-8")), nested=True):
            words = module.split(".")
            if words[0] == "mfdistill" and len(words) > 1:
                assert words[1] in BASE | ALLOWED[name] | {name, "__version__"}, (
                    f"{file.relative_to(ROOT)} imports {module}"
                )


def test_flow_imports_torch_only() -> None:
    for file in (file for file in FILES if part(file) == "flow"):
        for module in imports(ast.parse(file.read_text(encoding="utf-8")), nested=True):
            assert module.split(".")[0] in {"torch", "mfdistill", *sys.stdlib_module_names}, (
                f"{file.relative_to(ROOT)} imports {module}"
            )


def test_heavy_imports_are_inside_the_functions_that_use_them() -> None:
    for file in FILES:
        for module in imports(ast.parse(file.read_text(encoding="utf-8")), nested=False):
            assert module.split(".")[0] not in HEAVY, (
                f"{file.relative_to(ROOT)} imports {module} when it is loaded"
            )


def test_no_file_of_leftovers() -> None:
    assert not [file for file in FILES if file.name == "utils.py"]


@pytest.mark.parametrize("what", list(MOST))
def test_what_should_only_fall_does_not_rise(what: str) -> None:
    """``python tests/structure.py`` prints these; circles count imports inside functions and for
    type checkers.
    """
    assert COUNTS[what] <= MOST[what]


def test_help_loads_no_torch_and_takes_less_than_a_second() -> None:
    code = """
import sys, time
from mfdistill.cli import main
from mfdistill.commands.parsing import COMMANDS
for arguments in [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]:
    try:
        main(arguments)
    except SystemExit as stop:
        assert not stop.code, stop.code
    if arguments == ["--help"]:
        seconds = time.process_time()
loaded = {"torch", "numpy", "soundfile", "accelerate", "datasets", "matplotlib"} & set(sys.modules)
assert not loaded, loaded
assert seconds < 1, seconds
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in (
        "teacher-train",
        "student-distill",
        "os3-search",
        "evaluate",
        "restore",
        "demo",
        "info",
    ):
        assert name in done.stdout
