"""How a run is trained: its settings, their check, and the learning-rate curve."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from mfdistill.config import to_dict
from mfdistill.distill.trackers import chosen
from mfdistill.errors import UserError
from mfdistill.plain import Plain

if TYPE_CHECKING:
    from accelerate import Accelerator

# a resumed run may change these: they do not touch what is learnt
FREE_DATA = ("on_bad_file", "bad_share")
FREE = (
    *("out", "resume", "overwrite", "time_limit_hours", "num_workers", "accumulation"),
    *("valid_every", "valid_epochs", "save_every", "keep_states", "log_every", "max_skipped"),
    *("sharded", "log_with", "ema_on"),
    "extend",
)


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run."""

    out: str = "runs/model"
    """Folder of the run."""
    steps: int = 6000
    """Optimiser updates."""
    epochs: int | None = None
    """Instead of 'steps': so often as many crops as the training split has recordings."""
    batch_size: int = 16
    """Crops per update over all processes and accumulated micro-batches."""
    accumulation: int = 1
    """Micro-batches per update and process; saves memory, changes nothing else."""
    lr: float = 1e-3
    """Highest learning rate."""
    lr_end: float = 0.0
    """Learning rate of the last step, as a fraction of the highest."""
    schedule: Annotated[
        Literal["cosine", "constant"], tyro.conf.arg(name="lr-schedule", prefix_name=False)
    ] = "cosine"
    """Of the learning rate, after the warm-up."""
    warmup: int = 200
    """Steps over which the learning rate rises from 0."""
    weight_decay: float = 0.01
    """Of matrices and kernels; biases and gains have none."""
    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW's."""
    moments: Literal["fp32", "8bit"] = "fp32"
    """AdamW's; in 8 bits (package torchao) they take a quarter of the memory."""
    grad_clip: float = 1.0
    """Highest norm of the gradient; 0 is no limit."""
    ema_decay: float = 0.999
    """Of the averaged weights, which are what is saved; min(decay, (1 + n) / (10 + n)) at update
    n.
    """
    ema_on: Literal["device", "cpu"] = "device"
    """Where the averages are kept; in the main memory they cost the device nothing, and every
    update the time of a copy.
    """
    seed: int = 0
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    valid_every: int = 1000
    """Steps between validations; 0 is only at the end."""
    valid_epochs: int | None = None
    """Instead of 'valid_every': epochs between validations."""
    save_every: int = 500
    """Steps between saves; 0 is only at the end."""
    keep_states: int = 2
    """Last saves that can be resumed from; where the newest is damaged, the one before is used."""
    log_every: int = 50
    """Steps between log lines."""
    log_with: Literal["tensorboard", "wandb", "trackio", "none"] | None = None
    """Where curves, settings and, at validation, sounds and spectrograms go beside log.jsonl; by
    default tensorboard where it is installed.
    """
    num_workers: int = 1
    """Threads that prepare data ahead, per process; 0 is none."""
    best_metric: str | None = None
    """Validation metric whose best checkpoint is kept in the folder 'best' of the run."""
    best_mode: Literal["max", "min"] = "max"
    max_skipped: int = 50
    """Updates skipped in a row, for a loss or gradient that is not finite, before the run stops."""
    time_limit_hours: float | None = None
    """Save and stop after this time of this call, to be resumed; the learning-rate curve stays that
    of 'steps'.
    """
    sharded: bool = False
    """Share out parameters, gradients, averages and the optimiser's state (FSDP2)."""
    resume: bool = False
    """Continue the run in 'out' exactly where it was saved."""
    extend: bool = False
    """With 'resume': 'steps' may be more than the run was started with."""
    overwrite: bool = False
    """Replace a run that is already in 'out'."""


def in_steps(config: TrainConfig, dataset: object) -> TrainConfig:
    """``epochs`` and ``valid_epochs`` as ``steps`` and ``valid_every``, from the number of
    recordings of ``dataset``.

    Raises:
        UserError: a stream, whose length nobody knows, or a number below 1.
    """
    if config.epochs is None and config.valid_epochs is None:
        return config
    recordings = getattr(dataset, "clean", None)
    if recordings is None:
        raise UserError(
            "--epochs, --valid-epochs: this corpus is a stream of unknown length; give --steps and --valid-every"
        )
    for name in ("epochs", "valid_epochs"):
        if (value := getattr(config, name)) is not None and value < 1:
            raise UserError(f"--{_flag(name)} {value}: must be at least 1")
    each = math.ceil(len(recordings) / config.batch_size)
    return replace(
        config,
        steps=config.steps if config.epochs is None else config.epochs * each,
        valid_every=config.valid_every
        if config.valid_epochs is None
        else config.valid_epochs * each,
    )


