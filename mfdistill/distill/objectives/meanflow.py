"""The MeanFlow identity as an objective (arXiv 2505.13447), from a teacher's velocity or, as in MeanFlowSE (arXiv 2509.14858), without."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mfdistill.distill.objectives.base import Batch, Logs, end_points, hold, norm, progress, reduce, squared_error, teacher_velocity, valid
from mfdistill.distill.objectives.config import MeanFlowConfig
from mfdistill.errors import UserError
from mfdistill.flow import GaussianPath, expand_time, interpolate, sample_interval, total_derivative, uniform
from mfdistill.students.student import Student
from mfdistill.teachers.protocol import Teacher


def ramp(progress: float, fraction: float) -> float:
    """0 at the start, 1 from ``fraction`` of the run on; 1 throughout if ``fraction`` is 0."""
    return 1.0 if fraction <= 0 else min(1.0, progress / fraction)


def meanflow_weight(config: MeanFlowConfig, progress: float) -> float:
    """w of ``(1 - w) L_cfm + w L_mf``; 0 where the threshold skips the MeanFlow term."""
    w = config.mf_weight_final * ramp(progress, config.mf_warmup_frac)
    return 0.0 if w < config.mf_skip_weight_thresh else w


class MeanFlowObjective(nn.Module):
    """``|u - sg[v + c (r - t) du/dt]|^2``, ``du/dt = v . d_z u + d_t u``, beside ``L_cfm = |u(z, t, t) - v|^2``.

    With a teacher, v is its velocity, as target and as tangent: at c = 1 the loss is 0 at its average velocity. Teacher-free, v is
    ``z_1 - z_0``: there only the gradient vanishes, and on average. Both terms share z_t and t.

    Args:
        student: trained. teacher: outside the module tree; may be None if ``config.teacher_free``.
        path: gives z_t and the conditional velocity. seed: of all draws.

    Logs: ``loss``, ``cfm`` and ``mf`` where computed, ``mf_weight``, ``jvp_over_v`` (mean |du/dt| / |v| before the clip),
    ``correction_over_v`` (mean c (r - t) |du/dt| / |v| as applied), ``jvp_clip_fraction``.
    """

    teacher: Teacher | None

    def __init__(
        self, student: Student, teacher: Teacher | None, path: GaussianPath, config: MeanFlowConfig | None = None, seed: int = 0
    ):
        super().__init__()
        self.config = config or MeanFlowConfig()
        if teacher is None and not self.config.teacher_free:
            raise UserError("meanflow: needs a teacher; name one or set teacher_free")
        self.model = student
        hold(self, None if self.config.teacher_free else teacher)
        self.path = path
        self.seed = seed

    def forward(self, batch: Batch) -> tuple[Tensor, Logs]:
        config, cond, mask, p = self.config, batch["cond"], batch.get("loss_mask"), progress(batch)
        x = batch["z_1"]
        t, r = sample_interval(config.interval, uniform(self.seed, batch["index"], "times", 4, device=x.device), p)
        z_0, z_1 = end_points(self.path, batch, self.seed)
        z = interpolate(z_0, z_1, t)
        v = z_1 - z_0 if self.teacher is None else teacher_velocity(self.teacher, z, t, cond)

        w = meanflow_weight(config, p)
        logs: Logs = {"mf_weight": torch.tensor(w)}
        per_sample = torch.zeros_like(t)
        if w < 1:
            error = squared_error(self.model(z, t, t, cond), v, mask)
            per_sample = per_sample + (1 - w) * self._weighted(error)
            logs["cfm"] = error.detach().mean()
        if w > 0:
            error = self._meanflow_error(z, t, r, v, cond, mask, config.mf_first_order_coef * ramp(p, config.tangent_warmup_frac), logs)
            per_sample = per_sample + w * self._weighted(error)
            logs["mf"] = error.detach().mean()
        loss = reduce(per_sample, batch)
        return loss, {"loss": loss.detach(), **logs}

    def _meanflow_error(
        self, z: Tensor, t: Tensor, r: Tensor, v: Tensor, cond: dict[str, Tensor], mask: Tensor | None, c: float, logs: Logs
    ) -> Tensor:
        config = self.config
        u, du_dt = total_derivative(
            lambda z, t, r: self.model(z, t, r, cond), z, t, r, v, method=config.mf_jvp_impl, eps=config.mf_jvp_eps
        )
        du_dt = du_dt.detach().to(v.dtype)
        size, reference = norm(du_dt, mask), norm(v, mask).clamp(min=1e-12)
        shrink = (config.mf_jvp_clip / (size + 1e-12)).clamp(max=1) if config.mf_jvp_clip else torch.ones_like(size)
        correction = c * expand_time((r - t) * shrink, z) * du_dt
        logs["jvp_over_v"] = (size / reference).mean()
        logs["correction_over_v"] = (norm(correction, mask) / reference).mean()
        logs["jvp_clip_fraction"] = (shrink < 1).float().mean()
        target = v + correction
        if config.tangent_normalise:
            residual = u.detach() - target
            rms = squared_error(valid(residual, mask), torch.zeros_like(residual), mask).sqrt()
            target = u.detach() - residual / expand_time(rms + config.tangent_normalise_eps, z)
        return squared_error(u, target, mask)

    def _weighted(self, error: Tensor) -> Tensor:
        if not self.config.adaptive_power:
            return error
        return error / (error.detach() + self.config.adaptive_eps) ** self.config.adaptive_power
