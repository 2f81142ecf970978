"""The losses by the name of their weight in ``FinishConfig``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from mfdistill.distill.finishing import signals, states

Loss = Callable[[Any, Tensor, Any], Tensor]

LOSS_FUNCTIONS: dict[str, Loss] = {
    "log_mel": signals.log_mel,
    "mel": states.mel_l1,
    "time_l1": signals.waveform_l1,
    "si_sdr": signals.si_sdr,
    "features": states.features,
}
