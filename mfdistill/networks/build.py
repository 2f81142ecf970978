"""The networks by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from mfdistill.config import from_dict
from mfdistill.errors import UserError
from mfdistill.networks.causal_ncsnpp import CausalNCSNpp
from mfdistill.networks.compact import CompactNet
from mfdistill.networks.config import CausalNCSNppConfig, CompactConfig, DCUNetConfig, NCSNppConfig
from mfdistill.networks.cosyvoice3 import CosyVoice3Network
from mfdistill.networks.dcunet import DCUNet
from mfdistill.networks.dit_config import CosyVoice3Config, F5Config, F5UNetTConfig
from mfdistill.networks.f5 import F5Network
from mfdistill.networks.frames import FramesNet
from mfdistill.networks.frames_config import FramesConfig
from mfdistill.networks.matcha_config import MatchaUNetConfig
from mfdistill.networks.matcha_unet import MatchaUNet
from mfdistill.networks.ncsnpp import NCSNpp

NETWORKS: dict[str, tuple[type, type[nn.Module]]] = {
    "compact": (CompactConfig, CompactNet),
    "ncsnpp": (NCSNppConfig, NCSNpp),
    "dcunet": (DCUNetConfig, DCUNet),
    "causal_ncsnpp": (CausalNCSNppConfig, CausalNCSNpp),
    "matcha_unet": (MatchaUNetConfig, MatchaUNet),
    "cosyvoice3": (CosyVoice3Config, CosyVoice3Network),
    "frames": (FramesConfig, FramesNet),
    "f5": (F5Config, F5Network),
    "f5_unett": (F5UNetTConfig, F5Network),
}


def build_network(name: str, config: Mapping[str, Any] | Any) -> nn.Module:
    """Network ``name`` from a mapping or its config dataclass.

    Raises:
        UserError: unknown network or config key.
    """
    if name not in NETWORKS:
        raise UserError(f"network '{name}' is unknown; this version has: {', '.join(NETWORKS)}")
    config_class, network_class = NETWORKS[name]
    return network_class(
        config
        if isinstance(config, config_class)
        else from_dict(config_class, config, f"network '{name}'")
    )
