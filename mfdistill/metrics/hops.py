"""Times of a stream's hops: percentiles, real-time factor, and underruns of a paced run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from mfdistill.errors import UserError


class HopClock:
    """Wall time and own CPU time of every hop.

    Args:
        hop_s: seconds of audio per hop.
        paced: hop k is started when its last sample would have been recorded, ``(k + 1) hop_s``
            after the start, or as soon as the one before it is done; otherwise at once.
    """

    def __init__(self, hop_s: float, paced: bool = False):
        self.hop_s, self.paced = hop_s, paced
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self.late: list[float] = []
        self._start = time.perf_counter()

    def run(self, work: Callable[[], Any]) -> Any:
        """Do one hop's work and give back what it gives."""
        due = self._start + (len(self.wall) + 1) * self.hop_s
        if self.paced and (wait := due - time.perf_counter()) > 0:
            time.sleep(wait)
        cpu, wall = time.thread_time(), time.perf_counter()
        result = work()
        done = time.perf_counter()
        self.wall.append(done - wall)
        self.cpu.append(time.thread_time() - cpu)
        self.late.append(done - due - self.hop_s)
        return result

    def summary(self) -> dict[str, float]:
        """Milliseconds per hop at p50, p95, p99 and the highest (``cpu_``: this thread's CPU time,
        without what other programs took of the core), real-time factors, and in a paced run the
        hops that were done after the next one was due.
        """
        if not self.wall:
            raise UserError("stream: shorter than one hop, so there is nothing to time")
        facts = {
            "hops": float(len(self.wall)),
            **percentiles(self.wall),
            **percentiles(self.cpu, "cpu_"),
        }
        facts |= {
            "rtf": float(np.mean(self.wall)) / self.hop_s,
            "cpu_rtf": float(np.mean(self.cpu)) / self.hop_s,
        }
        if self.paced:
            facts["underruns"] = float(sum(late > 0 for late in self.late))
        return facts


def percentiles(seconds: Iterable[float], prefix: str = "") -> dict[str, float]:
    """p50, p95, p99 and the highest, in milliseconds."""
    values = 1000 * np.asarray(list(seconds))
    named = {f"{prefix}p{q}_ms": float(np.percentile(values, q)) for q in (50, 95, 99)}
    return {**named, f"{prefix}max_ms": float(values.max())}
