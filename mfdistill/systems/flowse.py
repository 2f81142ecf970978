"""FlowSE checkpoints."""

from __future__ import annotations

from functools import partial

from mfdistill.systems.base import System
from mfdistill.systems.enhancement import read_enhancement, recogniser

FLOWSE = System("flowse", recogniser("flowse"), partial(read_enhancement, "flowse"), label="FlowSE")
