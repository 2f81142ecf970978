"""Global batches cut into the micro-batches of one process, made ahead by threads without changing
their order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count, islice
from typing import Protocol, runtime_checkable

import torch

from mfdistill.data.training import Sample
from mfdistill.errors import UserError
from mfdistill.plain import Plain, Raw

_AHEAD = 2  # micro-batches in preparation


class Rows(Protocol):
    """Training samples by global index."""

    def share(self, step: int, global_batch: int, rank: int, world: int) -> range:
        """Global sample indices of one rank's part of a step."""
        ...

    def jobs(self, indices: Iterator[int]) -> Iterator[Callable[[], Sample]]:
        """Samples to be made, in the order of ``indices``."""
        ...


@runtime_checkable
class Batched(Protocol):
    """A set that makes micro-batches of its own: arguments as ``batches``."""

    def micro_batches(
        self,
        global_batch: int,
        rank: int = 0,
        world: int = 1,
        start_step: int = 0,
        accumulation: int = 1,
        num_workers: int = 1,
    ) -> Iterator[Raw]: ...


def batches(
    dataset: Rows,
    global_batch: int,
    rank: int = 0,
    world: int = 1,
    start_step: int = 0,
    accumulation: int = 1,
    num_workers: int = 1,
) -> Iterator[Plain]:
    """Endless micro-batches ``{"clean": (b, s), "degraded": (b, s), "index": (b,)}``,
    ``accumulation`` of them per step, on the CPU.

    Step k is made of the global samples ``[k global_batch, (k + 1) global_batch)`` whatever
    ``world`` is; ``dataset.share`` says which of them are this rank's. ``b = global_batch / (world
    accumulation)``. ``num_workers`` threads work ahead (0: none). Close the iterator (or drop it)
    to stop them.

    Raises:
        UserError: the global batch cannot be divided evenly, or a recording turns out to be
            unreadable.
    """
    if global_batch < 1 or global_batch % (world * accumulation):
        unit = world * accumulation
        nearest = max(unit, round(global_batch / unit) * unit)
        parts = f"{world} processes x {accumulation} accumulation"
        raise UserError(
            f"--batch-size {global_batch}: must be a multiple of {parts}; take {nearest}"
        )
    if not 0 <= rank < world or start_step < 0:
        raise ValueError(
            f"need 0 <= rank < world and start_step >= 0, got {rank}, {world}, {start_step}"
        )
    size = global_batch // (world * accumulation)
    indices = (
        index
        for step in count(start_step)
        for index in dataset.share(step, global_batch, rank, world)
    )
    samples = in_order(dataset.jobs(indices), num_workers, ahead=_AHEAD * size)
    try:
        while True:
            yield collate(list(islice(samples, size)))
    finally:
        samples.close()


def collate(samples: list[Sample]) -> Plain:
    """Stack samples of one length."""
    keys = [key for key, value in samples[0].items() if isinstance(value, torch.Tensor)]
    tensors = {key: torch.stack([sample[key] for sample in samples]) for key in keys}
    return {
        **tensors,
        "index": torch.tensor([sample["index"] for sample in samples], dtype=torch.long),
    }


def in_order(
    jobs: Iterator[Callable[[], Sample]], workers: int, ahead: int
) -> Generator[Sample, None, None]:
    """Results of ``jobs`` in their order. Threads, not processes: decoding releases the interpreter
    lock and the cache is shared.
    """
    if workers < 1:
        for job in jobs:
            yield job()
        return
    # one thread alone draws from ``jobs`` (a stream may wait for the network there), so their order
    # stays
    with (
        ThreadPoolExecutor(workers, "data") as pool,
        ThreadPoolExecutor(1, "data-source") as source,
    ):
        waiting: deque[Future[Future[Sample]]] = deque()
        try:
            while True:
                while len(waiting) < ahead:
                    waiting.append(source.submit(lambda: pool.submit(next(jobs))))
                yield waiting.popleft().result().result()
        finally:
            for future in waiting:
                future.cancel()
