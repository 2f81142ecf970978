"""The data of a task, whatever its rows are (``Task.rows``): pairs of recordings, recordings with
what is said in them, or utterances with texts or speech tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from mfdistill.data.config import DataConfig
from mfdistill.data.evaluation import EvalSet, in_turn, open_eval
from mfdistill.data.speech import SpeechSet
from mfdistill.data.streaming import StreamTrainSet
from mfdistill.data.training import TrainSet, open_train
from mfdistill.data.tts import TTSSet, collate
from mfdistill.data.tts_config import TTSOptions
from mfdistill.errors import UserError
from mfdistill.plain import Plain

TrainRows = TrainSet | StreamTrainSet | SpeechSet | TTSSet
_FIRST = 2**31  # indices of evaluation utterances: no training sample comes that far

log = logging.getLogger(__name__)


class SpokenSet(Sequence[Plain]):
    """Held-out utterances of a text-to-speech corpus, as ``EvalSet``; ``item["raw"]`` is the
    micro-batch of one that its task makes a batch of.

    Raises:
        UserError: no recordings (features alone), so nothing to compare with.
    """

    def __init__(self, source: TTSSet, limit: int | None = None) -> None:
        self.source = source
        names, speakers = ([getattr(row, key) for row in source.rows] for key in ("name", "speaker"))  # fmt: skip
        self.rows = in_turn(names, speakers)[:limit]
        self.names: list[str] = [names[row] for row in self.rows]
        self._last: tuple[int, Plain] = (-1, {})

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        i = range(len(self))[i]
        if i != self._last[0]:
            self._last = i, self._made(self.rows[i])
        return self._last[1]

    def _made(self, row: int) -> Plain:
        sample = self.source.sample(row, _FIRST + row)
        said = self.source.rows[row]
        return {
            "name": said.name,
            "speaker": said.speaker,
            "text": said.text,
            "snr_db": None,
            "clean": sample["clean"],
            "degraded": sample["clean"],
            "raw": collate([sample], self.source.task.frames_first),
        }

    def __iter__(self) -> Iterator[Plain]:
        return (self[i] for i in range(len(self)))

    def checks(self, crop: int, most: int) -> list[Plain]:
        """As ``EvalSet.checks``: whole utterances, in groups of at most ``most``."""
        return self.source.checks(len(self), most)


EvalRows = EvalSet | SpokenSet
Part = Literal["valid", "test"]


def _utterances(
    config: DataConfig, task: Any, tts: TTSOptions | None, seed: int, split: str
) -> TTSSet:
    if config.source == DataConfig.source:
        raise UserError(
            f"--data: needed for {task.config.name}: a folder of speech with texts or tokens (layout: docs/foreign-tts.md)"
        )
    bad = config if split == "train" else None  # held-out ones are never left out
    return TTSSet(config.source, tts or TTSOptions(), task, seed, split, bad)


def _spoken(
    config: DataConfig, task: Any, tts: TTSOptions | None, seed: int, split: Part, limit: int | None
) -> SpokenSet:
    if split == "test":
        log.warning("%s: has no test split; the held-out utterances are taken", config.source)
    try:
        return SpokenSet(_utterances(config, task, tts, seed, "valid"), limit)
    except UserError as error:
        # search and evaluation have these from config.json, and no such options
        raise UserError(str(error).replace("--tts.", "the distillation's tts.")) from error


def _pairs(
    config: DataConfig, task: Any, tts: TTSOptions | None, seed: int, split: Part, limit: int | None
) -> EvalSet:
    return open_eval(config, split, task.degradation, task.sample_rate, limit=limit)


ROWS: dict[str, tuple[Callable[..., TrainRows], Callable[..., EvalRows]]] = {
    "pairs": (
        lambda config, task, tts, seed: open_train(config, task.degradation, task.sample_rate),
        _pairs,
    ),
    "speech": (lambda config, task, tts, seed: SpeechSet(config, task), _pairs),
    "utterances": (
        lambda config, task, tts, seed: _utterances(config, task, tts, seed, "train"),
        _spoken,
    ),
}
"""By ``Task.rows``: the training split, and held-out utterances."""


def open_task_train(
    config: DataConfig, task: Any, tts: TTSOptions | None = None, seed: int = 0
) -> TrainRows:
    """The training split as ``task`` wants it.

    Args:
        tts, seed: of utterances with texts or tokens; other rows have theirs in ``config``.

    Raises:
        UserError: as ``open_train`` and ``TTSSet``.
    """
    return ROWS[task.rows][0](config, task, tts, seed)


def open_task_eval(
    config: DataConfig,
    split: Part,
    task: Any,
    limit: int | None = None,
    tts: TTSOptions | None = None,
    seed: int = 0,
) -> EvalRows:
    """Whole utterances of a split, at most ``limit``; the rest as ``open_task_train``."""
    return ROWS[task.rows][1](config, task, tts, seed, split, limit)
