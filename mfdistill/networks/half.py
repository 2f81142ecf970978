"""A frozen network whose matrices are held in half precision: a teacher in half the memory."""

from __future__ import annotations

import torch
from torch import nn


def hold_in_bf16(network: nn.Module) -> nn.Module:
    """Round weights of two and more axes to bfloat16, in place; run it under autocast. Vectors (of
    norms, biases) stay, and so do recurrent layers, whose kernels want one precision.
    """
    for module in network.modules():
        if isinstance(module, nn.RNNBase):
            continue
        for value in module.parameters(recurse=False):
            if value.ndim > 1 and value.is_floating_point():
                value.data = value.data.to(torch.bfloat16)
    return network


def is_held_in_bf16(network: nn.Module) -> bool:
    """Whether it needs autocast."""
    return any(value.dtype == torch.bfloat16 for value in network.parameters())
