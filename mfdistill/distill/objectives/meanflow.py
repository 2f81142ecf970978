"""The MeanFlow identity as an objective (arXiv 2505.13447), from a teacher's velocity or, as in MeanFlowSE (arXiv 2509.14858), without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mfdistill.distill.objectives.base import Batch, Logs, end_points, hold, norm, progress, reduce, squared_error, teacher_velocity, valid
from mfdistill.errors import UserError
from mfdistill.flow import GaussianPath, IntervalConfig, expand_time, interpolate, sample_interval, total_derivative, uniform
from mfdistill.students.student import Student
from mfdistill.teachers.protocol import Teacher


@dataclass(frozen=True)
class MeanFlowConfig:
    """Objective ``meanflow``; names with ``mf_`` are MeanFlowSE's, the defaults are not (its recipe is regression in disguise).

    Attributes:
        teacher_free: v is the conditional velocity ``z_1 - z_0`` instead of the teacher's.
        mf_first_order_coef: c of the identity; only 1 has the average velocity as its fixed point (MeanFlowSE: 0.5).
        mf_jvp_impl: how the total derivative is taken (see ``flow.total_derivative``). mf_jvp_eps: step of "central".
        mf_jvp_clip: largest norm of one sample's derivative over all bins, 0 = no clip (MeanFlowSE: 5, which binds everywhere).
        mf_weight_final: w of ``(1 - w) L_cfm + w L_mf`` (MeanFlowSE: 0.25). mf_warmup_frac: share of the run in which w rises from 0.
        mf_skip_weight_thresh: below this w the loss is L_cfm alone, at full weight.
        mf_r_equals_t_prob: share of samples with r = t.
        mf_delta_gamma_start, mf_delta_gamma_end, mf_delta_warmup_frac: r = t + U^gamma (1 - t), gamma moving from start to end over
            that share of the run: short intervals first (MeanFlowSE: 8 to 1 over 0.7); 1 and 1 = off.
        t_eps: intervals end at ``1 - t_eps`` (MeanFlowSE: 0.03, and yet it samples to 1).
        time_kind, time_mean, time_std, p_full, min_gap: the rest of the distribution of (t, r), as in ``flow.IntervalConfig``
            (MeanFlowSE: "start-gap").
        tangent_normalise: divide each sample's residual by its root mean square plus ``tangent_normalise_eps`` (sCM, arXiv 2410.11081).
            Moves the fixed point where v is noisy (teacher_free).
        tangent_warmup_frac: share of the run in which c rises from 0.
        adaptive_power: p of the weight ``1 / (error + adaptive_eps)^p`` per sample; 0 = plain mean square.
    """

    teacher_free: bool = False
    mf_first_order_coef: float = 1.0
    mf_jvp_impl: Literal["forward", "forward-graph", "double-backward", "central"] = "forward"
    mf_jvp_eps: float = 1e-4
    mf_jvp_clip: float = 0.0
    mf_weight_final: float = 1.0
    mf_warmup_frac: float = 0.0
    mf_skip_weight_thresh: float = 0.0
    mf_r_equals_t_prob: float = 0.1
    mf_delta_gamma_start: float = 1.0
    mf_delta_gamma_end: float = 1.0
    mf_delta_warmup_frac: float = 0.7
    t_eps: float = 0.0
    time_kind: Literal["uniform", "logit-normal", "start-gap"] = "uniform"
    time_mean: float = -0.4
    time_std: float = 1.0
    p_full: float = 0.0
    min_gap: float = 1e-3
    tangent_normalise: bool = False
    tangent_normalise_eps: float = 0.1
    tangent_warmup_frac: float = 0.0
    adaptive_power: float = 0.0
    adaptive_eps: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 <= self.mf_weight_final <= 1:
            raise UserError(f"meanflow mf_weight_final: {self.mf_weight_final} must lie between 0 and 1")
        for name in ("mf_jvp_clip", "mf_warmup_frac", "tangent_warmup_frac", "adaptive_power"):
            if getattr(self, name) < 0:
                raise UserError(f"meanflow {name}: {getattr(self, name)} must be 0 or more")

    @property
    def interval(self) -> IntervalConfig:
        return IntervalConfig(
            kind=self.time_kind,
            mean=self.time_mean,
            std=self.time_std,
            p_equal=self.mf_r_equals_t_prob,
            p_full=self.p_full,
            anneal_start=self.mf_delta_gamma_start,
            anneal_end=self.mf_delta_gamma_end,
            anneal_fraction=self.mf_delta_warmup_frac,
            min_gap=self.min_gap,
            t_max=1 - self.t_eps,
        )


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
