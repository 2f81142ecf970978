"""Scores of a model on whole utterances, shared out to the ranks; validation while training uses
them too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from mfdistill.data.texts import prepared
from mfdistill.distill.batch import make_batch
from mfdistill.distill.inference import endpoint, generate
from mfdistill.distill.objectives.base import reduce, squared_error, teacher_velocity
from mfdistill.distill.trackers import listener
from mfdistill.flow import noise, solve
from mfdistill.metrics import Workers, named, score_utterances, summarise
from mfdistill.metrics.score import Utterance, named_pair
from mfdistill.plain import Batch, Item, Plain, Raw
from mfdistill.tasks import Task

if TYPE_CHECKING:
    from accelerate import Accelerator

    from mfdistill.teachers import Field

System = Callable[[Tensor, int], Tensor]
"""``(degraded (s,), utterance number) -> restored (s,)``"""
Keep = Callable[[str, np.ndarray], None]
Measure = Callable[[nn.Module, int, "Accelerator"], dict[str, float]]
REFERENCE_STEPS = 16  # midpoint: 32 evaluations


def score_system(
    system: System,
    utterances: Sequence[Item],
    metrics: Sequence[str],
    sample_rate: int,
    accelerator: Accelerator | None = None,
    pool: Workers | None = None,
    keep: Keep | None = None,
    task: Task | None = None,
) -> list[Plain]:
    """A row per utterance, in their order, the same on every rank; each rank restores and scores
    every ``num_processes``-th.

    Args:
        keep: called with name and restored waveform (to write it, say).
        task: says which part of an utterance is judged; None is all of it.
    """
    rank, world = (
        (accelerator.process_index, accelerator.num_processes)
        if accelerator is not None
        else (0, 1)
    )
    device = accelerator.device if accelerator is not None else "cpu"
    own = range(rank, len(utterances), world)

    def pairs() -> Iterator[Utterance]:
        for i in own:
            item = utterances[i]
            restored = system(item["degraded"].to(device), i).cpu().numpy()
            if keep is not None:
                keep(item["name"], restored)
            whole = restored, item["clean"].numpy()
            yield named_pair(item["name"], whole if task is None else task.compared(item, restored))

    rows = [
        {"utterance": i, **row}
        for i, row in zip(
            own, score_utterances(pairs(), metrics, sample_rate, pool=pool), strict=True
        )
    ]
    if world > 1:
        from accelerate.utils import gather_object

        rows = sorted(gather_object(rows), key=lambda row: row["utterance"])
    return rows


def make_validate(
    objective: nn.Module,
    role: str,
    task: Task,
    utterances: Sequence[Item],
    checks: Sequence[Raw],
    nfe: Sequence[int] = (1,),
    metrics: Sequence[str] = ("pesq", "estoi", "sisdr"),
    seed: int = 0,
) -> Callable[[nn.Module, int, Any], dict[str, float]]:
    """``validate(model, step, accelerator)`` for ``distill.train.train``: the objective's loss, and
    means of ``metrics`` at each number of evaluations (``pesq_1``, ...; a regression network has
    one evaluation and no number). Of tasks that restore nothing, a student's distance to its
    teacher too (``_distance``).

    Args:
        checks: micro-batches of fixed rows (``checks`` of the utterances), which loss and distance
            are measured on.

    Raises:
        UserError: an unknown metric or one whose package is missing.
    """
    columns = [metric.primary for metric in named(metrics)] if metrics else []
    if task.needs_text:
        checks = [{**raw, "text": prepared(raw["text"], task.config)} for raw in checks]
    teacher: Field | None = objective.__dict__.get("teacher")
    measures: list[Measure] = [lambda model, step, accelerator: _loss(objective, task, checks, accelerator)]  # fmt: skip
    if task.rows == "utterances" and teacher is not None:
        measures.append(_distance(teacher, task, checks, nfe, seed))

    def heard(model: nn.Module, step: int, accelerator: Accelerator) -> dict[str, float]:
        values: dict[str, float] = {}
        run = endpoint(role, model, task)
        for number in nfe if role != "regression" else (None,):

            def system(wave: Tensor, index: int, steps: int | None = number) -> Tensor:
                return generate(task, run, utterances[index], wave.device, steps, seed, index)

            rows = score_system(
                system,
                utterances,
                metrics,
                task.sample_rate,
                accelerator,
                keep=listener(accelerator, f"restored_{number or 1}", task.sample_rate, step),
                task=task,
            )
            summary = summarise(rows)
            values |= {
                column if number is None else f"{column}_{number}": summary[column]
                for column in columns
            }
        return values

    if columns:
        measures.append(heard)

    def validate(model: nn.Module, step: int, accelerator: Accelerator) -> dict[str, float]:
        values: dict[str, float] = {}
        for measure in measures:
            values |= measure(model, step, accelerator)
        return values

    return validate


def _batches(task: Task, checks: Sequence[Raw], accelerator: Accelerator) -> Iterator[Batch]:
    for raw in checks:
        batch = make_batch(task, raw, accelerator.device)
        batch["progress"], batch["loss_count"] = 1.0, None
        yield batch


def _loss(
    objective: nn.Module,
    task: Task,
    checks: Sequence[Raw],
    accelerator: Accelerator,
) -> dict[str, float]:
    """On every rank the same: the rows are few."""
    total = 0.0
    for batch in _batches(task, checks, accelerator):
        with torch.enable_grad():  # some derivatives of the student are taken by backward passes
            total += float(objective(batch)[0].detach())
    return {"loss": total / len(checks)}


def _distance(
    teacher: Field, task: Task, checks: Sequence[Raw], nfe: Sequence[int], seed: int
) -> Measure:
    """Root mean square difference of log-Mels (nepers, over the frames that count) to the guided
    teacher at 16 midpoint steps from the same noise, per number of equal steps: ``mel_error_N`` of
    the student, ``teacher_error_N`` of the teacher at N Euler steps. The teacher's are made once.
    """
    kept: list[tuple[Tensor, dict[str, float]]] = []

    def reference(batch: Batch, z_0: Tensor) -> tuple[Tensor, dict[str, float]]:
        def velocity(z: Tensor, t: Tensor) -> Tensor:
            return teacher_velocity(teacher, z, t, batch["cond"])

        z_1 = solve(velocity, z_0, REFERENCE_STEPS)
        return z_1, {
            f"teacher_error_{n}": _square(solve(velocity, z_0, n, "euler"), z_1, batch) for n in nfe
        }

    def measure(model: nn.Module, step: int, accelerator: Accelerator) -> dict[str, float]:
        sums: dict[str, float] = {}
        run = endpoint("student", model, task)
        for number, batch in enumerate(_batches(task, checks, accelerator)):
            x = batch["z_1"]
            eps = noise(seed, batch["index"], "valid", x.shape[1:], device=x.device)
            z_0 = task.path.prior(batch["cond"], eps)
            if number == len(kept):
                kept.append(reference(batch, z_0))
            z_1, found = kept[number]
            own = {f"mel_error_{n}": _square(run(z_0, batch["cond"], n), z_1, batch) for n in nfe}
            for key, value in {**own, **found}.items():
                sums[key] = sums.get(key, 0.0) + value / len(checks)
        return {key: value**0.5 for key, value in sums.items()}

    return measure


def _square(estimate: Tensor, reference: Tensor, batch: Batch) -> float:
    return float(reduce(squared_error(estimate, reference, batch.get("loss_mask")), batch))
