"""synthesize."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import Positional

if TYPE_CHECKING:
    from mfdistill.distill.inference import Model, Steps
    from mfdistill.distill.synthesis import Speech

FIELDS = ("prompt", "tokens_from", "text", "prompt_text", "out")


@dataclass(frozen=True)
class Synthesize:
    """Speak units or a text in the voice of a prompt, with a student (or teacher) of token2mel or text2mel."""

    model: Positional[Annotated[str, tyro.conf.arg(metavar="STUDENT")]]
    """The model's folder."""
    prompt: str | None = None
    """Recording of the voice, 3 s or so."""
    tokens_from: str | None = None
    """token2mel: recording that says what is to be said; its units are spoken."""
    text: str | None = None
    """text2mel: what is to be said."""
    prompt_text: str | None = None
    """text2mel: what the prompt says."""
    out: str | None = None
    """The file to write; with --list, the folder."""
    list: str | None = None
    """TSV (with a header line) or JSONL file instead: a row per utterance with prompt, tokens_from or text, prompt_text, out (a name in the
    folder --out; default: the row's number). Its paths are relative to its own folder."""
    nfe: int | None = None
    """Network evaluations; default: the schedule saved with a student, 10 for a teacher."""
    schedule: tuple[float, ...] | None = None
    """Times of the steps instead, such as 0 0.4 1."""
    vocoder: str | None = None
    """Another vocoder than the model's: a vocode model's folder, or griffin-lim."""
    speed: float = 1.0
    """Of a text; 2 is twice as fast."""
    seed: int = 0
    """Of the noise."""
    overwrite: bool = False
    """Replace files that are there; otherwise a list's finished rows are skipped."""


@dataclass(frozen=True)
class Job:
    """One utterance."""

    prompt: str
    out: Path
    tokens_from: str | None = None
    text: str | None = None
    prompt_text: str | None = None
    where: str = ""
    """Its place in the list, for messages."""


def run(command: Synthesize) -> list[dict[str, Any]]:
    """Synthesise as ``command`` says; returns a row per utterance written: file, seconds of audio, real-time factors.

    A list's bad rows are told one by one, and the others are spoken.

    Raises:
        UserError: bad model, options or input, or rows that could not be spoken.
    """
    from mfdistill.commands.sampling import chosen_steps
    from mfdistill.distill.inference import open_model
    from mfdistill.distill.logs import say
    from mfdistill.distill.vocoder import attach_vocoder
    from mfdistill.errors import UserError
    from mfdistill.tasks import MelTask

    if command.speed <= 0:
        raise UserError(f"--speed {command.speed:g}: must be positive")
    jobs = jobs_of(command)
    if command.list is None and jobs[0].out.exists() and not command.overwrite:
        raise UserError(f"{jobs[0].out}: already there; --overwrite replaces it")
    device = _device()
    model = open_model(command.model, device)
    if not isinstance(model.task, MelTask):
        raise UserError(f"{command.model}: is a {model.task.config.name} model, which restores recordings; use mfdistill restore")
    if command.vocoder is not None:
        model.task.config = replace(model.task.config, vocoder=command.vocoder)
        attach_vocoder(model.task, device)
    steps = chosen_steps(command.nfe, command.schedule, model)
    rows, failed = [], 0
    for job in jobs:
        if job.out.exists() and not command.overwrite:
            continue
        try:
            rows.append(speak(model, job, steps, command))
        except UserError as error:
            if command.list is None:
                raise
            failed += 1
            say(f"left out: {job.where}: {error}")
            continue
        row = rows[-1]
        say(f"{row['file']}: {row['seconds']:.2f} s, RTF {row['rtf_flow']:.4f} (flow), {row['rtf']:.3f} (whole)")
    if command.list is not None:
        total = sum(row["seconds"] for row in rows) or 1.0
        flow, whole = (sum(row[key] * row["seconds"] for row in rows) / total for key in ("rtf_flow", "rtf"))
        there = len(jobs) - len(rows) - failed
        say(f"{command.out}: {len(rows)} of {len(jobs)} spoken, {there} were there already; RTF {flow:.4f} (flow), {whole:.3f} (whole)")
    if failed:
        raise UserError(f"{command.list}: {failed} of {len(jobs)} rows could not be spoken; see above")
    return rows


