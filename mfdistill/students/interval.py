"""The second time of a student: one module replaced, no signature changed."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mfdistill.errors import UserError
from mfdistill.networks.delta import DeltaEmbedding, OwnInterval

Interval = Literal["mixed", "delta", "unit"]


class IntervalEmbedding(nn.Module):
    """Embeds a stacked pair [t, r] with an embedder made for one time (IntMeanFlow, arXiv
    2510.07979, eqs. 9-10).

    ``e = W [E(t); E(r)]``, ``W = [I 0]`` at the start, so that a network using it answers as it did
    before, for every r.

    Args:
        embedding: E, maps (b,) to (b, d); kept as a submodule, its keys under ``embedding.``.
    """

    def __init__(self, embedding: nn.Module):
        super().__init__()
        self.embedding = embedding
        e = _probe(embedding)
        start = torch.cat([torch.eye(e.shape[-1]), torch.zeros(e.shape[-1], e.shape[-1])], 1).to(e)
        self.weight = nn.Parameter(start.clone())
        self.register_buffer("start", start, persistent=False)

    def forward(self, time: Tensor) -> Tensor:
        """time (b, 2) stacked [t, r], or (b,) for r = t; (b, 3) stacked [t, r, s] where E is told
        the guidance s (``GuidedTime``). Returns (b, d).
        """
        t, r, *s = time.unbind(-1) if time.ndim == 2 else (time, time)
        e_t, e_r = (self.embedding(torch.stack([x, *s], -1) if s else x) for x in (t, r))
        # W [e_t; e_r] written as e_t + (W - [I 0]) [e_t; e_r]: the second term is exactly 0 until W
        # moves, in any matmul precision
        return e_t + F.linear(torch.cat([e_t, e_r], -1), self.weight - self.start)  # type: ignore[operator]


class UnitIntervalEmbedding(nn.Module):
    """Embeds a stacked pair [t, r] smoothly, in the place of an embedder whose frequencies are high
    (Fourier scale 16, ``sin(1000 t)``).

    ``e = A f(t) + V silu(B [f(t); f(r - t)])`` with ``f`` = 1, t and four harmonics of half a
    period; A is the least-squares fit to the
    embedder, V starts at zero. JVP objectives need it: the time derivative of the whole network
    grows with the frequencies. It costs the
    equality with the teacher: what the teacher tells from the fast parts of its embedding is lost,
    and must be trained again.

    Args:
        embedding: maps (b,) to (b, d); not kept.
    """

    def __init__(self, embedding: nn.Module, harmonics: int = 4, times: int = 513):
        super().__init__()
        e = _probe(embedding, times)
        self.harmonics = harmonics
        f = self._features(torch.linspace(0, 1, times, dtype=torch.float64, device=e.device))
        # solved by QR: the columns are nearly dependent only beyond what float64 resolves
        q, triangle = torch.linalg.qr(f)
        self.fit = nn.Parameter(
            torch.linalg.solve_triangular(triangle, q.T @ e.double(), upper=True)
            .T.to(e.dtype)
            .contiguous()
        )
        self.hidden, self.out = (
            nn.Linear(2 * f.shape[1], e.shape[1]),
            nn.Linear(e.shape[1], e.shape[1], bias=False),
        )
        nn.init.zeros_(self.out.weight)
        self.to(e)

    def _features(self, t: Tensor) -> Tensor:
        angle = (
            torch.pi
            * t[:, None]
            * torch.arange(1, self.harmonics + 1, device=t.device, dtype=t.dtype)
        )
        return torch.cat([torch.ones_like(t)[:, None], t[:, None], angle.sin(), angle.cos()], -1)

    def forward(self, time: Tensor) -> Tensor:
        """time (b, 2) stacked [t, r], or (b,) for r = t. Returns (b, d)."""
        t, r = time.unbind(-1) if time.ndim == 2 else (time, time)
        f, of_gap = (self._features(value.to(self.fit.dtype)) for value in (t, r - t))
        return F.linear(f, self.fit) + self.out(F.silu(self.hidden(torch.cat([f, of_gap], -1))))


def two_times(embedding: nn.Module, interval: Interval) -> nn.Module:
    """``embedding`` of one time as one of a pair [t, r]: an ``IntervalEmbedding`` ("mixed"), a
    ``DeltaEmbedding`` ("delta") or a ``UnitIntervalEmbedding`` ("unit").

    Raises:
        UserError: no such kind of interval.
    """
    if interval not in get_args(Interval):
        raise UserError(f"interval: {interval!r} is not one of {', '.join(get_args(Interval))}")
    if interval == "mixed":
        return IntervalEmbedding(embedding)
    if interval == "unit":
        return UnitIntervalEmbedding(embedding)
    if isinstance(embedding, OwnInterval):
        return embedding
    e = _probe(embedding)
    return DeltaEmbedding(embedding, e.shape[-1]).to(e)


_WANTED = (
    "must map times (b,) to (b, d); name the module inside your network that does "
    "(time_embedding), or put one around it that reshapes its input"
)


@torch.no_grad()
def _probe(embedding: nn.Module, times: int = 1) -> Tensor:
    like = next(embedding.parameters(), torch.zeros(1))
    was_training = embedding.training
    at = torch.linspace(0, 1, times) if times > 1 else torch.full((1,), 0.5)
    name = type(embedding).__name__
    try:
        e = embedding.eval()(at.to(device=like.device, dtype=like.dtype))
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"time embedding {name}: {_WANTED}; given (b,) it failed: {reason}"
        ) from error
    finally:
        embedding.train(was_training)
    if not isinstance(e, Tensor) or e.ndim != 2 or len(e) != len(at):
        shape = tuple(e.shape) if isinstance(e, Tensor) else type(e).__name__
        raise UserError(f"time embedding {name}: {_WANTED}; of {len(at)} times it made {shape}")
    return e


def replace_module(network: nn.Module, name: str, new: nn.Module) -> None:
    """Put ``new`` in the place of the submodule with the dotted ``name``.

    Raises:
        AttributeError: there is no such submodule.
    """
    parent, _, leaf = name.rpartition(".")
    network.get_submodule(name)
    setattr(network.get_submodule(parent), leaf, new)
