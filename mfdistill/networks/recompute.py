"""Activation checkpointing of foreign networks: their blocks are computed again in the backward
pass instead of being kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mfdistill.errors import UserError
from mfdistill.networks import dit, mel_unet_layers

_BLOCKS = (dit.DiTBlock, mel_unet_layers.ResidualBlock, mel_unet_layers.TransformerBlock)
_LAYERS = (dit.Attention, dit.FeedForward)  # of networks that keep no whole blocks (UNetT)


def recompute_activations(network: nn.Module) -> int:
    """Make the blocks of ``network`` keep only their inputs while it trains; changes it in place,
    no names of weights, no values.

    Returns: how many blocks.
    Raises:
        UserError: a network without such blocks.
    """
    found = [module for module in network.modules() if isinstance(module, _BLOCKS)]
    found = found or [module for module in network.modules() if isinstance(module, _LAYERS)]
    if not found:
        raise UserError(
            "checkpoint_activations: this network has no transformer blocks; leave it out"
        )
    for module in found:
        module.forward = _Recomputed(module)  # type: ignore[method-assign]
    return len(found)


class _Recomputed:
    """The forward of a block; an object and not a closure, so that a copied network computes with
    its own weights.
    """

    def __init__(self, module: nn.Module):
        self.module = module

    def __call__(self, *args: Any, **options: Any) -> Tensor:
        forward: Callable[..., Tensor] = type(self.module).forward.__get__(self.module)
        if self.module.training and torch.is_grad_enabled():
            return checkpoint(forward, *args, use_reentrant=False, **options)  # type: ignore[return-value]
        return forward(*args, **options)
