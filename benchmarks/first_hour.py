"""What a newcomer waits for: ``python benchmarks/first_hour.py [--minutes 9] [--busy 2]`` times a
demo from its start: first line, longest silence, total, updates of teacher and student, the page.

``--busy N`` keeps N processes computing beside it. The result is printed and, with ``--record``,
written to ``benchmarks/results/first_hour.json``.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from mfdistill.checkpoint import load_config, write_json

RESULTS = Path(__file__).parent / "results"
_BURN = "x = 1.0\nwhile True: x = x * 1.0000001 + 1e-9"


@dataclass(frozen=True)
class FirstHour:
    """Time a demo."""

    minutes: float = 9.0
    """Of the demo."""
    busy: int = 0
    """Processes that compute beside it."""
    record: bool = False
    """Write benchmarks/results/first_hour.json."""
    out: str | None = None
    """Folder of the demo; by default one that is removed."""


def run(command: FirstHour) -> dict[str, Any]:
    """The measured demo, as it is recorded."""
    burners = [subprocess.Popen([sys.executable, "-c", _BURN]) for _ in range(command.busy)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            # an empty cache: the corpus is made anew, as on a new machine
            cache = {"MFDISTILL_CACHE": str(Path(folder) / "cache")}
            return demo(command, Path(command.out or Path(folder) / "demo"), cache)
    finally:
        for burner in burners:
            burner.kill()


def demo(command: FirstHour, out: Path, more: dict[str, str]) -> dict[str, Any]:
    """Run it, noting when a line came on stdout or stderr."""
    words = ["-m", "mfdistill", "demo", "--minutes", f"{command.minutes:g}", "--out", str(out)]
    load, began, lines = os.getloadavg()[0], time.monotonic(), []
    process = subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **more}
    )  # fmt: skip
    assert process.stdout is not None
    loads = Loads()
    for line in process.stdout:
        lines.append((time.monotonic() - began, line.rstrip()))
        logging.info("%6.1f s  %s", *lines[-1])
    code, total = process.wait(), time.monotonic() - began
    if code:
        raise SystemExit(f"the demo ended with {code}: {lines[-1][1]}")
    times = [0.0, *(at for at, _ in lines), total]
    silences = [(b - a, a) for a, b in zip(times, times[1:], strict=False)]
    longest, at = max(silences[1:])
    stages = {
        re.split(r"[:;]", text.split(": ", 1)[1])[0]: round(at, 1)
        for at, text in lines
        if text.startswith("--- ")
    }
    updates = {name: load_config(out / name)["training"] for name in ("teacher", "student")}
    return {
        "minutes": command.minutes,
        "cores": os.cpu_count(),
        "busy": command.busy,
        "load before": round(load, 1),
        "mean load": loads.mean(),
        "first line (s)": round(times[1], 2),
        "longest silence (s)": round(longest, 1),
        "longest silence at (s)": round(at, 1),
        "total (min)": round(total / 60, 2),
        "updates": {name: f"{made['step']} of {made['steps']}" for name, made in updates.items()},
        "student batch": updates["student"]["batch_size"],
        "page": (out / "report.html").is_file(),
        "stages (s)": stages,
    }


class Loads:
    """The load average, every ten seconds."""

    def __init__(self) -> None:
        self.seen: list[float] = []
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.seen.append(os.getloadavg()[0])
            time.sleep(10)

    def mean(self) -> float:
        return round(sum(self.seen) / max(1, len(self.seen)), 1)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    chosen = tyro.cli(FirstHour)
    result = run(chosen)
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    if chosen.record:
        write_json(RESULTS / "first_hour.json", result)
