"""Datasets to training batches and evaluation utterances. ``DataConfig`` loads at once, the rest
(torch, datasets) when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mfdistill.data.config import DataConfig
from mfdistill.lazy import exports

if TYPE_CHECKING:
    from mfdistill.data.evaluation import EvalSet, open_eval
    from mfdistill.data.training import TrainSet, open_train

__all__ = ["DataConfig", "EvalSet", "TrainSet", "open_eval", "open_train"]


__getattr__ = exports(
    __name__, {"training": "TrainSet open_train", "evaluation": "EvalSet open_eval"}
)
