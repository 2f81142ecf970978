"""Velocity networks. Each has ``forward(z_t, t, cond)`` and names its time-embedding submodule.
Sizes load without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mfdistill.lazy import exports
from mfdistill.networks.config import CompactConfig, CompactSizes, NCSNppConfig

if TYPE_CHECKING:
    from mfdistill.networks.build import NETWORKS, build_network

__all__ = ["NETWORKS", "CompactConfig", "CompactSizes", "NCSNppConfig", "build_network"]

__getattr__ = exports(__name__, {"build": "NETWORKS build_network"})
