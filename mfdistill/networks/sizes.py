"""The larger networks as one chooses them on the command line: a named size, and single numbers
over it. Without torch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from mfdistill.errors import UserError
from mfdistill.networks.config import CausalNCSNppConfig, DCUNetConfig, NCSNppConfig
from mfdistill.plain import Plain

Backbone = Literal["compact", "ncsnpp", "dcunet", "causal_ncsnpp"]
Size = Literal["small", "medium", "large", "published"]


@dataclass(frozen=True)
class UNetSizes:
    """Network of ``--backbone`` ncsnpp, dcunet or causal_ncsnpp. None is the named size's."""

    size: Size = "small"
    """ncsnpp: 1.4, 5.5, 16 and 65.6 M parameters; causal_ncsnpp: 0.9, 3.5, 7 and 27.9 M; dcunet:
    1.6, 2.7, 3.9 (DCUNet-10, 16, 20) and
    3.6 M (DilDCUNet-v2).
    """
    nf: int | None = None
    """Base width; of ncsnpp a multiple of 16."""
    ch_mult: tuple[int, ...] | None = None
    """Widths of the resolutions, in nf; each after the first has half the bins."""
    num_res_blocks: int | None = None
    """Of each resolution."""
    attn_resolutions: tuple[int, ...] | None = None
    """Bins of the resolutions with attention (ncsnpp)."""
    fourier_scale: float | None = None
    """Of the time frequencies; 1 for new networks (derivatives grow with it), published checkpoints
    have 16.
    """
    time: Literal["log", "linear"] | None = None
    """What of the time ncsnpp embeds; linear for new networks, published checkpoints have the
    logarithm.
    """
    dropout: float | None = None
    """Of ncsnpp."""
    architecture: str | None = None
    """Of dcunet: DCUNet-10, -16, -20 or DilDCUNet-v2."""
    norm: str | None = None
    """dcunet: bN or CbN; causal_ncsnpp: subband_grouped_framenorm or subband_grouped_batchnorm."""


SIZES: dict[str, dict[Size, Plain]] = {
    "ncsnpp": {
        "small": {"nf": 32, "ch_mult": (1, 1, 2, 2), "num_res_blocks": 1},
        "medium": {"nf": 64, "ch_mult": (1, 1, 2, 2), "num_res_blocks": 1},
        "large": {"nf": 64, "ch_mult": (1, 1, 2, 2, 2, 2, 2), "num_res_blocks": 2},
        "published": {},
    },
    "causal_ncsnpp": {
        "small": {"nf": 32, "ch_mult": (1, 2, 2), "num_res_blocks": 1},
        "medium": {"nf": 64, "ch_mult": (1, 2, 2), "num_res_blocks": 1},
        "large": {"nf": 64, "ch_mult": (1, 2, 2, 2), "num_res_blocks": 2},
        "published": {},
    },
    "dcunet": {
        "small": {"architecture": "DCUNet-10"},
        "medium": {"architecture": "DCUNet-16"},
        "large": {"architecture": "DCUNet-20"},
        "published": {"architecture": "DilDCUNet-v2"},
    },
}
_SMOOTH = {
    "ncsnpp": {"fourier_scale": 1.0, "time": "linear"},
    "dcunet": {"fourier_scale": 1.0},
    "causal_ncsnpp": {"fourier_scale": 1.0},
}
CONFIGS: dict[str, type] = {
    "ncsnpp": NCSNppConfig,
    "dcunet": DCUNetConfig,
    "causal_ncsnpp": CausalNCSNppConfig,
}


def unet_config(
    backbone: str, sizes: UNetSizes, bins: int, delta: bool = False, predicted: bool = False
) -> NCSNppConfig | DCUNetConfig | CausalNCSNppConfig:
    """The network's configuration for so many STFT bins.

    Args:
        delta: with MeanFlowSE's embedding of the interval (ncsnpp). predicted: sees a predictor's
            estimate too (causal_ncsnpp).

    Raises:
        UserError: an option that this network does not have, or numbers that do not fit it or the
            bins.
    """
    given = {
        item.name: value
        for item in fields(sizes)
        if item.name != "size" and (value := getattr(sizes, item.name)) is not None
    }
    cls = CONFIGS[backbone]
    known = {item.name for item in fields(cls)}
    for name in given:
        if name not in known:
            raise UserError(
                f"--unet.{name.replace('_', '-')}: network '{backbone}' has no such number; leave it out"
            )
    if predicted and backbone != "causal_ncsnpp":
        raise UserError(
            f"--backbone {backbone}: does not see a predictor's estimate; take compact or causal_ncsnpp, or no --predictor"
        )
    values = {**_SMOOTH[backbone], **SIZES[backbone][sizes.size], **given}
    if backbone == "ncsnpp":
        values |= {"image_size": bins, "delta": delta}
    if backbone == "causal_ncsnpp":
        values = {
            "norm": "subband_grouped_framenorm",
            **values,
            "input_freqs": bins,
            "input_channels": 6 if predicted else 4,
        }
    return cls(**values)
