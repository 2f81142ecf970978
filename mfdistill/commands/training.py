"""What teacher-train and student-distill have in common: validation set, summary, the run, and its
figure and card.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mfdistill.commands.begun import begun
from mfdistill.commands.options import Corpus, ValidOptions
from mfdistill.data.tts_config import TTSOptions
from mfdistill.distill.settings import TrainConfig, in_steps
from mfdistill.plain import Section

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from mfdistill.data.open import TrainRows
    from mfdistill.distill.train import Validate
    from mfdistill.tasks import Task


class Training(Protocol):
    """A command that trains."""

    @property
    def data(self) -> Corpus: ...

    @property
    def training(self) -> TrainConfig: ...

    @property
    def valid(self) -> ValidOptions: ...


@dataclass(frozen=True)
class Work:
    """What a command trains, and on what."""

    objective: nn.Module
    task: Task
    dataset: TrainRows
    sections: Section
    """Of ``config.json``, beside those that all commands have."""
    after: str
    """The command to go on with."""
    tts: TTSOptions | None = None
    """Of rows that are utterances."""
    about: str = ""
    """What else is said of the model."""


def launch(command: Training, work: Work, accelerator: Accelerator) -> Path:
    """Train, then draw the curves and write the model card."""
    from mfdistill.commands.saved import recorded
    from mfdistill.config import to_dict
    from mfdistill.distill.logs import say
    from mfdistill.distill.processes import bf16_is_slow
    from mfdistill.distill.train import train

    task, dataset, data = work.task, work.dataset, command.data
    role, training = work.sections["role"], in_steps(command.training, dataset)
    before = begun(training).get("training") or {}
    if training.epochs is not None and before.get("epochs") == training.epochs:
        # a recording that is gone does not change how long the run is
        training = replace(training, steps=before["steps"])
    validate = validation(command, work, accelerator)
    if accelerator.is_main_process:
        params = sum(p.numel() for p in work.objective.get_submodule("model").parameters() if p.requires_grad)  # fmt: skip
        processes = f" x {accelerator.num_processes}" if accelerator.num_processes > 1 else ""
        say(
            f"{role} '{task.config.name}' at {task.sample_rate} Hz, {params / 1e6:.2f} M parameters{work.about}, "
            f"on {accelerator.device}{processes}"
        )
        say(f"data {data.source}: {dataset.summary}")
        each = "utterances at most" if task.rows == "utterances" else f"x {data.crop_s:g} s"
        say(
            f"training for {training.steps} updates of {training.batch_size} {each} into {training.out}"
        )
        if training.mixed_precision == "bf16" and bf16_is_slow(accelerator.device):
            say(
                "--mixed-precision bf16: this processor has no instructions for it (no AVX-512), so fp32 is several "
                "times as fast; leave the option out"
            )
    sections = {"data": to_dict(data), "valid": to_dict(command.valid)}
    out = train(
        work.objective,
        dataset,
        task,
        training,
        model_config={**recorded(command), **work.sections, **sections},
        validate=validate,
        accelerator=accelerator,
        companions=task.companions,
    )
    if accelerator.is_main_process:
        finish(out)
        say(
            f"{out}: model.safetensors, config.json, log.jsonl, curves.png, README.md, report.html; go on with: mfdistill {work.after}"
        )
    return out


def validation(command: Training, work: Work, accelerator: Accelerator) -> Validate | None:
    """What is measured while training; None where nothing is."""
    from mfdistill.data.open import open_task_eval
    from mfdistill.distill.logs import say
    from mfdistill.distill.opening import attach_vocoder
    from mfdistill.distill.validation import make_validate
    from mfdistill.extras import remedy
    from mfdistill.metrics import present

    task, data, valid, training = work.task, command.data, command.valid, command.training
    if valid.valid_files < 1:
        return None
    utterances = open_task_eval(data, "valid", task, valid.valid_files, work.tts, training.seed)
    checks = utterances.checks(round(data.crop_s * task.sample_rate), training.batch_size)
    metrics, plain = valid.valid_metrics, valid.valid_metrics == ValidOptions.valid_metrics
    if plain and task.restores:
        metrics, absent = present(metrics)
        if absent and accelerator.is_main_process:
            say(
                f"validation by {', '.join(metrics)} alone: {', '.join(absent)} need packages; {remedy('pesq')}"
            )
    if not task.restores:
        # PESQ says nothing about generated speech
        metrics = () if plain else metrics
        if metrics:
            attach_vocoder(task, accelerator.device)
    return make_validate(
        work.objective,
        work.sections["role"],
        task,
        utterances,
        checks,
        valid.valid_nfe,
        metrics,
        training.seed,
    )


def finish(out: Path) -> None:
    """``curves.png``, the model card and the page of a run."""
    from mfdistill.commands.derived import refresh
    from mfdistill.distill.logs import read_log
    from mfdistill.report import curves_plot

    rows = read_log(out / "log.jsonl")
    if rows:
        curves_plot(rows, out / "curves.png", out.name)
    refresh(out)
