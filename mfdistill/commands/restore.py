"""restore."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import Positional

from mfdistill.commands.progress import progress
from mfdistill.commands.restored import keep_settings, same_settings
from mfdistill.commands.sampling import sampling

if TYPE_CHECKING:
    from mfdistill.distill.inference import Steps
    from mfdistill.distill.opening import Model


@dataclass(frozen=True)
class Restore:
    """Run a student (or a teacher, or a regression network) on audio files: same length, rate,
    channels and sample format come out.

    A vocoder takes speech, makes its Mel spectrogram and gives back the speech made from that.
    """

    model: Positional[Annotated[str, tyro.conf.arg(metavar="[MODEL]")]]
    """The model's folder or hub id (owner/name or owner/name@revision); may be left out, or named
    with --model.
    """
    source: Positional[Annotated[str, tyro.conf.arg(metavar="IN")]]
    """An audio file, or a folder (with everything below it)."""
    target: Positional[Annotated[str | None, tyro.conf.arg(metavar="OUT")]] = None
    """A file for a file, a folder for a folder."""
    shipped: Annotated[str | None, tyro.conf.arg(name="model", metavar="NAME")] = None
    """A model that came with the program (mfdistill models), a folder or a hub id, in front of IN
    and OUT alone; 'enhance' by default.
    """
    nfe: int | None = None
    """Network evaluations; default: the schedule saved with a student, 10 for a teacher."""
    schedule: tuple[float, ...] | None = None
    """Times of the steps instead, such as 0 0.4 1."""
    solver: str | None = None
    """A teacher's solver: a method, a composition such as 2xmidpoint+1xeuler@0.2, or a learned
    solver's folder or file; default: Euler's steps. It is run once from 0 to 1, or once per step
    where --nfe or --schedule makes several.
    """
    sampler: Literal["displacement", "euler"] | None = None
    """A student's: steps of its average velocity, or Euler's of its instantaneous one (5 by
    default). By default as the checkpoint was
    trained: a MeanFlowSE file without its MeanFlow term by Euler's steps.
    """
    batch: int = 1
    """Files of the same number of frames that are restored at once (mono ones that fit into a
    block); the others one by one.
    """
    block_s: float = 30.0
    """Longer files are restored in blocks of so many seconds, which bounds the memory."""
    overlap_s: float = 1.0
    """Over which one block fades into the next."""
    seed: int = 0
    """Of the noise."""
    level: Literal["keep", "limit"] = "keep"
    """Where a result is above full scale and the sample format is of integers: 'keep' cuts it off
    and says so, 'limit' turns the whole file down.
    """
    overwrite: bool = False
    """Replace files that are there; otherwise a folder's finished files are skipped."""


