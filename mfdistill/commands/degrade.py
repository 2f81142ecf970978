"""degrade."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import Positional

from mfdistill.data.config import CodecName

if TYPE_CHECKING:
    import numpy as np

    from mfdistill.data.config import DataConfig
    from mfdistill.data.degradations import Degradation
    from mfdistill.tasks.config import Degradation as Kind

Tasks = Literal["enhance", "dereverb", "codec", "bandwidth", "vocode", "phase"]


@dataclass(frozen=True)
class Degrade:
    """Make a task's degraded speech of clean speech: a file of a file, or of a folder a corpus of
    pairs OUT/{clean,noisy} for --data OUT.

    What is made of a recording depends on --seed and on its name alone.
    """

    task: Positional[Annotated[Tasks, tyro.conf.arg(metavar="TASK")]]
    """enhance (noise), dereverb, codec, bandwidth, or vocode and phase (what is left without the
    phase).
    """
    source: Positional[Annotated[str, tyro.conf.arg(metavar="IN")]]
    """An audio file; or a folder, whose splits are kept ('clean/train/...' or 'train/...'; what
    lies in 'noise', 'noisy' and 'rir' is no speech).
    """
    target: Positional[Annotated[str, tyro.conf.arg(metavar="OUT")]]
    sample_rate: int = 16000
    """Hz, of what is written."""
    noise: str | None = None
    """enhance: folder of noises, or 'embedded' for synthetic ones; by default the folder 'noise' in
    IN.
    """
    snr_db: tuple[float, float] = (0.0, 15.0)
    rirs: str | None = None
    """dereverb: folder of room impulse responses, or 'simulated' (pyroomacoustics); by default the
    folder 'rir' in IN, else simulated.
    """
    rt60_s: tuple[float, float] | None = None
    """Reverberation times of simulated rooms; by default 0.2 to 0.8."""
    codec: CodecName = "opus"
    codec_kbps: tuple[float, float] | None = None
    """Bit rates of opus, 6 to 256 kbit/s; by default 6."""
    cutoff: tuple[float, ...] = (0.25, 0.375, 0.5, 0.625, 0.75, 0.875)
    """bandwidth: where speech is cut off, in parts of the Nyquist frequency."""
    format: Literal["flac", "wav"] = "flac"
    """Of the files of a folder."""
    seed: int = 0
    overwrite: bool = False
    """Replace files that are there; otherwise a folder's finished pairs are skipped."""


def run(command: Degrade) -> int:
    """Degrade as ``command`` says; returns the number of files or pairs written.

    Raises:
        UserError: bad input, nothing to read, a file that is there already.
    """
    from mfdistill.errors import UserError

    try:
        return _degrade(command)
    # options of training data have the same names here, without the prefix
    except UserError as error:
        raise UserError(str(error).replace("--data.", "--")) from error


def _degrade(command: Degrade) -> int:
    from mfdistill.audio.io import write_audio
    from mfdistill.commands.progress import progress
    from mfdistill.data.config import DataConfig
    from mfdistill.distill.logs import say
    from mfdistill.errors import UserError

    source, target = Path(command.source), Path(command.target)
    if not source.exists():
        raise UserError(f"{source}: no such file or folder; check the name")
    config = DataConfig(
        source=str(source if source.is_dir() else source.parent), noise=command.noise, snr_db=command.snr_db, rirs=command.rirs,
        rt60_s=command.rt60_s, codec=command.codec, codec_kbps=command.codec_kbps, cutoff=command.cutoff, seed=command.seed,
    )  # fmt: skip
    if source.is_file():
        target = target / source.name if target.is_dir() else target
        if target.exists() and not command.overwrite:
            raise UserError(f"{target}: already there; --overwrite replaces it")
        _, degraded = _pair(command, config, source, source.stem, "test")
        write_audio(target, degraded, command.sample_rate)
        say(f"{target}: written")
        return 1
    files = _speech(source, target)
    made, failed = 0, []
    with progress(len(files), "files", True) as tell:
        for name, file in sorted(files.items()):
            clean_file, noisy_file = (
                target / part / f"{name}.{command.format}" for part in ("clean", "noisy")
            )
            tell(name, 1)
            if noisy_file.exists() and clean_file.exists() and not command.overwrite:
                continue
            try:
                clean, degraded = _pair(command, config, file, name, _split(name))
            except UserError as error:
                if not file.exists() or str(file) not in str(error):  # not this file's fault
                    raise
                say(f"left out: {error}")
                failed.append(file)
                continue
            write_audio(clean_file, clean, command.sample_rate)
            write_audio(noisy_file, degraded, command.sample_rate)
            made += 1
    say(
        f"{target}: {made} pairs written, {len(files) - made - len(failed)} were there already; use them with --data {target}"
    )
    if failed:
        raise UserError(
            f"{source}: {len(failed)} of {len(files)} files could not be read ({failed[0]}, ...); see above"
        )
    return made


def _pair(
    command: Degrade, config: DataConfig, file: Path, name: str, split: str
) -> tuple[np.ndarray, np.ndarray]:
    """Clean and degraded, at levels that no file format clips."""
    import numpy as np
    import torch

    from mfdistill.audio.degrade import limit_peak
    from mfdistill.audio.io import read_audio
    from mfdistill.data.folders import stable_hash
    from mfdistill.data.mixing import generator
    from mfdistill.tasks import default_task, get_task

    task = get_task(default_task(command.task, command.sample_rate))
    clean = read_audio(file, command.sample_rate)
    made = _degradation(config, task.degradation, split, command.sample_rate)
    if made is not None:
        degraded = made.train(generator(command.seed, stable_hash(name)), clean)
    else:
        degraded = task.degrade(torch.from_numpy(clean)[None])[0].numpy()
    return limit_peak(clean, np.ascontiguousarray(degraded))


@lru_cache(maxsize=8)
def _degradation(
    config: DataConfig, kind: Kind, split: str, sample_rate: int
) -> Degradation | None:
    """Opened once for all files of a split."""
    from mfdistill.data.degradations import open_degradation

    return open_degradation(config, kind, split, sample_rate)


def _speech(source: Path, target: Path) -> dict[str, Path]:
    """The recordings in a folder by their names in the corpus."""
    from mfdistill.errors import UserError
    from mfdistill.walk import audio_files

    if target.resolve() == source.resolve():
        raise UserError(f"{target}: is the folder that is read; name another one")
    if target.is_file():
        raise UserError(f"{target}: is a file, but {source} is a folder; name a folder")
    root = source / "clean" if (source / "clean").is_dir() else source
    named: dict[str, Path] = {}
    for file in audio_files(root, skip=target):
        inside = file.relative_to(root)
        if inside.parts[0] in ("noise", "noisy", "rir"):
            continue
        name = inside.with_suffix("").as_posix()
        if name in named:
            raise UserError(f"{file}: has the same name as {named[name].name}; keep one of the two")
        named[name] = file
    if not named:
        raise UserError(f"{source}: holds nothing but noises; name a folder of speech")
    return named


def _split(name: str) -> str:
    from mfdistill.data.folders import ALIASES

    first = name.split("/", 1)[0]
    return next((part for part, names in ALIASES.items() if first in names), "train")
