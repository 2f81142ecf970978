"""What is wrong with a distillation, as far as it can be told before gigabytes of weights are
loaded: options, folders, vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mfdistill.errors import UserError

if TYPE_CHECKING:
    from mfdistill.commands.student_distill import StudentDistill


def check_foreign(command: StudentDistill, kind: str, sizes: Mapping[str, Any]) -> None:
    """Options, data and vocabulary of a distillation from another system's Mel flow.

    Args:
        kind, sizes: of the teacher (``foreign_teacher``).

    Raises:
        UserError: names the option or file, and the remedy.
    """
    from mfdistill.commands.recipe_table import check_recipe
    from mfdistill.commands.tts_options import check_preset
    from mfdistill.data.transcripts import Vocabulary, read_utterances
    from mfdistill.networks.dit_config import F5Config, F5UNetTConfig
    from mfdistill.systems.table import mel_inputs

    check_preset(command.preset, kind, str(command.teacher))
    check_recipe(command.recipe, kind, str(command.teacher))
    if command.data.source == "embedded":
        raise UserError(
            f"--data: needed for a teacher of kind {kind}: a folder of speech with texts or tokens "
            "(layout: docs/foreign-tts.md)"
        )
    if command.causal:
        raise UserError(
            "--causal: not for teachers of other systems; CosyVoice's stream as they are "
            "(--tts.streaming-share)"
        )
    if command.objective == "integral" and command.integral.spectral:
        raise UserError(
            "--integral.spectral: compares waveforms, which this student does not make; leave it "
            "out"
        )
    if command.tts.data_free and command.objective != "integral":
        raise UserError(
            f"--objective {command.objective}: needs recordings; with --tts.data-free take "
            "--objective integral"
        )
    inputs = mel_inputs(kind)
    assert inputs is not None
    if not inputs.guided and (command.guidance.strength or command.guidance.range):
        raise UserError(
            f"{command.teacher}: trained without a null condition, so guidance has no meaning; "
            "leave --guidance out"
        )
    texts = inputs.reads == "text"
    if texts:
        published = F5Config() if kind == "f5" else F5UNetTConfig()
        table = int(sizes.get("text_num_embeds", published.text_num_embeds))
        Vocabulary.read(vocabulary_file(command)).check(table)
    read_utterances(
        Path(command.data.source),
        command.tts.transcripts,
        command.tts.features,
        inputs.recordings and not command.tts.data_free,
        texts,
    )


def vocabulary_file(command: StudentDistill) -> Path:
    """Where F5-TTS's vocabulary is read from: ``--tts.vocab``, or beside the teacher.

    Raises:
        UserError: neither is there.
    """
    from mfdistill.companions import companion
    from mfdistill.places import resolve
    from mfdistill.systems.f5 import VOCAB

    if command.tts.vocab is not None:
        return Path(command.tts.vocab)
    place = resolve(str(command.teacher))
    found = companion(place if place.is_dir() else place.parent, VOCAB)
    if found is None:
        raise UserError(
            f"--tts.vocab: no {VOCAB} beside {command.teacher}; give the one that belongs to this "
            "checkpoint"
        )
    return found


def foreign_teacher(command: StudentDistill) -> tuple[str, Mapping[str, Any]] | None:
    """Kind and sizes of a teacher that is another system's Mel flow, without its weights: an
    imported folder says them, of a file only its names are read. None for other teachers.

    Raises:
        UserError: nothing there, or a file that cannot be read.
    """
    from mfdistill.checkpoint import load_config
    from mfdistill.commands.teacher_import import read_sizes
    from mfdistill.places import resolve
    from mfdistill.systems.table import mel_inputs, recognise

    place, given = resolve(str(command.teacher)), read_sizes(command.sizes) or {}
    if (place / "config.json").is_file():
        config = load_config(place)
        kind, given = config.get("kind"), (config.get("network") or {}).get("config") or {}
    else:
        kind = command.kind or recognise(place)
    return (kind, given) if kind is not None and mel_inputs(kind) is not None else None
