"""The score of a schedule: sample every development utterance from its own fixed noise, and average
a metric.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mfdistill.config import to_dict
from mfdistill.distill.inference import asked
from mfdistill.distill.objectives.base import squared_error, teacher_velocity
from mfdistill.errors import UserError
from mfdistill.flow import noise, solve
from mfdistill.metrics import METRICS, Workers, direction, named, score_utterances
from mfdistill.metrics.score import named_pair
from mfdistill.plain import Item
from mfdistill.search.cache import digest_tensors, digest_text
from mfdistill.search.development import mean_score
from mfdistill.search.learned import find_solver
from mfdistill.search.o3s import Schedule
from mfdistill.students import Student, sample
from mfdistill.tasks.base import Asked
from mfdistill.teachers.field import Field

if TYPE_CHECKING:
    from accelerate import Accelerator

    from mfdistill.tasks import Task

TEACHER_MSE = "teacher-mse"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Item:
    """What does not depend on the schedule: the request, its noise (1, ...), and the utterance."""

    index: int
    about: Item
    asked: Asked
    z_0: Tensor
    target: Tensor | None = None

    @property
    def clean(self) -> np.ndarray:
        return self.about["clean"].numpy()


class StudentScorer:
    """``scorer(schedule) -> float``, larger is better; the same number on every rank and for any
    number of ranks.

    Utterance i always starts from the noise of (seed, first + i): two schedules differ by their
    steps and by nothing else. Each rank holds every ``num_processes``-th utterance; conditions,
    noise, references and the teacher's results are made once.

    Args:
        student: evaluated as it is, on the accelerator's device (or its own).
        task: conditions and waveforms.
        utterances: ``{"name", "clean" (s,), "degraded" (s,)}`` each, at the task's sample rate
            (``data.open.open_task_eval``).
        metric: a name or a column of ``METRICS``; lower-is-better ones are negated. Or
            ``teacher-mse``: minus the mean squared distance, in features, from where ``teacher``
            arrives from the same noise in ``teacher_steps`` steps.
        pool: of processes, for the slow metrics.
        first: index of the first utterance, where these are a block of a longer list.

    An utterance whose clean reference has no value under the metric (silence, say) is left out with
    a warning. A schedule whose result has none where the reference has one scores minus infinity.

    Raises:
        UserError: no utterances, an unknown metric, ``teacher-mse`` without a teacher, or, in the
            first block, no utterance that can be scored.
    """

    def __init__(
        self,
        student: Student,
        task: Task,
        utterances: Sequence[Item],
        metric: str,
        seed: int = 0,
        accelerator: Accelerator | None = None,
        teacher: Field | None = None,
        teacher_steps: int = 20,
        teacher_solver: str = "midpoint",
        pool: Workers | None = None,
        first: int = 0,
    ):
        self.metric, self.column, self.direction = resolve_metric(metric)
        if self.metric == TEACHER_MSE and teacher is None:
            raise UserError(
                "--teacher: metric teacher-mse compares with a teacher; name its folder"
            )
        if len(utterances) == 0:
            raise UserError(
                "--data: no utterances to search on; give a corpus with a validation split"
            )
        self.student, self.task, self.seed, self.accelerator, self.pool = (
            student,
            task,
            seed,
            accelerator,
            pool,
        )
        self.device = (
            accelerator.device if accelerator is not None else next(student.parameters()).device
        )
        self.total, self.first = len(utterances), first
        rank, world = (
            (accelerator.process_index, accelerator.num_processes)
            if accelerator is not None
            else (0, 1)
        )
        own = range(rank, self.total, world)
        self.items = [self._item(i, utterances[i]) for i in own]
        self._key: list[object] = []
        if self.metric == TEACHER_MSE and teacher is not None:
            self.items = [
                replace(item, target=_arrive(teacher, item, teacher_steps, teacher_solver))
                for item in self.items
            ]
            guidance = [teacher.guidance_strength, teacher.guidance_rule] if teacher.branches > 1 else []  # fmt: skip
            self._key = [
                digest_tensors(teacher.network.state_dict()),
                *guidance,
                teacher_steps,
                teacher_solver,
            ]
        elif task.rows == "utterances":
            # no configuration names this vocoder
            sound = task.unprocessed(utterances[0], self.device)
            self._key = [digest_tensors({"vocoder": sound})]
        self.counted = self._reduce(self._countable())
        self.n = int(self.counted.sum())
        if self.n == 0 and first == 0:
            raise UserError(
                f"--metric {metric}: has no value on any of the {self.total} clean references; check the corpus for silence"
            )
        if self.n < self.total and rank == 0:
            log.warning(
                "O3S: %d of %d utterances left out: %s has no value on their references",
                self.total - self.n,
                self.total,
                metric,
            )

    def __call__(self, schedule: Schedule) -> float:
        """Mean of ``values``."""
        return mean_score(self.values(schedule))

    def values(self, schedule: Schedule) -> np.ndarray:
        """(n,) the metric on each utterance that counts, negated where lower is better; NaN where
        the result has no value.
        """
        values = torch.zeros(self.total, dtype=torch.float64)
        for index, value in self._values(schedule):
            values[index] = value
        return self.direction * self._reduce(values)[self.counted > 0].numpy()

    def fingerprint(self) -> str:
        """Of everything that the score depends on: student, teacher, task, utterances, metric,
        seed.
        """
        # SHA-256 as integers: what another rank holds adds zeros to
        digests = torch.zeros(self.total, 4, dtype=torch.int64)
        for item in self.items:
            digest = hashlib.sha256(str(item.about["name"]).encode() + item.clean.tobytes())
            for key, value in sorted(item.asked.cond.items()):
                digest.update(key.encode() + value.cpu().numpy().tobytes())
            digests[item.index] = torch.from_numpy(
                np.frombuffer(digest.digest(), dtype=np.int64).copy()
            )
        weights = digest_tensors(self.student.state_dict())
        task = to_dict(self.task.config)
        return digest_text(
            [
                weights,
                task,
                self.column,
                self.seed,
                self._reduce(digests).tolist(),
                *self._key,
            ]
        )

    def _values(self, schedule: Schedule) -> Iterator[tuple[int, float]]:
        """(utterance index, metric) of this rank's share."""
        if self.metric == TEACHER_MSE:
            for item in self.items:
                assert item.target is not None  # made with the items
                made = self._arrived(item, schedule).double()
                error = squared_error(made, item.target.double(), item.asked.mask)
                yield item.index, float(error)
            return
        yield from self._scored(self._waveform(item, schedule) for item in self.items)

    def _scored(self, waves: Iterable[np.ndarray]) -> Iterator[tuple[int, float]]:
        pairs = (
            named_pair(str(item.about["name"]), self.task.compared(item.about, wave))
            for item, wave in zip(self.items, waves, strict=True)
        )
        rows = score_utterances(pairs, [self.metric], self.task.sample_rate, pool=self.pool)
        for item, row in zip(self.items, rows, strict=True):
            yield item.index, float(row[self.column])

    def _countable(self) -> Tensor:
        """1 for each utterance of this rank whose reference the metric can score, (total,)."""
        counted = torch.zeros(self.total, dtype=torch.float64)
        if self.metric == TEACHER_MSE:
            counted[[item.index for item in self.items]] = 1
            return counted
        for index, value in self._scored(item.clean for item in self.items):
            counted[index] = float(not math.isnan(value))
        return counted

    @torch.no_grad()
    def _item(self, index: int, utterance: Item) -> _Item:
        clean, degraded = (
            torch.as_tensor(utterance[key], dtype=torch.float32) for key in ("clean", "degraded")
        )
        if clean.shape != degraded.shape or clean.ndim != 1:
            shapes = f"{tuple(clean.shape)} and {tuple(degraded.shape)}"
            raise UserError(
                f"{utterance['name']}: clean and degraded are no mono pair of equal length but {shapes}"
            )
        if self.metric != TEACHER_MSE and not len(clean):
            raise UserError(
                f"--metric {self.metric}: compares with recordings, and --data has none for some of its utterances; "
                f"search with --metric {TEACHER_MSE}"
            )
        about = {key: value for key, value in utterance.items() if key != "degraded"}
        about["clean"] = clean
        request = asked(self.task, {**about, "degraded": degraded}, self.device)
        shape = self.task.like(request.cond).shape[1:]
        eps = noise(self.seed, torch.tensor([self.first + index]), "o3s", shape, self.device)
        return _Item(index, about, request, self.task.path.prior(request.cond, eps))

    def _arrived(self, item: _Item, schedule: Schedule) -> Tensor:
        return sample(self.student, item.z_0, item.asked.cond, list(schedule))

    @torch.no_grad()
    def _waveform(self, item: _Item, schedule: Schedule) -> np.ndarray:
        return self.task.heard(item.asked, self._arrived(item, schedule)).cpu().numpy()

    def _reduce(self, values: Tensor) -> Tensor:
        """Sum over ranks; each entry is not zero on one rank only, so that the sum is exact."""
        if self.accelerator is None or self.accelerator.num_processes == 1:
            return values
        return self.accelerator.reduce(values.to(self.device), reduction="sum").cpu()  # type: ignore[union-attr]


def resolve_metric(metric: str) -> tuple[str, str, int]:
    """(metric, column, direction) of a metric's name or of one of its columns (``dnsmos`` is
    ``dnsmos_ovrl``).

    Raises:
        UserError: unknown, of whole sets, or its package is not installed.
    """
    if metric == TEACHER_MSE:
        return TEACHER_MSE, TEACHER_MSE, -1
    for name, known in METRICS.items():
        if metric in known.names or metric == name:
            named([name])
            if known.over is not None:
                raise UserError(
                    f"--metric {metric}: is of a whole set, and a search compares schedules utterance by utterance; "
                    "take another and see this one in evaluate"
                )
            column = known.primary if metric == name else metric
            return name, column, direction(column)
    raise UserError(f"--metric {metric}: unknown; choose from {', '.join([*METRICS, TEACHER_MSE])}")


@torch.no_grad()
def _arrive(teacher: Field, item: _Item, steps: int, solver: str) -> Tensor:
    return solve(
        lambda z, t: teacher_velocity(teacher, z, t, item.asked.cond),
        item.z_0,
        steps,
        solver=find_solver(solver),
    )
