"""The processes of a run: how they are launched and what is shared out among them."""

from __future__ import annotations

from typing import Any

from mfdistill.distill.settings import TrainConfig
from mfdistill.errors import UserError


def make_accelerator(config: TrainConfig) -> Any:
    """The ``Accelerator`` for a run.

    Raises:
        UserError: the device cannot compute in ``config.mixed_precision``.
    """
    from accelerate import Accelerator

    try:
        return Accelerator(mixed_precision=config.mixed_precision)
    except ValueError as error:
        raise UserError(
            f"--mixed-precision {config.mixed_precision}: not possible here ({error}); use 'no' or another device"
        ) from error