def speak(model: Model, job: Job, steps: Steps | None, command: Synthesize) -> dict[str, Any]:
    """One utterance to its file."""
    import torch

    from mfdistill.audio.io import read_audio, write_audio
    from mfdistill.distill.synthesis import synthesise

    rate = model.task.sample_rate
    device = next(model.module.parameters()).device

    def heard(path: str | None) -> torch.Tensor | None:
        return None if path is None else torch.from_numpy(read_audio(path, rate, silent="error")).to(device)

    prompt = heard(job.prompt)
    assert prompt is not None
    speech: Speech = synthesise(
        model, prompt, source=heard(job.tokens_from), text=job.text, prompt_text=job.prompt_text, speed=command.speed, steps=steps,
        seed=command.seed,
    )  # fmt: skip
    job.out.parent.mkdir(parents=True, exist_ok=True)
    write_audio(job.out, speech.wave.cpu().numpy(), rate)
    seconds = len(speech.wave) / rate
    return {"file": str(job.out), "seconds": seconds, "rtf_flow": speech.flow_s / seconds, "rtf": speech.whole_s / seconds}


def jobs_of(command: Synthesize) -> list[Job]:
    """What is to be spoken.

    Raises:
        UserError: options that are missing or exclude each other, or a damaged list.
    """
    from mfdistill.errors import UserError

    if command.out is None:
        raise UserError("--out: name the file to write (with --list: the folder)")
    if command.list is None:
        return [job_of(vars(command) | {"out": None}, Path(command.out), "", "--")]
    if any(getattr(command, name) is not None for name in FIELDS[:-1]):
        raise UserError("--list: holds the prompts, texts and recordings itself; leave these options out")
    file, jobs = Path(command.list), []
    for number, row in enumerate(read_list(file), start=1):
        paths = {name: str(file.parent / row[name]) for name in ("prompt", "tokens_from") if row.get(name)}
        out = Path(command.out) / (row.get("out") or f"{number:04d}.wav")
        jobs.append(job_of({**row, **paths}, out, f"row {number}", f"{file}, row {number}: "))
    return jobs


def job_of(values: Mapping[str, Any], out: Path, where: str, prefix: str) -> Job:
    """One utterance from its fields; empty ones count as missing, but an empty text is told as such."""
    from mfdistill.errors import UserError

    text = values.get("text")
    if text is not None and not str(text).strip() and not values.get("tokens_from"):
        raise UserError(f"{prefix}text: empty; give some words")
    if not values.get("prompt"):
        raise UserError(f"{prefix}prompt: missing; name a recording of the voice")
    if bool(values.get("tokens_from")) == bool(text):
        raise UserError(f"{prefix}text: give either a text or a recording with tokens-from")
    return Job(str(values["prompt"]), out, values.get("tokens_from") or None, text or None, values.get("prompt_text") or None, where)


def read_list(file: Path) -> list[dict[str, str]]:
    """The rows of a TSV or JSONL list.

    Raises:
        UserError: no such file, no rows, an unknown column, or a line that is no JSON object.
    """
    from mfdistill.errors import UserError

    if not file.is_file():
        raise UserError(f"{file}: no such file; --list wants a TSV or JSONL file")
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    rows: list[dict[str, str]] = []
    if file.suffix in (".jsonl", ".json"):
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(f"{file}, line {number}: no JSON ({error}); write an object per line") from error
            if not isinstance(row, dict):
                raise UserError(f"{file}, line {number}: {line[:40]!r} is no JSON object; write one per line")
            rows.append(row)
    else:
        rows = [dict(row) for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)]
    if not rows:
        raise UserError(f"{file}: has no rows; write a header ({', '.join(FIELDS)}) and a row per utterance")
    for name in (name for row in rows for name in row):
        if name not in FIELDS:
            raise UserError(f"{file}: unknown column {name!r}; the columns are {', '.join(FIELDS)}, separated by tabs")
    return rows


def _device() -> Any:
    from accelerate import Accelerator

    return Accelerator().device
