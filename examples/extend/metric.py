"""A metric in one file: how many dB louder the result is than the reference."""

from __future__ import annotations

import numpy as np

from mfdistill.metrics import Metric
from mfdistill.metrics.base import Column, Undefined, Wave


def level(estimate: Wave, reference: Wave, sample_rate: int) -> dict[str, float]:
    loud, wanted = (float(np.sqrt(np.mean(np.square(wave)))) for wave in (estimate, reference))
    if wanted == 0 or loud == 0:
        raise Undefined("silent")
    return {"level": -abs(20 * np.log10(loud / wanted))}


COLUMN = Column("level", "level", +1, 1, "dB", resolution=0.1)
METRICS = {"level": Metric("level", (COLUMN,), level)}
