"""os3-search for students of other systems' Mel flows: F5-TTS, CosyVoice, Matcha-TTS."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mfdistill.checkpoint import load_config
from mfdistill.commands.tts_options import GuidanceOptions
from mfdistill.companions import companion
from mfdistill.config import from_dict
from mfdistill.data.tts_config import TTSOptions
from mfdistill.errors import UserError

if TYPE_CHECKING:
    from mfdistill.commands.os3_search import OS3Search
    from mfdistill.teachers import Field


def search_foreign(command: OS3Search, folder: Path, accelerator: Any) -> dict[str, Any]:
    """Place the steps of the student in ``folder`` by the distance to its teacher, or by a metric
    of audio; returns what ``o3s.json`` holds.

    Raises:
        UserError: a teacher, data, vocabulary, vocoder or front end that is not there any more.
    """
    from mfdistill.commands.distill_foreign import frames_per_token, valid_batches
    from mfdistill.data.transcripts import Vocabulary
    from mfdistill.data.tts import TTSSet
    from mfdistill.distill.foreign import ForeignBatches
    from mfdistill.distill.logs import say
    from mfdistill.distill.mel_vocoder import open_mel_vocoder
    from mfdistill.metrics import scoring_pool
    from mfdistill.search.development import Block, Scorer, spans, utterances_text
    from mfdistill.search.flow_score import FlowScorer
    from mfdistill.search.run import search_counts
    from mfdistill.search.score import TEACHER_MSE, resolve_metric
    from mfdistill.search.speech_score import SpeechScorer
    from mfdistill.students import load_student
    from mfdistill.systems.cosyvoice_front import FRONT, load_front

    search, config = command.search, load_config(folder)
    where, training = f"{folder}/config.json", config.get("training") or {}
    tts = from_dict(TTSOptions, config.get("tts") or {}, f"{where}: tts")
    guidance = from_dict(GuidanceOptions, config.get("guidance") or {}, f"{where}: guidance")
    seed, batch_size = int(training.get("seed", 0)), int(training.get("batch_size", 16))
    by_teacher = search.metric == TEACHER_MSE
    teacher = open_teacher(command, folder, config, guidance) if by_teacher else None
    student = load_student(folder, device=accelerator.device)
    task: Any = student.task
    if task.inputs.reads == "mu" and not by_teacher:
        raise UserError(
            f"--metric {search.metric}: needs audio, which is not made for {task.config.name} here; take --metric {TEACHER_MSE}"
        )
    vocabulary = Vocabulary.read(_vocab(folder)) if task.inputs.reads == "text" else None
    front = load_front(folder, accelerator.device) if companion(folder, FRONT) is not None else None
    ratio = frames_per_token(task, front)
    dataset = TTSSet(command.data.source, tts, task, vocabulary, ratio, seed, "valid")
    batches = ForeignBatches(task, front, 0.0, guidance.range, seed)
    vocoder = None if by_teacher else open_mel_vocoder(search.vocoder, task, accelerator.device)
    if teacher is not None:
        teacher.to(accelerator.device)
    with scoring_pool(1 if by_teacher else search.workers) as pool:

        def scorer(raws: Sequence[Mapping[str, Any]]) -> Scorer:
            if vocoder is None:
                assert teacher is not None
                return FlowScorer(
                    student,
                    teacher,
                    batches,
                    raws,
                    search.seed,
                    accelerator,
                    search.teacher_steps,
                    search.teacher_solver,
                )
            return SpeechScorer(
                student, batches, raws, search.metric, vocoder, search.seed, accelerator, pool
            )

        def blocks() -> Iterator[Block]:
            seen = 0  # whole micro-batches, so that a block may have a few more than its span
            for _, last in spans(len(dataset.rows), search.limit):
                raws = valid_batches(dataset, last, batch_size)
                raws, seen = raws[seen:], len(raws)
                if raws:
                    yield (
                        scorer(raws),
                        [str(index) for raw in raws for index in raw["index"].tolist()],
                    )

        if accelerator.is_main_process:
            _, column, direction = resolve_metric(search.metric)
            better = "higher" if direction > 0 else "lower"
            many = utterances_text(len(dataset.rows), search.limit)
            say(
                f"{folder}: placing {search.nfe} steps by {column} ({better} is better) on {many} of {command.data.source}"
            )
        return search_counts(blocks(), student, search, accelerator, Path(command.out or folder))


def _vocab(folder: Path) -> Path:
    """The student's vocabulary; raises ``UserError`` where it has none."""
    file = companion(folder, "vocab.txt")
    if file is None:
        raise UserError(
            f"{folder}: has no vocab.txt, so texts cannot be read; put the checkpoint's there"
        )
    return file


def open_teacher(
    command: OS3Search, folder: Path, config: Mapping[str, Any], guidance: GuidanceOptions
) -> Field:
    """The student's teacher, with the guidance that it learnt from.

    Raises:
        UserError: it is not known, or not there any more.
    """
    from mfdistill.commands.distill_foreign import set_guidance
    from mfdistill.commands.teacher_import import read_sizes
    from mfdistill.teachers import load_teacher

    own, parent = command.search.teacher, config.get("parent") or {}
    if own is None and parent.get("teacher") is None:
        raise UserError(f"--teacher: {folder} does not say whose student it is; name its teacher")
    teacher = load_teacher(
        own or str(parent["teacher"]),
        None if own else parent.get("kind"),
        config=None if own else read_sizes(parent.get("sizes")),
    )
    told = guidance.range
    strength = None if told else parent.get("guidance_strength")
    set_guidance(teacher, strength, told, guidance.rule, str(own or parent["teacher"]))
    return teacher
