"""The student: an average-velocity network made from any teacher's velocity network, and how it is
sampled.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mfdistill.config import to_dict
from mfdistill.flow import jump, time_per_sample
from mfdistill.flow import schedule as make_schedule
from mfdistill.networks.causal_layers import freeze_norms
from mfdistill.networks.delta import OwnInterval
from mfdistill.networks.lora import add_deltas, shared_copy, target_layers
from mfdistill.networks.lora_config import LoraConfig
from mfdistill.networks.memory import frame_by_frame
from mfdistill.networks.ncsnpp import NCSNpp
from mfdistill.networks.time import takes_guidance
from mfdistill.plain import Plain, Section
from mfdistill.students.guidance import GuidedEmbedding
from mfdistill.students.interval import Interval, replace_module, two_times
from mfdistill.teachers.field import Field

if TYPE_CHECKING:
    from mfdistill.tasks import Task


class Student(nn.Module):
    """``student(z_t, t, r, cond) -> u``, the average velocity over [t, r] (t = 0 prior, t = 1 data,
    t <= r).

    Args:
        network: a velocity network ``network(z_t, t, cond)``; **changed in place**: its time
            embedding is replaced by one of two times. Use ``from_teacher`` or ``from_network`` to
            work on a copy.
        time_embedding: dotted name of the time embedding.
        task: what the student is for; None outside a task.
        schedule: times at which ``sample`` steps when it is not told (saved in ``config.json``).
        description: the network's "name" and "config", saved so that ``load_student`` can build it.
        parent: where it comes from, saved as it is.
        interval: how r is embedded: "mixed" (``IntervalEmbedding``), "delta", MeanFlowSE's branch
            for r - t (``OwnInterval``; a network that has such a branch keeps it), or "unit", a
            smooth one instead of the network's (``UnitIntervalEmbedding``).
        guidance_input: the largest guidance strength that the student is told, by
            ``cond["guidance"]`` (b,) (``GuidedEmbedding``);
            None: it is told none, guidance being part of what it learns, at one strength, or
                absent.
    """

    def __init__(
        self,
        network: nn.Module,
        time_embedding: str,
        task: Task | None = None,
        schedule: int | Sequence[float] = 1,
        description: Section | None = None,
        parent: Any = None,
        interval: Interval = "mixed",
        guidance_input: float | None = None,
    ):
        super().__init__()
        own = network.get_submodule(time_embedding)
        embedding = two_times(own, interval)
        if guidance_input is not None and not takes_guidance(own):
            embedding = GuidedEmbedding(embedding, guidance_input)
        replace_module(network, time_embedding, embedding)
        # batch statistics cannot be differentiated in forward mode, and leak across samples and
        # frames
        freeze_norms(network)
        self.network = network
        self.task = task
        self.schedule: list[float] = make_schedule(schedule)
        self.description = dict(description) if description else None
        self.parent = parent
        self.interval = interval
        self.guidance_input = guidance_input
        self.time_embedding = time_embedding
        self.adapter: LoraConfig | None = None
        """Set where all but low-rank deltas and the embedding of times is the teacher's."""
        self.streaming = False
        """Run the network frame by frame with a state (``load_student(..., streaming=True)``)."""

    @classmethod
    def from_teacher(
        cls,
        teacher: Field,
        schedule: int | Sequence[float] = 1,
        parent: Any = None,
        interval: Interval = "mixed",
        guidance_input: float | None = None,
        adapter: LoraConfig | None = None,
    ) -> Student:
        """A student that equals ``teacher`` at guidance strength 0 for every r, bit for bit in
        fp32, unless ``interval`` is "unit"; the teacher is not touched.

        Parameters that the teacher's network marks as not trainable stay so, unless all of them are
        (a frozen teacher).

        Args:
            adapter: with a rank: the student shares the teacher's weights, which are frozen, and
                has low-rank deltas of its own (``networks.lora``).
        """
        if adapter is not None and adapter.rank is not None:
            return cls._of_deltas(teacher, schedule, parent, interval, guidance_input, adapter)
        network = copy.deepcopy(teacher.network)
        if not any(p.requires_grad for p in network.parameters()):
            network.requires_grad_(True)
        return cls(
            network,
            teacher.time_embedding,
            teacher.task,
            schedule,
            teacher.config.get("network")
            or {"name": "own", "time_embedding": teacher.time_embedding},
            parent,
            interval,
            guidance_input,
        ).train()

    @classmethod
    def _of_deltas(
        cls,
        teacher: Field,
        schedule: int | Sequence[float],
        parent: Any,
        interval: Interval,
        guidance_input: float | None,
        adapter: LoraConfig,
    ) -> Student:
        teacher.network.requires_grad_(False)
        names = target_layers(teacher.network, adapter, teacher.time_embedding)
        student = cls(
            shared_copy(teacher.network),
            teacher.time_embedding,
            teacher.task,
            schedule,
            teacher.config.get("network"),
            parent,
            interval,
            guidance_input,
        )
        add_deltas(student.network, adapter, names)
        student.adapter = adapter
        return student.train()

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What an optimiser changes, by name."""
        return ((name, p) for name, p in self.named_parameters() if p.requires_grad)

    def borrowed(self) -> set[str]:
        """Names of the parameters and buffers that are the teacher's: none of a full student."""
        if self.adapter is None:
            return set()
        frozen = {name for name, p in self.named_parameters() if not p.requires_grad}
        return frozen | {name for name, _ in self.named_buffers()}

    @classmethod
    def from_network(
        cls,
        network: nn.Module,
        task: Task | None = None,
        schedule: int | Sequence[float] = 1,
        description: Section | None = None,
    ) -> Student:
        """A student of a network of ours with the weights it has, for training without a teacher;
        works on a copy. A network that has MeanFlowSE's branch for r - t keeps it.
        """
        name: str = network.time_embedding_name  # type: ignore[assignment]
        interval: Interval = (
            "delta" if isinstance(network.get_submodule(name), OwnInterval) else "mixed"
        )
        return cls(
            copy.deepcopy(network), name, task, schedule, description, interval=interval
        ).train()

    @property
    def config(self) -> Plain:
        """The sections of ``config.json`` that belong to the student (role, task, network,
        schedule, parent, interval, predictor).
        """
        predictor = None if self.task is None else self.task.predictor
        return {
            "role": "student",
            "task": to_dict(self.task.config) if self.task is not None else None,
            "network": self.description,
            "schedule": list(self.schedule),
            "parent": self.parent,
            "interval": self.interval,
            **({} if self.guidance_input is None else {"guidance_input": self.guidance_input}),
            **({} if self.adapter is None else {"adapter": to_dict(self.adapter)}),
            **({} if predictor is None else {"predictor": predictor.description}),
        }

    def forward(self, z_t: Tensor, t: Tensor, r: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """``u(z_t, t, r)`` in the shape of ``z_t``; t and r (b,), (1,) or 0-d, r in the precision
        of t.
        """
        t = time_per_sample(t, z_t)
        others = (
            [r] if self.guidance_input is None else [r, cond.get("guidance", torch.zeros_like(t))]
        )
        time = torch.stack([t, *(time_per_sample(other, z_t).to(t) for other in others)], -1)
        return (
            frame_by_frame(self.network, z_t, time, cond)
            if self.streaming
            else self.network(z_t, time, cond)
        )


def given(
    student: nn.Module, cond: Mapping[str, Tensor]
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """``u(z_t, t, r)`` of a student under a condition, for ``flow.total_derivative``; with a
    forward-mode rule of its own if its network has one (``NCSNpp.with_tangent``).
    """
    own = isinstance(dict(student.named_children()).get("network"), NCSNpp)
    return (_GivenWithTangent if own else _Given)(student, cond)


class _Given:
    def __init__(self, student: nn.Module, cond: Mapping[str, Tensor]):
        self.student, self.cond = student, cond

    def __call__(self, z: Tensor, t: Tensor, r: Tensor) -> Tensor:
        return self.student(z, t, r, self.cond)


class _GivenWithTangent(_Given):
    def with_tangent(self, z: Tensor, t: Tensor, r: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """``(u, du_dt)`` along (v, 1, 0)."""
        tangent = torch.stack([torch.ones_like(t), torch.zeros_like(r)], -1)
        return self.student.network.with_tangent(z, torch.stack([t, r], -1), self.cond, v, tangent)  # type: ignore[union-attr, operator]


def borrowed_by(model: nn.Module) -> set[str]:
    """Names of the weights of ``model`` that belong to a teacher: an adapter's student has some."""
    return model.borrowed() if isinstance(model, Student) else set()


@torch.no_grad()
def sample(
    student: Student,
    z_0: Tensor,
    cond: Mapping[str, Tensor],
    steps: int | Sequence[float] | None = None,
) -> Tensor:
    """``z_1`` by ``z_r = z_t + (r - t) u(z_t, t, r)`` along a schedule; one network evaluation per
    step.

    Args:
        z_0: a draw of the prior, (b, ...).
        steps: a number of equal steps, a list of ascending times, or None for ``student.schedule``.
            The state moves from the first time to the last; from 0 to 1 it is a whole sample.

    Returns: the state at the last time.
    Raises:
        UserError: times that do not ascend or leave [0, 1], or no step at all.
    """
    times = make_schedule(student.schedule if steps is None else steps)
    return jump(lambda z, t, r: student(z, t, r, cond), z_0, times)
