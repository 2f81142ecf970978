"""Training on streams too large for the disk: the same global order of samples for any number of
processes, resumed by skipping.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count, islice
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch.utils.data import IterableDataset

from mfdistill.data.bad_files import BadFiles
from mfdistill.data.config import DataConfig
from mfdistill.data.degradations import made_anyway, open_degradation
from mfdistill.data.folders import HELD_OUT
from mfdistill.data.mixing import generator, training_sample
from mfdistill.data.rows import Rows
from mfdistill.data.sources import is_table, load_table, uniform_columns
from mfdistill.data.waves import decode
from mfdistill.errors import UserError
from mfdistill.plain import Plain
from mfdistill.reading import parsing
from mfdistill.tasks.config import Degradation as Kind

MAX_LANES = 16
SPARE = 16  # rows of a lane that can take a bad one's place
EVAL_LIMIT = 64  # utterances taken from a stream for validation when no limit is given


class StreamTrainSet(IterableDataset[Plain]):
    """Samples ``{"clean": (s,), "degraded": (s,), "index": i}`` in their global order (see
    ``TrainSet`` for what a sample is).

    The stream's files are dealt out to a fixed number of lanes (a power of two, at most 16 and at
    most the number of files), and sample i is the next element of lane ``i % lanes``, shuffled
    within that lane. A rank takes every ``world``-th sample, so with up to ``lanes`` processes each
    reads only its own lanes, and a global batch holds the same samples for any ``world``. Each lane
    starts over when it is through; what ``shuffle_buffer`` holds is kept undecoded.
    """

    def __init__(self, config: DataConfig, kind: Kind, sample_rate: int) -> None:
        self.config = config
        self.sample_rate = sample_rate
        self.crop = round(config.crop_s * sample_rate)
        paired = kind != "none" and not made_anyway(config, kind)
        self._table, missing = _open_stream(config, "train", paired)
        self._missing = [part for part in ("valid", "test") if part in missing]
        self._paired = paired and "noisy" in (self._table.column_names or [])
        self.degradation = (
            open_degradation(config, kind, "train", sample_rate) if not self._paired else None
        )
        self.bad = BadFiles(config, None)
        self.files = max(int(self._table.num_shards), 1)
        self.lanes = min(MAX_LANES, 2 ** int(math.log2(self.files)))

    def __iter__(self) -> Iterator[Plain]:
        return (job() for job in self.jobs(count()))

    def share(self, step: int, global_batch: int, rank: int, world: int) -> range:
        """Global sample indices of one rank's part of a step: every ``world``-th."""
        first = step * global_batch
        return range(first + (rank - first) % world, first + global_batch, world)

    def jobs(self, indices: Iterator[int]) -> Iterator[Callable[[], Plain]]:
        """Samples to be made, in the order of the ascending ``indices``; what lies between them is
        read and dropped, not decoded. Where bad recordings are left out, the rows that follow in a
        lane are at hand to take their places.
        """
        lanes: dict[int, Iterator[Plain]] = {}
        at: dict[int, int] = {}
        held: dict[int, deque[Plain]] = {}
        needed = 1 + (SPARE if self.bad.skip else 0)
        for index in indices:
            place, lane = divmod(index, self.lanes)
            if lane not in lanes:
                lanes[lane], at[lane], held[lane] = self._lane(lane), 0, deque()
            rows = held[lane]
            for _ in range(place - at[lane]):
                rows.popleft() if rows else next(lanes[lane])
            at[lane] = place
            rows.extend(islice(lanes[lane], needed - len(rows)))
            self.bad.read += 1
            yield lambda index=index, rows=tuple(rows): self.sample(index, *rows)

    def sample(self, index: int, *rows: Plain) -> Plain:
        """Sample ``index``, made from the first of the undecoded ``rows`` of its lane that is not
        bad.
        """
        order = range(index, index + len(rows) * self.lanes, self.lanes)
        clean, noisy = self.bad.draw(
            order, 0, lambda i: self._decode(i, rows[(i - index) // self.lanes])
        )[1]
        degrade = self.degradation.train if self.degradation is not None else None
        target, degraded = training_sample(
            generator(self.config.seed, index), clean, noisy, degrade, self.crop, self.config
        )
        return {
            "clean": torch.from_numpy(target),
            "degraded": torch.from_numpy(degraded),
            "index": index,
        }

    def _decode(self, index: int, row: Plain) -> tuple[np.ndarray, np.ndarray | None]:
        label = f"{self.config.source}: sample {index}"
        if (path := (row["clean"] or {}).get("path")) is not None:
            label += f" ({path})"
        clean = decode(row["clean"], label, self.sample_rate)
        noisy = decode(row["noisy"], label, self.sample_rate) if self._paired else None
        if noisy is not None and noisy.shape != clean.shape:
            raise UserError(
                f"{label}: noisy has {noisy.size} samples, clean {clean.size}; pairs must be aligned sample by sample"
            )
        return clean, noisy

    def _lane(self, lane: int) -> Iterator[Plain]:
        """Endless rows of one lane: its files in a new order and its rows shuffled anew in each
        pass.
        """
        files = range(lane, self.files, self.lanes)
        for epoch in count():
            rng = np.random.default_rng([self.config.seed, epoch, lane])
            order = rng.permutation(files)
            # not IterableDataset.shuffle: its order changes with the version of datasets, and
            # version 5 sleeps for 5 s at the end of a pass
            rows = (
                row
                for file in order
                for row in self._table.shard(num_shards=self.files, index=int(file))
            )
            kept = (
                row for row in rows if not self._missing or _held_out(row, self._missing) is None
            )
            empty = True
            # what a damaged file or a lost connection makes of the reader is not told anywhere
            with parsing(self.config.source, "check the connection, or download it again"):
                for row in _shuffled(kept, self.config.shuffle_buffer, rng):
                    empty = False
                    yield row
            if empty:
                raise UserError(
                    f"{self.config.source}: a part of the stream holds no training rows; use it without streaming"
                )

    @property
    def summary(self) -> str:
        """One line for logs."""
        kind = (
            "degraded twins"
            if self._paired
            else self.degradation.summary
            if self.degradation is not None
            else "no degradation"
        )
        return f"stream of {self.files} file(s) in {self.lanes} lane(s), {kind}"


def first_rows(config: DataConfig, split: str, noisy: bool, limit: int | None) -> Rows:
    """The first ``limit`` rows of a stream's split in memory, with the columns of
    ``open_rows``.

    Raises:
        UserError: there are none.
    """
    table, missing = _open_stream(config, split, noisy)
    limit = min(limit or EVAL_LIMIT, config.max_files or EVAL_LIMIT)
    parts = [part for part in ("valid", "test") if part in missing]
    rows = (row for row in table if split not in parts or _held_out(row, parts) == split)
    taken = list(islice(rows, limit))
    if not taken:
        raise UserError(
            f"{config.source}: its split '{config.split(split)}' is empty; name another one with --data.{split}-split"
        )
    columns: dict[str, list[Any]] = {
        "name": [str(row.get("name") or f"{i:06d}") for i, row in enumerate(taken)],
        "speaker": [str(row.get("speaker") or "") for row in taken],
        "text": [row.get("text") for row in taken],
        **{
            column: [row[column] for row in taken]
            for column in ("clean", "noisy")
            if column in taken[0]
        },
    }
    return Rows(columns)


def _shuffled(rows: Iterator[Plain], size: int, rng: np.random.Generator) -> Iterator[Plain]:
    """Each row takes the place of a random one among the ``size`` that are held."""
    held = list(islice(rows, size))
    for row in rows:
        i = int(rng.integers(len(held)))
        held[i], row = row, held[i]
        yield row
    for i in rng.permutation(len(held)):
        yield held[i]


def _open_stream(config: DataConfig, split: str, noisy: bool) -> tuple[Any, list[str]]:
    if not is_table(config.source):
        raise UserError(
            f"{config.source}: only hub ids and parquet files can be streamed; leave --data.streaming out for folders"
        )
    table, missing = load_table(config.source, config, split, streaming=True)
    return uniform_columns(table, config, noisy, config.source), missing


def _held_out(row: Plain, parts: list[str]) -> str | None:
    """The split of ``parts`` that a row belongs to, from its audio alone; None for training."""
    audio = row["clean"] or {}
    key = audio["bytes"][:65536] if audio.get("bytes") else str(audio.get("path")).encode()
    place = int(crc32(key) / 2**32 / HELD_OUT)
    return parts[place] if place < len(parts) else None
