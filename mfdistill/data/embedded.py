"""The embedded corpus of the demo: English in many voices spoken by espeak-ng, with texts, and
synthetic noises.

Made once (some seconds) under the cache folder, in the layout
``clean/{train,valid,test}/<voice>/``, ``noise/{train,test}/``, ``transcripts.tsv``; voices and
sentences of the three splits are disjoint. Nothing of it is distributed with the package.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

from mfdistill.audio.io import write_audio
from mfdistill.checkpoint import write_text
from mfdistill.data import noises, sentences
from mfdistill.data.espeak import Speech, synthesise
from mfdistill.errors import UserError

VERSION = 1  # part of the folder's name: raise it when the samples change
NOISE_S = 12.0
_LEVEL = 0.06  # RMS of every file, -24 dBFS
_VOICES = {  # espeak-ng's accent + variant, words per minute, pitch, pitch range
    "train": (
        ("en-us+f2", 165, 50, 50),
        ("en-gb-x-rp+f5", 175, 45, 60),
        ("en-us+f3", 190, 60, 50),
        ("en-gb-scotland+f1", 155, 55, 55),
        ("en-us+linda", 170, 50, 65),
        ("en-029+belinda", 160, 50, 50),
        ("en-us+Andrea", 150, 42, 50),
        ("en-us+m1", 170, 50, 50),
        ("en-gb-x-rp+m2", 160, 40, 60),
        ("en-us+m3", 185, 55, 45),
        ("en-029+m4", 165, 50, 60),
        ("en-us-nyc+m7", 175, 45, 50),
        ("en-gb-scotland+max", 155, 50, 50),
        ("en-us+zac", 170, 60, 55),
        ("en-gb-x-gbclan+edward", 160, 45, 50),
        ("en-us+travis", 180, 50, 60),
    ),
    "valid": (
        ("en-us+steph", 170, 50, 55),
        ("en-gb-scotland+m5", 165, 50, 50),
        ("en-gb-x-gbcwmd+Annie", 175, 50, 50),
    ),
    "test": (
        ("en-us+f4", 165, 50, 50),
        ("en-gb-x-rp+m6", 170, 50, 50),
        ("en-us+rob", 160, 50, 60),
        ("en-029+shelby", 175, 50, 50),
    ),
}
_PER_VOICE = {"train": 9, "valid": 7, "test": 6}
_TEXTS = {"train": sentences.TRAIN, "valid": sentences.VALID, "test": sentences.TEST}


def embedded_corpus(cache: Path | None = None) -> Path:
    """Folder of the embedded corpus, made if it is not there; several processes may ask at once.

    Raises:
        UserError: espeakng-loader is not installed, or the cache folder cannot be written.
    """
    jobs = _jobs()
    digest = hashlib.blake2b(json.dumps([VERSION, jobs]).encode(), digest_size=4).hexdigest()
    folder = (cache or cache_folder()) / f"embedded-{digest}"
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise UserError(
            f"{folder.parent}: cannot be written ({error.strerror}); name another cache folder with MFDISTILL_CACHE"
        ) from error
    try:
        _build(part, jobs)
        part.chmod(0o755)
        try:
            part.rename(folder)
        except OSError as error:
            if not folder.is_dir():  # else another process was faster, and made the same
                raise UserError(
                    f"{folder}: cannot be written ({error.strerror}); name another folder with MFDISTILL_CACHE"
                ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def embedded_noises() -> Path:
    """Folder of the synthetic noises, with ``train`` and ``test`` in it (errors as
    ``embedded_corpus``; babble is made from its speech).
    """
    return embedded_corpus() / "noise"


def cache_folder() -> Path:
    """``$MFDISTILL_CACHE``, or ``mfdistill`` in the platform's folder for caches."""
    if named := os.environ.get("MFDISTILL_CACHE"):
        return Path(named).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "mfdistill"
    if sys.platform == "win32":
        return (
            Path(os.environ.get("LOCALAPPDATA", str(Path.home() / "AppData" / "Local")))
            / "mfdistill"
            / "Cache"
        )
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mfdistill"


