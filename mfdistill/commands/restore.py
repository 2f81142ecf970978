"""restore."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import Positional

from mfdistill.commands.progress import progress

if TYPE_CHECKING:
    from mfdistill.distill.inference import Model, Steps

Tell = Callable[[str, float], None]


@dataclass(frozen=True)
class Restore:
    """Run a student (or a teacher, or a regression network) on audio files: same length, rate, channels and sample format come out.

    A vocoder takes speech, makes its Mel spectrogram and gives back the speech made from that.
    """

    model: Positional[Annotated[str, tyro.conf.arg(metavar="STUDENT")]]
    """The model's folder."""
    source: Positional[Annotated[str, tyro.conf.arg(metavar="IN")]]
    """An audio file, or a folder (with everything below it)."""
    target: Positional[Annotated[str, tyro.conf.arg(metavar="OUT")]]
    """A file for a file, a folder for a folder."""
    nfe: int | None = None
    """Network evaluations; default: the schedule saved with a student, 10 for a teacher."""
    schedule: tuple[float, ...] | None = None
    """Times of the steps instead, such as 0 0.4 1."""
    solver: str | None = None
    """A teacher's solver: a method, a composition such as 2xmidpoint+1xeuler@0.2, or a learned solver's folder or file; default: Euler's
    steps. It is run once from 0 to 1, or once per step where --nfe or --schedule makes several."""
    block_s: float = 30.0
    """Longer files are restored in blocks of so many seconds, which bounds the memory."""
    overlap_s: float = 1.0
    """Over which one block fades into the next."""
    seed: int = 0
    """Of the noise."""
    overwrite: bool = False
    """Replace files that are there; otherwise a folder's finished files are skipped."""


def run(command: Restore) -> list[Path]:
    """Restore as ``command`` says; returns the files written by this process.

    A folder's bad files are told one by one and the others are restored.

    Raises:
        UserError: bad model, options or input, or files that could not be restored.
    """
    from accelerate import Accelerator

    from mfdistill.distill.inference import open_model
    from mfdistill.distill.logs import say
    from mfdistill.errors import UserError
    from mfdistill.tasks import MelTask

    jobs = _jobs(Path(command.source), Path(command.target))
    single = Path(command.source).is_file()
    accelerator = Accelerator()
    main, rank, world = accelerator.is_main_process, accelerator.process_index, accelerator.num_processes
    if single and jobs[0][1].exists() and not command.overwrite:
        raise UserError(f"{jobs[0][1]}: already there; --overwrite replaces it")
    waiting = [job for job in jobs if command.overwrite or not job[1].exists()]
    model = open_model(command.model, accelerator.device)
    if isinstance(model.task, MelTask):
        raise UserError(f"{command.model}: generates speech from units or text; use mfdistill synthesize")
    model, steps = _sampling(command, model)
    own = waiting[rank::world]
    done: list[Path] = []
    failed: list[str] = []
    with progress(sum(_seconds(source) for source, _ in own), "s of audio", main) as tell:
        for source, target in own:
            try:
                restore_file(model, source, target, steps, command, tell)
                done.append(target)
            except UserError as error:
                if single:
                    raise
                say(f"left out: {error}")
                failed.append(str(source))
    count, failed = _together(len(done), failed, world)
    if main:
        there = f", {len(jobs) - len(waiting)} were there already" if len(waiting) < len(jobs) else ""
        say(f"{jobs[0][1]}: written" if single else f"{command.target}: {count} of {len(jobs)} files restored{there}")
    if failed and main:
        raise UserError(f"{command.source}: {len(failed)} of {len(jobs)} files could not be restored ({failed[0]}, ...); see above")
    return done


def _together(count: int, failed: list[str], world: int) -> tuple[int, list[str]]:
    """Of all processes."""
    if world == 1:
        return count, failed
    from accelerate.utils import gather_object

    return sum(gather_object([count])), gather_object(failed)


def _seconds(source: Path) -> float:
    from mfdistill.audio.io import audio_info
    from mfdistill.errors import UserError

    try:
        return audio_info(source).seconds
    except UserError:  # told when its turn comes
        return 0.0


