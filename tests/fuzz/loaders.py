"""Everything that reads what others wrote, as (seeds, mutation, call)."""

from __future__ import annotations

import functools
import json
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from mutate import mutate_bytes, mutate_json, mutate_text, mutate_words

from mfdistill.commands.parsing import parse
from mfdistill.config import to_dict
from mfdistill.errors import UserError

PATIENCE_S = 30
ROWS = "path\tspeaker\ttext\nspk/a.wav\tspk\tGrüße, said the voice\nspk/b.wav\tspk\tAnd another\n"
SOLVERS = (
    "2xmidpoint+1xeuler@0.2",
    "generic2-0.6",
    "rk5_ralston3_ralston2",
    "heun3@0.5+ralston2",
    "rk4",
)
COMMANDS = (
    ["restore", "model", "in.wav", "out.wav", "--nfe", "2", "--schedule", "0", "0.4", "1", "--batch", "2", "--block-s", "5"],
    ["stream", "in.wav", "out.wav", "--student", "model", "--threads", "1", "--gain", "peak", "--dtype", "int16"],
    ["teacher-train", "--task", "vocode", "--steps", "10", "--lr", "1e-3", "--network.channels", "8", "--data.crop-s", "1"],
    ["student-distill", "--teacher", "x", "--integral.substeps", "4", "--integral.solver", "2xmidpoint", "--seed", "3"],
    ["os3-search", "--metric", "spksim", "--iterations", "3", "--limit", "auto", "--nfe", "2"],
    ["evaluate", "--student", "x", "--limit", "3", "--metrics", "pesq"],
    ["data", "check", "folder", "--sample-rate", "16000", "--report", "x.json"],
)  # fmt: skip


@dataclass(frozen=True)
class Loader:
    """``call(value, folder)`` of a mutated ``value`` may do nothing but work or raise UserError."""

    seeds: Callable[[Path], list[Any]]
    mutate: Callable[[Any, random.Random], Any]
    call: Callable[[Any, Path], Any]


class Hang(BaseException):
    """A case that takes too long."""


def run_case(loader: Loader, seeds: list[Any], number: int, folder: Path) -> str:
    """Case ``number``: "read", "refused", or what went wrong."""
    rng = random.Random(number)
    value = loader.mutate(rng.choice(seeds), rng)

    def alarm(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGPROF, alarm)
    signal.setitimer(signal.ITIMER_PROF, PATIENCE_S)  # of computing, however busy the machine is
    try:
        loader.call(value, folder)
    except UserError as error:
        short = "\n" not in str(error) and len(str(error)) < 1500
        return "refused" if short else f"long: {error}"[:300]
    except SystemExit as stop:  # --help and --version among the words
        return "read" if not stop.code else f"SystemExit {stop.code}"
    except Hang:
        return "hangs"
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    return "read"


@functools.cache
def model_folder(folder: Path) -> Path:
    """A small student, without the checksums that would refuse every change at once."""
    from mfdistill.networks import build_network
    from mfdistill.students import Student, save_student
    from mfdistill.tasks import default_task, get_task
    from mfdistill.teachers.field import Field

    preset = default_task("phase", 8000, causal=True)
    task = get_task(replace(preset, stft=replace(preset.stft, n_fft=64, hop=32)))
    torch.manual_seed(0)
    sizes = {"channels": 4, "blocks": 1, "freqs": 32, "band_stride": 8, "embedding": 8}
    network = build_network("compact", {**sizes, "causal": True})
    config = {"network": {"name": "compact", "config": to_dict(network.config)}}
    save_student(Student.from_teacher(Field(network, task, config)), folder / "student")
    file = folder / "student" / "config.json"
    saved = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in saved.items() if k not in ("files", "sha256")}))
    return folder / "student"


def _into(name: str, read: Callable[[Path], Any]) -> Callable[[bytes, Path], Any]:
    def call(data: bytes, folder: Path) -> Any:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return read(file)

    return call