def _jobs() -> dict[str, Speech]:
    """What is spoken, by path below ``clean``; a voice's sentences follow those of the voice before
    it.
    """
    jobs: dict[str, Speech] = {}
    for split, voices in _VOICES.items():
        for number, (voice, rate_wpm, pitch, pitch_range) in enumerate(voices):
            speaker = voice.removeprefix("en-").removeprefix("gb-").replace("+", "-")
            for k in range(_PER_VOICE[split]):
                text = _TEXTS[split][(number * _PER_VOICE[split] + k) % len(_TEXTS[split])]
                path = f"{split}/{speaker}/{speaker}_{k + 1:02d}.flac"
                # -2..2: no voice speaks everything at one speed and pitch
                vary = (k * 7 + number * 3) % 5 - 2
                jobs[path] = {
                    "file": f"{len(jobs)}.raw",
                    "voice": voice,
                    "text": text,
                    "rate_wpm": rate_wpm + 6 * vary,
                    "pitch": pitch + 2 * ((k * 3) % 5 - 2),
                    "pitch_range": pitch_range,
                }
    return jobs


def _build(root: Path, jobs: dict[str, Speech]) -> None:
    raw = root / "raw"
    raw.mkdir()
    rate = synthesise(list(jobs.values()), raw)
    speech: dict[str, list[np.ndarray]] = {"train": [], "valid": [], "test": []}
    for number, (path, job) in enumerate(jobs.items()):
        wave = np.fromfile(raw / job["file"], dtype="<i2").astype(np.float32) / 32768
        if not wave.any():
            raise UserError(
                f"espeak-ng: said nothing for the voice {job['voice']}; pip install --force-reinstall espeakng-loader"
            )
        speech[path.split("/")[0]].append(wave)
        _write(root / "clean" / path, wave, rate, number)
    shutil.rmtree(raw)
    lines = [f"clean/{path}\t{path.split('/')[1]}\t{job['text']}" for path, job in jobs.items()]
    write_text(root / "transcripts.tsv", "\n".join(["path\tspeaker\ttext", *lines]) + "\n")
    # babble of the test is made of the validation voices: nobody is both target and noise there
    for split, first, voices in (("train", 0, speech["train"]), ("test", 1, speech["valid"])):
        for number, (name, wave) in enumerate(_noises(rate, first, voices).items()):
            _write(
                root / "noise" / split / f"{name}.flac", wave, rate, 10000 * (first + 1) + number
            )


def _noises(rate: int, first: int, voices: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Noises by name; ``first`` 0 or 1: two sets of the same kinds with other parameters and other
    random numbers.
    """
    rng = np.random.default_rng([VERSION, first])
    size = int(NOISE_S * rate)
    made: dict[str, np.ndarray] = {}
    for k, slope in enumerate((0.0, 1.0, 2.0, 0.5, 1.5) if first == 0 else (0.0, 1.0, 2.0)):
        made[f"{('white', 'pink', 'brown', 'bright', 'dark')[k]}"] = noises.coloured(
            rng, size, slope
        )
    for k, (low, high) in enumerate(
        ((0.01, 0.06), (0.05, 0.16), (0.12, 0.4)) if first == 0 else ((0.02, 0.1),)
    ):
        made[f"band-{k + 1}"] = noises.band(rng, size, low, high)
    for pitch_hz in (50.0, 120.0) if first == 0 else (60.0,):
        made[f"hum-{pitch_hz:.0f}"] = noises.hum(rng, size, rate, pitch_hz)
    for k, cycles_hz in enumerate((0.5, 2.0, 6.0) if first == 0 else (1.0, 4.0)):
        made[f"modulated-{k + 1}"] = noises.modulated(rng, size, rate, cycles_hz, slope=1.0)
    for k, per_s in enumerate((2.0, 8.0) if first == 0 else (4.0,)):
        made[f"clicks-{k + 1}"] = noises.clicks(rng, size, rate, per_s)
    for k, count in enumerate((4, 8, 8, 12) if first == 0 else (5, 9)):
        chosen = [
            voices[int(i)]
            for i in rng.choice(len(voices), (count, 4), replace=len(voices) < count * 4).ravel()
        ]
        talkers = [np.concatenate(chosen[4 * i : 4 * i + 4]) for i in range(count)]
        made[f"babble-{k + 1}"] = noises.babble(rng, size, talkers)
    return made


def _write(path: Path, wave: np.ndarray, rate: int, number: int) -> None:
    """16 bit at the common level, with triangular dither: synthetic pauses are not digital
    zeros.
    """
    rng = np.random.default_rng([VERSION, 2, number])
    wave = noises.unit(wave) * _LEVEL
    peak = float(np.abs(wave).max())
    wave = wave * min(1.0, 0.9 / peak) + (rng.random(wave.size) - rng.random(wave.size)) / 32768
    write_audio(path, wave.astype(np.float32), rate, subtype="PCM_16")