def run(command: Restore) -> list[Path]:
    """Restore as ``command`` says; returns the files written by this process.

    A folder's bad files are told one by one and the others are restored.

    Raises:
        UserError: bad model, options or input, or files that could not be restored.
    """
    from accelerate import Accelerator

    from mfdistill.commands.restoring import Clock, batched, restore_file, restore_group
    from mfdistill.distill.logs import say
    from mfdistill.distill.opening import open_audio_model
    from mfdistill.errors import UserError
    from mfdistill.peers import watch

    command = chosen(command)
    jobs = jobs_of(Path(command.source), Path(str(command.target)))
    single = Path(command.source).is_file()
    accelerator = Accelerator()
    watch(accelerator.device)
    main, rank, world = (
        accelerator.is_main_process,
        accelerator.process_index,
        accelerator.num_processes,
    )
    if single and jobs[0][1].exists() and not command.overwrite:
        raise UserError(f"{jobs[0][1]}: already there; --overwrite replaces it")
    waiting = [job for job in jobs if command.overwrite or not job[1].exists()]
    if command.batch < 1:
        raise UserError(f"--batch {command.batch}: must be at least 1")
    if not 0.1 <= command.block_s <= 86400 or not 0 <= command.overlap_s < command.block_s:
        given = f"--block-s {command.block_s:g} --overlap-s {command.overlap_s:g}"
        raise UserError(
            f"{given}: blocks last from 0.1 s to a day and overlap by less; 30 and 1 are usual"
        )
    settings = None if single else same_settings(vars(command), len(waiting) < len(jobs))
    # all processes share out the same list, before any of them writes a file
    accelerator.wait_for_everyone()
    role = (
        {None: None, "displacement": "student", "euler": None}[command.sampler]
        if Path(command.model).is_file()
        else None
    )
    model = open_audio_model(command.model, accelerator.device, role)
    if not model.task.restores:
        raise UserError(
            f"{command.model}: generates speech from units or text; use mfdistill synthesize"
        )
    model, steps = sampling(command.solver, command.nfe, command.schedule, model)
    model = model if command.sampler is None else model.sampled_by(command.sampler)
    if main and settings is not None:
        keep_settings(Path(str(command.target)), settings)
    if main:
        say(naming(command.model, model, steps))
    own = waiting[rank::world]
    done: list[Path] = []
    failed: list[str] = []
    clock = Clock()
    groups = batched(own, model, command) if command.batch > 1 else [[job] for job in own]
    with progress(sum(_seconds(source) for source, _ in own), "s of audio", main) as tell:
        for group in groups:
            ready = restore_group(model, group, steps, command, clock) if len(group) > 1 else {}
            for source, target in group:
                try:
                    restore_file(
                        model, source, target, steps, command, tell, clock, ready.get(source)
                    )
                    done.append(target)
                except UserError as error:
                    if single:
                        raise
                    say(f"left out: {error}")
                    failed.append(str(source))
    count, failed = _together(len(done), failed, world)
    if main:
        there = (
            f", {len(jobs) - len(waiting)} were there already" if len(waiting) < len(jobs) else ""
        )
        say(
            f"{jobs[0][1]}: written"
            if single
            else f"{command.target}: {count} of {len(jobs)} files restored{there}"
        )
        if clock.audio_s:
            say(
                f"real-time factor {clock.seconds / clock.audio_s:.3g} on {accelerator.device}, batches of {command.batch}: time of "
                "features, network and resynthesis over that of the audio, files not counted"
            )
    if failed and main:
        raise UserError(
            f"{command.source}: {len(failed)} of {len(jobs)} files could not be restored ({failed[0]}, ...); see above"
        )
    return done


def chosen(command: Restore) -> Restore:
    """With its model in the first place: IN and OUT alone take --model, or what came with the
    program.
    """
    from mfdistill.errors import UserError
    from mfdistill.places import RESTORES

    if command.target is None:
        name = command.shipped or RESTORES
        return replace(command, model=name, source=command.model, target=command.source)
    if command.shipped is not None:
        raise UserError(
            f"--model {command.shipped}: {command.model} is the model already; give IN and OUT alone, or leave --model out"
        )
    return command


def naming(name: str, model: Model, steps: Steps | None) -> str:
    """What a model is and how it is run: ``enhance: student 'enhance' at 16000 Hz, 1 evaluation,
    times 0 1``.
    """
    times = steps if steps is not None else model.config.get("schedule")
    if model.role == "regression":
        how = "1 evaluation"
    elif isinstance(times, Sequence):
        count = len(times) - 1
        listed = " ".join(f"{t:.4g}" for t in times)
        how = f"{count} evaluation{'s' if count != 1 else ''}, times {listed}"
    else:
        how = f"{times or 10} steps" if model.role == "teacher" else f"{times} evaluations"
    return f"{name}: {model.role} '{model.task.config.name}' at {model.task.sample_rate} Hz, {how}"


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


def jobs_of(source: Path, target: Path) -> list[tuple[Path, Path]]:
    """(input, output) files."""
    from mfdistill.errors import UserError
    from mfdistill.walk import audio_files

    if not source.exists():
        raise UserError(f"{source}: no such file or folder; check the name")
    if source.is_file():
        to_folder = target.is_dir() or not target.suffix
        return [(source, target / source.name if to_folder else target)]
    if target.is_file():
        raise UserError(f"{target}: is a file, but {source} is a folder; name a folder")
    if target.resolve() == source.resolve():
        raise UserError(f"{target}: is the folder that is read; name another one")
    files = audio_files(source, skip=target)
    return [(file, target / file.relative_to(source)) for file in files]
