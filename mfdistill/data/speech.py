"""Samples for Mel tasks: a wave, its units or text frame by frame, its speaker, and which frames
are given, generated and padding.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mfdistill.audio.alignment import durations_by_lengths, learn_durations, learn_gaussians
from mfdistill.audio.features import frames
from mfdistill.audio.pitch import mean_pitch
from mfdistill.audio.speaker import NoVoice, cache_folder, joined, partial_embeddings
from mfdistill.audio.units import learn_units, pack_codebook, spread_units, unit_features
from mfdistill.data.bad_files import BadFiles
from mfdistill.data.config import DataConfig, check_rate
from mfdistill.data.mixing import crop_start, generator
from mfdistill.data.sources import open_rows
from mfdistill.data.texts import prepared
from mfdistill.data.training import Sample
from mfdistill.data.waves import Waves
from mfdistill.errors import UserError
from mfdistill.tasks.mel import MelTask, MelTaskConfig, Text2Mel, Token2Mel

LEARN_S = 4 * 3600.0  # of speech from which statistics and units are learnt
PARTIALS = 3  # windows of a speaker embedding in training: about what a prompt of 3 s has
NO_PROMPT, NO_SPEAKER = 0.05, 0.05

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _About:
    """Of a recording, made once; None where the task does not want it."""

    gain: float
    pitch: Tensor | None
    units: Tensor | None
    partials: np.ndarray | None
    """Windows of the speaker embedding."""
    said: Tensor | None
    """Symbols of its text ``(n,)``, frame by frame."""


class SpeechSet(Dataset[Sample]):
    """``ds[i] -> {"clean": (s,), "units": (n, k) or (n,), "prompt", "mask", "loss_mask": (1, 1, n),
    "speaker": (256,), "pitch": (1,), "index"}``, a pure function of (seed, i). ``clean`` is a crop
    of ``config.crop_s`` seconds, at the level at which its recording peaks at 1.

    `token2mel`: a random crop whose beginning (25 to 60 %, in 5 % of the samples nothing) is the
    prompt; the speaker embedding is that of a random stretch of the recording, left out in 5 %.
    `text2mel`: a whole recording with its text, frame by frame; longer ones are left out; a random
    70 to 100 % of it is generated, as in F5-TTS.
    """

    def __init__(self, config: DataConfig, task: MelTask):
        check_rate(config, task.sample_rate)
        if config.streaming:
            raise UserError(
                f"--data {config.source}: Mel tasks cannot be trained from streams; leave --data.streaming out"
            )
        self.config, self.task = config, task
        self.hop = task.config.stft.hop
        # hops of a crop; it has a frame more
        self.count = max(2, round(config.crop_s * task.sample_rate / self.hop))
        rows = open_rows(config, "train", False)
        self.bad = BadFiles(config, len(rows))
        self.clean = Waves(rows, "clean", task.sample_rate, self.bad)
        self.speakers = sorted({str(speaker) for speaker in rows["speaker"]} - {""})
        self.texts: list[str | None] = list(rows["text"])
        self.use = list(range(len(self.clean)))
        if isinstance(task, Text2Mel):
            self.use = [
                i
                for i in self.use
                if self.texts[i] and self.clean.lengths[i] <= self.count * self.hop
            ]
            if not self.use:
                lack = f"no recording with a text lasts {config.crop_s:g} s or less"
                raise UserError(
                    f"--data {config.source}: {lack}; add texts (transcripts.tsv) or raise --data.crop-s"
                )
            for i, text in zip(
                self.use, prepared([str(self.texts[i]) for i in self.use], task.config), strict=True
            ):
                self.texts[i] = text
        crops = np.maximum(
            np.round(self.clean.lengths[self.use] / (self.count * self.hop)).astype(int), 1
        )
        self._entries = np.repeat(np.array(self.use), crops)
        self._kept: dict[int, _About] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def recording(self, index: int) -> int:
        """Which recording sample ``index`` is cut from: a new order every epoch, without the bad
        ones.
        """
        epoch, position = divmod(index, len(self._entries))
        order = np.random.default_rng([self.config.seed, epoch, 1]).permutation(self._entries)
        return self.bad.draw(order, position, self.clean.__getitem__)[0]

    def __getitem__(self, index: int) -> Sample:
        if index < 0:
            raise IndexError(f"sample indices start at 0, got {index}")
        i = self.recording(index)
        rng = generator(self.config.seed, index)
        wave = self.clean[i]
        about = self._about(i)
        units = about.units
        size, n = self.count * self.hop, self.count + 1
        start = 0
        if units is not None and len(wave) > size:
            start = min(
                max(0, crop_start(rng, wave, size)) // self.hop, (len(wave) - size) // self.hop
            )
        part = wave[start * self.hop : start * self.hop + size] * np.float32(about.gain)
        valid = min(n, frames(-(-len(part) // self.hop) * self.hop, self.task.config.stft))
        sample: Sample = {
            "clean": torch.from_numpy(np.pad(part, (0, size - len(part)))),
            "index": index,
        }
        mask = _span(0, valid, n)
        if units is not None:
            first, last = (
                0,
                int(rng.uniform(0.25, 0.6) * valid) if rng.uniform() >= NO_PROMPT else 0,
            )
            prompt = _span(first, last, n)
            sample["units"] = spread_units(units, self.task.config.unit_frames, start + n)[start:]
            assert about.pitch is not None
            sample["pitch"] = mean_pitch(about.pitch[start : start + last])
        else:
            assert about.said is not None
            made = max(1, round(rng.uniform(0.7, 1.0) * valid))
            first = int(rng.integers(valid - made + 1))
            prompt = mask - _span(first, first + made, n)
            sample["units"] = torch.nn.functional.pad(about.said[:valid], (0, n - valid))
        if about.partials is not None:
            sample["speaker"] = self._speaker(rng, about.partials)
        return sample | {"prompt": prompt, "mask": mask, "loss_mask": mask - prompt}

    def jobs(self, indices: Iterator[int]) -> Iterator[Callable[[], Sample]]:
        """Samples to be made, in the order of ``indices``."""
        return (lambda index=index: self[index] for index in indices)

    def share(self, step: int, global_batch: int, rank: int, world: int) -> range:
        """Global sample indices of one rank's part of a step: contiguous."""
        size = global_batch // world
        return range(step * global_batch + rank * size, step * global_batch + (rank + 1) * size)

    @property
    def summary(self) -> str:
        """One line for logs."""
        speakers = f", {len(self.speakers)} speakers" if self.speakers else ""
        seconds = float(self.clean.lengths[self.use].sum()) / self.task.sample_rate
        return f"{len(self.use)} recordings, {seconds / 60:.1f} min{speakers}, {self.task.vocabulary} symbols"

    def _about(self, i: int) -> _About:
        if i not in self._kept:
            wave = torch.from_numpy(self.clean[i])[None]
            gain = float(self.task.gain(wave))
            pitch = units = partials = said = None
            if isinstance(self.task, Token2Mel):
                pitch = self.task.pitch(wave[0])
                units = self.task.units(wave[0] * gain, pitch)
            if isinstance(self.task, Text2Mel):
                said = self.task.aligned(self.task.log_mel(wave * gain)[0], str(self.texts[i]))
            if self.task.speaker_dim:
                try:
                    partials = partial_embeddings(
                        self.clean[i], self.task.sample_rate, cache_folder()
                    )
                except NoVoice as error:
                    log.warning(
                        "%s: %s; trained on without a speaker embedding", self.clean.label(i), error
                    )
                    partials = np.zeros((0, self.task.speaker_dim), np.float32)
            self._kept[i] = _About(gain, pitch, units, partials, said)
        return self._kept[i]

    def _speaker(self, rng: np.random.Generator, partials: np.ndarray) -> Tensor:
        if rng.uniform() < NO_SPEAKER or not len(partials):
            return torch.zeros(self.task.speaker_dim)
        start = int(rng.integers(max(1, len(partials) - PARTIALS + 1)))
        return torch.from_numpy(joined(partials[start : start + PARTIALS])).float()


