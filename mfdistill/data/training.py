"""Training samples: fixed-length crops of clean and degraded speech, each a pure function of (seed,
global sample index).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.utils.data import Dataset

from mfdistill.data.bad_files import BadFiles
from mfdistill.data.config import DataConfig, check_rate
from mfdistill.data.degradations import kind_of, made_anyway, open_degradation
from mfdistill.data.mixing import generator, training_sample
from mfdistill.data.sources import open_rows
from mfdistill.data.streaming import StreamTrainSet
from mfdistill.data.waves import Waves, check_pairs
from mfdistill.plain import Plain
from mfdistill.tasks.config import Degradation as Kind

Sample = Plain  # clean (s,), degraded (s,), index


def open_train(
    config: DataConfig, degradation: Kind | bool, sample_rate: int
) -> TrainSet | StreamTrainSet:
    """The training split; degraded is the corpus's degraded twin, or made on the fly by
    ``degradation`` (True: 'noise'); with 'none' or False it equals clean.

    Raises:
        UserError: source or noise missing, empty, incomplete, damaged, or of another sample rate
            than the configuration says.
    """
    check_rate(config, sample_rate)
    if config.streaming:
        return StreamTrainSet(config, kind_of(degradation), sample_rate)
    return TrainSet(config, kind_of(degradation), sample_rate)


class TrainSet(Dataset[Sample]):
    """``ds[i] -> {"clean": (s,), "degraded": (s,), "index": i}`` for every ``i >= 0``; ``len(ds)``
    samples are one epoch.

    In an epoch every recording comes as often as crops fit into it, so each second of speech weighs
    the same.
    """

    def __init__(self, config: DataConfig, kind: Kind, sample_rate: int) -> None:
        self.config = config
        self.crop = round(config.crop_s * sample_rate)
        rows = open_rows(config, "train", kind != "none" and not made_anyway(config, kind))
        self.bad = BadFiles(config, len(rows))
        self.clean = Waves(rows, "clean", sample_rate, self.bad)
        self.speakers = sorted({str(speaker) for speaker in rows["speaker"]} - {""})
        self.noisy = None
        if "noisy" in rows.column_names:
            self.noisy = Waves(rows, "noisy", sample_rate, self.bad)
            check_pairs(self.clean, self.noisy, self.bad)
        self.degradation = (
            open_degradation(config, kind, "train", sample_rate) if self.noisy is None else None
        )
        self._entries = np.repeat(
            np.arange(len(self.clean)),
            np.maximum(np.round(self.clean.lengths / self.crop).astype(int), 1),
        )
        self._order: tuple[int, np.ndarray] = (-1, self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Sample:
        _, (wave, noisy) = self.bad.draw(*self._place(index), self._read)
        rng = generator(self.config.seed, index)
        degrade = self.degradation.train if self.degradation is not None else None
        clean, degraded = training_sample(rng, wave, noisy, degrade, self.crop, self.config)
        return {
            "clean": torch.from_numpy(clean),
            "degraded": torch.from_numpy(degraded),
            "index": index,
        }

    def recording(self, index: int) -> int:
        """Which recording sample ``index`` is cut from: a new order every epoch."""
        order, position = self._place(index)
        return int(order[position])

    def _read(self, i: int) -> tuple[np.ndarray, np.ndarray | None]:
        return self.clean[i], self.noisy[i] if self.noisy is not None else None

    def _place(self, index: int) -> tuple[np.ndarray, int]:
        """The order of an epoch, and a sample's place in it."""
        if index < 0:
            raise IndexError(f"sample indices start at 0, got {index}")
        epoch, position = divmod(index, len(self._entries))
        held, order = self._order
        if held != epoch:
            order = np.random.default_rng([self.config.seed, epoch, 1]).permutation(self._entries)
            self._order = (epoch, order)
        return order, position

    def jobs(self, indices: Iterator[int]) -> Iterator[Callable[[], Sample]]:
        """Samples to be made, in the order of ``indices``."""
        return (lambda index=index: self[index] for index in indices)

    def share(self, step: int, global_batch: int, rank: int, world: int) -> range:
        """Global sample indices of one rank's part of a step: contiguous."""
        size = global_batch // world
        first = step * global_batch + rank * size
        return range(first, first + size)

    @property
    def summary(self) -> str:
        """One line for logs."""
        made = self.degradation.summary if self.degradation is not None else "no degradation"
        kind = "degraded twins" if self.noisy is not None else made
        speakers = f", {len(self.speakers)} speakers" if self.speakers else ""
        return f"{len(self.clean)} recordings, {self.clean.seconds / 60:.1f} min{speakers}, {kind}"
