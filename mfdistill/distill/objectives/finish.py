"""Finishing: the few-step sampler that will be used, trained end to end on what it reaches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mfdistill.distill.finishing.catalog import LOSS_FUNCTIONS
from mfdistill.distill.finishing.config import CriticConfig, DmdConfig, FinishConfig
from mfdistill.distill.finishing.critics import Adversary
from mfdistill.distill.finishing.dmd import DistributionMatching
from mfdistill.distill.finishing.sampler import drawn, reached, start
from mfdistill.distill.objectives.base import Batch, Logs, hold, reduce
from mfdistill.distill.objectives.config import IntegralConfig
from mfdistill.distill.objectives.integral import IntegralObjective
from mfdistill.distill.players import Player
from mfdistill.errors import UserError
from mfdistill.flow import IntervalConfig
from mfdistill.students.student import Student
from mfdistill.tasks import Task
from mfdistill.teachers.field import Field

ANCHOR = IntegralConfig(
    substeps=2, targets_per_rollout=2, interval=IntervalConfig(p_equal=0.1, p_full=0.2)
)


class FinishObjective(nn.Module):
    """Weighted losses of ``z_1 = sample(student, z_0, cond, times)``, z_0 from the prior at the
    task's temperature, with the gradient through all steps, plus ``anchor`` times the integral
    loss.

    Flow2GAN (arXiv 2512.23278) and PeriodWave-Turbo finish flows so; at temperature 0 without
    critics it is regression through the sampler.

    Args:
        student: trained. task: gives the prior, the signals and what the losses compare.
        schedules: times of each number of steps in ``config.nfe``. config: with its weights
            (``finishing.config.completed``).
        teacher: outside the module tree; needed for the anchor and distribution matching only.
        seed: of all draws. critic, dmd: critics beside the student, distribution matching; None, or
            of weight 0, is none.

    Logs: ``loss`` (with the critics', where there are some), each loss unweighted, ``loss_k`` of
    the number of steps k that was drawn; ``critic``, ``deceit``, ``matching`` and ``r1`` of the
    critics (``finishing.critics``); ``fake`` and ``dmd`` of distribution matching.
    """

    teacher: Field | None
    anchor: IntegralObjective | None

    def __init__(
        self,
        student: Student,
        task: Task,
        schedules: Mapping[int, Sequence[float]],
        config: FinishConfig,
        teacher: Field | None = None,
        seed: int = 0,
        critic: CriticConfig | None = None,
        dmd: DmdConfig | None = None,
    ):
        super().__init__()
        self.model = student
        self.task, self.config, self.seed = task, config, seed
        self.schedules = {k: list(schedules[k]) for k in config.nfe}
        hold(self, teacher if config.anchor or (dmd is not None and dmd.weight) else None)
        anchor = None
        if config.anchor:
            if teacher is None:
                raise UserError("--anchor: needs the teacher; name its folder with --teacher")
            straight = teacher.facts.straight
            settings = ANCHOR if straight else replace(ANCHOR, state="rollout")
            anchor = IntegralObjective(student, teacher, task.path, settings, seed)
        # outside the module tree, where the student would have two names
        object.__setattr__(self, "anchor", anchor)
        self.adversary: Adversary | None = None
        self.alone = 0
        self.players: dict[str, Player] = {}
        if critic is not None and critic.weight:
            self.adversary = Adversary(task, critic, seed)
            self.alone = critic.warmup
            self.players["critics"] = self.adversary.player
        self.matching: DistributionMatching | None = None
        if dmd is not None and dmd.weight:
            if teacher is None:
                raise UserError("--dmd.weight: needs the teacher; name its folder with --teacher")
            if not teacher.facts.straight:
                raise UserError("--dmd.weight: needs a teacher trained on straight paths")
            self.matching = DistributionMatching(task, teacher, dmd, seed)
            self.alone = max(self.alone, dmd.warmup)
            self.players["fake"] = self.matching.player
        if not (config.weights or config.anchor or self.players):
            raise UserError("student-finish: every loss has weight 0; give one of them more")

    def forward(self, batch: Batch) -> tuple[Tensor, Logs]:
        step = batch.get("step")
        if step is not None and step < self.alone:
            return self._others_alone(batch)
        logs: Logs = {}
        total: Any = batch["z_1"].new_zeros(())
        chosen = drawn(self.config.nfe, batch, self.seed)
        for k in chosen:
            z_1 = self._reached(k, batch)
            loss: Any = 0.0
            for name, weight in self.config.weights.items():
                part = reduce(LOSS_FUNCTIONS[name](self.task, z_1, batch), batch)
                logs[name] = logs.get(name, 0.0) + part.detach() / len(chosen)
                loss = loss + weight * part
            logs[f"loss_{k}"] = torch.as_tensor(loss).detach()
            if step is not None:
                loss = loss + self._beside(z_1, batch, step, logs)
            total = total + loss / len(chosen)
        if self.anchor is not None:
            loss, _ = self.anchor(batch)
            logs["anchor"] = loss.detach()
            total = total + self.config.anchor * loss
        return total, {"loss": total.detach(), **logs}

    def _reached(self, k: int, batch: Batch) -> Tensor:
        times = self.schedules[k]
        z_0 = start(self.task.path, batch, self.seed, times[0])
        return reached(self.model, z_0, batch["cond"], times)

    def _beside(self, z_1: Tensor, batch: Batch, step: int, logs: Logs) -> Tensor | float:
        """What the players beside the student minimise, and what it minimises of theirs."""
        total: Tensor | float = 0.0
        move = step >= self.alone
        if self.adversary is not None:
            own, deceit, said = self.adversary(z_1, batch, move)
            total = total + own + self.adversary.weight(step) * deceit
            logs |= said
        if self.matching is not None:
            own, pull, said = self.matching(z_1, batch, move)
            total = total + own + self.matching.config.weight * pull
            logs |= said
        return total

    def _others_alone(self, batch: Batch) -> tuple[Tensor, Logs]:
        logs: Logs = {}
        with torch.no_grad():
            z_1 = self._reached(drawn(self.config.nfe, batch, self.seed)[0], batch)
        loss = self._beside(z_1, batch, batch.get("step", 0), logs)
        # several processes exchange the gradients of all that is trained
        loss = loss + 0.0 * torch.stack([p.sum() for p in self.model.parameters()]).sum()
        return loss, {"loss": loss.detach(), **logs}
