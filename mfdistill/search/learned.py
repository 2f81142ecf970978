"""Learned few-step solvers (Stream.FM, arXiv 2512.19442): the numbers of one explicit Runge-Kutta
step over [0, 1] as free parameters under constraints, trained behind a frozen network.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from mfdistill.checkpoint import load_config
from mfdistill.errors import UserError
from mfdistill.flow import Tableau, tableau
from mfdistill.systems.files import read_foreign


class LearnedSolver(nn.Module):
    """A table of q stages: nodes ascend from exactly 0 to at most ``c_max``, weights are at least
    ``b_min`` and sum to 1, and the rows of ``a`` sum to their nodes.

    ``forward()`` gives ``(a (q, q), b (q,), c (q,))`` with gradients; ``tableau()`` the same as
    plain numbers for ``flow.solve``.

    Attributes:
        a_raw (q, q): entries on and above the diagonal are never used. b_raw (q,). c_raw (q,): the
        first is never used; it is 0 here and -inf in official files, which no average or optimiser
        could carry.
    """

    def __init__(
        self, a_raw: Tensor, b_raw: Tensor, c_raw: Tensor, b_min: float = 0.05, c_max: float = 0.85
    ):
        super().__init__()
        q = b_raw.numel()
        if a_raw.shape != (q, q) or b_raw.shape != (q,) or c_raw.shape != (q,):
            shapes = ", ".join(str(tuple(part.shape)) for part in (a_raw, b_raw, c_raw))
            raise UserError(
                f"learned solver: a_raw, b_raw and c_raw have the shapes {shapes}; they should be (q, q), (q,) and (q,)"
            )
        if not (0 <= q * b_min < 1 and 0 < c_max <= 1):
            raise UserError(
                f"learned solver: b_min {b_min} and c_max {c_max} do not fit {q} stages; take {q} b_min < 1, 0 < c_max <= 1"
            )
        self.b_min, self.c_max = b_min, c_max
        c_raw = torch.cat([torch.zeros_like(c_raw[:1]), c_raw[1:]])
        self.a_raw, self.b_raw, self.c_raw = (
            nn.Parameter(part.detach().clone()) for part in (a_raw, b_raw, c_raw)
        )

    @classmethod
    def from_tableau(
        cls, solver: str | Tableau, b_min: float = 0.05, c_max: float = 0.85
    ) -> LearnedSolver:
        """Start near a classical method. Not at it: nodes beyond ``c_max`` and weights below
        ``b_min`` move, and rows are rescaled.
        """
        table = tableau(solver) if isinstance(solver, str) else solver
        a, b, c = tensors(table)
        q = table.stages
        b_raw = ((b - b_min) / (1 - q * b_min)).clamp_min(_LEAST).log()
        gaps = c.clamp_max(c_max).diff().clamp_min(_LEAST)
        return cls(a, b_raw - b_raw.mean(), torch.cat([c.new_zeros(1), gaps.logit()]), b_min, c_max)

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        """``(a (q, q), b (q,), c (q,))`` of the constrained table."""
        gaps = self.c_raw[1:].sigmoid()
        c = torch.cat([gaps.new_zeros(1), gaps.cumsum(0)])
        if c.numel() > 1:
            c = c * (self.c_max / c[-1]).clamp_max(1)
        b = (1 - self.b_raw.numel() * self.b_min) * self.b_raw.softmax(0) + self.b_min
        below = torch.where(torch.ones_like(self.a_raw, dtype=torch.bool).tril(-1), self.a_raw, 0)
        return below * (c / (below.sum(1) + 1e-8))[:, None], b, c

    @torch.no_grad()
    def tableau(self) -> Tableau:
        """For ``flow.tableau_step`` and streaming."""
        a, b, c = (part.double().tolist() for part in self())
        return Tableau(tuple(tuple(row[:i]) for i, row in enumerate(a)), tuple(b), tuple(c))

    def penalty(self, a_min: float = -2.0, a_max: float = 2.0, weight: float = 0.1) -> Tensor:
        """``weight`` times the sum of squared distances of the entries of a from ``[a_min,
        a_max]``, for the loss.
        """
        a, _, _ = self()
        return weight * (a - a.clamp(a_min, a_max)).square().sum()


_LEAST = 1e-8


def tensors(table: Tableau, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """``(a (q, q), b (q,), c (q,))`` of a table."""
    a = torch.zeros(table.stages, table.stages, dtype=dtype)
    for i, row in enumerate(table.a):
        a[i, : len(row)] = torch.tensor(row, dtype=dtype)
    return a, torch.tensor(table.b, dtype=dtype), torch.tensor(table.c, dtype=dtype)


def load_solver(
    path: str | Path, b_min: float | None = None, c_max: float | None = None
) -> LearnedSolver:
    """The solver in a folder that ``solver-train`` wrote, an official Lightning file
    (``LRK*.ckpt``) or a safetensors file with ``a_raw``, ``b_raw``, ``c_raw``.

    Args:
        b_min, c_max: as the folder or file says, where it does, and the published 0.05 and 0.85
            where not.

    Raises:
        UserError: no such file, or no solver in it.
    """
    if Path(path).is_dir():
        config = load_config(path)
        if config.get("role") != "solver":
            raise UserError(
                f"{path}: holds a {config.get('role')}, not a solver; name a folder that solver-train wrote"
            )
        own = config.get("solver") or {}
        path, b_min, c_max = (
            Path(path) / "model.safetensors",
            b_min or own.get("b_min"),
            c_max or own.get("c_max"),
        )
    foreign = read_foreign(path)
    found = {**foreign.tensors(), **foreign.tensors("state_dict")}
    if missing := [name for name in ("a_raw", "b_raw", "c_raw") if name not in found]:
        raise UserError(f"{path}: holds no learned solver ({missing[0]} is missing)")
    said = foreign.values.get("hyper_parameters")
    said = said if isinstance(said, dict) else {}

    def number(name: str, given: float | None, published: float) -> float:
        value = said.get(name, published) if given is None else given
        return float(value) if isinstance(value, int | float) else published

    a_raw, b_raw, c_raw = (found[name].float() for name in ("a_raw", "b_raw", "c_raw"))
    return LearnedSolver(
        a_raw, b_raw, c_raw, number("b_min", b_min, 0.05), number("c_max", c_max, 0.85)
    )


def find_solver(text: str) -> str | Tableau:
    """What a user names as a solver, ready for ``flow.solve`` and streams: a method or composition,
    checked, or the table of a learned solver's folder or file.

    Raises:
        UserError: neither a method nor a solver's file.
    """
    if Path(text).exists():
        return load_solver(text).tableau()
    if Path(text).suffix in (".ckpt", ".safetensors", ".pt") or "/" in text:
        raise UserError(
            f"{text}: no such solver's folder or file; name one, or a method such as euler or 2xmidpoint+1xeuler@0.2"
        )
    tableau(text)
    return text


def sample_learned(
    velocity: Callable[[Tensor, Tensor], Tensor], z_0: Tensor, solver: LearnedSolver
) -> Tensor:
    """``z_1`` by one step of the solver from 0 to 1, with gradients to its parameters;
    ``velocity(z, t (b,))``.
    """
    a, b, c = solver()
    slopes: list[Tensor] = []
    for i in range(b.numel()):
        z = z_0
        for j, slope in enumerate(slopes):
            z = z + a[i, j].to(z.dtype) * slope
        slopes.append(velocity(z, c[i].expand(z_0.shape[0])))
    return z_0 + sum(weight.to(z_0.dtype) * slope for weight, slope in zip(b, slopes, strict=True))
