"""SGMSE checkpoints."""

from __future__ import annotations

from functools import partial

from mfdistill.systems.base import System
from mfdistill.systems.enhancement import read_enhancement, recogniser

SGMSE = System(
    "sgmse",
    recogniser("sgmse"),
    partial(read_enhancement, "sgmse"),
    label="SGMSE",
    licence=("mit", "the published SGMSE weights are MIT"),
)
