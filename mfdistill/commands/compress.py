"""compress."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import OmitArgPrefixes

from mfdistill.commands.options import Corpus, ValidOptions
from mfdistill.config import to_dict
from mfdistill.distill.settings import TrainConfig
from mfdistill.plain import Plain

if TYPE_CHECKING:
    from torch import nn

    from mfdistill.distill.opening import Model


@dataclass(frozen=True)
class Compress:
    """Make a smaller student (or teacher, or regression network): its convolutions decoupled and
    fine-tuned, or eight-bit for CPUs.
    """

    model: Annotated[str, tyro.conf.arg(metavar="FOLDER")]
    """The model's folder."""
    keep: int | None = None
    """Filters per channel that are kept of each convolution, 1 to 9; 9 changes nothing."""
    int8: bool = False
    """Weights and activations of the inner layers in eight bits instead; on a model that was
    decoupled before, too.
    """
    calibration_files: int = 8
    """int8: validation utterances that the ranges of activations are measured on."""
    config: str | None = None
    """config.json of a run to repeat; the other options override it."""
    data: Corpus = field(default_factory=Corpus)
    """By default what the model was trained on."""
    training: OmitArgPrefixes[TrainConfig] = field(
        default_factory=lambda: TrainConfig(
            out="runs/compressed", steps=1000, batch_size=8, lr=5e-4, warmup=20, weight_decay=0.0
        )
    )
    """--keep: of the fine-tuning, in which the smaller network imitates the whole one."""
    valid: OmitArgPrefixes[ValidOptions] = field(default_factory=ValidOptions)


def run(command: Compress) -> Path:
    """Compress as ``command`` says; returns the new folder.

    Raises:
        UserError: bad options or model. Interrupted: stopped by a signal, after saving.
    """
    from mfdistill.distill.opening import open_audio_model
    from mfdistill.errors import UserError
    from mfdistill.search.cache import digest_tensors

    if (command.keep is None) != command.int8:
        raise UserError("compress: give one of --keep K and --int8 (one after the other for both)")
    model = open_audio_model(command.model, "cpu")
    section = dict(model.config.get("network") or {})
    if section.get("int8"):
        raise UserError(f"--model {command.model}: is in eight bits already")
    parent = {"model": command.model, "sha256": digest_tensors(model.module.state_dict())}
    kept = ("role", "task", "schedule", "schedules", "interval", "predictor")
    config = {key: model.config[key] for key in kept if key in model.config} | {
        "parent": parent,
        "data": to_dict(command.data),
    }
    return (
        _int8(command, model, section, config)
        if command.int8
        else _decoupled(command, model, section, config)
    )


def _decoupled(command: Compress, model: Model, section: Plain, config: Plain) -> Path:
    from mfdistill.commands.training import Work, launch
    from mfdistill.data.open import open_task_train
    from mfdistill.distill.logs import say
    from mfdistill.distill.objectives.imitation import ImitationObjective
    from mfdistill.distill.processes import make_accelerator
    from mfdistill.networks.causal_layers import freeze_norms
    from mfdistill.students.compress import decouple

    assert command.keep is not None
    training = command.training
    accelerator = make_accelerator(training)
    network = decouple(inner(model), command.keep)
    section["config"] = to_dict(network.config)  # type: ignore[arg-type]
    module = with_inner(model, network)
    freeze_norms(module)
    before, after = (sum(p.numel() for p in part.parameters()) for part in (model.module, module))
    if accelerator.is_main_process:
        say(
            f"{command.model}: {before:,} parameters, {after:,} with {command.keep} filters per channel"
        )
    objective = ImitationObjective(module, model.module, model.task.path, model.role, training.seed)
    dataset = open_task_train(command.data, model.task)
    config |= {"network": section, "objective": {"name": "imitation", "keep": command.keep}}
    after_it = f"compress --model {training.out} --int8, or evaluate"
    return launch(command, Work(objective, model.task, dataset, config, after_it), accelerator)


def _int8(command: Compress, model: Model, section: Plain, config: Plain) -> Path:
    from mfdistill.checkpoint import save_folder
    from mfdistill.commands.derived import refresh
    from mfdistill.data import open_eval
    from mfdistill.distill.inference import endpoint, restore
    from mfdistill.distill.logs import say
    from mfdistill.errors import UserError
    from mfdistill.networks.predictor import with_predictor
    from mfdistill.students.quantize import quantize

    out = Path(command.training.out)
    if out.exists() and any(out.iterdir()) and not command.training.overwrite:
        raise UserError(
            f"{out}: already holds files; --overwrite replaces the model, or name another --out"
        )
    utterances = open_eval(
        command.data,
        "valid",
        model.task.degradation,
        model.task.sample_rate,
        limit=command.calibration_files,
    )

    def use(network: nn.Module) -> None:
        module = with_inner(model, network)
        sampled = endpoint(model.role, module, model.task)
        for i in range(len(utterances)):
            restore(
                model.audio_task,
                sampled,
                utterances[i]["degraded"],
                5 if model.role == "teacher" else None,
                0,
                i,
            )
            if model.role == "student":
                restore(model.audio_task, sampled, utterances[i]["degraded"], 1, 0, i)

    network, names = quantize(inner(model), use)
    section["int8"] = names
    config |= {
        "network": section,
        "objective": {"name": "int8"},
        "training": dict(model.config.get("training") or {}),
    }
    tensors = with_inner(model, network).state_dict()
    save_folder(out, with_predictor(tensors, model.task), config)
    refresh(out)
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    say(f"{out}: {len(names)} layers in eight bits, {size / 1e6:.2f} MB")
    return out


def inner(model: Model) -> nn.Module:
    """The network inside a student; any other model is one."""
    return model.module.get_submodule("network") if model.role == "student" else model.module


def with_inner(model: Model, network: nn.Module) -> nn.Module:
    """A copy of a model's module with another network inside."""
    if model.role != "student":
        return network
    new = copy.deepcopy(model.module)
    new.network = network
    return new
