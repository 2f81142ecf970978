"""Weight compression: convolutions decoupled into filters per channel and a mixture (arXiv
1808.05517).
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mfdistill.errors import UserError
from mfdistill.networks.causal_layers import CausalConv, DecoupledConv, can_decouple
from mfdistill.networks.causal_ncsnpp import decouple_modules
from mfdistill.networks.compact import Block, CompactNet, DecoupledFrameConv
from mfdistill.networks.config import CausalNCSNppConfig, CompactConfig


@torch.no_grad()
def decouple_weight(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best rank-``rank`` factors per input channel of ``(out, in, k, k)``: depthwise ``(in
    rank, 1, k, k)``, pointwise ``(out, in rank, 1, 1)``. Signs of the factors are arbitrary; at
    rank k^2 their product is exact.
    """
    outputs, inputs, *kernel = weight.shape
    u, s, v = torch.linalg.svd(
        weight.double().permute(1, 0, 2, 3).reshape(inputs, outputs, -1), full_matrices=False
    )
    root = s[:, :rank].sqrt()
    depthwise = (root[:, :, None] * v[:, :rank]).reshape(inputs * rank, 1, *kernel)
    pointwise = (
        (u[:, :, :rank] * root[:, None]).permute(1, 0, 2).reshape(outputs, inputs * rank, 1, 1)
    )
    return depthwise.to(weight), pointwise.to(weight)


@torch.no_grad()
def decouple(network: nn.Module, rank: int) -> nn.Module:
    """A copy of a causal NCSN++ or a compact network (of a teacher or a student) whose convolutions
    are decoupled, ``rank`` filters per channel, where that many fit; its ``config`` says so too.

    At rank k^2 (9) it computes the same; below it must be fine-tuned. It streams as before.

    Raises:
        UserError: a rank below 1, no convolution that it fits, or a network decoupled before.
    """
    if any(isinstance(module, DecoupledConv | DecoupledFrameConv) for module in network.modules()):
        raise UserError("decouple: the network is decoupled already; begin with the whole one")
    compressed = copy.deepcopy(network)
    if isinstance(network, CompactNet):
        done = _decouple_compact(compressed, rank)
    else:
        done = _decouple_causal(network, compressed, rank)
    if not done:
        raise UserError(
            f"decouple: rank {rank} fits no convolution of this network; 1 to 9 are possible, 4 is usual"
        )
    config: Any = getattr(network, "config", None)
    if isinstance(config, CompactConfig):
        compressed.config = replace(config, decoupled=rank)  # type: ignore[assignment]
    elif isinstance(config, CausalNCSNppConfig):
        compressed.config = replace(config, decoupled_K=rank)  # type: ignore[assignment]
    return compressed


def _decouple_causal(network: nn.Module, compressed: nn.Module, rank: int) -> int:
    names = [
        name for name, module in network.named_modules() if rank >= 1 and can_decouple(module, rank)
    ]
    if names:
        decouple_modules(compressed, rank)
    for name in names:
        conv, new = network.get_submodule(name), compressed.get_submodule(name)
        assert isinstance(conv, CausalConv) and isinstance(new, DecoupledConv)
        new.depthwise_conv.weight.data, new.pointwise_conv.weight.data = decouple_weight(
            conv.weight, rank
        )
        if conv.bias is not None and new.pointwise_conv.bias is not None:
            new.pointwise_conv.bias.copy_(conv.bias)
    return len(names)


def _decouple_compact(compressed: nn.Module, rank: int) -> int:
    """The blocks' 3 x 3 convolutions; the one that gathers bins into bands, over few channels,
    stays as it is.
    """
    done = 0
    for block in (module for module in compressed.modules() if isinstance(module, Block)):
        conv = block.conv.conv
        assert isinstance(conv, nn.Conv2d)
        if not 1 <= rank <= min(math.prod(conv.kernel_size), conv.in_channels, conv.out_channels):
            continue
        new = DecoupledFrameConv(
            conv.in_channels, conv.out_channels, conv.kernel_size[1], conv.dilation[0], rank
        ).to(conv.weight)
        new.depthwise.weight.data, new.pointwise.weight.data = decouple_weight(conv.weight, rank)
        assert conv.bias is not None and new.pointwise.bias is not None
        new.pointwise.bias.copy_(conv.bias)
        block.conv.conv = new
        done += 1
    return done
