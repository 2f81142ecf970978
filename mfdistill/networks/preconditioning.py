"""What a linear-Gaussian model would answer, computed in closed form around a network.

With end points ``z_0 = m + s_0 e`` and ``z_1 = x + s_1 e`` and the model ``x - m ~ N(0, c^2)`` per
bin, the state ``w = z_t - m`` and the velocity ``v = x - m + (s_1 - s_0) e`` are jointly Gaussian,
and with ``s = (1 - t) s_0 + t s_1``

    E[v | w] = k w,   k = (t c^2 + (s_1 - s_0) s) / (t^2 c^2 + s^2),   std[v | w] = c s_0 / sqrt(t^2
    c^2 + s^2)

(the determinant of the 2 x 2 covariance is ``c^2 s_0^2``). The network sees ``w / std[w]`` and
answers in units of ``std[v | w]``; it never has to copy noise from input to output.
c is ``residual_std * sqrt(|y|^2 + floor^2)``, or, where the prior has its own spread in every
frequency since whole bands are missing from y, ``residual_std`` times that profile. With a
predictor's estimate e it is ``residual_std * sqrt(|y|^2 + |e|^2 + floor^2)``: what is missing from
y may be in e.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mfdistill.errors import UserError


class Preconditioning(nn.Module):
    """Input scaling, linear answer and output scaling of a velocity network on a Gaussian path
    (constants, no parameters).
    """

    def __init__(self, config: Any):
        super().__init__()
        means = ("y", "zero", "e") if config.predicted else ("y", "zero")
        if config.shape not in ("flat", "magnitude", "profile") or config.mean not in means:
            raise UserError(
                f"network 'compact': has no preconditioning for mean {config.mean!r}, shape {config.shape!r} of the prior; "
                "use mean 'y' or 'zero' (or 'e', with a predictor) and shape 'flat', 'magnitude' or 'profile'"
            )
        self.sigma_0, self.sigma_1 = config.sigma_0, config.sigma_1
        self.mean, self.shape, self.floor = config.mean, config.shape, config.floor
        self.residual_std = config.residual_std
        self.profile: Tensor
        # (f, 1): beside (b, n, f, 1)
        profile = torch.tensor(config.profile or (1.0,))[:, None]
        self.register_buffer("profile", profile, persistent=False)

    def forward(
        self, z_t: Tensor, t: Tensor, y: Tensor, e: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled state, linear answer and output scale, each broadcastable to the states ``(b, n,
        f, 2)``; t is ``(b,)``, e as y.
        """
        t = t[:, None, None, None]
        g = self._magnitude(y)
        unit = g if self.shape == "magnitude" else self.profile.to(g).expand_as(g)
        s_0, s_1 = self.sigma_0 * unit, self.sigma_1 * unit
        if e is not None:
            g = (g.square() + e.square().sum(-1, keepdim=True)).sqrt()
        c_squared = (self.residual_std * (unit if self.shape == "profile" else g)).square()
        s = (1 - t) * s_0 + t * s_1
        variance = t.square() * c_squared + s.square()
        mean = {"y": y, "e": e}.get(self.mean)
        w = z_t if mean is None else z_t - mean
        inverse_std = variance.rsqrt()
        answer = (t * c_squared + (s_1 - s_0) * s) / variance * w
        # complex numbers of variance 1 have real and imaginary parts of variance 1/2
        return w * inverse_std * 2**0.5, answer, c_squared.sqrt() * s_0 * inverse_std * 0.5**0.5

    def normalise(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The condition at unit magnitude ``(b, n, f, 2)``; its magnitude, and its level in bels
        above the floor ``(b, n, f, 2)``.
        """
        g = self._magnitude(y)
        return y / g, torch.cat([g, (g / self.floor).log10()], -1)

    def _magnitude(self, y: Tensor) -> Tensor:
        return (y.square().sum(-1, keepdim=True) + self.floor**2).sqrt()
