"""Evaluation utterances: whole recordings, and mixtures that depend on nothing but the file
list.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch

from mfdistill.audio.degrade import limit_peak
from mfdistill.data.config import DataConfig, check_rate
from mfdistill.data.degradations import kind_of, made_anyway, open_degradation
from mfdistill.data.folders import stable_hash
from mfdistill.data.mixing import generator
from mfdistill.data.sources import open_rows
from mfdistill.data.streaming import first_rows
from mfdistill.data.waves import Waves, check_pairs
from mfdistill.errors import UserError
from mfdistill.plain import Plain
from mfdistill.tasks.config import Degradation as Kind

_FIRST = 2**31  # global indices of validation crops: no training sample comes that far
_SEED = 20160913  # not the training seed: every run is measured on the same mixtures


def open_eval(
    config: DataConfig,
    split: Literal["valid", "test"],
    degradation: Kind | bool,
    sample_rate: int,
    limit: int | None = None,
) -> EvalSet:
    """Whole utterances of a split, degraded as ``open_train`` says, at most ``limit``: the first
    ones in an order that goes through the speakers in turn.

    An utterance's mixture is the same for every ``limit``, seed and process.

    Raises:
        UserError: as ``open_train``.
    """
    check_rate(config, sample_rate)
    if limit is not None and limit < 1:
        raise UserError(f"limit={limit}: must be at least 1")
    if split not in ("valid", "test"):
        raise UserError(f"split={split!r}: must be 'valid' or 'test'")
    return EvalSet(config, split, kind_of(degradation), sample_rate, limit)


class EvalSet(Sequence[Plain]):
    """``ds[i] -> {"name", "speaker", "text" (or None), "clean": (s,), "degraded": (s,), "snr_db"
    (None unless mixed here)}``.
    """

    def __init__(
        self, config: DataConfig, split: str, kind: Kind, sample_rate: int, limit: int | None
    ) -> None:
        paired = kind != "none" and not made_anyway(config, kind)
        rows = (
            first_rows(config, split, paired, limit)
            if config.streaming
            else open_rows(config, split, paired)
        )
        rows = rows.select(in_turn(list(rows["name"]), list(rows["speaker"]))[:limit])
        self.names: list[str] = [str(name) for name in rows["name"]]
        self.speakers: list[str] = [str(speaker) for speaker in rows["speaker"]]
        self.texts: list[str | None] = list(rows["text"])
        self.clean = Waves(rows, "clean", sample_rate)
        self.noisy = Waves(rows, "noisy", sample_rate) if "noisy" in rows.column_names else None
        if self.noisy is not None:
            check_pairs(self.clean, self.noisy)
        self.degradation = (
            open_degradation(config, kind, split, sample_rate) if self.noisy is None else None
        )
        # a system is given the degraded wave of an utterance, and may ask for the rest of it
        self._last: tuple[int, Plain] = (-1, {})

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        i %= len(self)
        if i != self._last[0]:
            self._last = i, self._made(i)
        return self._last[1]

    def _made(self, i: int) -> Plain:
        clean = self.clean[i]
        degraded: np.ndarray = clean
        about: Plain = {"snr_db": None}
        if self.noisy is not None:
            degraded = self.noisy[i]
        elif self.degradation is not None:
            degraded, told = self.degradation.evaluate(
                generator(_SEED, stable_hash(self.names[i])), clean, i
            )
            about |= told
        clean, degraded = limit_peak(clean, degraded)
        audio = {"clean": torch.from_numpy(clean), "degraded": torch.from_numpy(degraded)}
        return {
            "name": self.names[i],
            "speaker": self.speakers[i],
            "text": self.texts[i],
            **about,
            **audio,
        }

    def checks(self, crop: int, most: int) -> list[Plain]:
        """The middle ``crop`` samples of every utterance as one micro-batch of its rows, with
        indices that no training sample has; ``most`` is for sets of whole utterances.
        """
        items = list(self)
        waves = {
            key: torch.stack([_middle(item[key], crop) for item in items])
            for key in ("clean", "degraded")
        }
        index = torch.arange(_FIRST, _FIRST + len(items))
        return [{**waves, "text": [item["text"] for item in items], "index": index}]

    def __iter__(self) -> Iterator[Plain]:
        return (self[i] for i in range(len(self)))


def _middle(wave: torch.Tensor, length: int) -> torch.Tensor:
    start = max(0, (len(wave) - length) // 2)
    part = wave[start : start + length]
    return torch.nn.functional.pad(part, (0, length - len(part)))


def in_turn(names: Sequence[str], speakers: Sequence[str]) -> list[int]:
    """Order of the utterances: every speaker's first, then every speaker's second, ...; within a
    round shuffled by name.
    """
    rounds: dict[str, int] = {}
    keys: list[tuple[int, int, int]] = []
    for i in sorted(range(len(names)), key=lambda i: stable_hash(names[i])):
        turn = rounds[speakers[i]] = rounds.get(speakers[i], -1) + 1
        keys.append((turn, stable_hash(names[i]), i))
    return [i for _, _, i in sorted(keys)]
