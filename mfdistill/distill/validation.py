"""Scores of a model on whole utterances, shared out to the ranks; validation while training uses
them too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from mfdistill.distill.batch import make_batch
from mfdistill.distill.inference import Steps, endpoint, judged, restore, text_of
from mfdistill.distill.trackers import listener
from mfdistill.metrics import Workers, named, score_utterances, summarise

if TYPE_CHECKING:
    from mfdistill.tasks import Restoration

System = Callable[[Tensor, int], Tensor]
"""``(degraded (s,), utterance number) -> restored (s,)``"""
Keep = Callable[[str, np.ndarray], None]
_FIRST = 2**31  # global indices of validation crops: no training sample comes that far


def score_system(
    system: System,
    utterances: Sequence[Mapping[str, Any]],
    metrics: Sequence[str],
    sample_rate: int,
    accelerator: Any = None,
    pool: Workers | None = None,
    keep: Keep | None = None,
    task: Any = None,
) -> list[dict[str, Any]]:
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

    def pairs() -> Iterator[Any]:
        for i in own:
            item = utterances[i]
            restored = system(item["degraded"].to(device), i).cpu().numpy()
            if keep is not None:
                keep(item["name"], restored)
            yield item["name"], *judged(task, restored, item["clean"].numpy())

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
    task: Restoration,
    utterances: Sequence[Mapping[str, Any]],
    nfe: Sequence[int] = (1,),
    metrics: Sequence[str] = ("pesq", "estoi", "sisdr"),
    seed: int = 0,
    crop_s: float = 2.0,
) -> Callable[[nn.Module, int, Any], dict[str, float]]:
    """``validate(model, step, accelerator)`` for ``distill.train.train``: the objective's loss on
    one fixed crop of every utterance, and means of ``metrics`` at each number of evaluations
    (``pesq_1``, ...; a regression network has one evaluation and no number).

    Raises:
        UserError: an unknown metric or one whose package is missing.
    """
    columns = [metric.primary for metric in named(metrics)] if metrics else []
    raw = _crops(
        utterances,
        round(crop_s * task.sample_rate),
        task if task.needs_text else None,
    )

    def validate(model: nn.Module, step: int, accelerator: Any) -> dict[str, float]:
        values = {"loss": _loss(objective, task, raw, accelerator)}
        run = endpoint(role, model, task)
        for number in nfe if role != "regression" else (None,):
            if not columns:
                break
            rows = score_system(
                _system(task, run, number, seed, utterances),
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

    return validate


def _system(
    task: Restoration,
    run: Any,
    steps: Steps | None,
    seed: int,
    utterances: Sequence[Mapping[str, Any]],
) -> System:
    return lambda wave, index: restore(
        task, run, wave, steps, seed, index, text=text_of(task, utterances[index])
    )


def _loss(
    objective: nn.Module, task: Restoration, raw: Mapping[str, Any], accelerator: Any
) -> float:
    """On every rank the same: the crops are few."""
    batch = make_batch(task, raw, accelerator.device) | {"progress": 1.0, "loss_count": None}
    with torch.enable_grad():  # some derivatives of the student are taken by backward passes
        return float(objective(batch)[0].detach())


def _crops(
    utterances: Sequence[Mapping[str, Any]], length: int, task: Any = None
) -> dict[str, Any]:
    def middle(wave: Tensor) -> Tensor:
        start = max(0, (len(wave) - length) // 2)
        part = wave[start : start + length]
        return torch.nn.functional.pad(part, (0, length - len(part)))

    items = [utterances[i] for i in range(len(utterances))]
    texts = {} if task is None else {"text": [text_of(task, item) for item in items]}
    waves = {
        key: torch.stack([middle(item[key]) for item in items]) for key in ("clean", "degraded")
    }
    return {**waves, **texts, "index": torch.arange(_FIRST, _FIRST + len(items))}