def _student(name: str) -> Callable[[bytes, Path], Any]:
    from mfdistill.commands.info import describe
    from mfdistill.students import load_student

    def call(data: bytes, folder: Path) -> None:
        place = model_folder(folder)
        whole = (place / name).read_bytes()
        try:
            (place / name).write_bytes(data)
            # each is asked, whatever the other says
            try:
                describe(str(place))
            except UserError:
                pass
            load_student(place)
        finally:
            (place / name).write_bytes(whole)

    return call


def _state(folder: Path) -> list[bytes]:
    info = {
        "step": 3, "seconds": 1.5, "skipped": 0, "skipped_in_a_row": 0, "best": None, "to_validate": False,
        "window": {"loss": [1.0, 2]}, "finished": False, "ema_updates": 3, "scaler": None, "identity": {"training": {"lr": 1.0}},
    }  # fmt: skip
    return [json.dumps(info).encode()]


def _read_state(file: Path) -> None:
    from mfdistill.distill.state import check_info, load_info

    check_info(load_info(file.parent), file.parent)


def _log(folder: Path) -> list[bytes]:
    lines = [{"step": k, "kind": "train", "loss": 0.5, "lr": 1e-3, "time": 1.0} for k in range(3)]
    return ["".join(json.dumps(line) + "\n" for line in lines).encode()]


def _read_log(file: Path) -> None:
    from mfdistill.distill.logs import read_log, truncate_log

    try:
        read_log(file)
    finally:
        truncate_log(file, 2)


def _pickles(folder: Path) -> list[bytes]:
    import argparse

    found = []
    settings = {"n": 3, "opt": functools.partial(torch.optim.Adam, lr=1.0), "s": np.float64(0.5)}
    values = {
        "state_dict": {"module.dnn.x": torch.ones(3, 4), "decoder.estimator.y": torch.zeros(2)},
        "hyper_parameters": {**settings, "args": argparse.Namespace(a=1)},
        "ema": {"shadow_params": [torch.ones(3, 4)]},
    }
    for zipped in (True, False):
        torch.save(values, folder / "x.ckpt", _use_new_zipfile_serialization=zipped)
        found.append((folder / "x.ckpt").read_bytes())
    return found


def _read_pickle(file: Path) -> None:
    from mfdistill.systems.files import read_foreign
    from mfdistill.systems.lightning import read_checkpoint
    from mfdistill.systems.mel_flow import flow_tensors

    read_foreign(file).names()
    for read in (flow_tensors, read_checkpoint):
        try:
            read(file)
        except UserError:
            continue


def _sounds(ending: str, subtype: str) -> Callable[[Path], list[bytes]]:
    def make(folder: Path) -> list[bytes]:
        rng, found = np.random.default_rng(0), []
        for channels in (1, 2):
            wave = 0.1 * rng.standard_normal((8000, channels))
            soundfile.write(folder / f"seed.{ending}", wave, 16000, subtype=subtype)
            found.append((folder / f"seed.{ending}").read_bytes())
        return found

    return make


def _read_sound(file: Path) -> None:
    from mfdistill.audio.blocks import read_blocks
    from mfdistill.audio.io import audio_info, decode_audio, read_audio

    for read in (
        audio_info,
        lambda path: read_audio(path, 16000),
        lambda path: read_audio(path, start_s=0.1, duration_s=0.1),
        lambda path: [block.shape for block in read_blocks(path, 3000, 100)],
        lambda path: decode_audio(path.read_bytes(), "x", 8000),
    ):
        each(read, file)
    audio_info(file)
    read_audio(file)


def each(read: Callable[..., Any], *arguments: Any) -> None:
    """A call that may refuse, in one line, whatever the next one does."""
    try:
        read(*arguments)
    except UserError as error:
        assert "\n" not in str(error)


