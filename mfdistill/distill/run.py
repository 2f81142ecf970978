"""A run: what it is made of, how it is opened from its folder, and how it is saved there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from mfdistill.checkpoint import remove_folder, save_folder
from mfdistill.companions import SECTION, copy_companions, named_companions
from mfdistill.config import to_dict
from mfdistill.data.config import DataConfig
from mfdistill.distill import state
from mfdistill.distill.ema import EMA
from mfdistill.distill.finishing.config import FinishConfig
from mfdistill.distill.logs import FILE, RunLog
from mfdistill.distill.moments import adamw
from mfdistill.distill.objectives.config import IntegralConfig, MeanFlowConfig
from mfdistill.distill.players import parameter_groups
from mfdistill.distill.processes import blank, prepare, whole
from mfdistill.distill.settings import TrainConfig, identity
from mfdistill.distill.trackers import FOLDERS
from mfdistill.errors import UserError
from mfdistill.integrity import check_finite
from mfdistill.networks.build import renamed
from mfdistill.networks.predictor import with_predictor
from mfdistill.parts import clean_parts
from mfdistill.plain import Plain
from mfdistill.students.adapter import ADAPTER, ADAPTER_CONFIG, has_adapter, save_adapter
from mfdistill.tasks.config import TaskConfig
from mfdistill.version import __version__

if TYPE_CHECKING:
    from accelerate import Accelerator

    from mfdistill.tasks import Task

SETTINGS: Mapping[str, type] = {
    "integral": IntegralConfig,
    "meanflow": MeanFlowConfig,
    "finish": FinishConfig,
}
"""Of the objectives that have some."""


@dataclass
class Run:
    """What a run is made of and what changes in it."""

    config: TrainConfig
    model_config: Plain
    accelerator: Accelerator
    task: Task
    objective: nn.Module
    wrapped: nn.Module
    """The objective as Accelerate prepared it."""
    optimizer: Any
    ema: EMA
    names: list[str]
    """Of the optimiser's parameters, in its order."""
    log: RunLog
    replica: nn.Module | None = None
    """What is validated where the model is sharded (``processes.blank``)."""
    step: int = 0
    """Steps done."""
    seconds: float = 0.0
    """Spent in them."""
    skipped: int = 0
    skipped_in_a_row: int = 0
    best: float | None = None
    to_validate: bool = False
    """A validation is due at this step and was not done (a signal came before it)."""
    window: dict[str, list[float]] | None = None
    """Sum and count of what was measured since the last log line."""

    @property
    def model(self) -> nn.Module:
        return self.objective.model  # type: ignore[return-value]


# fields of Run that state.json keeps
PLAIN = ("step", "seconds", "skipped", "skipped_in_a_row", "best", "to_validate", "window")


def find_run(config: TrainConfig, model_config: Plain) -> state.Found | None:
    """The newest whole state of the run to continue, or None where one starts. Changes nothing, so
    every rank comes to the same answer.

    Raises:
        UserError: the folder is in use and neither ``resume`` nor ``overwrite`` is set, the
            resumed run had other settings, or all its states are damaged.
    """
    if not config.resume:
        return None
    out = Path(config.out)
    found = state.find_state(out)
    if found is None:
        if (out / "model.safetensors").is_file():
            raise UserError(
                f"{out}: holds a model but no {state.FOLDER}; --overwrite it or name another --out"
            )
        return None
    state.check_info(found.info, found.folder)
    before = found.info["identity"]
    now = json.loads(json.dumps(identity(config, model_config)))
    before, now = _with_new_names(before), _with_new_names(now)
    before = _with_new_fields(before, now)
    if config.extend and config.steps >= before["training"]["steps"]:
        before = {**before, "training": {**before["training"], "steps": config.steps}}
        found.info["finished"] = found.info["step"] >= config.steps
    different = state.first_difference(before, now)
    if different is not None:
        key, own, given = different
        raise UserError(
            f"{out}: cannot resume with {key} = {given!r}: the run was started with {own!r}; give that, or name another --out"
        )
    return found


def _with_new_names(sections: Plain) -> Plain:
    """Sections of ``config.json`` whose network's fields have today's names."""
    network = sections.get("network")
    if not isinstance(network, Mapping) or not network.get("config"):
        return sections
    return {**sections, "network": {**network, "config": renamed(network["config"])}}


def _with_new_fields(before: Plain, now: Plain) -> Plain:
    """What an older version wrote, with the settings that came since at their defaults, which do
    what it did.
    """
    known: dict[str, Any] = {"training": TrainConfig, "data": DataConfig, "task": TaskConfig}
    objective = str((before.get("objective") or {}).get("name"))
    if objective in SETTINGS:
        known["objective"] = SETTINGS[objective]
    filled = dict(before)
    for section, cls in known.items():
        old, new = before.get(section), now.get(section)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            defaults = json.loads(json.dumps(to_dict(cls())))
            added = {k: v for k, v in defaults.items() if k in new and k not in old}
            filled[section] = {**added, **old}
    return filled


