"""What a causal network remembers between calls, outside the network: a tuple of tensors in the
order in which it is read.

A network asks for it at its few places that look back. Without a memory (offline) these places see
zeros before the first frame; with one they see what the last call left. Every tensor has the batch
first, none is ever changed in place, so an older state stays valid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mfdistill.errors import UserError

State = tuple[Tensor, ...]


@runtime_checkable
class Causal(Protocol):
    """A network that can run frame by frame; ``causal`` says whether this one does."""

    causal: bool

    def init_state(self, batch: int, freqs: int | None = None) -> State:
        """The state before the first frame of ``batch`` streams."""
        ...

    def step(
        self, z_t: Tensor, t: Tensor, cond: Mapping[str, Tensor], state: Sequence[Tensor]
    ) -> tuple[Tensor, State]:
        """The next frames (b, 2, f, n >= 1), and the state after them."""
        ...


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
    """``x`` with the ``past`` frames before it on the (positive) axis ``dim``: zeros offline, the
    remembered ones in a stream.
    """
    if past == 0:
        return x
    if memory is None:
        return F.pad(x, [0, 0] * (x.ndim - 1 - dim) + [past, 0])
    window = torch.cat(
        [memory.recall(lambda: x.new_zeros(*x.shape[:dim], past, *x.shape[dim + 1 :])), x], dim
    )
    memory.keep(window.narrow(dim, window.shape[dim] - past, past))
    return window


@torch.no_grad()
def zero_state(
    step: Callable[[Tensor, Tensor, Mapping[str, Tensor], Memory], Tensor],
    frame: Tensor,
    cond: Mapping[str, Tensor],
) -> State:
    """The state at the start of ``frame.shape[0]`` streams: its shapes are found by one call on one
    stream, its values are zero.
    """
    one = Memory()
    step(frame[:1], frame.new_zeros(1), {key: value[:1] for key, value in cond.items()}, one)
    return tuple(tensor.new_zeros(frame.shape[0], *tensor.shape[1:]) for tensor in one.new)


def frame_by_frame(network: Any, z_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
    """What a causal network gives for all frames ``(b, 2, f, n)``, computed one by one from a zero
    state.
    """
    state, frames = network.init_state(z_t.shape[0], z_t.shape[2]), []
    for k in range(z_t.shape[3]):
        frame, state = network.step(
            z_t[..., k : k + 1], t, {key: y[..., k : k + 1] for key, y in cond.items()}, state
        )
        frames.append(frame)
    return torch.cat(frames, -1)


def streams_by_frames(network: nn.Module) -> bool:
    """Whether a network has a streaming form: it is causal, with ``init_state`` and ``step``."""
    return isinstance(network, Causal) and bool(network.causal)


def check_streams(network: nn.Module, where: object) -> None:
    """Raise ``UserError`` unless the network has a streaming form."""
    if not streams_by_frames(network):
        raise UserError(
            f"{where}: {type(network).__name__} sees later frames, so it has no streaming form; leave streaming out, or train "
            "with --causal"
        )
