"""Do the tests notice when the code is wrong? One small change at a time (a mutant) in the numeric
modules, and the exact-answer tests of that module: a mutant that they pass is a gap in them.

``python benchmarks/mutants.py [--modules flow/paths ...] [--sample 40] [--seed 0]`` draws so many
mutants of each module (0: all of them), says which live, and writes ``results/mutants.json``. Every
mutant is judged in a fork of one process that has imported everything, and imports again what
depends on it, so that it costs little more than its tests; no file of the package is touched. What
is known is kept in ``runs/mutants``: stop and start it as you like. A killed mutant is not tried
again while its module stays as it is, a living one only after its tests have changed. ``judgement``
of a living one is written by hand into the result, and kept. Linux only.

Not mutated: texts, annotations, defaults of settings, what devices are for, messages of errors.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import hashlib
import importlib
import importlib.util
import json
import os
import random
import re
import resource
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("", "tests")]
import structure  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "mutants.json"
RUNS = ROOT / "runs" / "mutants"
OBJECTIVES = ("test_objective_options",)
# tests that a mutant must pass, the quickest first; of a module, its folder, or its first folder
TESTS: dict[str, tuple[str, ...]] = {
    "flow/config": ("test_flow_times",),
    "flow/derivative": ("test_flow_derivative",),
    "flow/draws": ("test_flow_paths",),
    "flow/grids": ("test_flow_tableaus",),
    "flow/paths": ("test_flow_paths",),
    "flow/solvers": ("test_flow_solvers", "test_flow_tableaus"),
    "flow/speech_grids": ("test_flow_tableaus",),
    "flow/tableaus": ("test_flow_tableaus",),
    "flow/times": ("test_flow_times",),
    "distill/objectives/base": OBJECTIVES,
    "distill/objectives/cfm": OBJECTIVES,
    "distill/objectives/config": OBJECTIVES,
    "distill/objectives/derivative": OBJECTIVES,
    "distill/objectives/finish": ("test_finish",),
    "distill/objectives/imitation": ("test_objective_options",),
    "distill/objectives/integral": OBJECTIVES,
    "distill/objectives/meanflow": OBJECTIVES,
    "distill/objectives/regression": OBJECTIVES,
    "search/o3s": ("test_o3s",),
    "students/interval": ("test_interval",),
    "distill/ema": ("test_state",),
    "distill/state": ("test_state",),
}

SWAPS: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,),
    ast.Mod: (ast.Mult,),
    ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.BitXor: (ast.BitAnd,),
    ast.LShift: (ast.RShift,),
    ast.RShift: (ast.LShift,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
    ast.Break: (ast.Continue,),
    ast.Continue: (ast.Break,),
}
_TWINS = ("min max", "minimum maximum", "any all", "zeros_like ones_like", "sin cos", "ceil floor")
TWINS = {a: b for a, b in map(str.split, _TWINS)} | {b: a for a, b in map(str.split, _TWINS)}
# methods that give back something of the same kind, so that leaving them out still runs
PLAIN = {
    *("abs", "bool", "clamp", "clone", "contiguous", "detach", "double", "eval", "expand", "float"),
    *("masked_fill", "mul_", "requires_grad_", "reversed", "sort", "sqrt", "square", "to"),
}
UNTRIED = {"strict", "device", "device_type"}  # keywords that no test on a processor can tell
GUARD = 1e-5  # smaller numbers guard against zero: they become 0.1


def nodes(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int | None, Any]]:
    """``(parent, field, index, node)`` of all that may be changed."""
    for field in tree._fields:
        if field in ("annotation", "returns", "decorator_list"):
            continue
        value = getattr(tree, field, None)
        for index, node in enumerate(value) if isinstance(value, list) else ((None, value),):
            if not isinstance(node, ast.AST):
                continue
            setting = isinstance(tree, ast.ClassDef) and isinstance(node, ast.AnnAssign)
            if setting or isinstance(node, ast.keyword) and node.arg in UNTRIED:
                continue
            if isinstance(node, ast.Call) and re.search(r"\.to\(.*device", ast.unparse(node)):
                continue
            yield tree, field, index, node
            typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            if not (typing or isinstance(node, ast.Raise | ast.JoinedStr)):
                yield from nodes(node)


def variants(node: Any) -> Iterator[tuple[str, Any]]:
    """Ways to change a node: what each says, and the node in its place."""
    for other in SWAPS.get(type(node), ()):
        yield f"{type(node).__name__} -> {other.__name__}", other()
    match node:
        case ast.Constant(value=bool(value)):
            yield f"{value} -> {not value}", ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield f"{value} -> {value + 1}", ast.Constant(value + 1)
        case ast.Constant(value=float(value)):
            new = (0.1 if abs(value) < GUARD else 2 * value) if value else 1.0
            yield f"{value} -> {new}", ast.Constant(new)
        case ast.UnaryOp(op=ast.USub() | ast.Not() | ast.Invert()):
            yield f"without {type(node.op).__name__}", node.operand
        case ast.If() | ast.IfExp() | ast.While():
            # of a single comparison it is one of its swaps
            if not (isinstance(node.test, ast.Compare) and len(node.test.ops) == 1):
                new = copy.copy(node)
                new.test = ast.UnaryOp(ast.Not(), node.test)
                yield f"not ({ast.unparse(node.test)})", new
        case ast.Raise():
            yield "no raise", ast.Pass()
        case ast.AugAssign() | ast.Assign(targets=[ast.Subscript(), *_]):
            yield f"without {ast.unparse(node)}", ast.Pass()
        case ast.Expr(value=ast.Call()):
            yield f"without {ast.unparse(node)}", ast.Pass()
        case ast.Name(id=name) if name in TWINS:
            yield f"{name} -> {TWINS[name]}", ast.Name(TWINS[name], node.ctx)
        case ast.Attribute(attr=name) if name in TWINS:
            yield f"{name} -> {TWINS[name]}", ast.Attribute(node.value, TWINS[name], node.ctx)
        case ast.FunctionDef() if "torch.no_grad()" in map(ast.unparse, node.decorator_list):
            new = copy.copy(node)
            new.decorator_list = []
            yield f"{node.name} without no_grad", new
        case ast.Call():
            if isinstance(node.func, ast.Attribute) and node.func.attr in PLAIN:
                yield f"without .{node.func.attr}()", node.func.value
            for i, word in enumerate(node.keywords):
                if word.arg is not None and word.arg not in UNTRIED:
                    rest = node.keywords[:i] + node.keywords[i + 1 :]
                    yield f"without {ast.unparse(word)}", ast.Call(node.func, node.args, rest)


def sites(tree: ast.AST) -> list[tuple[int, str, Any]]:
    """``(line, change, place)`` of every mutant of a module; ``place`` is for ``mutated``."""
    found, line = [], 1
    for parent, field, index, node in nodes(tree):
        line = getattr(node, "lineno", line)
        for change, new in variants(node):
            found.append((line, change, (parent, field, index, new)))
    return found


def mutated(source: str, number: int) -> ast.Module:
    """The tree of a module with its ``number``-th change made."""
    tree = ast.parse(source)
    parent, field, index, new = sites(tree)[number][2]
    if index is None:
        setattr(parent, field, new)
    else:
        getattr(parent, field)[index] = new
    return ast.fix_missing_locations(tree)


class Loader(SourceFileLoader):
    """Runs ``code`` in the place of the module's own."""

    code: Any = None

    def get_code(self, fullname: str) -> Any:
        return self.code

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> Any:
        """As ``sys.meta_path`` asks for it."""
        if fullname == self.name:
            return importlib.util.spec_from_file_location(fullname, self.path, loader=self)
        return None


