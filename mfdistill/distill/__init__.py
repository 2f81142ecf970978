"""Objectives (``objectives/``, one file each) and the training loop (``train.train``).
``TrainConfig`` comes without loading torch.
"""

from mfdistill.distill.settings import TrainConfig

__all__ = ["TrainConfig"]
