"""A flow whose answers are known exactly: every dimension independently Gaussian at both ends.

Per real dimension: ``z_0 = m0 + s0 e``, ``z_1 = x + s1 e`` with the same ``e ~ N(0, 1)`` and ``x ~
N(mu, s^2)``, on a straight line. So ``z_t ~ N(m_t, S_t^2)`` with ``m_t = (1-t) m0 + t mu`` and
``S_t^2 = ((1-t) s0 + t s1)^2 + t^2 s^2 = A t^2 + B t + C``. With ``s1 = 0`` this is the independent
coupling of N(m0, s0^2) and N(mu, s^2). The marginal velocity is ``(mu - m0) + (S'_t / S_t) (z -
m_t)``, hence the flow map ``z_r = m_r + (S_r / S_t) (z - m_t)`` and, dividing by r - t on paper, an
average velocity that is finite at r = t too.

For the spectral `GaussianPath` a real channel of a complex number has ``s0 = sigma_0 / sqrt(2)``
(`of_path`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mfdistill.flow.paths import CHANNEL_STD, GaussianPath, batch_time, expand_time

Time = Tensor | float


@dataclass(frozen=True)
class GaussianFlow:
    """Means and standard deviations are numbers or tensors that broadcast with z (b, ...)."""

    m0: Tensor | float = 0.3
    s0: Tensor | float = 1.0
    mu: Tensor | float = -0.7
    s: Tensor | float = 0.25
    s1: Tensor | float = 0.0

    @staticmethod
    def of_path(
        path: GaussianPath, mu: Tensor | float, s: Tensor | float, y: Tensor | float = 0.0
    ) -> GaussianFlow:
        """The field of a flat `GaussianPath` when each real channel of the data x is N(mu, s^2),
        given the condition y.
        """
        assert path.shape == "flat"
        m0 = y if path.mean == "y" else 0.0
        return GaussianFlow(m0, path.sigma_0 * CHANNEL_STD, mu, s, path.sigma_1 * CHANNEL_STD)

    def end_points(self, noise: Tensor, data: Tensor) -> tuple[Tensor, Tensor]:
        """``(z_0, z_1)`` from two independent standard normals of the same shape."""
        return self.m0 + self.s0 * noise, self.mu + self.s * data + self.s1 * noise

    def mean(self, t: Tensor) -> Tensor:
        return self.m0 + t * (self.mu - self.m0)

    def std(self, t: Tensor) -> Tensor:
        a, b, c = self._variance()
        return (a * t**2 + b * t + c) ** 0.5

    def marginal_velocity(self, z: Tensor, t: Time) -> Tensor:
        """``v(z, t) = E[z_1 - z_0 | z_t = z]``."""
        return self.average_velocity(z, t, t)

    def flow_map(self, z: Tensor, t: Time, r: Time) -> Tensor:
        """Where the marginal velocity carries z from t to r; any order of t and r."""
        t, r = expand_time(t, z), expand_time(r, z)
        return self.mean(r) + self.std(r) / self.std(t) * (z - self.mean(t))

    def average_velocity(self, z: Tensor, t: Time, r: Time) -> Tensor:
        """``u(z, t, r) = (flow_map(z, t, r) - z) / (r - t)``, and v at r = t."""
        t, r = expand_time(t, z), expand_time(r, z)
        a, b, _ = self._variance()
        rate = (a * (r + t) + b) / ((self.std(r) + self.std(t)) * self.std(t))
        return (self.mu - self.m0) + rate * (z - self.mean(t))

    def fixed_point(self, z: Tensor, t: Time, r: Time, c: float) -> Tensor:
        """The u that solves ``u = v + c (r - t) du/dt``, ``c > 0``; at ``c = 1`` the average
        velocity.

        Along the trajectory through (z, t), with r fixed and ``q = r - t``: du/dt = -du/dq, so
        ``d(q^(1/c) u)/dq = (1/c) q^(1/c - 1) v`` and
        ``u = (1/c) q^(-1/c) int_0^q p^(1/c - 1) v(z_(r-p), r-p) dp``: the mean of v with weight
        ``p^(1/c - 1)``, p the distance to the END. For c < 1 it leans to the velocity at t.
        Gauss-Legendre in s, ``p = q s^4``, which takes the singularity at p = 0 away.
        """
        nodes, weights = np.polynomial.legendre.leggauss(96)
        total = torch.zeros_like(z)
        t, r = (batch_time(x, z) for x in (t, r))
        for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
            tau = r - (r - t) * float(node**4)
            velocity = self.marginal_velocity(self.flow_map(z, t, tau), tau)
            total = total + float(weight * 4 / c * node ** (4 / c - 1)) * velocity
        return total

    def _variance(self) -> tuple:
        slope = self.s1 - self.s0
        return slope**2 + self.s**2, 2 * self.s0 * slope, self.s0**2


FIELD = GaussianFlow()
marginal_velocity = FIELD.marginal_velocity
flow_map = FIELD.flow_map
average_velocity = FIELD.average_velocity
fixed_point = FIELD.fixed_point


def warped_velocity(z: Tensor, t: Time) -> Tensor:
    """`FIELD` seen through ``y = sinh(z)``: a nonlinear field whose flow is known too.

    For measuring orders: on every Gaussian field S^2 is quadratic in t, so S'' = k / S^3, and the
    leading error of the explicit midpoint rule, proportional to S'''/24 + (S'/S) S''/8, is zero:
    that rule shows order 3 there instead of 2.
    """
    return torch.cosh(torch.asinh(z)) * FIELD.marginal_velocity(torch.asinh(z), t)


def warped_flow_map(z: Tensor, t: Time, r: Time) -> Tensor:
    return torch.sinh(FIELD.flow_map(torch.asinh(z), t, r))
