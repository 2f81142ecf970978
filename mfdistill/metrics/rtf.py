"""Real-time factor."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from mfdistill.errors import UserError


def measure_rtf(
    fn: Callable[[], Any],
    seconds: float,
    repeats: int = 5,
    synchronise: Callable[[], Any] | None = None,
) -> float:
    """Median wall time of ``fn()`` over ``repeats`` calls, after one warm-up, divided by
    ``seconds`` of audio.

    Below 1 is faster than real time.

    ``synchronise`` (``torch.cuda.synchronize``, say) is called before each reading of the clock: a
    GPU returns before it has finished.

    Raises:
        UserError: no audio or no repeats.
    """
    if not seconds > 0 or repeats < 1:
        raise UserError(
            f"real-time factor: needs seconds > 0 and repeats >= 1, got {seconds} and {repeats}"
        )
    times = []
    for _ in range(repeats + 1):
        if synchronise:
            synchronise()
        start = time.perf_counter()
        fn()
        if synchronise:
            synchronise()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:]) / seconds
