"""From an utterance to what a teacher, student or regression network makes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from mfdistill.data.texts import prepared
from mfdistill.distill.objectives.regression import estimate
from mfdistill.errors import UserError
from mfdistill.flow import Tableau, solve
from mfdistill.plain import Item
from mfdistill.students import Student, sample
from mfdistill.systems.base import FieldFacts
from mfdistill.tasks import Restoration, Task
from mfdistill.tasks.base import Asked
from mfdistill.teachers import own_facts

Steps = int | Sequence[float]
Endpoint = Callable[[Tensor, Mapping[str, Tensor], Steps | None], Tensor]
"""``(z_0, cond, steps) -> z_1``"""


def endpoint(role: str, module: nn.Module, task: Task, solver: str | Tableau = "euler") -> Endpoint:
    """How ``module`` comes from z_0 to z_1: a teacher by steps of ``solver``, a student along its
    schedule, a regression network at once.
    """
    if role == "student":
        return Along(cast(Student, module))
    if role == "teacher":
        return solved(module, own_facts(module), solver)
    return lambda z_0, cond, steps: estimate(module, task.path, cond)


def solved(
    velocity: Callable[[Tensor, Tensor, Mapping[str, Tensor]], Tensor],
    facts: FieldFacts,
    solver: str | Tableau = "euler",
) -> Endpoint:
    """A velocity field by steps of ``solver``: where no number is named, as many of Euler's as its
    system takes, one of any other. Where they stand is the field's own grid; steps of one that was
    not trained up to t = 1 are FlowSE's: equal ones to there, and one to 1.
    """

    def grid(steps: Steps | None) -> Steps:
        steps = steps or (facts.steps if solver == "euler" else 1)
        return facts.grid(steps) if isinstance(steps, int) else steps

    return lambda z_0, cond, steps: solve(
        lambda z, t: velocity(z, t, cond), z_0, grid(steps), solver
    )


@dataclass(frozen=True)
class Along:
    """A student's ``Endpoint``: along a schedule, its own where ``steps`` is None, told a guidance
    ``strength`` where it takes one.
    """

    student: Student
    strength: float | None = None

    def __call__(
        self, z_0: Tensor, cond: Mapping[str, Tensor], steps: Steps | None = None
    ) -> Tensor:
        if self.strength is not None:
            told = torch.full((len(z_0),), self.strength, device=z_0.device)
            cond = {**cond, "guidance": told}
        return sample(self.student, z_0, cond, steps)


def begin(
    task: Task,
    model: Endpoint,
    cond: Mapping[str, Tensor],
    steps: Steps | None,
    seed: int,
    stream: str,
    frame: int = 0,
) -> Tensor:
    """``z_0`` where ``model`` starts from: the task's prior from noise of (seed, stream, number of
    the frame), the same in every row.
    """
    if steps is None and isinstance(model, Along):
        steps = model.student.schedule
    t = float(steps[0]) if isinstance(steps, Sequence) else 0.0
    return task.path.prior(cond, task.start(cond, seed, stream, frame), t)


@torch.no_grad()
def generate(
    task: Task,
    model: Endpoint,
    item: Item,
    device: torch.device | str,
    steps: Steps | None = None,
    seed: int = 0,
    index: int = 0,
) -> Tensor:
    """What ``model`` makes of an utterance of ``data.open.open_task_eval``: a waveform (s,) on
    ``device``. The noise is a function of (seed, index, number of the frame), so that systems are
    compared from the same.
    """
    request = asked(task, item, device)
    z_0 = begin(task, model, request.cond, steps, seed, f"restore/{index}")
    return task.heard(request, model(z_0, request.cond, steps))


@torch.no_grad()
def asked(task: Task, item: Item, device: torch.device | str) -> Asked:
    """``task.asked`` with the utterance's text as the task reads it (errors as ``text_of``)."""
    return task.asked({**item, "said": text_of(task, item)} if task.needs_text else item, device)


@torch.no_grad()
def restore(
    task: Restoration,
    model: Endpoint,
    degraded: Tensor,
    steps: Steps | None = None,
    seed: int = 0,
    index: int = 0,
    frame: int = 0,
    gain: Tensor | None = None,
    text: str | None = None,
) -> Tensor:
    """Degraded waveform (s,) to restored (s,), at the same level, on the same device.

    The prior's noise is a function of (seed, index, number of the frame) and of nothing else:
    systems are compared from the same noise, and a block of a long recording gets the noise that
    the whole recording would have there.

    Args:
        index: of the utterance. frame: number of the first frame, for a block of a longer
            recording.
        gain: (1, 1) level normalisation; default that of ``degraded``, which a block does not know.
        text: of the utterance, for tasks that read one (``text_of``).
    """
    gain = task.gain(degraded[None]) if gain is None else gain
    cond = task.condition(degraded[None] * gain, text)
    z_1 = model(begin(task, model, cond, steps, seed, f"restore/{index}", frame), cond, steps)
    return (task.waveform(z_1, len(degraded)) / gain)[0]


@torch.no_grad()
def restore_batch(
    task: Restoration,
    model: Endpoint,
    waves: Sequence[Tensor],
    gains: Sequence[Tensor],
    steps: Steps | None,
    seed: int,
) -> list[Tensor]:
    """``restore`` of several waveforms at once, each as if it were alone.

    Raises:
        ValueError: waveforms whose features have different numbers of frames; padding them would
            change what the network sees.
    """
    conds = [task.condition(wave[None] * gain) for wave, gain in zip(waves, gains, strict=True)]
    if len({cond["y"].shape for cond in conds}) > 1:
        raise ValueError(
            f"waveforms of different numbers of frames: {sorted({cond['y'].shape[-1] for cond in conds})}"
        )
    cond = {key: torch.cat([one[key] for one in conds]) for key in conds[0]}
    z_1 = model(begin(task, model, cond, steps, seed, "restore/0"), cond, steps)
    found = zip(z_1, waves, gains, strict=True)
    return [(task.waveform(one[None], len(wave)) / gain)[0] for one, wave, gain in found]


def text_of(task: Task, utterance: Item) -> str | None:
    """The text of an utterance of ``data.open_eval`` as the task wants it; None where it wants
    none.

    Raises:
        UserError: the task wants one, and the utterance has none.
    """
    if not task.needs_text:
        return None
    if not utterance.get("text"):
        raise UserError(
            f"{utterance['name']}: has no text for {task.config.name}; add it to transcripts.tsv (path, speaker, text)"
        )
    return prepared([str(utterance["text"])], task.config)[0]
