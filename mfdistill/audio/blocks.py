"""Hour-long files in bounded memory: read in overlapping blocks, process each, fade from one to the
next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from mfdistill.audio.files import info_of, least_length, open_audio, read_frames
from mfdistill.audio.io import resample
from mfdistill.audio.writing import BlockWriter, Level, Written
from mfdistill.errors import UserError


def read_blocks(path: str | Path, block: int, overlap: int = 0) -> Iterator[np.ndarray]:
    """Float32 blocks ``(frames, channels)`` of at most ``block`` samples, each beginning with the
    last ``overlap`` of the one before.

    Only the last may be shorter; every one holds more than ``overlap`` samples (unless the whole
    file is shorter).

    Raises:
        UserError: as ``read_audio``, when the damage is reached.
    """
    if not 0 <= overlap < block:
        raise ValueError(f"need 0 <= overlap < block, got {overlap} and {block}")
    with open_audio(path) as file:
        least_length(file, str(path))
        held = np.zeros((0, file.channels), np.float32)
        while True:
            fresh = read_frames(file, str(path), block - len(held))
            if not len(fresh):
                return
            held = np.concatenate([held, fresh])
            yield held
            held = held[len(held) - overlap :] if overlap else held[:0]


def process_file(
    source: str | Path,
    target: str | Path,
    process: Callable[[np.ndarray], np.ndarray],
    sample_rate: int,
    block_s: float = 30.0,
    overlap_s: float = 1.0,
    level: Level = "keep",
) -> Written:
    """Restore ``source`` into ``target``: same length, rate, channels and (where its ending allows)
    sample format; returns how loud it became.

    ``process`` takes one channel ``(s,)`` at ``sample_rate`` and gives as many samples. A file of
    at most one block is processed whole; longer ones in blocks of ``block_s`` seconds, faded
    linearly over ``overlap_s``. ``target`` may be ``source``; ``level`` as in ``write_audio``.

    Raises:
        UserError: as ``read_audio`` and ``write_audio``; nothing is left at ``target`` then, or
            what was there before.
    """
    with open_audio(source) as file:
        info = info_of(file, str(source))
    if not (0 <= overlap_s <= 86400 and 0 < block_s <= 86400):
        raise UserError(
            f"block_s={block_s:g}, overlap_s={overlap_s:g}: must be positive and at most a day"
        )
    overlap = max(1, round(overlap_s * info.sample_rate))
    block = round(block_s * info.sample_rate)
    if not 0 < 2 * overlap <= block:
        raise UserError(
            f"block_s={block_s:g}, overlap_s={overlap_s:g}: a block must be at least twice as long as the overlap"
        )
    rise = ((np.arange(overlap, dtype=np.float32) + 0.5) / overlap)[:, None]
    tail: np.ndarray | None = None
    with BlockWriter(target, info.sample_rate, info.channels, like=info, level=level) as out:
        for samples in read_blocks(source, block, overlap):
            done = np.stack(
                [
                    _one_channel(channel, process, info.sample_rate, sample_rate)
                    for channel in samples.T
                ],
                axis=1,
            )
            if tail is not None:
                done[:overlap] = rise * done[:overlap] + (1 - rise) * tail
            # the end waits for the next block, or for the end of the file
            keep = max(0, len(done) - overlap)
            out.write(done[:keep])
            tail = done[keep:]
        if tail is not None:
            out.write(tail)
    return out.written


def _one_channel(
    samples: np.ndarray, process: Callable[[np.ndarray], np.ndarray], rate: int, model_rate: int
) -> np.ndarray:
    there = resample(samples, rate, model_rate)
    done = np.asarray(process(there), dtype=np.float32)
    if done.shape != there.shape:
        raise ValueError(f"process gave {done.shape} for {there.shape}")
    back = resample(done, model_rate, rate)[: len(samples)]
    return np.pad(back, (0, len(samples) - len(back)))
