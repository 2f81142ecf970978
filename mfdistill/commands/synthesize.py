"""synthesize."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import Positional

from mfdistill.commands.synthesis_jobs import ASKED, Job, jobs_of
from mfdistill.errors import UserError
from mfdistill.plain import Plain

if TYPE_CHECKING:
    import torch

    from mfdistill.distill.inference import Steps
    from mfdistill.distill.speech import Speech


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


def run(command: Synthesize) -> list[Plain]:
    """Synthesise as ``command`` says; returns a row per utterance written: file, seconds of audio,
    real-time factors.

    A list's bad rows are told one by one, and the others are spoken.

    Raises:
        UserError: bad model, options or input, or rows that could not be spoken.
    """
    from accelerate import Accelerator

    from mfdistill.commands.budget import chosen_within
    from mfdistill.commands.restore import naming
    from mfdistill.commands.sampling import chosen_steps
    from mfdistill.distill.logs import say
    from mfdistill.distill.opening import ready
    from mfdistill.distill.speech import Said
    from mfdistill.distill.synthesis import check_speaks, speak

    if command.speed <= 0:
        raise UserError(f"--speed {command.speed:g}: must be positive")
    jobs = jobs_of(command.out, command.list, vars(command))
    if command.list is None and jobs[0].out.exists() and not command.overwrite:
        raise UserError(f"{jobs[0].out}: already there; --overwrite replaces it")
    device = Accelerator().device
    model = ready(command.model, device, None, command.guidance, command.vocoder)
    check_speaks(model, command.model)
    task, rate = model.task, model.task.sample_rate

    def voice(job: Job, steps: Steps | None) -> Speech:
        check_takes(job, task.takes)
        prompt, source = (heard(path, rate, device) for path in (job.prompt, job.tokens_from))
        assert prompt is not None
        given = (job.text, job.prompt_text, job.tokens, job.prompt_tokens, job.speaker)
        return speak(model, Said(prompt, source, *given), command.speed, steps, command.seed)

    if command.budget_ms is None:
        steps = chosen_steps(command.nfe, command.schedule, model)
    elif command.nfe is not None or command.schedule is not None:
        raise UserError("--budget-ms chooses the steps itself: leave --nfe and --schedule out")
    else:
        one = chosen_steps(1, None, model)
        fit = chosen_within(command.budget_ms, lambda: voice(jobs[0], one), rate)
        steps = chosen_steps(fit, None, model)
    say(naming(command.model, model, steps))
    rows, failed = [], 0
    for job in jobs:
        if job.out.exists() and not command.overwrite:
            continue
        try:
            rows.append(write(voice(job, steps), job.out, rate, command.level))
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


def write(speech: Speech, out: Path, rate: int, level: Literal["keep", "limit"] = "keep") -> Plain:
    """One utterance to its file; returns its row."""
    from mfdistill.audio.io import write_audio
    from mfdistill.distill.logs import say

    out.parent.mkdir(parents=True, exist_ok=True)
    written = write_audio(out, speech.wave.cpu().numpy(), rate, level=level)
    if (told := written.told()) is not None:
        say(f"{out}: {told}")
    seconds = len(speech.wave) / rate
    return {
        "file": str(out),
        "seconds": seconds,
        "rtf_flow": speech.flow_s / seconds,
        "rtf": speech.whole_s / seconds,
    }


def check_takes(job: Job, takes: Sequence[str]) -> None:
    """See that a job asks in the model's way.

    Raises:
        UserError: it has what is for other models.
    """
    for name in ASKED:
        if name not in takes and getattr(job, name) is not None:
            instead = " and ".join(f"--{_flag(own)}" for own in takes)
            raise UserError(f"--{_flag(name)}: not for this model; give {instead}")


def _flag(name: str) -> str:
    return name.replace("_", "-")


def heard(path: str | None, rate: int, device: torch.device) -> torch.Tensor | None:
    """A recording (s,) at ``rate`` on a device; None stays None.

    Raises:
        UserError: no such file, a damaged one, or a silent one.
    """
    import torch

    from mfdistill.audio.io import read_audio

    if path is None:
        return None
    return torch.from_numpy(read_audio(path, rate, silent="error")).to(device)
