"""The variance-exploding Ornstein-Uhlenbeck process of SGMSE (arXiv 2208.05830): ``dx = theta (y -
x) ds + g(s) dw``, s = 1 - t.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor


def ouve_std(s: float, theta: float, sigma_min: float, sigma_max: float) -> float:
    """Standard deviation of the complex state at process time s (0 clean, 1 noisy) around
    ``e^(-theta s) x + (1 - e^(-theta s)) y``.
    """
    rate = math.log(sigma_max / sigma_min)
    return math.sqrt(
        sigma_min**2
        * math.exp(-2 * theta * s)
        * math.expm1(2 * (theta + rate) * s)
        * rate
        / (theta + rate)
    )


def to_velocity(score: Tensor, z: Tensor, y: Tensor, s: Tensor, config: Any) -> Tensor:
    """The probability-flow velocity on our clock, ``theta (z - y) + g^2 score / 2`` with ``g^2 = 2
    L sigma_min^2 e^(2 L s)``, ``L = ln(sigma_max / sigma_min)``; s (b,). Its flow carries the same
    marginals as the process.
    """
    rate = math.log(config.sigma_max / config.sigma_min)
    g_squared = 2 * rate * config.sigma_min**2 * (2 * rate * s).exp()
    return config.theta * (z - y) + 0.5 * g_squared[:, None, None, None] * score
