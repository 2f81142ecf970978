"""Training data of your own: ready batches, made by their number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

from mfdistill.plain import Section


@dataclass(frozen=True)
class OwnBatches:
    """``make(number) -> batch`` as ``tasks.own.OwnTask.batch`` takes it. Every micro-batch of a run
    has a number of its own, over all processes, so that a run that is resumed goes on with the
    batches that it has not seen.
    """

    make: Callable[[int], Section]
    summary: str = "batches of your own"

    def micro_batches(
        self,
        global_batch: int,
        rank: int = 0,
        world: int = 1,
        start_step: int = 0,
        accumulation: int = 1,
        num_workers: int = 0,
    ) -> Iterator[Section]:
        """Endless; arguments as ``data.batches.batches``, sizes being ``make``'s own."""
        for step in count(start_step):
            for part in range(accumulation):
                yield self.make((step * world + rank) * accumulation + part)
