"""What teacher-train and student-distill have in common: validation set, summary, the run, and its
figure and card.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mfdistill.checkpoint import load_config
from mfdistill.commands.options import Corpus, ValidOptions
from mfdistill.distill.settings import TrainConfig, in_steps
from mfdistill.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from mfdistill.tasks import Restoration


def launch(
    objective: nn.Module,
    task: Restoration,
    dataset: Any,
    data: Corpus,
    training: TrainConfig,
    valid: ValidOptions,
    model_config: dict[str, Any],
    accelerator: Any,
    after: str,
) -> Path:
    """Train, then draw the curves and write the model card; ``after`` is the command to go on
    with.
    """
    from mfdistill.data import open_eval
    from mfdistill.distill.inference import attach_vocoder
    from mfdistill.distill.logs import say
    from mfdistill.distill.train import train
    from mfdistill.distill.validation import make_validate
    from mfdistill.extras import remedy
    from mfdistill.metrics import present

    role, training = model_config["role"], in_steps(training, dataset)
    before = begun(training).get("training") or {}
    if training.epochs is not None and before.get("epochs") == training.epochs:
        # a recording that is gone does not change how long the run is
        training = replace(training, steps=before["steps"])
    validate = None
    if valid.valid_files > 0:
        utterances = open_eval(
            data, "valid", task.degradation, task.sample_rate, limit=valid.valid_files
        )
        metrics = valid.valid_metrics
        if metrics == ValidOptions.valid_metrics:
            metrics, absent = present(metrics)
            if absent and task.restores and accelerator.is_main_process:
                say(
                    f"validation by {', '.join(metrics)} alone: {', '.join(absent)} "
                    f"need packages; {remedy('pesq')}"
                )
        if not task.restores:
            # PESQ says nothing about generated speech
            metrics = () if valid.valid_metrics == ValidOptions.valid_metrics else metrics
            if metrics:
                attach_vocoder(task, accelerator.device)
        validate = make_validate(
            objective, role, task, utterances, valid.valid_nfe, metrics, training.seed, data.crop_s
        )
    if accelerator.is_main_process:
        params = sum(p.numel() for p in objective.model.parameters() if p.requires_grad)  # type: ignore[union-attr, operator]
        processes = f" x {accelerator.num_processes}" if accelerator.num_processes > 1 else ""
        say(
            f"{role} '{task.config.name}' at {task.sample_rate} Hz, {params / 1e6:.2f} M parameters, on {accelerator.device}{processes}"
        )
        say(f"data {data.source}: {dataset.summary}")
        say(
            f"training for {training.steps} updates of {training.batch_size} x {data.crop_s:g} s into {training.out}"
        )
    out = train(
        objective,
        dataset,
        task,
        training,
        model_config=model_config,
        validate=validate,
        accelerator=accelerator,
    )
    if accelerator.is_main_process:
        finish(out)
        say(
            f"{out}: model.safetensors, config.json, log.jsonl, curves.png, README.md, report.html; go on with: mfdistill {after}"
        )
    return out


def finish(out: Path) -> None:
    """``curves.png``, the model card and the page of a run."""
    from mfdistill.commands.derived import refresh
    from mfdistill.distill.logs import read_log
    from mfdistill.report import curves_plot

    rows = read_log(out / "log.jsonl")
    if rows:
        curves_plot(rows, out / "curves.png", out.name)
    refresh(out)


def same_task(own: Restoration, other: Restoration, what: str) -> None:
    """Raise ``UserError`` unless a checkpoint's task is the one that is trained for, whatever the
    temperature, which is one of sampling.
    """
    from mfdistill.config import to_dict
    from mfdistill.distill.state import first_difference

    theirs, here = (to_dict(task.config) | {"temperature": None} for task in (other, own))
    if different := first_difference(theirs, here):
        key, theirs, ours = different
        raise UserError(
            f"{what}: is of another task ({key} is {theirs!r}, here {ours!r}); choose another one or change the options"
        )


def measured(training: TrainConfig) -> float | None:
    """``residual_std`` of the run to be resumed, if there is one."""
    network = begun(training).get("network") or {}
    return (network.get("config") or {}).get("residual_std")


def begun(training: TrainConfig) -> dict[str, Any]:
    """The sections of the run to be resumed, from its first step on: what was measured on the data
    is measured once, whatever becomes of the data. Empty where there is no such run.
    """
    from mfdistill.distill.state import find_state

    if not training.resume:
        return {}
    if (Path(training.out) / "config.json").is_file():
        return load_config(training.out)
    found = find_state(Path(training.out))
    identity = {} if found is None else found.info.get("identity")
    return identity if isinstance(identity, dict) else {}
