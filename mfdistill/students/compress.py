"""Weight compression of causal networks: convolutions decoupled into filters per channel and a mixture (arXiv 1808.05517)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from mfdistill.errors import UserError
from mfdistill.networks.causal_layers import CausalConv, DecoupledConv, can_decouple
from mfdistill.networks.causal_ncsnpp import decouple_modules


@torch.no_grad()
def decouple_weight(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best rank-``rank`` factors per input channel of ``(out, in, k, k)``: depthwise ``(in rank, 1, k, k)``, pointwise
    ``(out, in rank, 1, 1)``. Signs of the factors are arbitrary; at rank k^2 their product is exact."""
    outputs, inputs, *kernel = weight.shape
    u, s, v = torch.linalg.svd(weight.double().permute(1, 0, 2, 3).reshape(inputs, outputs, -1), full_matrices=False)
    root = s[:, :rank].sqrt()
    depthwise = (root[:, :, None] * v[:, :rank]).reshape(inputs * rank, 1, *kernel)
    pointwise = (u[:, :, :rank] * root[:, None]).permute(1, 0, 2).reshape(outputs, inputs * rank, 1, 1)
    return depthwise.to(weight), pointwise.to(weight)


@torch.no_grad()
def decouple(network: nn.Module, rank: int) -> nn.Module:
    """A copy of a causal network whose convolutions are decoupled, ``rank`` filters per channel, where that many fit.

    At rank k^2 (9) it computes the same; below it must be fine-tuned. It streams as before.

    Raises:
        UserError: a rank below 1, no convolution that it fits, or a network decoupled before.
    """
    if any(isinstance(module, DecoupledConv) for module in network.modules()):
        raise UserError("decouple: the network is decoupled already; begin with the whole one")
    names = [name for name, module in network.named_modules() if rank >= 1 and can_decouple(module, rank)]
    if not names:
        raise UserError(f"decouple: rank {rank} fits no convolution of this network; 1 to 9 are possible, 4 is usual")
    convs = {name: network.get_submodule(name) for name in names}
    compressed = copy.deepcopy(network)
    decouple_modules(compressed, rank)
    for name, conv in convs.items():
        new = compressed.get_submodule(name)
        assert isinstance(conv, CausalConv) and isinstance(new, DecoupledConv)
        new.depthwise_conv.weight.data, new.pointwise_conv.weight.data = decouple_weight(conv.weight, rank)
        if conv.bias is not None and new.pointwise_conv.bias is not None:
            new.pointwise_conv.bias.copy_(conv.bias)
    return compressed
