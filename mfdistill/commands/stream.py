"""stream."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from mfdistill.plain import Plain

if TYPE_CHECKING:
    import numpy as np

    from mfdistill.metrics.hops import HopClock
    from mfdistill.students.streaming import StreamRestorer

Write = Callable[["np.ndarray"], None]


@dataclass(frozen=True)
class Stream:
    """Run a causal student (or teacher, or regression network) hop by hop on a file, raw samples or
    a microphone; or verify its promises.

    What comes out equals what the whole signal would give, delayed by the stream's offset where it
    is live.
    """

    source: Positional[Annotated[str | None, tyro.conf.arg(metavar="IN")]] = None
    """An audio file, '-' for raw samples on stdin, or 'mic'."""
    target: Positional[Annotated[str | None, tyro.conf.arg(metavar="OUT")]] = None
    """An audio file, '-' for raw samples on stdout, or 'speaker'."""
    student: Annotated[str | None, tyro.conf.arg(metavar="MODEL", aliases=["--model"])] = None
    """A student, a teacher or a regression network: its folder, its hub id, or the name of a model
    that came with the program (mfdistill models), which 'enhance-causal' is by default.
    """
    nfe: int | None = None
    """Network evaluations; default: the schedule saved with a student, 1 for a teacher."""
    solver: str | None = None
    """A teacher's solver: a method, a composition such as 2xmidpoint+1xeuler@0.2, or a learned
    solver's folder or file; default: Euler's steps. One step of it, or as many as --nfe makes.
    """
    runner: Literal["eager", "compile", "cuda-graph", "onnx"] = "eager"
    """What computes a hop; onnx is the fastest on CPUs and compile takes a while to start."""
    gain: Annotated[str, tyro.conf.arg(metavar="auto|peak|FACTOR")] = "auto"
    """Factor on the input, undone at the output; 'peak' is one over the running peak, 'auto' that
    where the model was trained at the peak, else 1.
    """
    paced: bool = False
    """Take a file's samples at the pace at which they would be recorded, as a test of whether the
    machine keeps up.
    """
    dtype: Literal["int16", "float32"] = "int16"
    """Of raw samples: little-endian, one channel, at the model's rate."""
    threads: int = 1
    """Of the computation."""
    seed: int = 0
    """Of the noise."""
    export: Annotated[str | None, tyro.conf.arg(metavar="FILE.onnx")] = None
    """Write one hop, with its state as inputs and outputs, as an ONNX graph."""
    verify: Annotated[str | None, tyro.conf.arg(metavar="FOLDER|FILE")] = None
    """Measure on this checkpoint what a stream promises, and print it with its latencies."""


def run(command: Stream) -> list[Plain]:
    """Stream, export or verify as ``command`` says; returns the rows of the printed table.

    Raises:
        UserError: options that do not go together, a model that cannot stream, bad input, or a
            promise that is not kept.
    """
    import torch

    from mfdistill.errors import UserError
    from mfdistill.places import STREAMS

    most = max(64, os.cpu_count() or 1)
    if not 1 <= command.threads <= most:
        raise UserError(f"--threads {command.threads}: must lie between 1 and {most}")
    torch.set_num_threads(command.threads)
    if command.verify is not None:
        return _verify(command)
    if command.student is None:
        command = replace(command, student=STREAMS)
    if command.export is not None:
        return _export(command)
    if command.source is None or command.target is None:
        raise UserError("stream: needs IN and OUT: files, '-' for raw samples, 'mic' and 'speaker'")
    if command.paced and command.source in ("-", "mic"):
        raise UserError(
            f"--paced: {'stdin' if command.source == '-' else 'a microphone'} has a pace of its own; leave it out"
        )
    return _stream(command)


def _open(path: str) -> Any:
    from mfdistill.checkpoint import load_config
    from mfdistill.places import resolve
    from mfdistill.students import load_student
    from mfdistill.teachers import load_network, load_teacher
    from mfdistill.teachers.field import Field

    place = resolve(path)
    role = load_config(place).get("role") if place.is_dir() else None
    if role == "student":
        return load_student(place)
    if role == "regression":
        return Field(*load_network(place, "regression"))
    return load_teacher(place, guidance_strength=0.0)


