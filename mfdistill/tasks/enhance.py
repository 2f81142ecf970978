"""Speech enhancement."""

from __future__ import annotations

from mfdistill.audio.features import StftConfig
from mfdistill.tasks.base import Restoration
from mfdistill.tasks.config import TaskConfig


class Enhance(Restoration):
    """Noisy speech to clean speech; the flow starts at the noisy features with Gaussian spread (as
    SGMSE, FlowSE, Stream.FM).
    """

    # the input says the phases, so the waveform is compared too
    finishing = {"log_mel": 1.0, "time_l1": 1.0}
    about = "speech enhancement (noisy speech in, clean speech out)"


def enhance_preset(stft: StftConfig) -> TaskConfig:
    """Spread in proportion to the noisy magnitude. A stream cannot know its peak: causal features
    are made at the level that comes in, as Stream.FM's are for this task.
    """
    normalise = "none" if stft.causal else "peak"
    return TaskConfig(
        "enhance", stft, sigma_0=0.1, prior_mean="y", prior_shape="magnitude", normalise=normalise
    )
