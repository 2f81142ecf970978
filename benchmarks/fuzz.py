"""Mutated inputs of every loader (``tests/fuzz``), in a process of their own: how many were read,
refused in one line, or went wrong, and the process's peak memory up to there; with the table in
docs/bad-input.md.

python benchmarks/fuzz.py [CASES [LOADER ...]]    # 500 each; adds to benchmarks/results/fuzz.json
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import record

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "fuzz.json"


def one(name: str, cases: int) -> dict[str, object]:
    """All cases of a loader, in this process."""
    sys.path.insert(0, str(ROOT / "tests" / "fuzz"))
    from loaders import LOADERS, run_case  # type: ignore[import-not-found]

    warnings.simplefilter("ignore")
    loader, said, wrong = LOADERS[name], Counter[str](), {}
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        seeds = loader.seeds(Path(place))
        idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        for number in range(cases):
            result = run_case(loader, seeds, number, Path(place))
            said[result if result in ("read", "refused") else "wrong"] += 1
            if result not in ("read", "refused"):
                wrong[number] = result
    return {
        "cases": cases,
        **{key: said[key] for key in ("read", "refused", "wrong")},
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "idle_mib": round(idle),
        "seconds": round(time.monotonic() - begun, 1),
        "wrong_cases": wrong,
    }


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """For the page."""
    head = "| loader | mutated inputs | read | refused | wrong | peak MiB |\n|---|---:|---:|---:|---:|---:|\n"
    names = ("cases", "read", "refused", "wrong", "peak_mib")
    lines = [
        f"| {loader} | " + " | ".join(str(row.get(name, "-")) for name in names) + " |"
        for loader, row in results.items()
    ]
    return head + "\n".join(lines) + "\n"


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        for name in sys.argv[3:]:
            sys.stdout.write(json.dumps([name, one(name, int(sys.argv[2]))]) + "\n")
            sys.stdout.flush()
        return
    cases = int(sys.argv[1]) if sys.argv[1:] else 500
    sys.path.insert(0, str(ROOT / "tests" / "fuzz"))
    from loaders import LOADERS  # type: ignore[import-not-found]

    left = sys.argv[2:] or list(LOADERS)
    results = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    while left:
        words = [sys.executable, __file__, "--child", str(cases), *left]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for line in child.stdout:
                name, results[name] = json.loads(line)
                left.remove(name)
                sys.stderr.write(f"{name}: {results[name]}\n")
                RESULT.write_text(json.dumps(results, indent=2) + "\n")
        if left:  # native code brought the process down
            results[left[0]] = {"cases": cases, "wrong": 1, "died": child.returncode}
            sys.stderr.write(f"{left[0]}: died with {child.returncode}\n")
            RESULT.write_text(json.dumps(results, indent=2) + "\n")
            left = left[1:]
    page = ROOT / "docs" / "bad-input.md"
    record.into(
        page, "fuzz.json", table({name: results[name] for name in LOADERS if name in results})
    )
    bad = [name for name, row in results.items() if row["wrong"] or row.get("peak_mib", 0) > 1024]
    if bad:
        raise SystemExit(f"went wrong: {', '.join(bad)}")


if __name__ == "__main__":
    main()
