"""Networks at one constant time, or one (t, r), without their time embedding; exact."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mfdistill.errors import UserError
from mfdistill.networks.causal_layers import DecoupledConv
from mfdistill.networks.causal_ncsnpp import CausalNCSNpp, ResBlock
from mfdistill.networks.compact import CompactNet
from mfdistill.students.student import Student


class Constant(nn.Module):
    """Answers the same whatever it is given."""

    def __init__(self, value: Tensor):
        super().__init__()
        self.value = nn.Parameter(value, requires_grad=False)

    def forward(self, given: Tensor) -> Tensor:
        return self.value


@torch.no_grad()
def fold_time(model: Student | nn.Module, t: float = 0.0, r: float | None = None) -> nn.Module:
    """A copy of the network that answers as ``model`` does at these times, without embedding them.

    A causal NCSN++ has its time in its biases then (12 % fewer parameters) and answers so whatever
    time it is given; a compact network still needs the time for its preconditioning.

    Args:
        r: of a student or a student's network (1 where None); a network of one time has none.

    Raises:
        UserError: another network, or one without time.
    """
    network = model.network if isinstance(model, Student) else model
    if (
        not isinstance(network, CausalNCSNpp | CompactNet)
        or getattr(network, "temb_modules", network) is None
    ):
        raise UserError(
            f"fold: {type(network).__name__} has no time to fold; a causal_ncsnpp with a time embedding and a compact have"
        )
    folded = copy.deepcopy(network)
    like = next(folded.parameters())
    if r is None and isinstance(model, Student):
        r = 1.0
    times = [t] if r is None else [[t, r]]
    time = torch.tensor(
        times, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device
    )
    if isinstance(folded, CompactNet):
        e = F.silu(folded.time_embedding(time))
        for block in folded.blocks:
            block.modulation = Constant(block.modulation(e))  # type: ignore[operator, union-attr]
        folded.time_embedding = Constant(like.new_zeros(1))  # type: ignore[assignment]
        return folded
    assert folded.temb_modules is not None
    temb = F.silu(folded.temb_modules(time))
    for block in folded.modules():
        if isinstance(block, ResBlock) and block.Dense_0 is not None:
            conv: nn.Module = block.CConv_0
            bias = conv.pointwise_conv.bias if isinstance(conv, DecoupledConv) else conv.bias
            assert isinstance(bias, nn.Parameter)
            bias.add_(block.Dense_0(temb)[0])
            block.Dense_0 = None
    folded.temb_modules = None
    return folded
