"""The MeanFlow identity as an objective (arXiv 2505.13447), from a teacher's velocity or, as in
MeanFlowSE (arXiv 2509.14858), without.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mfdistill.distill.logs import say
from mfdistill.distill.objectives.base import (
    Batch,
    Logs,
    absolute_error,
    end_points,
    hold,
    norm,
    progress,
    reduce,
    squared_error,
    teacher_velocity,
    valid,
    within_reach,
)
from mfdistill.distill.objectives.config import MeanFlowConfig
from mfdistill.distill.objectives.derivative import derivative
from mfdistill.errors import UserError
from mfdistill.flow import GaussianPath, expand_time, interpolate, sample_interval, uniform
from mfdistill.students.student import Student
from mfdistill.teachers.field import Field


def ramp(progress: float, fraction: float) -> float:
    """0 at the start, 1 from ``fraction`` of the run on; 1 throughout if ``fraction`` is 0."""
    return 1.0 if fraction <= 0 else min(1.0, progress / fraction)


def meanflow_weight(config: MeanFlowConfig, progress: float) -> float:
    """w of ``(1 - w) L_cfm + w L_mf``; 0 where the threshold skips the MeanFlow term, and at the
    very start whatever the warm-up.
    """
    w = config.mf_weight_final * min(1.0, progress / max(1e-9, config.mf_warmup_frac))
    return 0.0 if w < config.mf_skip_weight_thresh else w


class MeanFlowObjective(nn.Module):
    """``|u - sg[v + c (r - t) du/dt]|^2``, ``du/dt = v . d_z u + d_t u``, beside ``L_cfm = |u(z, t,
    t) - v|^2``.

    With a teacher, v is its velocity, as target and as tangent: at c = 1 the loss is 0 at its
    average velocity. Field-free, v is
    ``z_1 - z_0``: there only the gradient vanishes, and on average. Both terms share z_t and t.

    Args:
        student: trained. teacher: outside the module tree; may be None if ``config.teacher_free``.
        path: gives z_t and the conditional velocity. seed: of all draws.

    Logs: ``loss``, ``cfm`` and ``mf`` where computed, ``mf_weight``, ``jvp_over_v`` (mean |du/dt| /
    |v| before the clip), ``correction_over_v`` (mean c (r - t) |du/dt| / |v| as applied),
    ``jvp_clip_fraction``.
    """

    teacher: Field | None

    def __init__(
        self,
        student: Student,
        teacher: Field | None,
        path: GaussianPath,
        config: MeanFlowConfig | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.config = config or MeanFlowConfig()
        self._impl: str = self.config.mf_jvp_impl
        if teacher is None and not self.config.teacher_free:
            raise UserError("meanflow: needs a teacher; name one or set teacher_free")
        self.model = student
        hold(self, None if self.config.teacher_free else teacher)
        if self.teacher is not None and not self.teacher.facts.straight:
            raise UserError(
                "meanflow: needs a teacher trained on straight paths, and this one was not; use objective 'integral'"
            )
        self.path = path
        self.seed = seed

    def forward(self, batch: Batch) -> tuple[Tensor, Logs]:
        config, cond, mask, p = self.config, batch["cond"], batch.get("loss_mask"), progress(batch)
        x = batch["z_1"]
        t, r = sample_interval(
            config.interval, uniform(self.seed, batch["index"], "times", 4, device=x.device), p
        )
        t, r = within_reach(self.teacher, t, r)
        z_0, z_1 = end_points(self.path, batch, self.seed)
        z = interpolate(z_0, z_1, t)
        v = z_1 - z_0 if self.teacher is None else teacher_velocity(self.teacher, z, t, cond)

        w = meanflow_weight(config, p)
        logs: Logs = {"mf_weight": torch.tensor(w)}
        per_sample = torch.zeros_like(t)
        if w < 1:
            error = self._error(self.model(z, t, t, cond), v, mask)
            per_sample = per_sample + (1 - w) * self._weighted(error)
            logs["cfm"] = error.detach().mean()
        if w > 0:
            error = self._meanflow_error(
                z,
                t,
                r,
                v,
                cond,
                mask,
                config.mf_first_order_coef * ramp(p, config.tangent_warmup_frac),
                logs,
            )
            per_sample = per_sample + w * self._weighted(error)
            logs["mf"] = error.detach().mean()
        loss = reduce(per_sample, batch)
        return loss, {"loss": loss.detach(), **logs}

    def _meanflow_error(
        self,
        z: Tensor,
        t: Tensor,
        r: Tensor,
        v: Tensor,
        cond: dict[str, Tensor],
        mask: Tensor | None,
        c: float,
        logs: Logs,
    ) -> Tensor:
        config = self.config
        u, du_dt = self._derivative(z, t, r, v, cond)
        du_dt = du_dt.detach().to(v.dtype)
        size, reference = norm(du_dt, mask), norm(v, mask).clamp(min=1e-12)
        shrink = (
            (config.mf_jvp_clip / (size + 1e-12)).clamp(max=1)
            if config.mf_jvp_clip
            else torch.ones_like(size)
        )
        correction = c * expand_time((r - t) * shrink, z) * du_dt
        logs["jvp_over_v"] = (size / reference).mean()
        logs["correction_over_v"] = (norm(correction, mask) / reference).mean()
        logs["jvp_clip_fraction"] = (shrink < 1).float().mean()
        target = v + correction
        if config.tangent_normalise:
            residual = u.detach() - target
            rms = squared_error(valid(residual, mask), torch.zeros_like(residual), mask).sqrt()
            target = u.detach() - residual / expand_time(rms + config.tangent_normalise_eps, z)
        return self._error(u, target, mask)

    def _derivative(
        self, z: Tensor, t: Tensor, r: Tensor, v: Tensor, cond: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """``(u, du_dt)`` as configured; "auto" decides at its first call."""
        config = self.config
        if self._impl == "auto":
            try:
                result = derivative(
                    self.model, "forward", z, t, r, v, cond, config.mf_jvp_eps, config.mf_jvp_chunk
                )
                self._impl, reason = (
                    "forward",
                    "exact, and torch has a forward-mode rule for every operation of the network",
                )
            except UserError as error:
                self._impl, result, reason = "fd", None, str(error)
            say(f"mf_jvp_impl auto: {self._impl} ({reason})")
            if result is not None:
                return result
        return derivative(
            self.model, self._impl, z, t, r, v, cond, config.mf_jvp_eps, config.mf_jvp_chunk
        )

    def _error(self, a: Tensor, b: Tensor, mask: Tensor | None) -> Tensor:
        return (squared_error if self.config.loss_type == "mse" else absolute_error)(a, b, mask)

    def _weighted(self, error: Tensor) -> Tensor:
        if not self.config.adaptive_power:
            return error
        return error / (error.detach() + self.config.adaptive_eps) ** self.config.adaptive_power
