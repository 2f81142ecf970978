"""Integral distillation (IntMeanFlow, arXiv 2510.07979): the teacher's displacement over [t, r] is
the student's target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from mfdistill.distill.objectives.base import (
    Batch,
    Logs,
    end_points,
    hold,
    in_parts,
    magnitude_loss,
    progress,
    reduce,
    squared_error,
    teacher_velocity,
    within_reach,
)
from mfdistill.distill.objectives.config import IntegralConfig
from mfdistill.errors import UserError
from mfdistill.flow import (
    GaussianPath,
    expand_time,
    interpolate,
    sample_interval,
    stages,
    trajectory,
    uniform,
)
from mfdistill.networks.half import hold_in_bf16
from mfdistill.students.student import Student
from mfdistill.tasks import Restoration, with_audio
from mfdistill.teachers.field import Field

Velocity = Callable[[Tensor, Tensor], Tensor]


def rollout(
    velocity: Velocity,
    z: Tensor,
    t: Tensor,
    r: Tensor,
    substeps: int,
    solver: str,
) -> tuple[Tensor, Tensor]:
    """Times (substeps + 1, b) and states (substeps + 1, b, ...) of ``substeps`` equal steps from
    (z, t) to r (eq. 4).
    """
    share = torch.linspace(0, 1, substeps + 1, device=z.device, dtype=t.dtype)[:, None]
    times = torch.lerp(t, r, share)
    return times, trajectory(velocity, z, times, solver)


def average_velocity(
    velocity: Velocity, z: Tensor, t: Tensor, r: Tensor, substeps: int = 4, solver: str = "midpoint"
) -> Tensor:
    """``(z_r - z_t) / (r - t)`` by the solver (eqs. 5-6), (b, ...); every r must be later than its
    t.
    """
    _, states = rollout(velocity, z, t, r, substeps, solver)
    return (states[-1] - z) / expand_time(r - t, z)


class IntegralObjective(nn.Module):
    """``|u(z_t, t, r) - sg[(z_r - z_t) / (r - t)]|^2``, z_r by the frozen teacher (eq. 8); no
    derivative of the student.

    Args:
        student: trained. teacher: outside the module tree. path: gives z_t from data and from the
            prior.
        seed: of all draws.

    Logs: ``loss``, ``teacher_nfe`` (network evaluations of the teacher per sample: substeps x
    stages x branches of guidance).
    """

    teacher: Field

    def __init__(
        self,
        student: Student,
        teacher: Field,
        path: GaussianPath,
        config: IntegralConfig | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.model = student
        hold(self, teacher)
        self.path = path
        self.config = config or IntegralConfig()
        self.task = spectral_task(student) if self.config.spectral else None
        if self.config.teacher_precision == "bf16":
            self.config.check_adapter(student.adapter is not None)
            hold_in_bf16(teacher.network)
        if not teacher.facts.straight and self.config.state == "data":
            raise UserError(
                "integral state: 'data' needs a teacher trained on straight paths, and this one was not; set it to 'rollout'"
            )
        self.seed = seed

    def forward(self, batch: Batch) -> tuple[Tensor, Logs]:
        k, cond, mask = self.config.targets_per_rollout, batch["cond"], batch.get("loss_mask")
        z, t, r, target, nfe = self.targets(batch)
        u = self.model(z, t, r, {key: _repeat(value, k) for key, value in cond.items()})
        error = squared_error(u, target, None if mask is None else _repeat(mask, k))
        loss = reduce(error.unflatten(0, (k, -1)).mean(0), batch)
        logs = {"loss": loss.detach(), "teacher_nfe": nfe}
        if self.task is not None:
            spectral = self.spectral(self.task, z, t, r, u, target, batch)
            logs["spectral"] = spectral.detach()
            loss = loss + self.config.spectral * spectral
        return loss, logs

    def spectral(
        self,
        task: Restoration,
        z: Tensor,
        t: Tensor,
        r: Tensor,
        u: Tensor,
        target: Tensor,
        batch: Batch,
    ) -> Tensor:
        """Magnitude loss of the rows that end at r = 1, (): their sum over all rows, so that rare
        ends weigh little.
        """
        ends = (r >= 1).nonzero().flatten()
        if not len(ends):
            return u.sum() * 0.0
        span = expand_time(1 - t[ends], z[ends])
        reached = z[ends] + span * u[ends].to(z.dtype)
        if self.config.spectral_target == "data":
            wanted = batch["z_1"][ends % len(batch["z_1"])]
        else:
            wanted = z[ends] + span * target[ends]
        return magnitude_loss(task, reached, wanted).sum() / len(z)

    @torch.no_grad()
    def targets(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """``(z, t, r, target)`` with k b rows each (k = targets_per_rollout; row j b + i belongs to
        sample i), and the teacher's NFE.
        """
        config, cond = self.config, batch["cond"]
        x, index = batch["z_1"], batch["index"]
        t, r = sample_interval(
            config.interval, uniform(self.seed, index, "times", 4, device=x.device), progress(batch)
        )
        t, r = within_reach(self.teacher, t, r)
        z_0, z_1 = end_points(self.path, batch, self.seed)
        cost = config.substeps * stages(config.solver) * self.teacher.branches
        nfe = torch.zeros(len(t), device=x.device)
        if config.state == "rollout":
            _, reached = self._roll(z_0, torch.zeros_like(t), t, cond)
            z = reached[-1]
            nfe += cost
        else:
            z = interpolate(z_0, z_1, t)

        pairs = self._pairs(index).to(x.device)  # (k, b, 2)
        z_s, t_s, r_s = (value.expand(len(pairs), *value.shape).clone() for value in (z, t, r))
        target = torch.empty_like(z_s)
        anchors, spans = (r <= t).nonzero().flatten(), (r > t).nonzero().flatten()
        # never divided by r - t, which is 0
        if len(anchors):
            target[:, anchors] = self._velocity(z[anchors], t[anchors], _rows(cond, anchors, z))
            nfe[anchors] += self.teacher.branches
        if len(spans):
            times, states = self._roll(z[spans], t[spans], r[spans], _rows(cond, spans, z))
            column = torch.arange(len(spans), device=x.device)
            start, end = pairs[:, spans].unbind(-1)  # (k, spans)
            # beyond it only whole rollouts
            late = times[start, column] > self.teacher.facts.t_last
            start, end = start.masked_fill(late, 0), end.masked_fill(late, config.substeps)
            t_s[:, spans], r_s[:, spans] = times[start, column], times[end, column]
            z_s[:, spans] = states[start, column]
            length = (times[end, column] - times[start, column]).reshape(
                *start.shape, *[1] * (z.ndim - 1)
            )
            target[:, spans] = (states[end, column] - states[start, column]) / length
            nfe[spans] += cost
        return z_s.flatten(0, 1), t_s.flatten(), r_s.flatten(), target.flatten(0, 1), nfe.mean()

    def _roll(
        self, z: Tensor, t: Tensor, r: Tensor, cond: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        return rollout(
            lambda z, t: self._velocity(z, t, cond),
            z,
            t,
            r,
            self.config.substeps,
            self.config.solver,
        )

    def _velocity(self, z: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        autocast = self.config.teacher_precision == "run"
        parts = [
            teacher_velocity(
                self.teacher,
                z[own],
                t[own],
                {key: value[own] for key, value in cond.items()},
                autocast,
            )
            for own in in_parts(len(z), self.config.teacher_rows)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _pairs(self, index: Tensor) -> Tensor:
        """Which grid times each target spans, (k, b, 2): first the whole rollout, then random
        pairs.
        """
        n, k = self.config.substeps, self.config.targets_per_rollout
        whole = torch.tensor([0, n]).expand(1, len(index), 2)
        if k == 1:
            return whole
        # ascending, (n (n + 1) / 2, 2)
        every = torch.combinations(torch.arange(n + 1))
        pick = (uniform(self.seed, index, "pairs", k - 1) * len(every)).long()
        return torch.cat([whole, every[pick].transpose(0, 1)])


def spectral_task(student: Student) -> Restoration:
    """The task whose features the magnitude loss turns into signals.

    Raises:
        UserError: no task, or one whose states are Mel spectrograms.
    """
    if student.task is None or not student.task.restores:
        raise UserError(
            "--integral.spectral: needs a task whose states are STFT features, and this student has none; set it to 0"
        )
    return with_audio(student.task)


def _repeat(value: Tensor, k: int) -> Tensor:
    return value.repeat(k, *[1] * (value.ndim - 1))


def _rows(cond: Mapping[str, Tensor], rows: Tensor, like: Tensor) -> Mapping[str, Tensor]:
    return cond if len(rows) == len(like) else {key: value[rows] for key, value in cond.items()}