# what an option may ask of a machine
_MOST = {"batch_size": 65536, "accumulation": 65536, "num_workers": 256, "keep_states": 1000}


def check(config: TrainConfig, world: int) -> None:
    """Raise ``UserError`` for a value that cannot be trained with on ``world`` processes."""
    for name in ("steps", "batch_size", "accumulation", "keep_states", "log_every", "max_skipped"):
        if getattr(config, name) < 1:
            raise UserError(f"--{_flag(name)} {getattr(config, name)}: must be at least 1")
    for name in (
        "warmup",
        "valid_every",
        "save_every",
        "num_workers",
        "grad_clip",
        "weight_decay",
        "lr_end",
        "seed",
    ):
        if not getattr(config, name) >= 0:
            raise UserError(f"--{_flag(name)} {getattr(config, name)}: must not be negative")
    for name, most in _MOST.items():
        if getattr(config, name) > most:
            raise UserError(f"--{_flag(name)} {getattr(config, name)}: must be at most {most}")
    if not config.lr > 0:
        raise UserError(f"--lr {config.lr}: must be positive")
    if not 0 <= config.ema_decay < 1:
        raise UserError(f"--ema-decay {config.ema_decay}: must be at least 0 and less than 1")
    if config.time_limit_hours is not None and not config.time_limit_hours > 0:
        raise UserError(
            f"--time-limit-hours {config.time_limit_hours}: must be positive; leave it out for no limit"
        )
    if config.resume and config.overwrite:
        raise UserError("--resume and --overwrite exclude each other: give one of them")
    if config.sharded and config.moments != "fp32":
        raise UserError("--moments 8bit: --sharded shares out the moments already; leave it out")
    if config.sharded and config.ema_on != "device":
        raise UserError("--ema-on cpu: --sharded shares out the averages already; leave it out")
    parts = world * config.accumulation
    if config.batch_size % parts:
        raise UserError(
            f"--batch-size {config.batch_size}: cannot be shared out to {world} processes x {config.accumulation} micro-batches; "
            f"use a multiple of {parts}"
        )


def check_run(config: TrainConfig, world: int) -> None:
    """What can be told of a run before its model is made: its settings, and its folder.

    Raises:
        UserError: bad settings, or a folder that is in use by another run.
    """
    check(config, world)
    chosen(config.log_with)
    out = Path(config.out)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; --out needs a folder")
    if not config.resume and out.is_dir() and any(out.iterdir()) and not config.overwrite:
        raise UserError(
            f"{out}: already holds files; --resume continues that run, --overwrite replaces it, or name another --out"
        )


def check_end(config: TrainConfig, skipped: int, accelerator: Accelerator) -> None:
    """Raise ``UserError`` if a run ended while its updates were still left out, ``skipped`` in a
    row; the loss scale of fp16 leaves out two now and then.
    """
    if skipped > (0 if accelerator.scaler is None else 2):
        raise UserError(
            f"{config.out}: ended at step {config.steps} with loss or gradient not finite in the last {skipped} updates: the "
            f"model is that of step {config.steps - skipped}; start again with a lower --lr or --grad-clip"
        )


def _flag(name: str) -> str:
    return name.replace("_", "-")


def identity(config: TrainConfig, model_config: Plain) -> Plain:
    """What must be the same for a run to be continued: all settings that decide what is learnt."""
    training = {key: value for key, value in to_dict(config).items() if key not in FREE}
    # a search writes schedules, validation teaches nothing
    free = ("format", "command", "training", "schedule", "schedules", "valid")
    same = {key: value for key, value in model_config.items() if key not in free}
    if isinstance(same.get("data"), Mapping):  # a run that a bad file stopped goes on without it
        same["data"] = {key: value for key, value in same["data"].items() if key not in FREE_DATA}
    return {**same, "training": training}


def lr_factor(step: int, config: TrainConfig) -> float:
    """Learning rate of step ``step`` (from 0) as a fraction of ``config.lr``: linear warm-up, then
    half a cosine down to ``lr_end``.
    """
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "constant":
        return 1.0
    done = min(1.0, (step - config.warmup) / max(1, config.steps - config.warmup))
    return config.lr_end + (1 - config.lr_end) * 0.5 * (1 + math.cos(math.pi * done))