def restore_file(model: Model, source: Path, target: Path, steps: Steps | None, command: Restore, tell: Tell) -> None:
    """One file, by blocks. Level and noise are those of the whole file, so that blocks agree where they overlap.

    Raises:
        UserError: as ``process_file``, or silent.
    """
    import numpy as np
    import torch

    from mfdistill.audio.blocks import process_file
    from mfdistill.audio.io import is_silent
    from mfdistill.distill.inference import restore

    task = model.task
    device = next(model.module.parameters()).device
    gains = [task.gain(torch.tensor([[peak]], device=device)) for peak in _peaks(source, command.block_s)]
    hop_s = task.config.stft.hop / task.sample_rate
    frames = max(1, round((command.block_s - command.overlap_s) / hop_s))       # from block to block: whole ones, or phases would not meet
    overlap_s = command.block_s - frames * hop_s
    count = 0

    def process(wave: np.ndarray) -> np.ndarray:
        nonlocal count
        block, channel = divmod(count, len(gains))
        count += 1
        tell(source.name, len(wave) / task.sample_rate / len(gains))
        if is_silent(wave):  # nothing to restore, and a model given nothing may make something up
            return wave
        degraded = torch.from_numpy(np.ascontiguousarray(wave)).to(device)
        restored = restore(task, model.endpoint, degraded, steps, command.seed, frame=block * frames, gain=gains[channel])
        return restored.cpu().numpy()

    process_file(source, target, process, task.sample_rate, command.block_s, overlap_s)


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


def _jobs(source: Path, target: Path) -> list[tuple[Path, Path]]:
    """(input, output) files."""
    from mfdistill.data.folders import AUDIO_SUFFIXES
    from mfdistill.errors import UserError

    if not source.exists():
        raise UserError(f"{source}: no such file or folder; check the name")
    if source.is_file():
        to_folder = target.is_dir() or not target.suffix
        return [(source, target / source.name if to_folder else target)]
    if target.is_file():
        raise UserError(f"{target}: is a file, but {source} is a folder; name a folder")
    if target.resolve() == source.resolve():
        raise UserError(f"{target}: is the folder that is read; name another one")
    found = (file for file in sorted(source.rglob("*")) if file.suffix.lower() in AUDIO_SUFFIXES and not file.name.startswith("."))
    files = [file for file in found if file.is_file() and target.resolve() not in file.resolve().parents]
    if not files:
        raise UserError(f"{source}: no audio files in it ({', '.join(sorted(AUDIO_SUFFIXES))})")
    return [(file, target / file.relative_to(source)) for file in files]


def _sampling(command: Restore, model: Model) -> tuple[Model, Steps | None]:
    """The model under its solver, and the steps."""
    from mfdistill.errors import UserError
    from mfdistill.flow.solvers import stages
    from mfdistill.search.learned import find_solver

    if command.solver is None:
        return model, chosen_steps(command.nfe, command.schedule, model)
    solver = find_solver(command.solver)
    each = stages(solver)
    if command.nfe is not None and command.schedule is None and command.nfe % each:
        raise UserError(f"--nfe {command.nfe}: one step of {command.solver} has {each} evaluations; give a multiple of that")
    per_step = replace(command, nfe=None if command.nfe is None else command.nfe // each)
    return model.solved_by(solver), chosen_steps(per_step.nfe, per_step.schedule, model)


def chosen_steps(nfe: int | None, schedule: Sequence[float] | None, model: Model) -> Steps | None:
    """The steps that the options --nfe and --schedule ask of a model; None is its own schedule.

    Raises:
        UserError: both, or values that make no schedule.
    """
    from mfdistill.errors import UserError

    if nfe is not None and schedule is not None:
        raise UserError("--nfe and --schedule exclude each other: give one of them")
    if nfe is not None and nfe < 1:
        raise UserError(f"--nfe {nfe}: must be at least 1")
    if schedule is not None:
        times = list(schedule)
        if len(times) < 2 or times[0] != 0 or times[-1] != 1 or any(b <= a for a, b in zip(times, times[1:], strict=False)):
            raise UserError(f"--schedule {' '.join(f'{t:g}' for t in times)}: needs times that ascend from 0 to 1, such as 0 0.4 1")
        return times
    if model.role == "regression" and (nfe or 1) != 1:
        raise UserError(f"--nfe {nfe}: a regression network has one evaluation; leave it out")
    return None if nfe is None else model.schedule(nfe)[1]