def _temperature(model: Any) -> float:
    """A regression network starts at the prior's mean."""
    return 0.0 if model.config.get("role") == "regression" else 1.0


def _gain(command: Stream) -> Any:
    from mfdistill.errors import UserError

    if command.gain in ("auto", "peak"):
        return None if command.gain == "auto" else "peak"
    try:
        return float(command.gain)
    except ValueError:
        raise UserError(f"--gain {command.gain}: is neither 'auto', 'peak' nor a number") from None


def _steps(command: Stream, model: Any) -> tuple[int | None, Any]:
    """Number of steps, and the solver."""
    from mfdistill.commands.sampling import solver_steps
    from mfdistill.errors import UserError

    if command.solver is None:
        return command.nfe, "euler"
    if model.config.get("role") == "student":
        raise UserError(
            f"--solver {command.solver}: a student is not integrated; solvers are for teachers"
        )
    solver, steps = solver_steps(command.solver, command.nfe)
    return steps, solver


def _export(command: Stream) -> list[Plain]:
    from mfdistill.checkpoint import write_bytes
    from mfdistill.distill.logs import say
    from mfdistill.students.onnx import onnx_bytes
    from mfdistill.students.step import StreamStep, plan

    model = _open(str(command.student))
    step = StreamStep(
        model, plan(model, *_steps(command, model)), _gain(command), fold=True, matrix=True
    )
    write_bytes(Path(str(command.export)), onnx_bytes(step))
    say(
        f"{command.export}: written; samples, noise and {len(step.names)} states in, output and states out, {step.stft.hop} samples a hop"
    )
    return []


def _verify(command: Stream) -> list[Plain]:
    from rich.console import Console
    from rich.table import Table

    from mfdistill.audio.framing import latency
    from mfdistill.errors import UserError
    from mfdistill.students.verify import verify

    model = _open(str(command.verify))
    if model.task is None:
        raise UserError(
            f"--verify {command.verify}: has no task of this program, so it cannot stream audio"
        )
    console, rows = Console(), []
    facts = latency(model.task.config.stft)
    console.print(
        ", ".join(f"{name} {value:g} ms" for name, value in facts.ms().items())
        + f" at {facts.sample_rate} Hz"
    )
    table = Table("promise", "measured", "allowed", "")
    for check in verify(model, (command.nfe,) if command.nfe else (1, 2, 5)):
        table.add_row(check.name, check.measured, check.limit, "ok" if check.passed else "BROKEN")
        rows.append(
            {
                "name": check.name,
                "measured": check.measured,
                "limit": check.limit,
                "passed": check.passed,
            }
        )
    console.print(table)
    if broken := [row["name"] for row in rows if not row["passed"]]:
        raise UserError(
            f"--verify {command.verify}: {len(broken)} of {len(rows)} promises are broken ({broken[0]}, ...)"
        )
    return rows


def _stream(command: Stream) -> list[Plain]:
    from mfdistill.distill.logs import say
    from mfdistill.errors import UserError
    from mfdistill.metrics.hops import HopClock
    from mfdistill.students.step import LOUDEST
    from mfdistill.students.streaming import StreamRestorer

    model = _open(str(command.student))
    restorer = StreamRestorer(
        model,
        *_steps(command, model),
        gain=_gain(command),
        seeds=[command.seed],
        runner=command.runner,
        fold=True,
        temperature=_temperature(model),
    )
    facts = restorer.latency
    say("latency: " + ", ".join(f"{name} {value:g} ms" for name, value in facts.ms().items()))
    blocks = _blocks(command, restorer)
    first = next(blocks, None)
    if first is None:
        raise UserError(f"{command.source}: holds no samples")
    clock = HopClock(facts.hop / facts.sample_rate, command.paced)
    with _sink(command, facts.sample_rate) as write:
        replaced = _pump(restorer, first, blocks, clock, write)
    if replaced:
        say(
            f"{command.source}: {replaced} samples were not finite or above {LOUDEST:g} times full scale and were taken for silence"
        )
    summary = clock.summary()
    say(
        ", ".join(f"{name} {value:.4g}" for name, value in summary.items())
        + f", state {restorer.state_bytes} bytes"
    )
    return [summary]


