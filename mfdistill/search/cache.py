"""Scores that outlive the process: a search that was killed, or is run again, does not score a
schedule twice.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mfdistill.checkpoint import digest_tensors
from mfdistill.errors import UserError
from mfdistill.search.o3s import Schedule, rounded

__all__ = ["ScoreCache", "digest_tensors", "digest_text"]

log = logging.getLogger(__name__)


class ScoreCache:
    """A JSON-lines file of ``{"fingerprint", "schedule", "values"}``, the values one per utterance;
    lines of other fingerprints (student, metric, data, seed) stay and are ignored, and so are those
    of older versions, which kept the mean alone. NaN, which JSON lacks, is written as null.

    Args:
        path: the file, made when the first score is added. None: nothing is kept.
        fingerprint: says which lines are ours.
    """

    def __init__(self, path: Path | None, fingerprint: str):
        self.path, self.fingerprint = path, fingerprint

    def load(self) -> dict[Schedule, np.ndarray]:
        """Known values, (n,) of each schedule. A last line cut short by a kill is dropped with a
        warning.

        Raises:
            UserError: the file cannot be read, or a line before the last is damaged.
        """
        if self.path is None or not self.path.exists():
            return {}
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"{self.path}: cannot be read ({error}); delete it to search from the beginning"
            ) from error
        known: dict[Schedule, np.ndarray] = {}
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                if entry["fingerprint"] == self.fingerprint and "values" in entry:
                    known[rounded(entry["schedule"])] = np.array(
                        [math.nan if v is None else float(v) for v in entry["values"]]
                    )
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                if number < len(lines):
                    raise UserError(
                        f"{self.path}, line {number}: damaged; delete that line or the whole file"
                    ) from error
                log.warning("%s: the last line was cut short and is dropped", self.path)
        return known

    def add(self, schedule: Schedule, values: Iterable[float]) -> None:
        """Append one schedule's values.

        Raises:
            UserError: the file cannot be written.
        """
        if self.path is None:
            return
        kept = [None if math.isnan(value) else float(value) for value in values]
        entry = {"fingerprint": self.fingerprint, "schedule": list(schedule), "values": kept}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _end_line(self.path)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error}); free some space or make the folder writable"
            ) from error


def _end_line(path: Path) -> None:
    """Cut what a killed process left of a last line, so that the next one starts at the margin."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def digest_text(parts: Iterable[object]) -> str:
    """SHA-256 over the JSON of plain values."""
    return hashlib.sha256(json.dumps(list(parts), sort_keys=True).encode()).hexdigest()