def _tables(folder: Path) -> list[bytes]:
    for name in ("a", "b"):
        place = folder / "spk" / f"{name}.wav"
        place.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(place, 0.1 * np.ones(800), 8000)
    codes = ("utf-8", "utf-8-sig", "utf-16", "latin-1")
    return [ROWS.encode(code) for code in codes] + [b'path,text\nspk/a.wav,"one, two"\n']


def _read_tables(data: bytes, folder: Path) -> None:
    from mfdistill.commands.synthesis_jobs import read_list
    from mfdistill.data.folders import folder_rows
    from mfdistill.data.transcripts import read_utterances
    from mfdistill.reading import read_rows

    names = {part: part for part in ("train", "valid", "test")}
    files = [folder / name for name in ("transcripts.tsv", "metadata.csv", "list.jsonl")]
    for file, read in (
        (files[0], lambda: folder_rows(folder, "train", names, False)),
        (files[0], lambda: read_utterances(folder, None, None, True, True)),
        (files[1], lambda: read_utterances(folder, None, None, True, True)),
        (files[0], lambda: read_list(files[0])),
        (files[2], lambda: read_list(files[2])),
    ):
        file.write_bytes(data)
        each(read)
        file.unlink()
    files[0].write_bytes(data)
    try:
        read_rows(files[0], ("path", "text"))
    finally:
        files[0].unlink()


def _read_schedule(data: bytes, folder: Path) -> None:
    from mfdistill.flow import schedule

    try:
        value = json.loads(data)["schedule"]
    except (ValueError, KeyError, TypeError, RecursionError):  # no schedule at all
        return
    if isinstance(value, (int, float, list, str)) and not isinstance(value, bool):
        schedule(value)  # type: ignore[arg-type]


def _solve(text: str, folder: Path) -> None:
    from mfdistill.flow import tableau

    tableau(text)


def _options(words: list[str], folder: Path) -> None:
    parse(words)


def _mutate_options(words: list[str], rng: random.Random) -> list[str]:
    return mutate_words(words, rng, first=1)


LOADERS: dict[str, Loader] = {
    "config.json": Loader(
        lambda folder: [(model_folder(folder) / "config.json").read_bytes()],
        mutate_json,
        lambda data, folder: _student("config.json")(data, folder),
    ),
    "model.safetensors": Loader(
        lambda folder: [(model_folder(folder) / "model.safetensors").read_bytes()],
        mutate_bytes,
        lambda data, folder: _student("model.safetensors")(data, folder),
    ),
    "state.json": Loader(_state, mutate_json, _into("state/state.json", _read_state)),
    "log.jsonl": Loader(_log, mutate_bytes, _into("log.jsonl", _read_log)),
    "ckpt": Loader(_pickles, mutate_bytes, _into("x.ckpt", _read_pickle)),
    "wav": Loader(_sounds("wav", "PCM_16"), mutate_bytes, _into("x.wav", _read_sound)),
    "wav, coded": Loader(_sounds("wav", "IMA_ADPCM"), mutate_bytes, _into("y.wav", _read_sound)),
    "flac": Loader(_sounds("flac", "PCM_16"), mutate_bytes, _into("x.flac", _read_sound)),
    "mp3": Loader(_sounds("mp3", "MPEG_LAYER_III"), mutate_bytes, _into("x.mp3", _read_sound)),
    "ogg": Loader(_sounds("ogg", "VORBIS"), mutate_bytes, _into("x.ogg", _read_sound)),
    "tables": Loader(_tables, mutate_bytes, _read_tables),
    "schedules": Loader(
        lambda folder: [b'{"schedule": [0.0, 0.4, 1.0]}', b'{"schedule": 3}'], mutate_json, _read_schedule
    ),
    "solvers": Loader(lambda folder: list(SOLVERS), mutate_text, _solve),
    "options": Loader(lambda folder: [list(words) for words in COMMANDS], _mutate_options, _options),
}  # fmt: skip
