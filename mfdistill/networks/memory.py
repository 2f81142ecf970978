"""What a causal network remembers between calls, outside the network: a tuple of tensors in the order in which it is read.

A network asks for it at its few places that look back. Without a memory (offline) these places see zeros before the first frame; with
one they see what the last call left. Every tensor has the batch first, none is ever changed in place, so an older state stays valid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

State = tuple[Tensor, ...]


class Memory:
    """One call's reading and writing of a state.

    Args:
        state: what the call before left; None starts with zeros, for streams that begin here.
    """

    def __init__(self, state: Sequence[Tensor] | None = None):
        self.old: Iterator[Tensor] | None = None if state is None else iter(state)
        self.new: list[Tensor] = []

    def recall(self, zeros: Callable[[], Tensor]) -> Tensor:
        """The next tensor of the state, or ``zeros()`` at the start of a stream."""
        return zeros() if self.old is None else next(self.old)

    def keep(self, tensor: Tensor) -> None:
        """The same tensor's value for the next call."""
        self.new.append(tensor)


def with_past(x: Tensor, past: int, dim: int, memory: Memory | None) -> Tensor:
    """``x`` with the ``past`` frames before it on the (positive) axis ``dim``: zeros offline, the remembered ones in a stream."""
    if past == 0:
        return x
    if memory is None:
        return F.pad(x, [0, 0] * (x.ndim - 1 - dim) + [past, 0])
    window = torch.cat([memory.recall(lambda: x.new_zeros(*x.shape[:dim], past, *x.shape[dim + 1 :])), x], dim)
    memory.keep(window.narrow(dim, window.shape[dim] - past, past))
    return window


@torch.no_grad()
def zero_state(step: Callable[[Tensor, Tensor, Mapping[str, Tensor], Memory], Tensor], frame: Tensor, cond: Mapping[str, Tensor]) -> State:
    """The state at the start of ``frame.shape[0]`` streams: its shapes are found by one call on one stream, its values are zero."""
    one = Memory()
    step(frame[:1], frame.new_zeros(1), {key: value[:1] for key, value in cond.items()}, one)
    return tuple(tensor.new_zeros(frame.shape[0], *tensor.shape[1:]) for tensor in one.new)
