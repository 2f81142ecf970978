"""Explicit Runge-Kutta methods as tables, by name or composed from names:
``2xmidpoint+1xeuler@0.2``.

The grammar and the names are Stream.FM's (arXiv 2512.19442): blocks joined by '+', a block being
``[N 'x'] name ['@' fraction]``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from mfdistill.errors import UserError
from mfdistill.flow.paths import expand_time

Row = tuple[float, ...]


@dataclass(frozen=True)
class Tableau:
    """``k_i = v(z + h sum_{j<i} a_ij k_j, t + c_i h)``, ``z <- z + h sum_i b_i k_i``; row i of
    ``a`` has its i - 1 entries.

    A sum of b below 1 stops before the end of the step.
    """

    a: tuple[Row, ...]
    b: Row
    c: Row

    @property
    def stages(self) -> int:
        """Evaluations of the velocity."""
        return len(self.b)


def _euler() -> Tableau:
    return Tableau(((),), (1.0,), (0.0,))


def _two(alpha: float) -> Tableau:
    """The two-stage methods of order 2 whose second node is ``alpha``."""
    return Tableau(((), (alpha,)), (1 - 1 / (2 * alpha), 1 / (2 * alpha)), (0.0, alpha))


def _three(a: tuple[Row, Row], b: Row) -> Tableau:
    return Tableau(((), *a), b, (0.0, sum(a[0]), sum(a[1])))


def _four(a: tuple[Row, Row, Row], b: Row) -> Tableau:
    return Tableau(((), *a), b, (0.0, *(sum(row) for row in a)))


TABLEAUS: dict[str, Tableau] = {
    "euler": _euler(),
    "midpoint": _two(1 / 2),
    "heun": _two(1.0),
    "ralston2": _two(2 / 3),
    "heun3": _three(((1 / 3,), (0.0, 2 / 3)), (1 / 4, 0.0, 3 / 4)),
    "ralston3": _three(((1 / 2,), (0.0, 3 / 4)), (2 / 9, 1 / 3, 4 / 9)),
    "ssprk3": _three(((1.0,), (1 / 4, 1 / 4)), (1 / 6, 1 / 6, 2 / 3)),
    "rk4": _four(((1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
    "rk4_3over8": _four(((1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)), (1 / 8, 3 / 8, 3 / 8, 1 / 8)),
    "rk4_order3_custom": _four(
        ((1 / 3,), (1 / 3, 1 / 3), (0.0, 0.0, 2 / 3)), (1 / 4, 0.0, 1 / 2, 1 / 4)
    ),
}
_COMPOSED = {"rk5_ralston3_ralston2": "ralston3@0.55+ralston2"}
MOST_STAGES = 1000  # of one step; its table has the square of it
_BLOCK = re.compile(
    r"(?:(?P<count>\d+)x)?(?P<name>[a-z][a-z0-9_]*(?:-[0-9.]+)?)(?:@(?P<fraction>[0-9.]+(?:e-?[0-9]+)?))?"
)


@lru_cache(maxsize=256)
def tableau(solver: str) -> Tableau:
    """The table of a named method, of ``generic2-ALPHA`` (two stages, second node ALPHA), or of a
    composition.

    In a composition a block covers its fraction of the step in N equal repetitions; blocks without
    a fraction share what is left equally. With fractions for all that sum to less than 1, the step
    stops there.

    Raises:
        UserError: a name, number or sum of fractions that is not one of these.
    """
    if solver in _COMPOSED:
        return tableau(_COMPOSED[solver])
    if "+" not in solver and "x" not in solver:
        return _named(solver, solver)
    blocks: list[tuple[int, str, float | None]] = []
    for text in solver.split("+"):
        found = _BLOCK.fullmatch(text.strip())
        if found is None:
            raise UserError(
                f"solver: {solver!r}: {text!r} is not [Nx]NAME[@FRACTION], such as 2xmidpoint@0.8"
            )
        if len(found["count"] or "") > 4:
            raise UserError(
                f"solver: {solver[:40]!r}: at most {MOST_STAGES} evaluations in one step"
            )
        count = int(found["count"] or 1)
        try:
            fraction = None if found["fraction"] is None else float(found["fraction"])
        except ValueError:
            raise UserError(f"solver: {solver!r}: {found['fraction']!r} is not a number") from None
        if count < 1 or (fraction is not None and not 0 < fraction <= 1):
            raise UserError(
                f"solver: {solver!r}: {text!r} needs 1 or more repetitions and a fraction above 0 and up to 1"
            )
        blocks.append((count, found["name"], fraction))
    tables = [tableau(n) if n in _COMPOSED else _named(n, solver) for _, n, _ in blocks]
    total = sum(block[0] * table.stages for block, table in zip(blocks, tables, strict=True))
    if total > MOST_STAGES:
        raise UserError(
            f"solver: {solver[:40]!r}: at most {MOST_STAGES} evaluations in one step, not {total}"
        )
    given = sum(fraction for _, _, fraction in blocks if fraction is not None)
    free = sum(fraction is None for _, _, fraction in blocks)
    if given > 1 + 1e-9 or (free and given >= 1 - 1e-9):
        raise UserError(
            f"solver: {solver!r}: the fractions sum to {given:g}; give at most 1, and less where a block has none"
        )
    steps = []
    for (count, _, fraction), table in zip(blocks, tables, strict=True):
        width = (1 - given) / free if fraction is None else fraction
        steps += [(width / count, table)] * count
    return _compose(steps)


def _named(name: str, solver: str) -> Tableau:
    if name.startswith("generic2-"):
        try:
            alpha = float(name.removeprefix("generic2-"))
        except ValueError:
            alpha = 0.0
        if not 0 < alpha <= 1:
            raise UserError(
                f"solver: {solver!r}: {name!r} needs a node above 0 and up to 1, such as generic2-0.6"
            )
        return _two(alpha)
    if name not in TABLEAUS:
        raise UserError(
            f"solver: {solver!r} is not one of {', '.join([*TABLEAUS, *_COMPOSED, 'generic2-0.6'])}, "
            "nor composed of them, such as 2xmidpoint+1xeuler@0.2"
        )
    return TABLEAUS[name]


def along(table: Tableau, times: Sequence[float]) -> Tableau:
    """A table repeated between ascending times, as one step of length 1 whose nodes are those
    times.
    """
    return _compose([(b - a, table) for a, b in zip(times, times[1:], strict=False)], times[0])


def _compose(steps: list[tuple[float, Tableau]], start: float = 0.0) -> Tableau:
    """One table for sub-steps of given widths: stages of a sub-step see those before it through
    their b.
    """
    a: list[Row] = []
    b: list[float] = []
    c: list[float] = []
    for width, part in steps:
        before = tuple(b)
        a += [before + tuple(width * entry for entry in row) for row in part.a]
        b += [width * weight for weight in part.b]
        c += [start + width * node for node in part.c]
        start += width
    return Tableau(tuple(a), tuple(b), tuple(c))


def tableau_step(
    velocity: Callable[[Tensor, Tensor], Tensor], z: Tensor, t: Tensor, r: Tensor, table: Tableau
) -> Tensor:
    """One step of a table from t to r, each ``(b,)``; ``velocity(z, t)``."""
    h, k = expand_time(r - t, z), []
    for row, node in zip(table.a, table.c, strict=True):
        k.append(velocity(_move(z, h, row, k), t + node * (r - t)))
    return _move(z, h, table.b, k)


def _move(z: Tensor, h: Tensor, weights: Row, k: list[Tensor]) -> Tensor:
    terms = [weight * slope for weight, slope in zip(weights, k, strict=False) if weight != 0]
    return z + h * sum(terms[1:], start=terms[0]) if terms else z