def how_begun(config: TrainConfig, found: state.Found | None) -> list[str]:
    """What a log says first of a run that is continued."""
    if found is None:
        return []
    step = found.info["step"]
    return [
        *(f"{text}; the state of step {step} is used instead" for text in found.damaged),
        f"{config.out}: resumed at step {step}",
    ]


def prepare_folder(config: TrainConfig, found: state.Found | None) -> None:
    """Make the folder ready; called on one process."""
    out = Path(config.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        clean_parts([out, out / "best"])
        if found is not None:
            state.settle(out, found.folder)
            return
        for name in named_companions(out):
            (out / name).unlink(missing_ok=True)
        # only what a run writes, since the folder may be anything; the state goes last, or a kill
        # here would orphan the model
        for name in ("model.safetensors", ADAPTER, ADAPTER_CONFIG, "config.json", FILE):
            (out / name).unlink(missing_ok=True)
        for folder in (out / "best", *(out / name for name in FOLDERS), *state.folders(out)):
            remove_folder(folder)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error}); name another --out") from error


def build_run(
    objective: nn.Module,
    task: Task,
    config: TrainConfig,
    model_config: Plain,
    accelerator: Accelerator,
    saved: Plain | None,
) -> Run:
    """Everything on its device, with the saved values where there are any."""
    groups, names = parameter_groups(objective, config)
    optimizer = adamw(groups, config, accelerator.device)
    # micro-batches are averaged by the loop, whatever the launcher was told
    accelerator.gradient_accumulation_steps = 1
    teacher = objective.__dict__.get("teacher")
    if teacher is not None:
        teacher.to(accelerator.device)
    objective.train()
    # never the bare model: derivatives are taken inside the objective
    replica = blank(objective.model) if accelerator.is_fsdp2 else None  # type: ignore[arg-type]
    wrapped, optimizer = prepare(accelerator, objective, optimizer)
    out = Path(config.out)
    run = Run(
        config=config,
        model_config=model_config,
        accelerator=accelerator,
        task=task,
        objective=objective,
        wrapped=wrapped,
        optimizer=optimizer,
        ema=EMA(
            objective.model,  # type: ignore[arg-type]
            config.ema_decay,
            "cpu" if config.ema_on == "cpu" else None,
        ),
        names=names,
        replica=replica,
        log=RunLog(
            out,
            config.steps,
            saved["step"] if saved else 0,
            accelerator,
            config.log_with,
            {**model_config, "training": to_dict(config)},
        ),
    )
    if saved is not None:
        folder = out / state.FOLDER
        for name in PLAIN:
            setattr(run, name, saved[name])
        state.restore_module(objective, folder / "raw.safetensors")
        averages = state.load_tensors(folder / "ema.safetensors", check=False)
        run.ema.load(averages, saved["ema_updates"])
        state.restore_optimizer(optimizer, run.names, folder / "optimizer.safetensors")
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(saved["scaler"])
    return run


def save_model(run: Run, folder: Path) -> None:
    """Write the averaged weights and ``config.json``: by the main process, called on all."""
    training = {
        **to_dict(run.config),
        "step": run.step,
        "hours": run.seconds / 3600,
        "processes": run.accelerator.num_processes,
    }
    with run.ema.applied():
        weights = whole(run.model.state_dict(), run.accelerator.is_main_process)
        if not run.accelerator.is_main_process:
            return
        version = {"version": __version__}
        config = {**run.model_config, "training": training, **version}
        if has_adapter(model := run.model):
            save_adapter(model, folder, config)
        else:
            save_folder(folder, with_predictor(weights, run.task), config)
    if folder != Path(run.config.out):
        copy_companions(Path(run.config.out), folder, run.model_config.get(SECTION) or {})


def save_run(run: Run, with_model: bool = True) -> None:
    """Write the model, then ``training_state/``: killed between them, the resumed run comes to this
    model again. Called on all processes, written by the main one.

    Raises:
        UserError: a full disk, or weights that are not finite; what was saved before stays.
    """
    out, main = Path(run.config.out), run.accelerator.is_main_process
    tensors = {
        "raw": whole(state.module_tensors(run.objective), main),
        "ema": whole(run.ema.averages, main),
        "optimizer": whole(state.optimizer_tensors(run.optimizer, run.names), main),
    }
    check_finite(tensors["raw"], out)  # the state before it is worth more
    if with_model:
        save_model(run, out)
    if not main:
        return
    info = {name: getattr(run, name) for name in PLAIN} | {
        "finished": run.step >= run.config.steps and not run.to_validate,
        "ema_updates": run.ema.updates,
        "scaler": run.accelerator.scaler.state_dict()
        if run.accelerator.scaler is not None
        else None,
        "identity": identity(run.config, run.model_config),
        "command": run.model_config.get("command"),
    }
    state.save_state(out, tensors, info, run.config.keep_states)
