"""How restore runs a model over files: by blocks, or several short files at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    import numpy as np

    from mfdistill.distill.inference import Steps
    from mfdistill.distill.opening import Model

Tell = Callable[[str, float], None]
T = TypeVar("T")


class How(Protocol):
    """What ``Restore`` says of it."""

    @property
    def batch(self) -> int: ...

    @property
    def block_s(self) -> float: ...

    @property
    def overlap_s(self) -> float: ...

    @property
    def seed(self) -> int: ...

    @property
    def level(self) -> Literal["keep", "limit"]: ...


@dataclass
class Clock:
    """What the real-time factor is made of."""

    seconds: float = 0.0
    audio_s: float = 0.0

    def measure(self, call: Callable[[], T], audio_s: float) -> T:
        """What ``call`` returns, its time counted; a GPU is waited for, since the result is copied
        from it.
        """
        begun = time.perf_counter()
        result = call()
        self.seconds += time.perf_counter() - begun
        self.audio_s += audio_s
        return result


def batched(
    jobs: Sequence[tuple[Path, Path]], model: Model, how: How
) -> list[list[tuple[Path, Path]]]:
    """Jobs in groups of at most ``how.batch`` whose features have the same number of frames,
    the longest first; the rest alone.
    """
    from mfdistill.audio.io import audio_info
    from mfdistill.errors import UserError

    stft, multiple = model.task.config.stft, model.task.config.frame_multiple
    groups: dict[int, list[tuple[Path, Path]]] = {}
    alone: list[list[tuple[Path, Path]]] = []
    for job in jobs:
        try:
            info = audio_info(job[0])
        except UserError:  # told when its turn comes
            alone.append([job])
            continue
        if (
            info.channels != 1
            or info.sample_rate != model.task.sample_rate
            or info.seconds > how.block_s
        ):
            alone.append([job])
            continue
        samples = round(info.seconds * info.sample_rate)
        frames = (
            -(-samples // stft.hop) + 1 if model.task.config.whole_hops else samples // stft.hop + 1
        )
        groups.setdefault(-(-frames // multiple), []).append(job)
    ordered = [group for _, group in sorted(groups.items(), reverse=True)]
    return [
        group[i : i + how.batch] for group in ordered for i in range(0, len(group), how.batch)
    ] + alone


def restore_group(
    model: Model,
    group: Sequence[tuple[Path, Path]],
    steps: Steps | None,
    how: How,
    clock: Clock,
) -> dict[Path, np.ndarray]:
    """Restored waveforms (s,) of mono files at the task's rate, by file; those that cannot be read
    are missing, and told later.
    """
    import torch

    from mfdistill.audio.io import is_silent, read_audio
    from mfdistill.distill.inference import restore_batch
    from mfdistill.errors import UserError

    task, device = model.audio_task, model.device
    waves = {}
    for source, _ in group:
        try:
            wave = read_audio(source, task.sample_rate)
        except UserError:
            continue
        if not is_silent(wave):
            waves[source] = torch.from_numpy(wave).to(device)
    if not waves:
        return {}
    gains = [task.gain(wave[None]) for wave in waves.values()]

    def call() -> list[np.ndarray]:
        return [
            wave.cpu().numpy()
            for wave in restore_batch(
                task, model.endpoint, list(waves.values()), gains, steps, how.seed
            )
        ]

    restored = clock.measure(call, sum(len(wave) for wave in waves.values()) / task.sample_rate)
    return dict(zip(waves, restored, strict=True))


def restore_file(
    model: Model,
    source: Path,
    target: Path,
    steps: Steps | None,
    how: How,
    tell: Tell,
    clock: Clock | None = None,
    ready: np.ndarray | None = None,
) -> None:
    """One file, by blocks. Level and noise are those of the whole file, so that blocks agree where
    they overlap.

    Args:
        clock: counts the time. ready: the restored waveform (s,), if it was made already.

    Raises:
        UserError: as ``process_file``, or silent.
    """
    import numpy as np
    import torch

    from mfdistill.audio.blocks import process_file
    from mfdistill.audio.io import is_silent
    from mfdistill.distill.inference import restore
    from mfdistill.distill.logs import say

    task, device = model.audio_task, model.device
    gains = [
        task.gain(torch.tensor([[peak]], device=device)) for peak in _peaks(source, how.block_s)
    ]
    hop_s = task.config.stft.hop / task.sample_rate
    # from block to block: whole ones, or phases would not meet
    frames = max(1, round((how.block_s - how.overlap_s) / hop_s))
    overlap_s = how.block_s - frames * hop_s
    count = 0

    def process(wave: np.ndarray) -> np.ndarray:
        nonlocal count
        block, channel = divmod(count, len(gains))
        count += 1
        tell(source.name, len(wave) / task.sample_rate / len(gains))
        if ready is not None and len(ready) == len(wave):
            return ready
        if is_silent(wave):  # nothing to restore, and a model given nothing may make something up
            return wave
        degraded = torch.from_numpy(np.ascontiguousarray(wave)).to(device)

        def call() -> np.ndarray:
            return (
                restore(
                    task,
                    model.endpoint,
                    degraded,
                    steps,
                    how.seed,
                    frame=block * frames,
                    gain=gains[channel],
                )
                .cpu()
                .numpy()
            )

        return call() if clock is None else clock.measure(call, len(wave) / task.sample_rate)

    written = process_file(
        source, target, process, task.sample_rate, how.block_s, overlap_s, how.level
    )
    if (heard := written.told()) is not None:
        say(f"{target}: {heard}")


def _peaks(source: Path, block_s: float) -> list[float]:
    """Of every channel."""
    import numpy as np

    from mfdistill.audio.blocks import read_blocks
    from mfdistill.audio.io import audio_info, is_silent
    from mfdistill.errors import UserError

    blocks = read_blocks(source, max(2, round(block_s * audio_info(source).sample_rate)))
    peaks = np.max([np.abs(block).max(0) for block in blocks], 0)
    if is_silent(peaks):
        raise UserError(f"{source}: silent (nothing above -80 dBFS); give another recording")
    return [float(peak) for peak in peaks]
