"""Validation of students of Mel flows: their loss, and how far they land from their teacher, from
the same noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mfdistill.distill.foreign import ForeignBatches
from mfdistill.distill.objectives.base import reduce, squared_error, teacher_velocity
from mfdistill.flow import noise, solve
from mfdistill.students import sample
from mfdistill.teachers.field import Field

REFERENCE_STEPS = 16  # midpoint: 32 evaluations


def make_foreign_validate(
    objective: nn.Module,
    batches: ForeignBatches,
    raws: Sequence[Mapping[str, Any]],
    nfe: Sequence[int],
    seed: int = 0,
) -> Callable[[nn.Module, int, Any], dict[str, float]]:
    """``validate(model, step, accelerator)`` for ``distill.train.train``: ``loss``, and per number
    of equal steps the root mean square difference of log-Mels (nepers, over the frames that count)
    to the guided teacher at 16 midpoint steps from the same noise: ``mel_error_N`` of the student,
    ``teacher_error_N`` of the teacher at N Euler steps.
    """
    teacher: Field = objective.teacher  # type: ignore[assignment]
    kept: list[tuple[Tensor, dict[str, float]]] = []

    def references(batch: Mapping[str, Any], z_0: Tensor) -> tuple[Tensor, dict[str, float]]:
        def velocity(z: Tensor, t: Tensor) -> Tensor:
            return teacher_velocity(teacher, z, t, batch["cond"])

        z_1 = solve(velocity, z_0, REFERENCE_STEPS)
        return z_1, {
            f"teacher_error_{n}": _square(solve(velocity, z_0, n, "euler"), z_1, batch) for n in nfe
        }

    def validate(model: nn.Module, step: int, accelerator: Any) -> dict[str, float]:
        sums: dict[str, float] = {}
        for number, raw in enumerate(raws):
            batch = batches.batch(raw, accelerator.device) | {"progress": 1.0, "loss_count": None}
            x = batch["z_1"]
            z_0 = batches.path.prior(
                batch["cond"], noise(seed, batch["index"], "valid", x.shape[1:], device=x.device)
            )
            # some derivatives of the student are taken by backward passes
            with torch.enable_grad():
                found = {"loss": float(objective(batch)[0].detach())}
            if number == len(kept):
                kept.append(references(batch, z_0))
            z_1, found_by_teacher = kept[number]
            for n in nfe:
                made = sample(model, z_0, batch["cond"], n)  # type: ignore[arg-type]
                found[f"mel_error_{n}"] = _square(made, z_1, batch)
            for key, value in {**found, **found_by_teacher}.items():
                sums[key] = sums.get(key, 0.0) + value / len(raws)
        return {key: value if key == "loss" else value**0.5 for key, value in sums.items()}

    return validate


def _square(estimate: Tensor, reference: Tensor, batch: Mapping[str, Any]) -> float:
    return float(
        reduce(
            squared_error(estimate, reference, batch["loss_mask"]), {**batch, "loss_count": None}
        )
    )
