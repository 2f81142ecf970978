"""student-distill for teachers of other systems: F5-TTS, CosyVoice, Matcha-TTS."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mfdistill.commands.extend import objective_settings
from mfdistill.commands.saved import recorded
from mfdistill.config import to_dict
from mfdistill.errors import UserError

if TYPE_CHECKING:
    from mfdistill.commands.student_distill import StudentDistill
    from mfdistill.data.transcripts import Vocabulary
    from mfdistill.systems.cosyvoice_front import TokenFront
    from mfdistill.tasks.foreign import ForeignTask


def run_foreign(command: StudentDistill, teacher: Any, accelerator: Any) -> Path:
    """Distil a Mel flow; returns the run's folder.

    Raises:
        UserError: bad options, a preset of another system, data, vocabulary or front end.
            Interrupted: stopped by a signal, after saving.
    """
    from mfdistill.commands.training import finish
    from mfdistill.commands.tts_options import SYSTEMS
    from mfdistill.data.tts import TTSSet
    from mfdistill.distill.foreign import ForeignBatches
    from mfdistill.distill.foreign_valid import make_foreign_validate
    from mfdistill.distill.logs import say
    from mfdistill.distill.objectives import OBJECTIVES
    from mfdistill.distill.train import train
    from mfdistill.networks.recompute import recompute_activations
    from mfdistill.search.cache import digest_tensors
    from mfdistill.students import Student
    from mfdistill.systems.cosyvoice_front import FRONT, front_bytes
    from mfdistill.systems.f5 import VOCAB

    training, options, guidance = command.training, command.tts, command.guidance
    task: ForeignTask = teacher.task
    if (options.mel_mean, options.mel_std) != (0.0, 1.0):  # Matcha-TTS's, which its file lacks
        task = task.with_level(options.mel_mean, options.mel_std)
    told = guidance.range
    set_guidance(teacher, guidance.strength, told, guidance.rule, str(command.teacher))
    parent = {
        "teacher": command.teacher, "kind": command.kind, "sha256": digest_tensors(teacher.network.state_dict()),
        "guidance_strength": None if told else teacher.guidance_strength,
        **({"sizes": command.sizes} if command.sizes else {}),
    }  # fmt: skip
    student = Student.from_teacher(
        teacher,
        command.nfe,
        parent,
        command.interval,
        guidance_input=None if told is None else told[1],
        adapter=command.lora,
    )
    student.task = task
    if command.checkpoint_activations:
        recompute_activations(student.network)
    settings: Any = objective_settings(command.objective, command, command.own)
    if options.data_free:
        settings = replace(settings, state="rollout")
    vocabulary = open_vocabulary(command, teacher) if task.inputs.reads == "text" else None
    front = open_front(command, teacher, accelerator.device)
    companions: dict[str, bytes] = {} if front is None else {FRONT: front_bytes(front)}
    if vocabulary is not None:
        companions[VOCAB] = ("\n".join(vocabulary.symbols) + "\n").encode()
    ratio = frames_per_token(task, front)
    sets = [
        TTSSet(command.data.source, options, task, vocabulary, ratio, training.seed, split)
        for split in ("train", "valid")
    ]
    chunks = teacher.facts.streams == "chunks"
    batches = ForeignBatches(
        task, front, options.streaming_share if chunks else 0.0, told, training.seed
    )
    objective = OBJECTIVES[command.objective][1](
        student, teacher, task.path, settings, training.seed
    )
    model_config = {
        **recorded(command),
        **student.config, "objective": {"name": command.objective, **to_dict(settings)}, "data": to_dict(command.data),
        "tts": to_dict(options), "guidance": to_dict(guidance), "valid": to_dict(command.valid),
        **({"checkpoint_activations": True} if command.checkpoint_activations else {}),
    }  # fmt: skip
    validate = None
    if command.valid.valid_files > 0:
        raws = valid_batches(sets[1], command.valid.valid_files, training.batch_size)
        teacher.to(accelerator.device)
        validate = make_foreign_validate(
            objective, batches, raws, command.valid.valid_nfe, training.seed
        )
    if accelerator.is_main_process:
        params = sum(p.numel() for p in objective.parameters() if p.requires_grad)
        say(
            f"student of {task.config.name}, {params / 1e6:.2f} M parameters, guidance "
            + (
                f"told, {told[0]:g} to {told[1]:g}"
                if told
                else f"{teacher.guidance_strength:g}, learnt"
            )
            + f", on {accelerator.device}"
        )
        say(f"data {command.data.source}: {sets[0].summary}")
        if command.preset is None and training.lr > 1e-4:
            fitting = next(
                (
                    f"--preset {name} takes"
                    for name, kinds in SYSTEMS.items()
                    if task.config.name in kinds
                ),
                "take for example",
            )
            say(f"--lr {training.lr:g} is much for a pretrained network; {fitting} 2e-5")
    out = train(
        objective,
        sets[0],
        batches,
        training,
        model_config=model_config,
        validate=validate,
        accelerator=accelerator,
        companions=companions,
    )
    if accelerator.is_main_process:
        finish(out)
        say(
            f"{out}: model.safetensors, config.json, log.jsonl, curves.png, README.md; go on with: mfdistill export {out} ..."
        )
    return out


def set_guidance(
    teacher: Any, strength: float | None, told: tuple[float, float] | None, rule: str, where: str
) -> None:
    """The teacher's guidance as the options say; ``strength`` None leaves its own.

    Raises:
        UserError: a teacher without a null condition.
    """
    if teacher.facts.null is None and (strength or told):
        raise UserError(
            f"{where}: trained without a null condition, so guidance has no meaning; leave --guidance out"
        )
    teacher.guidance_rule = rule
    if told is not None:
        # the null branch is computed; every sample's own strength is in its condition
        teacher.guidance_strength = told[1]
    elif strength is not None:
        teacher.guidance_strength = strength


def open_vocabulary(command: StudentDistill, teacher: Any) -> Vocabulary:
    """F5-TTS's vocabulary, checked against the checkpoint's table."""
    from mfdistill.commands.distill_checks import vocabulary_file
    from mfdistill.data.transcripts import Vocabulary

    vocabulary = Vocabulary.read(vocabulary_file(command))
    vocabulary.check(teacher.network.config.text_num_embeds)
    return vocabulary


def open_front(command: StudentDistill, teacher: Any, device: Any) -> TokenFront | None:
    """CosyVoice's front end, frozen; None where its file has none (features are then mu)."""
    from mfdistill.places import resolve
    from mfdistill.systems.cosyvoice_front import has_front, load_front

    if teacher.task.inputs.reads != "tokens":
        return None
    place = command.tts.front or resolve(str(command.teacher))
    if command.tts.front is None and not has_front(place):
        return None
    front = load_front(place, device)
    mels = teacher.task.config.mel.n_mels
    if front.spk_embed_affine_layer.out_features != mels:
        raise UserError(
            f"{place}: its front end is for {front.spk_embed_affine_layer.out_features} Mel bands, the teacher has {mels}"
        )
    return front


def frames_per_token(task: ForeignTask, front: TokenFront | None) -> int:
    """Mel frames of a speech token, where the condition is made of such."""
    if task.inputs.reads != "tokens":
        return 1
    return 2 if front is None else front.ratio


def valid_batches(dataset: Any, files: int, most: int) -> list[dict[str, Any]]:
    """The first held-out utterances, ``files`` of them or a few more, as micro-batches of global
    indices that no training sample has.
    """
    raws, number, first = [], 0, 2**31 // most
    while sum(len(raw["index"]) for raw in raws) < min(files, len(dataset.rows)):
        raw = dataset.group(number, most)
        raws.append({**raw, "index": raw["index"] + first * most})
        number += 1
    return raws