def _pump(
    restorer: StreamRestorer,
    block: np.ndarray | None,
    blocks: Iterator[np.ndarray],
    clock: HopClock,
    write: Write,
) -> int:
    """Returns how many samples were replaced by silence; the first is told at once."""
    import torch

    from mfdistill.distill.logs import say

    told = False
    try:
        while block is not None:
            samples = torch.from_numpy(block)
            write(clock.run(lambda samples=samples: restorer.push(samples)).numpy())
            if restorer.state.replaced and not told:
                at_s = restorer.state.received / restorer.latency.sample_rate
                say(f"a sample before {at_s:.3f} s is not finite, or absurd; such ones are silence")
                told = True
            block = next(blocks, None)
    except KeyboardInterrupt:  # how a live stream ends
        pass
    replaced = restorer.state.replaced
    write(restorer.flush()[0].numpy())
    return replaced


def _blocks(command: Stream, restorer: StreamRestorer) -> Iterator[np.ndarray]:
    """The input hop by hop, in single precision."""
    hop, rate = restorer.latency.hop, restorer.latency.sample_rate
    if command.source == "-":
        yield from _raw_blocks(command.dtype, hop)
    elif command.source == "mic":
        with _device().InputStream(rate, blocksize=hop, channels=1, dtype="float32") as device:
            while True:
                yield device.read(hop)[0][:, 0].copy()
    else:
        from mfdistill.audio.io import audio_info, read_audio
        from mfdistill.distill.logs import say

        info = audio_info(str(command.source))
        if info.sample_rate != rate or info.channels != 1:
            changes = [f"resampled to {rate} Hz"] * (info.sample_rate != rate)
            changes += ["channels averaged"] * (info.channels != 1)
            say(
                f"{command.source}: {info.sample_rate} Hz, {info.channels} channel(s); {' and '.join(changes)}"
            )
        wave = read_audio(str(command.source), rate)
        for k in range(0, len(wave), hop):
            yield wave[k : k + hop]


def _raw_blocks(dtype: str, hop: int) -> Iterator[np.ndarray]:
    import numpy as np

    from mfdistill.errors import UserError

    width, begun = np.dtype(dtype).itemsize, False
    while data := sys.stdin.buffer.read(hop * width):
        if not begun and data.startswith((b"RIFF", b"fLaC", b"OggS", b"FORM", b"ID3")):
            raise UserError(
                "-: is a file with a header, whose rate and channels are not known here; name the file, or send raw samples "
                "(one channel, at the model's rate)"
            )
        begun = True
        values = np.frombuffer(
            data[: len(data) // width * width], np.dtype(dtype).newbyteorder("<")
        )
        yield values.astype(np.float32) / (32768 if dtype == "int16" else 1)


@contextlib.contextmanager
def _sink(command: Stream, rate: int) -> Iterator[Write]:
    """Where the output goes."""
    import numpy as np

    if command.target == "-":

        def write_raw(wave: np.ndarray) -> None:
            whole = (wave * 32768).round().clip(-32768, 32767) if command.dtype == "int16" else wave
            sys.stdout.buffer.write(
                whole.astype(np.dtype(command.dtype).newbyteorder("<")).tobytes()
            )
            sys.stdout.buffer.flush()

        yield write_raw
    elif command.target == "speaker":
        with _device().OutputStream(rate, channels=1, dtype="float32") as device:
            yield lambda wave: device.write(wave[:, None])
    else:
        from mfdistill.audio.writing import BlockWriter

        with BlockWriter(str(command.target), rate, 1) as file:
            yield lambda wave: file.write(wave[:, None])


def _device() -> Any:
    from mfdistill.errors import UserError
    from mfdistill.extras import remedy

    try:
        import sounddevice  # type: ignore[import-not-found]
    except (ImportError, OSError) as error:  # OSError: the package without its PortAudio
        raise UserError(
            f"mic, speaker: need the package sounddevice and PortAudio ({error}); {remedy('sounddevice')}"
        ) from error
    return sounddevice
