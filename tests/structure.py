"""Counts of the structure that should only fall: ``python tests/structure.py [FOLDER OF THE
PACKAGE]`` prints them; ``test_layout.py`` holds some of them.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1] / "mfdistill"
CONTRACTS = r"(teacher|student|task|model|start|objective|self\.(teacher|task|model))"


def sources(package: Path = PACKAGE) -> dict[str, str]:
    """Text of every module by its dotted name; packages by their own."""
    found = {}
    for file in sorted(package.rglob("*.py")):
        name = ".".join(file.relative_to(package.parent).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = file.read_text(encoding="utf-8")
    return found


def imported(tree: ast.AST, modules: set[str]) -> Iterator[str]:
    """Modules of this package that a file imports anywhere, also inside functions, under
    ``TYPE_CHECKING``, or by ``lazy.exports``.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                if whole in modules or node.module in modules:
                    yield whole if whole in modules else node.module


def graph(package: Path = PACKAGE) -> dict[str, set[str]]:
    texts = sources(package)
    edges = {
        name: set(imported(ast.parse(text), set(texts))) - {name} for name, text in texts.items()
    }
    return edges


def circles(package: Path = PACKAGE) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others (Tarjan's strongly
    connected components of two or more).
    """
    edges, number, low = graph(package), {}, {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        number[name] = low[name] = len(number)
        stack.append(name)
        for other in sorted(edges[name]):
            if other not in number:
                visit(other)
            if other in stack:
                low[name] = min(low[name], low[other])
        if low[name] == number[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in edges:
        if name not in number:
            visit(name)
    return found


def counts(package: Path = PACKAGE) -> dict[str, Any]:
    texts = sources(package)

    def within(*parts: str) -> dict[str, str]:
        return {
            name: text
            for name, text in texts.items()
            if name.split(".")[1:2] in [[p] for p in parts]
        }

    def hits(pattern: str, chosen: dict[str, str]) -> int:
        return sum(len(re.findall(pattern, text)) for text in chosen.values())

    def naming(word: str) -> int:
        return sum(bool(re.search(rf"\b{word}", text, re.IGNORECASE)) for text in texts.values())

    upper = within("commands", "distill", "search")
    types = r"isinstance\([^()]*(?:\([^()]*\))?[^()]*\b(Mel|Foreign|Token2|Text2|Student|Field|\w*Teacher)\w*\b"
    lines = {
        part: sum(text.count("\n") for text in within(part).values())
        for part in ("commands", "distill", "search", "tasks", "teachers", "systems", "students")
    }
    return {
        "files that name matcha": naming("matcha"),
        "files that name cosyvoice3": naming("cosyvoice3"),
        "isinstance on task, teacher or student types in commands, distill, search": hits(
            types, upper
        ),
        "getattr with a default or hasattr on contract objects": hits(
            rf"(getattr\({CONTRACTS}, [^,()]+,)|(hasattr\({CONTRACTS},)", texts
        ),
        "circles": len(circles(package)),
        "Any": hits(r"\bAny\b(?!.*import)", texts) - hits(r"import .*\bAny\b", texts),
        "lines": {**lines, "all": sum(text.count("\n") for text in texts.values())},
    }


def main() -> None:
    package = Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE
    for name, value in counts(package).items():
        sys.stdout.write(f"{name}: {value}\n")
    for group in circles(package):
        sys.stdout.write(f"  circle: {', '.join(group)}\n")


if __name__ == "__main__":
    main()
