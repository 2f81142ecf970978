"""Batches for text-to-speech students: utterances of similar length, as many as a budget of Mel
frames allows.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from mfdistill.audio.io import audio_info, is_silent, read_audio, resampled_length
from mfdistill.checkpoint import load_tensors
from mfdistill.data.bad_files import BadFiles
from mfdistill.data.batches import in_order
from mfdistill.data.config import DataConfig
from mfdistill.data.folders import hold_out
from mfdistill.data.mixing import generator
from mfdistill.data.transcripts import Utterance, read_utterances
from mfdistill.data.tts_config import TTSOptions
from mfdistill.errors import UserError
from mfdistill.plain import Plain, Section
from mfdistill.tasks.foreign import ForeignTask

T = TypeVar("T")
_FEATURES = {"tokens": 1, "embedding": 1, "mu": 2, "spks": 1, "mel": 2}
_PROMPT = 0.3  # of an utterance at most (CosyVoice's training), for half of them


class TTSSet:
    """The training or validation part of a folder.

    Args:
        task: whose rows they are; it says whether texts are read, in which vocabulary.
        seed: of spans, prompts and the order. split: "train", or "valid", which is held out by name
            (5 %). data: says whether bad files of the training part are left out.

    Raises:
        UserError: nothing usable there, features that lack something, a silent recording.
    """

    def __init__(
        self,
        source: str,
        options: TTSOptions,
        task: ForeignTask,
        seed: int = 0,
        split: str = "train",
        data: DataConfig | None = None,
    ):
        self.options, self.task, self.seed = options, task, seed
        self.vocabulary, self.ratio = task.vocabulary, task.ratio
        rows = read_utterances(
            Path(source),
            options.transcripts,
            options.features,
            task.kind.recordings and not options.data_free,
            task.kind.reads == "text",
        )
        rows = rows[: options.max_files]
        if len(rows) > 1:
            named = [{"name": row.name, "speaker": row.speaker} for row in rows]
            kept = {row["name"] for row in hold_out(named, split, {"valid"}, source)}  # type: ignore[arg-type]
            rows = [row for row in rows if row.name in kept]
        self.bad = None if data is None else BadFiles(data, len(rows))
        measured = [self._noting(i, self._length, row) for i, row in enumerate(rows)]
        # of an unreadable one a length that many have: the groups of the others change little
        usual = int(np.median([length for length in measured if length is not None] or [1]))
        lengths = [usual if length is None else length for length in measured]
        low, high = (
            options.min_s * task.config.mel.frame_rate,
            options.max_s * task.config.mel.frame_rate,
        )
        pairs = [(i, length) for i, length in enumerate(lengths) if low <= length <= high]
        if not pairs:
            raise UserError(
                f"--data {source}: none of {len(rows)} utterances is between {options.min_s:g} and {options.max_s:g} s long; "
                "change --tts.min-s or --tts.max-s"
            )
        longest = max(length for _, length in pairs)
        if longest > options.batch_frames:
            raise UserError(
                f"--tts.batch-frames {options.batch_frames}: less than the longest utterance's {longest} frames; "
                "raise it, or lower --tts.max-s"
            )
        self.rows, self.lengths = (
            [rows[i] for i, _ in pairs],
            np.array([length for _, length in pairs]),
        )
        self._numbers = [i for i, _ in pairs]
        self.left_out = len(rows) - len(pairs)
        self._lock = Lock()
        self._ends: dict[int, list[int]] = {}  # number of groups before each epoch
        self._held: tuple[tuple[int, int], list[np.ndarray]] = ((-1, 0), [])

    @property
    def summary(self) -> str:
        """One line for logs."""
        minutes = self.lengths.sum() / self.task.config.mel.frame_rate / 60
        what = "texts or tokens" if self.options.data_free else "recordings"
        return f"{len(self.rows)} {what}, {minutes:.1f} min" + (
            f", {self.left_out} left out for their length" if self.left_out else ""
        )

    def micro_batches(
        self,
        global_batch: int,
        rank: int = 0,
        world: int = 1,
        start_step: int = 0,
        accumulation: int = 1,
        num_workers: int = 1,
    ) -> Iterator[Plain]:
        """Endless micro-batches, ``accumulation`` per step and process, of at most ``global_batch /
        (world accumulation)`` utterances and ``batch_frames`` frames; which ones depends on the
        seed and that number alone.
        """
        most = max(1, global_batch // (world * accumulation))
        first, per_step = rank * accumulation, world * accumulation
        numbers = (
            step * per_step + first + i for step in count(start_step) for i in range(accumulation)
        )
        jobs: Iterator[Callable[[], Any]] = (
            partial(self.group, number, most) for number in numbers
        )
        return in_order(jobs, num_workers, ahead=2)

    def group(self, number: int, most: int) -> Plain:
        """Micro-batch ``number``; its samples have the indices from ``number * most`` on. It lacks
        bad recordings that are left out, and is the next one where all of its own are bad.
        """
        for later in range(len(self.rows)):
            found = [
                self._noting(self._numbers[row], self.sample, int(row), number * most + place)
                for place, row in enumerate(self._members(number + later, most))
            ]
            samples: list[Section] = [sample for sample in found if sample is not None]
            if samples:
                return collate(samples, self.task.frames_first)
        raise UserError("--data: no recording can be read; see above")

    def _noting(self, i: int, read: Callable[..., T], *arguments: Any) -> T | None:
        """What ``read`` gives of utterance ``i``; None where it is bad and left out."""
        if self.bad is None:
            return read(*arguments)
        if i in self.bad.found:
            return None
        try:
            return read(*arguments)
        except UserError as error:
            self.bad.note(i, error)
            return None

    def checks(self, files: int, most: int) -> list[Plain]:
        """The first ``files`` utterances or a few more as micro-batches of at most ``most``, with
        indices that no training sample has.
        """
        raws: list[Plain] = []
        number, first = 0, 2**31 // most
        while sum(len(raw["index"]) for raw in raws) < min(files, len(self.rows)):
            raw = self.group(number, most)
            raws.append({**raw, "index": raw["index"] + first * most})
            number += 1
        return raws

    def _members(self, number: int, most: int) -> np.ndarray:
        with self._lock:
            ends = self._ends.setdefault(most, [0])
            while number >= ends[-1]:
                ends.append(ends[-1] + len(self._epoch(len(ends) - 1, most)))
            epoch = bisect_right(ends, number) - 1
            if self._held[0] != (epoch, most):
                self._held = ((epoch, most), self._epoch(epoch, most))
            return self._held[1][number - ends[epoch]]

    def _epoch(self, epoch: int, most: int) -> list[np.ndarray]:
        """All utterances in groups of similar length, in another order every epoch."""
        rng = np.random.default_rng([self.seed, epoch, 7])
        near = self.lengths * rng.uniform(0.9, 1.1, len(self.lengths))  # neighbours change
        groups, held, longest = [], [], 0
        for row in np.argsort(near, kind="stable"):
            longest = max(longest, int(self.lengths[row]))
            if held and (
                len(held) == most or longest * (len(held) + 1) > self.options.batch_frames
            ):
                groups.append(np.array(held))
                held, longest = [], int(self.lengths[row])
            held.append(row)
        groups.append(np.array(held))
        return [groups[i] for i in rng.permutation(len(groups))]

    def sample(self, row: int, index: int) -> Plain:
        """One utterance with its span or prompt, drawn from (seed, index)."""
        item, n, options = self.rows[row], int(self.lengths[row]), self.options
        out: Plain = {
            "index": index,
            "frames": n,
            **(self._features(item) if item.features is not None else {}),
        }
        heard = self.task.kind.recordings and not options.data_free
        out["clean"] = self._wave(item) if item.audio is not None and heard else torch.zeros(0)
        rng, counts = generator(self.seed, index), torch.zeros(n, dtype=torch.bool)
        if self.task.frames_first:
            if self.vocabulary is not None:
                out["text"] = torch.tensor(self.vocabulary.encode(item.text or ""))
            else:
                out["text"] = out.pop("tokens").long()
            size = n if options.data_free else max(1, round(rng.uniform(*options.span) * n))
            start = int(rng.integers(0, n - size + 1))
            counts[start : start + size] = True
            out["prompt"] = 0
        else:
            counts[:] = True  # its loss is over all valid frames, the prompt's too
            share = 0.0 if options.data_free or rng.uniform() < 0.5 else rng.uniform(0, _PROMPT)
            out["prompt"] = int(share * n)
        return {**out, "counts": counts}

    def _length(self, row: Utterance) -> int:
        """Mel frames of the target."""
        frames: list[int] = []
        if row.features is not None:
            features = self._features(row)
            spread = "tokens" in features and not self.task.frames_first
            frames += [self.ratio * len(features["tokens"])] if spread else []
            each = {"mu": self.task.config.frames_per_mu, "mel": 1}
            frames += [n * features[name].shape[1] for name, n in each.items() if name in features]
        if row.audio is not None and self.task.kind.recordings and not self.options.data_free:
            info = audio_info(row.audio)
            frames.append(
                self.task.frames(
                    resampled_length(info.frames, info.sample_rate, self.task.sample_rate)
                )
            )
        if not frames:
            symbols = len(row.text or "")
            if self.vocabulary is None and row.features is not None:
                symbols = len(self._features(row)["tokens"])
            frames.append(
                round(symbols / self.options.chars_per_s * self.task.config.mel.frame_rate)
            )
        whole = min(frames)
        unit = 1 if self.task.frames_first else max(self.ratio, self.task.config.frames_per_mu)
        return whole // unit * unit

    def _wave(self, row: Utterance) -> Tensor:
        assert row.audio is not None
        wave = read_audio(row.audio, self.task.sample_rate)
        if is_silent(wave):
            raise UserError(
                f"{row.audio}: silent (nothing above -80 dBFS), so it is no prompt and no target; remove it"
            )
        return torch.from_numpy(wave)

    def _features(self, row: Utterance) -> dict[str, Tensor]:
        assert row.features is not None
        found = {
            name: value for name, value in load_tensors(row.features).items() if name in _FEATURES
        }
        for name, value in found.items():
            if value.ndim != _FEATURES[name] or not value.numel():
                raise UserError(
                    f"{row.features}: {name} has shape {tuple(value.shape)}; it needs {_FEATURES[name]} dimensions, none empty"
                )
        kind = self.task.kind
        needed: tuple[set[str], ...] = {
            "text": (set(),), "symbols": ({"tokens"},), "features": ({"mu"},),
            "tokens": ({"tokens", "embedding"}, {"mu"}),
        }[kind.reads]  # fmt: skip
        if not kind.recordings and not self.options.data_free:
            needed = tuple(names | {"mel"} for names in needed)
        if not any(names <= set(found) for names in needed):
            raise UserError(
                f"{row.features}: has {', '.join(found) or 'nothing known'}; it needs "
                + ", or ".join(" and ".join(sorted(names)) for names in needed)
            )
        return found


def collate(samples: list[Section], frames_first: bool) -> Plain:
    """Samples as one micro-batch, padded at their ends (texts with -1); "loss_mask" is (b, n, 1) or
    (b, 1, n).

    Raises:
        UserError: samples with different kinds of features.
    """
    out: Plain = {
        key: torch.tensor([sample[key] for sample in samples])
        for key in ("index", "frames", "prompt")
    }
    n = int(out["frames"].max())
    mask = torch.stack(
        [
            torch.nn.functional.pad(sample["counts"], (0, n - len(sample["counts"])))
            for sample in samples
        ]
    ).float()
    out["loss_mask"] = mask[..., None] if frames_first else mask[:, None]
    out["samples"] = torch.tensor([len(sample["clean"]) for sample in samples])
    for key, fill in (("clean", 0.0), ("text", -1), ("tokens", 0)):
        if key in samples[0]:
            out[key] = torch.nn.utils.rnn.pad_sequence(
                [_given(sample, key) for sample in samples], True, fill
            )
    if "tokens" in out:
        out["token_len"] = torch.tensor([len(sample["tokens"]) for sample in samples])
    for key in ("embedding", "spks"):
        if key in samples[0]:
            out[key] = torch.stack([_given(sample, key).float() for sample in samples])
    for key in ("mu", "mel"):
        if key in samples[0]:
            out[key] = [_given(sample, key).float() for sample in samples]
    return out


def _given(sample: Section, key: str) -> Tensor:
    if key not in sample:
        raise UserError(
            f"--tts.features: some files have {key} and others do not; give all the same"
        )
    return sample[key]
