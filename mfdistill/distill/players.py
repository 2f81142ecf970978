"""Who is optimised: the model, and whoever is trained against it or beside it in the same objective
(critics), each with a learning rate, moments, a gradient norm and a first update of its own.

One AdamW holds them all, in groups, so that saving, resuming and mixed precision are those of a
model alone. An objective that has only its model needs to know nothing of this.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mfdistill.distill.settings import TrainConfig, lr_factor
from mfdistill.plain import Plain

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.optim import Optimizer

MODEL = "model"


@dataclass(frozen=True)
class Player:
    """Beside the model: a part of the objective and how it is trained."""

    module: nn.Module
    lr: float
    betas: tuple[float, float] = (0.9, 0.99)
    grad_clip: float = 1.0


def others(objective: nn.Module) -> Mapping[str, Player]:
    """``objective.players``: name -> player beside the model; most objectives have none."""
    return objective.__dict__.get("players", {})


def model_begins(objective: nn.Module) -> int:
    """``objective.alone``: updates at the start in which only the other players are trained."""
    return objective.__dict__.get("alone", 0)


def parameter_groups(objective: nn.Module, config: TrainConfig) -> tuple[list[Plain], list[str]]:
    """AdamW's groups, and the names of their parameters in its order: of every player first those
    without decay (biases and gains), then the others.
    """
    owner = {id(p): name for name, it in others(objective).items() for p in it.module.parameters()}
    groups, names = [], []
    for player in (MODEL, *others(objective)):
        named = [
            (name, value)
            for name, value in objective.named_parameters()
            if value.requires_grad and owner.get(id(value), MODEL) == player
        ]
        about = others(objective).get(player)
        lr, betas = (config.lr, config.betas) if about is None else (about.lr, about.betas)
        for big, decay in ((False, 0.0), (True, config.weight_decay)):
            part = [(name, value) for name, value in named if (value.ndim >= 2) == big]
            if part:
                group = {"weight_decay": decay, "lr": lr, "betas": betas, "player": player}
                groups.append({"params": [value for _, value in part], **group})
                names += [name for name, _ in part]
    return groups, names


def learning_rates(objective: nn.Module, config: TrainConfig, step: int) -> dict[str, float]:
    """Of every player at ``step``: the model's curve begins with its own first update, the others
    keep theirs after the warm-up, since the model would outrun critics that slow down.
    """
    wait = model_begins(objective)
    own = replace(config, steps=config.steps - wait)
    rates = {MODEL: config.lr * lr_factor(max(0, step - wait), own)}
    return rates | {name: it.lr * lr_factor(step, config) for name, it in others(objective).items()}


def set_rates(optimizer: Optimizer, rates: Mapping[str, float]) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rates[group["player"]])
        else:
            group["lr"] = rates[group["player"]]


def clip(objective: nn.Module, config: TrainConfig, accelerator: Accelerator) -> dict[str, Tensor]:
    """Clip the gradients of each player by itself.

    Returns: their norms before, by ``grad_norm`` of the model and ``grad_norm_NAME`` of the others.
    """
    # the model's come first, with which Accelerate takes the scale of fp16 off all gradients
    norms: dict[str, Tensor | None] = {
        "grad_norm": accelerator.clip_grad_norm_(_of_model(objective), config.grad_clip or math.inf)
    }
    for name, it in others(objective).items():
        norms[f"grad_norm_{name}"] = torch.nn.utils.clip_grad_norm_(
            it.module.parameters(), it.grad_clip or math.inf
        )
    return {name: norm for name, norm in norms.items() if norm is not None}


def leave_out_resting(objective: nn.Module, step: int) -> bool:
    """Whether the model is trained at ``step``; if not, its gradients are dropped, so that the
    optimiser passes it over.
    """
    trained = step >= model_begins(objective)
    if not trained:
        for value in _of_model(objective):
            value.grad = None
    return trained


def _of_model(objective: nn.Module) -> list[Tensor]:
    owned = {id(p) for it in others(objective).values() for p in it.module.parameters()}
    return [value for value in objective.parameters() if id(value) not in owned]
