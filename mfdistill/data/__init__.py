"""Datasets to training batches and evaluation utterances. ``DataConfig`` loads at once, the rest
(torch, datasets) when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mfdistill.data.config import DataConfig

if TYPE_CHECKING:
    from mfdistill.data.evaluation import EvalSet, open_eval
    from mfdistill.data.training import TrainSet, open_train

__all__ = ["DataConfig", "EvalSet", "TrainSet", "open_eval", "open_train"]


def __getattr__(name: str) -> Any:
    if name in ("open_train", "TrainSet"):
        from mfdistill.data import training as module
    elif name in ("open_eval", "EvalSet"):
        from mfdistill.data import evaluation as module
    else:
        raise AttributeError(f"module 'mfdistill.data' has no attribute {name!r}")
    return getattr(module, name)
