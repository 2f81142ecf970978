"""synthesize."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from mfdistill.commands.synthesis_jobs import Job, jobs_of

if TYPE_CHECKING:
    from mfdistill.distill.synthesis import Speech

Voice = Callable[[Job], "Speech"]


@dataclass(frozen=True)
class Synthesize:
    """Speak a text, units or speech tokens in the voice of a prompt: models of token2mel, text2mel,
    F5-TTS and CosyVoice.
    """

    model: Positional[Annotated[str, tyro.conf.arg(metavar="STUDENT")]]
    """The model's folder."""
    prompt: str | None = None
    """Recording of the voice, 3 s or so."""
    tokens_from: str | None = None
    """token2mel: recording that says what is to be said; its units are spoken."""
    text: str | None = None
    """text2mel, F5-TTS: what is to be said; for F5-TTS of any length."""
    prompt_text: str | None = None
    """text2mel, F5-TTS: what the prompt says."""
    tokens: str | None = None
    """CosyVoice: speech tokens of what is to be said, by its own tokenizer (.npy, .txt, or
    .safetensors with tokens).
    """
    prompt_tokens: str | None = None
    """CosyVoice: speech tokens of the prompt."""
    speaker: str | None = None
    """CosyVoice: the speaker's x-vector (.npy, .txt, or .safetensors with embedding); default: the
    embedding in --prompt-tokens.
    """
    out: str | None = None
    """The file to write; with --list, the folder."""
    list: str | None = None
    """TSV (with a header line) or JSONL file instead: a row per utterance with prompt, what is said
    (text, tokens_from or tokens), prompt_text, prompt_tokens, speaker, out (a name in the folder
    --out; default: the row's number). Its paths are relative to its own folder.
    """
    nfe: int | None = None
    """Network evaluations; default: the schedule saved with a student, 10 for a teacher (F5-TTS:
    32).
    """
    schedule: tuple[float, ...] | None = None
    """Times of the steps instead, such as 0 0.4 1."""
    budget_ms: float | None = None
    """Instead: as many steps, 1 to 8, as fit into so many milliseconds of the flow per second of
    speech, measured on the first utterance; with the searched schedule of that number where the
    student has one (os3-search --up-to 8).
    """
    vocoder: str | None = None
    """Another vocoder than the model's: a vocode model's folder, or griffin-lim. F5-TTS: vocos, the
    folder of a copy of it, or griffin-lim;
    default: vocos where its package is installed.
    """
    guidance: float | None = None
    """F5-TTS, CosyVoice: strength of a teacher's guidance, or what a student that is told it is
    told; default: the system's own.
    """
    speed: float = 1.0
    """Of a text or of speech tokens; 2 is twice as fast."""
    seed: int = 0
    """Of the noise."""
    level: Literal["keep", "limit"] = "keep"
    """Where speech is above full scale and the sample format is of integers: 'keep' cuts it off and
    says so, 'limit' turns the whole file down.
    """
    overwrite: bool = False
    """Replace files that are there; otherwise a list's finished rows are skipped."""


