"""synthesize for students and teachers of F5-TTS and CosyVoice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mfdistill.commands.synthesis_jobs import Job
    from mfdistill.commands.synthesize import Synthesize, Voice
    from mfdistill.distill.synthesis import Speech

_F5, _COSYVOICE = ("text", "prompt_text"), ("tokens", "prompt_tokens", "speaker")
_SYMBOLS = ("tokens", "prompt_tokens")


def foreign_voice(command: Synthesize, kind: str, where: Any) -> tuple[int, Voice]:
    """Sample rate and voice of a folder of ``kind`` (``systems.table.mel_inputs``) on the device
    ``where``.

    Raises:
        UserError: a kind that cannot be spoken with here, a damaged folder, a vocoder that is not
            there, bad options.
    """
    from mfdistill.errors import UserError
    from mfdistill.systems.table import mel_inputs

    inputs = mel_inputs(kind)
    assert inputs is not None
    if inputs.reads == "text":
        return _f5(command, where)
    if inputs.reads == "symbols":
        return _symbols(command, where)
    if inputs.reads == "tokens":
        return _cosyvoice(command, where)
    raise UserError(
        f"{command.model}: a model of kind {kind} starts from its text encoder's output, which is not here; "
        "sample it from Python, or export it (docs/foreign-tts.md)"
    )


def _f5(command: Synthesize, where: Any) -> tuple[int, Voice]:
    from mfdistill.commands.sampling import chosen_steps
    from mfdistill.commands.synthesize import heard
    from mfdistill.distill.f5_synthesis import open_f5, speak_f5

    speaker = open_f5(command.model, where, command.guidance, command.vocoder)
    steps, rate = (
        chosen_steps(command.nfe, command.schedule, speaker.model),
        speaker.task.sample_rate,
    )

    def voice(job: Job) -> Speech:
        _only(job, _F5, "F5-TTS reads text: give --text and --prompt-text")
        return speak_f5(
            speaker,
            heard(job.prompt, rate, where),
            job.prompt_text or "",
            job.text or "",
            command.speed,
            steps,
            command.seed,
        )

    return rate, voice


def _cosyvoice(command: Synthesize, where: Any) -> tuple[int, Voice]:
    from mfdistill.commands.sampling import chosen_steps
    from mfdistill.commands.synthesize import heard
    from mfdistill.data.token_files import has_embedding, read_embedding, read_tokens
    from mfdistill.distill.cosyvoice_synthesis import open_cosyvoice, speak_cosyvoice
    from mfdistill.errors import UserError

    speaker = open_cosyvoice(command.model, where, command.guidance, command.vocoder)
    steps, rate = (
        chosen_steps(command.nfe, command.schedule, speaker.model),
        speaker.task.sample_rate,
    )

    def voice(job: Job) -> Speech:
        _only(
            job,
            _COSYVOICE,
            "CosyVoice's text becomes speech tokens in its own program: give --tokens and --prompt-tokens",
        )
        if job.prompt_tokens is None:
            raise UserError(
                "--prompt-tokens: missing; give the prompt's speech tokens, by CosyVoice's tokenizer"
            )
        if job.speaker is None and not has_embedding(job.prompt_tokens):
            raise UserError(
                "--speaker: missing; give the speaker's x-vector, by CosyVoice's encoder, or --prompt-tokens with an embedding"
            )
        embedding = read_embedding(job.speaker or job.prompt_tokens)
        prompt_tokens, tokens = (
            read_tokens(job.prompt_tokens, "--prompt-tokens"),
            read_tokens(str(job.tokens)),
        )
        prompt = heard(job.prompt, rate, where)
        return speak_cosyvoice(
            speaker, prompt, prompt_tokens, tokens, embedding, command.speed, steps, command.seed
        )

    return rate, voice


def _symbols(command: Synthesize, where: Any) -> tuple[int, Voice]:
    from mfdistill.commands.sampling import chosen_steps
    from mfdistill.commands.synthesize import heard
    from mfdistill.data.token_files import read_tokens
    from mfdistill.distill.symbols_synthesis import open_symbols, speak_symbols
    from mfdistill.errors import UserError

    speaker = open_symbols(command.model, where, command.guidance, command.vocoder)
    steps, rate = (
        chosen_steps(command.nfe, command.schedule, speaker.model),
        speaker.task.sample_rate,
    )

    def voice(job: Job) -> Speech:
        _only(
            job,
            _SYMBOLS,
            "texts become symbols in this system's own program: give --tokens and --prompt-tokens",
        )
        if job.prompt_tokens is None:
            raise UserError("--prompt-tokens: missing; give the numbers of the prompt's symbols")
        prompt_tokens, tokens = (
            read_tokens(job.prompt_tokens, "--prompt-tokens"),
            read_tokens(str(job.tokens)),
        )
        prompt = heard(job.prompt, rate, where)
        return speak_symbols(
            speaker, prompt, prompt_tokens, tokens, command.speed, steps, command.seed
        )

    return rate, voice


def _only(job: Job, names: tuple[str, ...], instead: str) -> None:
    """Raise ``UserError`` where a job has what is for other systems."""
    from mfdistill.errors import UserError

    for name in ("tokens_from", *_F5, *_COSYVOICE):
        if name not in names and getattr(job, name) is not None:
            raise UserError(f"--{name.replace('_', '-')}: not for this model; {instead}")
