"""The score of a schedule for students of other systems' Mel flows: they make no waveforms here, so
it is the distance to their teacher.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mfdistill.distill.foreign import ForeignBatches
from mfdistill.distill.objectives.base import squared_error, teacher_velocity
from mfdistill.errors import UserError
from mfdistill.flow import noise, solve
from mfdistill.search.cache import digest_tensors, digest_text
from mfdistill.search.development import mean_score
from mfdistill.search.learned import find_solver
from mfdistill.search.o3s import Schedule
from mfdistill.search.score import TEACHER_MSE
from mfdistill.students import Student, sample
from mfdistill.teachers.field import Field

if TYPE_CHECKING:
    from accelerate import Accelerator


class FlowScorer:
    """``scorer(schedule) -> float`` as ``score.StudentScorer``: minus the mean squared distance of
    log-Mels, over the frames that count, from where ``teacher`` arrives from the same noise in
    ``teacher_steps`` steps.

    Args:
        raws: micro-batches of a ``data.tts.TTSSet``; every rank is given all of them and scores its
            share.

    Raises:
        UserError: no utterance.
    """

    metric = column = TEACHER_MSE
    direction = -1

    def __init__(
        self,
        student: Student,
        teacher: Field,
        batches: ForeignBatches,
        raws: Sequence[Mapping[str, Any]],
        seed: int = 0,
        accelerator: Accelerator | None = None,
        teacher_steps: int = 20,
        teacher_solver: str = "midpoint",
    ):
        if not raws:
            raise UserError("--data: no utterances to search on; give a folder with more of them")
        self.student, self.accelerator = student, accelerator
        device = (
            accelerator.device if accelerator is not None else next(student.parameters()).device
        )
        rank, world = (
            (accelerator.process_index, accelerator.num_processes)
            if accelerator is not None
            else (0, 1)
        )
        self.n, self.items, digests = 0, [], []
        solver = find_solver(teacher_solver)
        for number, raw in enumerate(raws):
            batch = batches.batch(raw, device)
            cond = batch["cond"]
            z_0 = batches.path.prior(
                cond, noise(seed, batch["index"], "o3s", batch["z_1"].shape[1:], device=device)
            )
            self.n, start = self.n + len(z_0), self.n
            digests.append(digest_tensors({**cond, "z_0": z_0, "loss_mask": batch["loss_mask"]}))
            if number % world == rank:
                target = solve(
                    lambda z, t, cond=cond: teacher_velocity(teacher, z, t, cond),
                    z_0,
                    teacher_steps,
                    solver,
                )
                self.items.append((start, z_0, cond, batch["loss_mask"], target))
        guidance = (teacher.guidance_strength, teacher.guidance_rule)
        self._teacher_key = [
            digest_tensors(teacher.network.state_dict()),
            *guidance,
            teacher_steps,
            teacher_solver,
        ]
        self._digests = digests

    def __call__(self, schedule: Schedule) -> float:
        """Mean of ``values``."""
        return mean_score(self.values(schedule))

    @torch.no_grad()
    def values(self, schedule: Schedule) -> np.ndarray:
        """(n,) minus the distance of each utterance."""
        values = torch.zeros(self.n, dtype=torch.float64)
        for start, z_0, cond, mask, target in self.items:
            errors = squared_error(sample(self.student, z_0, cond, list(schedule)), target, mask)
            values[start : start + len(z_0)] = errors.double().cpu()
        # each entry is zero on all ranks but one: the sum is exact
        if self.accelerator is not None and self.accelerator.num_processes > 1:
            values = self.accelerator.reduce(
                values.to(self.accelerator.device), reduction="sum"
            ).cpu()  # type: ignore[union-attr]
        return -values.numpy()

    def fingerprint(self) -> str:
        """Of everything that the score depends on."""
        return digest_text(
            [digest_tensors(self.student.state_dict()), *self._teacher_key, *self._digests]
        )