graph = lru_cache(structure.graph)


def again(name: str, loader: Loader | None) -> None:
    """Forget a module and all that depend on it, so that they are imported again, the module by
    ``loader``.
    """
    lost = {name}
    while more := {other for other, needs in graph().items() if needs & lost} - lost:
        lost |= more
    for other in lost:
        parent, _, leaf = other.rpartition(".")
        if parent in sys.modules:
            vars(sys.modules[parent]).pop(leaf, None)
        sys.modules.pop(other, None)
    if loader is not None:
        sys.meta_path.insert(0, loader)
    # packages are named by what they hold
    for other, module in list(sys.modules.items()):
        parent, _, leaf = other.rpartition(".")
        if parent in lost:
            setattr(importlib.import_module(parent), leaf, module)


def run_tests(name: str, tests: Sequence[str], loader: Loader | None, seconds: int) -> int:
    """The exit status of pytest in a fork: 0 passed, 1 failed, negative ended by that signal (out
    of time).
    """
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        signal.alarm(60 * seconds)  # asleep, on however busy a machine
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        status = 1
        with tempfile.TemporaryDirectory() as place, contextlib.suppress(BaseException):
            again(name, loader)
            options = ["-x", "--assert=plain", "-p", "no:cacheprovider", f"--basetemp={place}/t"]
            files = [str(ROOT / "tests" / f"{test}.py") for test in tests]
            status = int(pytest.main([*options, f"--rootdir={ROOT}", *files]))
        os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what a test may have started
    return status


