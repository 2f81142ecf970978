"""os3-search for students of other systems' Mel flows: F5-TTS, CosyVoice, Matcha-TTS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mfdistill.checkpoint import load_config
from mfdistill.errors import UserError

if TYPE_CHECKING:
    from mfdistill.commands.os3_search import OS3Search


def search_foreign(command: OS3Search, folder: Path, accelerator: Any) -> dict[str, Any]:
    """Place the steps of the student in ``folder`` by the distance to its teacher; returns what ``o3s.json`` holds.

    Raises:
        UserError: another metric, or a teacher, data, vocabulary or front end that is not there any more.
    """
    from mfdistill.commands.distill_foreign import set_guidance, valid_batches
    from mfdistill.commands.student_distill import repeat
    from mfdistill.commands.teacher_import import read_sizes
    from mfdistill.data.transcripts import Vocabulary
    from mfdistill.data.tts import TTSSet
    from mfdistill.distill.foreign import ForeignBatches
    from mfdistill.distill.logs import say
    from mfdistill.search.development import Block, spans, utterances_text
    from mfdistill.search.flow_score import FlowScorer
    from mfdistill.search.run import search_with
    from mfdistill.search.score import TEACHER_MSE
    from mfdistill.students import load_student
    from mfdistill.teachers import load_teacher
    from mfdistill.teachers.cosyvoice_front import load_front
    from mfdistill.teachers.imported import FRONT, VOCAB

    search = command.search
    if search.metric != TEACHER_MSE:
        raise UserError(f"--metric {search.metric}: needs audio, and a student of another system makes Mel spectrograms here; search with "
                        f"--metric {TEACHER_MSE}, its distance to its teacher from the same noise")
    config = load_config(folder)
    made = repeat(config, f"{folder}/config.json")
    if search.teacher is None and made.teacher is None:
        raise UserError(f"--teacher: {folder} does not say whose student it is; name its teacher")
    sizes = None if search.teacher else read_sizes(made.sizes)
    teacher: Any = load_teacher(search.teacher or str(made.teacher), None if search.teacher else made.kind, config=sizes)
    told = made.guidance.range
    strength = None if told else (config.get("parent") or {}).get("guidance_strength")
    set_guidance(teacher, strength, told, made.guidance.rule, str(search.teacher or made.teacher))
    student = load_student(folder, device=accelerator.device)
    teacher.to(accelerator.device)
    task: Any = student.task
    vocabulary = Vocabulary.read(folder / VOCAB) if task.frames_first else None
    front = load_front(folder, accelerator.device) if (folder / FRONT).is_file() else None
    ratio = 1 if task.config.name == "matcha" else 2 if front is None else front.ratio
    dataset = TTSSet(command.data.source, made.tts, task, vocabulary, ratio, made.training.seed, "valid")
    batches = ForeignBatches(task, front, 0.0, told, made.training.seed)

    def blocks() -> Iterator[Block]:
        seen = 0  # whole micro-batches, so that a block may have a few more than its span
        for _, last in spans(len(dataset.rows), search.limit):
            raws = valid_batches(dataset, last, made.training.batch_size)
            raws, seen = raws[seen:], len(raws)
            if raws:
                scorer = FlowScorer(student, teacher, batches, raws, search.seed, accelerator, search.teacher_steps, search.teacher_solver)
                yield scorer, [str(index) for raw in raws for index in raw["index"].tolist()]

    if accelerator.is_main_process:
        many = utterances_text(len(dataset.rows), search.limit)
        say(f"{folder}: placing {search.nfe} steps by {TEACHER_MSE} (lower is better) on {many} of {command.data.source}")
    return search_with(blocks(), student, search, accelerator, Path(command.out or folder))