def learn_task(
    data: DataConfig, config: MelTaskConfig, units: int, seed: int = 0, aligned: bool = True
) -> MelTaskConfig:
    """``config`` with what follows from the training split: mean and deviation of every Mel band,
    and ``units`` units of every level, or the alphabet and (``aligned``) what aligns texts
    with recordings.

    Raises:
        UserError: as ``open_train``; no texts for text2mel; fewer frames than units.
    """
    rows = open_rows(data, "train", False)
    waves = Waves(rows, "clean", config.stft.sample_rate)
    plain = Token2Mel(config) if config.name == "token2mel" else Text2Mel(config)
    order = np.random.default_rng(seed).permutation(len(waves))
    mels, seconds = [], 0.0
    for i in order:
        wave = torch.from_numpy(waves[int(i)])[None]
        mels.append(plain.log_mel(wave * plain.gain(wave))[0])
        seconds += wave.shape[1] / config.stft.sample_rate
        if seconds > LEARN_S:
            break
    every = torch.cat(mels, 1).double()
    mean, std = (
        tuple(round(value, 4) for value in values.tolist())
        for values in (every.mean(1), every.std(1).clamp(min=1e-2))
    )
    config = replace(config, mel_mean=mean, mel_std=std)
    if isinstance(plain, Text2Mel):
        texts = [str(text) for text in rows["text"] if text]
        if not texts:
            raise UserError(
                f"--data {data.source}: has no texts, which text2mel needs; add transcripts.tsv (path, speaker, text)"
            )
        said = prepared(texts, config)
        config = replace(config, alphabet="".join(sorted(set("".join(said)))))
        longest = 1 + round(data.crop_s * config.stft.sample_rate / config.stft.hop)
        by_row = dict(zip((i for i, text in enumerate(rows["text"]) if text), said, strict=True))
        pairs = [
            (mel, by_row[int(i)])
            for i, mel in zip(order, mels, strict=False)
            if int(i) in by_row and len(by_row[int(i)]) <= mel.shape[1] <= longest
        ]
        return learn_alignment(config, pairs) if aligned and pairs else config
    features = torch.cat([unit_features(mel, config.unit_frames) for mel in mels])
    return replace(
        config, codebook=pack_codebook(learn_units(features, units, config.unit_levels, seed))
    )


def learn_alignment(config: MelTaskConfig, pairs: Sequence[tuple[Tensor, str]]) -> MelTaskConfig:
    """``config`` with what aligns texts with recordings, learnt from log-Mel spectrograms ``(mels,
    n)`` and what they say.
    """
    plain = Text2Mel(config)
    features = [unit_features(mel, 1) for mel, _ in pairs]
    symbols = [torch.nn.functional.pad(plain.encode(text), (1, 1)) for _, text in pairs]
    lengths = np.array([float(len(own)) for own in features])
    start = durations_by_lengths(symbols, lengths, plain.vocabulary)
    gaussians, counts = learn_gaussians(features, symbols, start)
    durations = learn_durations(symbols, counts, plain.vocabulary)
    return replace(
        config,
        gaussians=pack_codebook(gaussians),
        durations=tuple(round(value, 3) for value in durations.flatten().tolist()),
    )


def _span(first: int, last: int, n: int) -> Tensor:
    """(1, 1, n), 1 from ``first`` up to before ``last``."""
    place = torch.arange(n)
    return ((place >= first) & (place < last)).float()[None, None]
