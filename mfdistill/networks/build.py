"""The networks by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from mfdistill.config import from_dict
from mfdistill.errors import UserError
from mfdistill.networks.causal_dit import CausalDiTNetwork
from mfdistill.networks.causal_ncsnpp import CausalNCSNpp
from mfdistill.networks.compact import CompactNet
from mfdistill.networks.config import CausalNCSNppConfig, CompactConfig, DCUNetConfig, NCSNppConfig
from mfdistill.networks.dcunet import DCUNet
from mfdistill.networks.dit_config import CausalDiTConfig, F5Config, F5UNetTConfig
from mfdistill.networks.f5 import F5Network
from mfdistill.networks.frames import FramesNet
from mfdistill.networks.frames_config import FramesConfig
from mfdistill.networks.mel_unet import MelUNet
from mfdistill.networks.mel_unet_config import MelUNetConfig
from mfdistill.networks.ncsnpp import NCSNpp
from mfdistill.networks.voxcpm import VoxCPMNetwork
from mfdistill.networks.voxcpm_config import VoxCPMConfig
from mfdistill.networks.zipvoice import ZipVoiceNetwork
from mfdistill.networks.zipvoice_config import ZipVoiceConfig
from mfdistill.plain import Plain, Section
from mfdistill.reading import reason

# the keys are what config.json says, after the system that each was first read from
_RENAMED = {"matcha": "soft_mask"}  # fields of older folders
_SLACK = 2**22  # numbers that networks make themselves (windows, filters, positions)
_FACTORIES = {torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn, torch.eye}

NETWORKS: dict[str, tuple[type, type[nn.Module]]] = {
    "compact": (CompactConfig, CompactNet),
    "ncsnpp": (NCSNppConfig, NCSNpp),
    "dcunet": (DCUNetConfig, DCUNet),
    "causal_ncsnpp": (CausalNCSNppConfig, CausalNCSNpp),
    "matcha_unet": (MelUNetConfig, MelUNet),
    "cosyvoice3": (CausalDiTConfig, CausalDiTNetwork),
    "frames": (FramesConfig, FramesNet),
    "f5": (F5Config, F5Network),
    "f5_unett": (F5UNetTConfig, F5Network),
    "voxcpm": (VoxCPMConfig, VoxCPMNetwork),
    "zipvoice": (ZipVoiceConfig, ZipVoiceNetwork),
}


def renamed(config: Section) -> Plain:
    """A network's section of an older folder with today's names of fields."""
    return {_RENAMED.get(key, key): value for key, value in config.items()}


def network_name(config: object) -> str:
    """What ``config.json`` calls the network of a configuration."""
    return next(name for name, (cls, _) in NETWORKS.items() if isinstance(config, cls))


def build_network(name: str, config: Section | Any) -> nn.Module:
    """Network ``name`` from a mapping or its config dataclass.

    Raises:
        UserError: unknown network or config key.
    """
    if not isinstance(name, str) or name not in NETWORKS:
        raise UserError(
            f"network '{str(name)[:60]}' is unknown; this version has: {', '.join(NETWORKS)}"
        )
    config_class, network_class = NETWORKS[name]
    if isinstance(config, Mapping):
        config = renamed(config)
    sizes = (
        config
        if isinstance(config, config_class)
        else from_dict(config_class, config, f"network '{name}'")
    )
    try:
        return network_class(sizes)
    # what torch makes of sizes that are none of a network
    except (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"network '{name}': its sizes make no network ({reason(error)}); restore its config"
        ) from error


class bounded(TorchFunctionMode):
    """Context manager: networks that are built inside hold about as many numbers as the ``values``
    of the file that their weights are in; before more is allocated, it is an error.

    Raises:
        UserError: ``where`` describes more.
    """

    def __init__(self, values: int, where: str):
        super().__init__()
        # a network of eight bits is made as one of floats first
        self.most, self.values, self.where = 4 * values + _SLACK, values, where
        self.count = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in _FACTORIES:
            sizes = args[0] if args and isinstance(args[0], (tuple, list)) else args
            sizes = [int(n) for n in sizes if isinstance(n, int)]
            self.count += math.prod([*sizes, *sizes] if func is torch.eye else sizes)
            if self.count > self.most:
                raise UserError(
                    f"{self.where}: describes a network that model.safetensors, of {self.values:,} numbers, is not of; restore the folder"
                )
        return func(*args, **(kwargs or {}))
