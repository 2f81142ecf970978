"""The score of a schedule by the sound that students of other systems' Mel flows make, through a
vocoder.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mfdistill.distill.foreign import ForeignBatches
from mfdistill.errors import UserError
from mfdistill.flow import noise
from mfdistill.metrics import Workers, score_utterances
from mfdistill.search.cache import digest_tensors, digest_text
from mfdistill.search.development import mean_score
from mfdistill.search.o3s import Schedule
from mfdistill.search.score import resolve_metric
from mfdistill.students import Student, sample

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Batch:
    """A micro-batch, and of each of its utterances: number, name, generated frames, the recording's
    same part.
    """

    z_0: Tensor
    cond: Mapping[str, Tensor]
    rows: list[tuple[int, str, slice, np.ndarray]]


class SpeechScorer:
    """``scorer(schedule) -> float`` as ``score.StudentScorer``: a metric of audio between what is
    generated, through ``vocoder``, and the recording's same part, from noise of (seed, utterance).
    Metrics of the voice compare with that part too.

    Args:
        raws: micro-batches of a ``data.tts.TTSSet``; every rank is given all of them and scores its
            share.
        vocoder: (b, mels, n) -> (b, (n - 1) hop). pool: of processes, for the slow metrics.

    Raises:
        UserError: no recordings, an unknown metric, or one without a value on any recording.
    """

    def __init__(
        self, student: Student, batches: ForeignBatches, raws: Sequence[Mapping[str, Any]], metric: str,
        vocoder: Callable[[Tensor], Tensor], seed: int = 0, accelerator: Accelerator | None = None, pool: Workers | None = None,
    ):  # fmt: skip
        self.metric, self.column, self.direction = resolve_metric(metric)
        self.student, self.task, self.vocoder, self.accelerator, self.pool = (
            student,
            batches.task,
            vocoder,
            accelerator,
            pool,
        )
        self.device = (
            accelerator.device if accelerator is not None else next(student.parameters()).device
        )
        rank, world = (
            (accelerator.process_index, accelerator.num_processes)
            if accelerator is not None
            else (0, 1)
        )
        self.total, self.items, digests = 0, [], []
        for number, raw in enumerate(raws):
            if not int(raw["samples"].min()):
                raise UserError(
                    f"--metric {metric}: compares with recordings, and --data has none for some of its utterances; "
                    "search with --metric teacher-mse"
                )
            batch = batches.batch(raw, self.device)
            z_0 = batches.path.prior(
                batch["cond"],
                noise(seed, batch["index"], "o3s", batch["z_1"].shape[1:], device=self.device),
            )
            digests.append(digest_tensors({**batch["cond"], "z_0": z_0, "clean": raw["clean"]}))
            if number % world == rank:
                self.items.append(_Batch(z_0, batch["cond"], self._rows(raw, batch)))
                if not number:
                    digests.append(
                        digest_tensors({"vocoder": vocoder(self._mel(batch["z_1"][:1]))})
                    )
            self.total += len(z_0)
        self._digests = digests
        self.counted = self._reduce(self._countable())
        self.n = int(self.counted.sum())
        if not self.n:
            raise UserError(
                f"--metric {metric}: has no value on any of the {self.total} recordings; take another metric"
            )
        if self.n < self.total and rank == 0:
            log.warning(
                "O3S: %d of %d utterances left out: %s has no value on them",
                self.total - self.n,
                self.total,
                metric,
            )

    def __call__(self, schedule: Schedule) -> float:
        """Mean of ``values``."""
        return mean_score(self.values(schedule))

    @torch.no_grad()
    def values(self, schedule: Schedule) -> np.ndarray:
        """(n,) the metric on each utterance that counts, negated where lower is better; NaN where
        the result has no value.
        """
        values = torch.zeros(self.total, dtype=torch.float64)
        for item in self.items:
            z_1 = self._mel(sample(self.student, item.z_0, item.cond, list(schedule)))
            waves = [
                self.vocoder(mel[None, :, part])[0].cpu().numpy()
                for mel, (_, _, part, _) in zip(z_1, item.rows, strict=True)
            ]
            for number, value in self._scored(zip(item.rows, waves, strict=True)):
                values[number] = value
        return self.direction * self._reduce(values)[self.counted > 0].numpy()

    def fingerprint(self) -> str:
        """Of everything that the score depends on."""
        return digest_text(
            [digest_tensors(self.student.state_dict()), self.column, *self._shared(self._digests)]
        )

    def _mel(self, z: Tensor) -> Tensor:
        return z.transpose(1, 2) if self.task.frames_first else z

    def _rows(
        self, raw: Mapping[str, Any], batch: Mapping[str, Any]
    ) -> list[tuple[int, str, slice, np.ndarray]]:
        mel, rows = self.task.config.mel, []
        inside = batch["loss_mask"].flatten(1).cpu() > 0
        for i, (frames, prompt) in enumerate(
            zip(raw["frames"].tolist(), raw["prompt"].tolist(), strict=True)
        ):
            found = inside[i].nonzero().flatten()
            first, end = max(int(found[0]), prompt), min(int(found[-1]) + 1, frames)
            # the middle of its first frame
            start = first * mel.hop + (0 if mel.scale == "htk" else mel.hop // 2)
            part = raw["clean"][i, : int(raw["samples"][i])][
                start : start + (end - first - 1) * mel.hop
            ]
            rows.append(
                (self.total + i, str(int(raw["index"][i])), slice(first, end), part.numpy())
            )
        return rows

    def _countable(self) -> Tensor:
        """1 for each utterance of this rank whose recording the metric can score, (total,)."""
        counted = torch.zeros(self.total, dtype=torch.float64)
        rows = [(row, row[3]) for item in self.items for row in item.rows]
        for number, value in self._scored(rows):
            counted[number] = float(not math.isnan(value))
        return counted

    def _scored(self, pairs: Any) -> Iterator[tuple[int, float]]:
        pairs = [(row, wave) for row, wave in pairs]
        found = score_utterances(
            [(row[1], wave, row[3]) for row, wave in pairs],
            [self.metric],
            self.task.sample_rate,
            pool=self.pool,
        )
        for (row, _), scores in zip(pairs, found, strict=True):
            yield row[0], float(scores[self.column])

    def _reduce(self, values: Tensor) -> Tensor:
        if self.accelerator is None or self.accelerator.num_processes == 1:
            return values
        return self.accelerator.reduce(values.to(self.device), reduction="sum").cpu()  # type: ignore[union-attr]

    def _shared(self, digests: list[str]) -> list[str]:
        """The main process's, which has heard the vocoder."""
        if self.accelerator is None or self.accelerator.num_processes == 1:
            return digests
        from accelerate.utils import broadcast_object_list

        box: list[Any] = [digests]
        broadcast_object_list(box)
        return box[0]
