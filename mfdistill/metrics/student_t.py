"""Student's t distribution of whole degrees of freedom, by its finite series."""

from __future__ import annotations

import functools
import math


@functools.cache
def t_quantile(probability: float, degrees: int) -> float:
    """The ``t`` that a variable of ``degrees`` >= 1 degrees of freedom stays below with
    ``probability`` (0.5 to 1, exclusive), to 1e-12 of itself.
    """
    low, high = 0.0, 1.0
    while _below(high, degrees) < probability:
        low, high = high, 2 * high
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _below(middle, degrees) < probability else (low, middle)
    return (low + high) / 2


def _below(t: float, degrees: int) -> float:
    """P(T < t) for t >= 0 (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(degrees))
    cosine_squared, even = math.cos(angle) ** 2, degrees % 2 == 0
    total, term = 0.0, 1.0 if even else math.cos(angle)
    for k in range(2 if even else 3, degrees + 1, 2):
        total += term
        term *= cosine_squared * (k - 1) / k
    both = math.sin(angle) * total if even else 2 / math.pi * (angle + math.sin(angle) * total)
    return (1 + both) / 2
