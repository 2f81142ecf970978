"""The utterances on which a search compares schedules, taken block by block; a schedule is scored
once on each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from mfdistill.search.cache import ScoreCache, digest_text
from mfdistill.search.o3s import Schedule

if TYPE_CHECKING:
    from accelerate import Accelerator

AUTO_FIRST, AUTO_MOST = 8, 128


class Scorer(Protocol):
    """What a search asks of a block of utterances (``score.StudentScorer``), the
    same on every rank.
    """

    direction: int
    column: str
    n: int

    def values(self, schedule: Schedule) -> np.ndarray:
        """(n,) one per utterance, larger is better; NaN where the result has no value."""
        ...

    def fingerprint(self) -> str: ...


Block = tuple[Scorer, Sequence[str]]
"""A scorer and the names of its utterances."""


def spans(total: int, limit: int | Literal["auto"] | None) -> list[tuple[int, int]]:
    """First and last + 1 of every block: one up to ``limit``, or, for "auto", 8 utterances and then
    as many again as there were before.
    """
    if limit != "auto":
        return [(0, total if limit is None else min(limit, total))]
    ends = [min(AUTO_FIRST, total)]
    while ends[-1] < min(AUTO_MOST, total):
        ends.append(min(2 * ends[-1], AUTO_MOST, total))
    return list(zip([0, *ends], ends, strict=False))


def utterances_text(total: int, limit: int | Literal["auto"] | None) -> str:
    """How many utterances a search may use, in words."""
    blocks = spans(total, limit)
    return f"{blocks[0][1]} utterances" + (
        f", up to {blocks[-1][1]} if need be," if len(blocks) > 1 else ""
    )


def mean_score(values: np.ndarray) -> float:
    """Mean of (n,); minus infinity where one is NaN."""
    return -math.inf if np.isnan(values).any() else float(values.mean())


class Development:
    """The blocks taken so far and every schedule's values on them.

    Args:
        blocks: made when they are taken, not before.
        path: of the cache, which the main process reads and writes.
    """

    def __init__(
        self,
        blocks: Iterable[Block],
        accelerator: Accelerator | None = None,
        path: Path | None = None,
    ):
        self._blocks, self._accelerator, self._path = iter(blocks), accelerator, path
        self._known: list[dict[Schedule, np.ndarray]] = []
        self._caches: list[ScoreCache] = []
        self.scorers: list[Scorer] = []
        self.names: list[list[str]] = []
        self.sampled = 0
        """Utterances synthesised and scored so far, known ones not counted."""

    def take(self) -> bool:
        """Take one more block; False when there is none."""
        block = next(self._blocks, None)
        if block is None:
            return False
        scorer, names = block
        cache = ScoreCache(self._path, scorer.fingerprint())
        self.scorers.append(scorer)
        self.names.append(list(names))
        self._caches.append(cache)
        self._known.append(_shared(cache.load(), self._accelerator))
        return True

    def values(self, schedule: Schedule, first: int = 0) -> np.ndarray:
        """(n,) of the schedule on every block from the ``first`` on; only what is not known is
        scored.
        """
        parts = []
        for scorer, cache, known in list(zip(self.scorers, self._caches, self._known, strict=True))[
            first:
        ]:
            if schedule not in known:
                known[schedule] = scorer.values(schedule)
                self.sampled += scorer.n
                cache.add(schedule, known[schedule])
            parts.append(known[schedule])
        return np.concatenate(parts)

    def score(self, schedule: Schedule) -> float:
        """Mean over the utterances of all blocks; minus infinity where one has no value."""
        return mean_score(self.values(schedule))

    def known(self) -> dict[Schedule, float]:
        """Scores of the schedules that are known on all blocks."""
        return {
            schedule: self.score(schedule)
            for schedule in self._known[0]
            if all(schedule in known for known in self._known)
        }

    def fingerprint(self, blocks: int) -> str:
        """Of the first ``blocks``."""
        prints = [cache.fingerprint for cache in self._caches[:blocks]]
        return prints[0] if blocks == 1 else digest_text(prints)


def _shared(
    known: dict[Schedule, np.ndarray], accelerator: Accelerator | None
) -> dict[Schedule, np.ndarray]:
    """The main process's scores on every rank: each must make the same moves, or they wait for each
    other for ever.
    """
    if accelerator is None or accelerator.num_processes == 1:
        return known
    from accelerate.utils import broadcast_object_list

    box: list[Any] = [known]
    broadcast_object_list(box)
    return box[0]