def run(command: Synthesize) -> list[dict[str, Any]]:
    """Synthesise as ``command`` says; returns a row per utterance written: file, seconds of audio,
    real-time factors.

    A list's bad rows are told one by one, and the others are spoken.

    Raises:
        UserError: bad model, options or input, or rows that could not be spoken.
    """
    from mfdistill.commands.budget import chosen_within
    from mfdistill.commands.synthesize_foreign import foreign_voice
    from mfdistill.distill.foreign_speaker import foreign_kind
    from mfdistill.distill.logs import say
    from mfdistill.errors import UserError

    if command.speed <= 0:
        raise UserError(f"--speed {command.speed:g}: must be positive")
    jobs = jobs_of(command)
    if command.list is None and jobs[0].out.exists() and not command.overwrite:
        raise UserError(f"{jobs[0].out}: already there; --overwrite replaces it")
    kind = foreign_kind(command.model)

    def opened(command: Synthesize) -> tuple[int, Voice]:
        return own_voice(command) if kind is None else foreign_voice(command, kind, device())

    if command.budget_ms is not None:
        if command.nfe is not None or command.schedule is not None:
            raise UserError("--budget-ms chooses the steps itself: leave --nfe and --schedule out")
        rate, voice = opened(replace(command, nfe=1))
        command = replace(command, nfe=chosen_within(command.budget_ms, voice, jobs[0], rate))
    rate, voice = opened(command)
    rows, failed = [], 0
    for job in jobs:
        if job.out.exists() and not command.overwrite:
            continue
        try:
            rows.append(speak(voice, job, rate, command.level))
        except UserError as error:
            if command.list is None:
                raise
            failed += 1
            say(f"left out: {job.where}: {error}")
            continue
        row = rows[-1]
        say(
            f"{row['file']}: {row['seconds']:.2f} s, RTF {row['rtf_flow']:.4f} (flow), {row['rtf']:.3f} (whole)"
        )
    if command.list is not None:
        total = sum(row["seconds"] for row in rows) or 1.0
        flow, whole = (
            sum(row[key] * row["seconds"] for row in rows) / total for key in ("rtf_flow", "rtf")
        )
        there = len(jobs) - len(rows) - failed
        say(
            f"{command.out}: {len(rows)} of {len(jobs)} spoken, {there} were there already; RTF {flow:.4f} (flow), {whole:.3f} (whole)"
        )
    if failed:
        raise UserError(
            f"{command.list}: {failed} of {len(jobs)} rows could not be spoken; see above"
        )
    return rows


def speak(
    voice: Voice, job: Job, rate: int, level: Literal["keep", "limit"] = "keep"
) -> dict[str, Any]:
    """One utterance to its file."""
    from mfdistill.audio.io import write_audio
    from mfdistill.distill.logs import say

    speech = voice(job)
    job.out.parent.mkdir(parents=True, exist_ok=True)
    written = write_audio(job.out, speech.wave.cpu().numpy(), rate, level=level)
    if (heard := written.told()) is not None:
        say(f"{job.out}: {heard}")
    seconds = len(speech.wave) / rate
    return {
        "file": str(job.out),
        "seconds": seconds,
        "rtf_flow": speech.flow_s / seconds,
        "rtf": speech.whole_s / seconds,
    }


def own_voice(command: Synthesize) -> tuple[int, Voice]:
    """Sample rate and voice of a model of token2mel or text2mel.

    Raises:
        UserError: no such model, or options that it does not have.
    """
    from mfdistill.commands.sampling import chosen_steps
    from mfdistill.distill.inference import attach_vocoder, open_model
    from mfdistill.distill.synthesis import synthesise
    from mfdistill.errors import UserError

    where = device()
    model = open_model(command.model, where)
    if model.task.restores:
        raise UserError(
            f"{command.model}: is a {model.task.config.name} model, which restores recordings; use mfdistill restore"
        )
    if command.guidance is not None:
        raise UserError(
            f"--guidance: {command.model} was trained without; leave it out (it is for F5-TTS and CosyVoice)"
        )
    if command.vocoder is not None:
        model.task.config = replace(model.task.config, vocoder=command.vocoder)
        attach_vocoder(model.task, where)
    steps, rate = chosen_steps(command.nfe, command.schedule, model), model.task.sample_rate

    def voice(job: Job) -> Speech:
        for name in ("tokens", "prompt_tokens", "speaker"):
            if getattr(job, name) is not None:
                raise UserError(
                    f"--{name.replace('_', '-')}: is for students of CosyVoice; {command.model} takes --tokens-from or --text"
                )
        prompt, source = (heard(path, rate, where) for path in (job.prompt, job.tokens_from))
        assert prompt is not None
        return synthesise(model, prompt, source=source, text=job.text, prompt_text=job.prompt_text, speed=command.speed, steps=steps,
                          seed=command.seed)  # fmt: skip

    return rate, voice


def heard(path: str | None, rate: int, where: Any) -> Any:
    """A recording (s,) at ``rate`` on a device; None stays None.

    Raises:
        UserError: no such file, a damaged one, or a silent one.
    """
    import torch

    from mfdistill.audio.io import read_audio

    return (
        None if path is None else torch.from_numpy(read_audio(path, rate, silent="error")).to(where)
    )


def device() -> Any:
    """What Accelerate computes on."""
    from accelerate import Accelerator

    return Accelerator().device