def cpu_seconds() -> float:
    """Of the forks that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


class Known:
    """What was found before, one JSON line each."""

    def __init__(self) -> None:
        self.file, self.rows = RUNS / "known.jsonl", {}
        RUNS.mkdir(parents=True, exist_ok=True)
        for line in self.file.read_text().splitlines() if self.file.is_file() else ():
            key, end, tests = json.loads(line)
            self.rows[key] = (end, tests)

    def get(self, key: str, tests: str) -> str | None:
        """How a mutant ended, unless it lived and its tests have changed."""
        end, by = self.rows.get(key, (None, None))
        return end if end in ("killed", "timeout") or by == tests else None

    def put(self, key: str, end: str, tests: str) -> None:
        self.rows[key] = (end, tests)
        with self.file.open("a") as out:
            out.write(json.dumps([key, end, tests]) + "\n")


def dotted(name: str) -> str:
    return f"mfdistill.{name.replace('/', '.')}"


def seconds_of(name: str, tests: tuple[str, ...]) -> int:
    """What tests take of the processor as the code is, with the module imported again.

    Raises:
        SystemExit: they fail.
    """
    before = cpu_seconds()
    if run_tests(dotted(name), tests, None, 600):
        raise SystemExit(f"{name}: {', '.join(tests)} fail as the code is")
    return round(cpu_seconds() - before)


def try_module(name: str, sample: int, seed: int, known: Known) -> tuple[Counter[str], list[dict]]:
    """Counts of a module's mutants, and those that live."""
    file, tests = ROOT / "mfdistill" / f"{name}.py", TESTS[name]
    source = file.read_text(encoding="utf-8")
    lines, all_sites = source.splitlines(), sites(ast.parse(source))
    order = list(range(len(all_sites)))
    random.Random(f"{seed}/{name}").shuffle(order)  # a larger sample holds the smaller one
    chosen = sorted(order[: sample or None])
    of_tests = digest(*((ROOT / "tests" / f"{test}.py").read_text() for test in tests))
    counts, living, limit = Counter({"sites": len(all_sites), "tried": len(chosen)}), [], 0
    for number in chosen:
        line, change, _ = all_sites[number]
        key = digest(source, str(number), change)
        end = known.get(key, of_tests)
        if end is None:
            if not limit:
                limit = 5 + 3 * seconds_of(name, tests)
            loader = Loader(dotted(name), str(file))
            loader.code = compile(mutated(source, number), str(file), "exec")
            status = run_tests(dotted(name), tests, loader, limit)
            end = "lives" if status == 0 else "timeout" if status < 0 else "killed"
            known.put(key, end, of_tests)
        counts[end] += 1
        if end == "lives":
            where = {"file": f"mfdistill/{name}.py", "line": line, "change": change}
            living.append({**where, "code": lines[line - 1].strip()})
    return counts, living


def say(text: str) -> None:
    sys.stderr.write(text + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--modules", nargs="+", default=list(TESTS), choices=list(TESTS))
    parser.add_argument("--sample", type=int, default=40, help="mutants of each module, 0: all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in TESTS:
        importlib.import_module(dotted(name))
    graph()
    # its first call compiles rules of its own for seconds
    torch.func.jvp(torch.sin, (torch.ones(1),), (torch.ones(1),))
    known, begun = Known(), cpu_seconds()
    result = (
        json.loads(RESULT.read_text()) if RESULT.is_file() else {"modules": {}, "survivors": []}
    )
    rows, survivors = result["modules"], result["survivors"]
    for name in args.modules:
        counts, living = try_module(name, args.sample, args.seed, known)
        rows[name] = {"seed": args.seed, **counts}
        say(f"{name}: {rows[name]}, {cpu_seconds() - begun:.0f} s of processor")
        file = f"mfdistill/{name}.py"
        judged = {(row["code"], row["change"]): row["judgement"] for row in survivors}
        survivors = [row for row in survivors if row["file"] != file]
        for row in living:
            judgement = judged.get((row["code"], row["change"]), "")
            survivors.append({**row, "judgement": judgement})
            say(f"  {row['line']}: {row['change']}: {row['code']} [{judgement}]")
        write(rows, survivors)
    score = json.loads(RESULT.read_text())["score"]
    say(f"{score:.1%} of what is recorded was killed")


def write(rows: dict[str, Any], survivors: list[dict[str, Any]]) -> None:
    """The result, with the sums over all modules that were ever tried."""
    kinds = ("sites", "tried", "killed", "timeout", "lives")
    total = {kind: sum(row.get(kind, 0) for row in rows.values()) for kind in kinds}
    score = round((total["killed"] + total["timeout"]) / max(1, total["tried"]), 4)
    order = {name: rows[name] for name in TESTS if name in rows}
    result = {"score": score, **total, "modules": order, "survivors": survivors}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
