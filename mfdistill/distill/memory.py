"""What memory a distillation takes, counted before anything is loaded: one update is run on torch's
fake tensors, which have sizes and no contents, and every tensor that lives at the same time is
added up.

Counted: weights of teacher and student, gradients, AdamW's two moments, averaged weights, and the
peak of one update (the teacher's guided evaluation, the student's forward and backward pass, with
recomputed blocks, adapters and autocast as they are). Not counted: what a process needs for itself
(a GPU's context is some 0.5 GB), workspaces of its libraries, and fragmentation.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mfdistill.distill.moments import FP32, moment_bytes
from mfdistill.distill.objectives.base import in_parts
from mfdistill.networks import build_network
from mfdistill.networks.half import hold_in_bf16
from mfdistill.networks.lora_config import LoraConfig
from mfdistill.networks.recompute import recompute_activations
from mfdistill.plain import Section
from mfdistill.students import Student
from mfdistill.teachers import Field


@dataclass(frozen=True)
class Setup:
    """What decides about memory.

    ``network``, ``sizes``: of ``networks.NETWORKS``. ``branches``: 2 with guidance. ``bf16``:
    autocast. ``targets``: rows of the student per row of the teacher. ``teacher_bf16``,
    ``teacher_rows``: of ``IntegralConfig``. ``ema_on_cpu``: the averages are not on the card.
    ``moments_8bit``: AdamW's.
    """

    network: str
    sizes: Section
    branches: int = 2
    bf16: bool = False
    recompute: bool = False
    targets: int = 1
    lora: LoraConfig = LoraConfig()
    teacher_bf16: bool = False
    teacher_rows: int = 0
    ema_on_cpu: bool = False
    moments_8bit: bool = False


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes: what is always there, by name, and an update's peak, ``update + per_frame * frames``
    of Mel frames with padding.
    """

    fixed: Mapping[str, int]
    update: float
    per_frame: float
    trained: int = 0
    """Of the trained weights, in fp32."""

    def total(self, frames: int) -> float:
        """Of a micro-batch of so many frames."""
        return sum(self.fixed.values()) + self.update + self.per_frame * frames

    def frames(self, card_bytes: float, usable: float = 0.85) -> int:
        """The most that fit into a card, of whose memory the context and fragmentation leave
        ``usable``; 0: nothing does.
        """
        room = usable * card_bytes - sum(self.fixed.values()) - self.update
        return max(0, int(room / self.per_frame))


class Requested(Protocol):
    """A network that says what it is asked."""

    def request(self, rows: int, length: int) -> tuple[Tensor, dict[str, Tensor]]: ...


class _Live(TorchDispatchMode):
    """Bytes of the storages that are made inside and still live, and the most there ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                self._note(value.untyped_storage())
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self.live:
            return
        self.live[key] = storage.nbytes()
        self.now += self.live[key]
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.now -= self.live.pop(key, 0)

    def ignore(self, module: nn.Module) -> None:
        """What was there before is counted elsewhere."""
        for value in (*module.parameters(), *module.buffers()):
            self.live.setdefault(value.untyped_storage()._cdata, 0)


def memory_need(setup: Setup, length: int = 512, rows: int = 2) -> MemoryNeed:
    """Of one process.

    Args:
        length: Mel frames of the utterances that it is counted for. rows: of the smaller of two
            micro-batches from which the line follows.
    """
    with FakeTensorMode():
        teacher, student = models(setup)
        fixed = fixed_bytes(setup, teacher, student)
        small, large = (update_peak(setup, teacher, student, rows * k, length) for k in (1, 2))
    per_frame = (large - small) / (rows * length)
    trained = FP32 * sum(p.numel() for _, p in student.trained())
    return MemoryNeed(fixed, small - per_frame * rows * length, per_frame, trained)


def models(setup: Setup) -> tuple[Field, Student]:
    """Teacher and student with random weights."""
    network = build_network(setup.network, dict(setup.sizes))
    teacher = Field(network)
    if setup.lora.rank is None:  # built and not copied: a fake tensor's copy is of another mode
        student = Student(build_network(setup.network, dict(setup.sizes)), teacher.time_embedding)
    else:
        student = Student.from_teacher(teacher, adapter=setup.lora)
    if setup.recompute:
        recompute_activations(student.network)
    if setup.teacher_bf16:
        hold_in_bf16(network)
    return teacher, student


def fixed_bytes(setup: Setup, teacher: Field, student: Student) -> dict[str, int]:
    """What is there all the time but gradients, which an update's peak has."""
    trained = sum(p.numel() for _, p in student.trained())
    held = {id(p) for p in teacher.network.parameters()}
    own = sum(p.numel() for p in student.parameters() if id(p) not in held)
    return {
        "teacher": sum(p.numel() * p.element_size() for p in teacher.network.parameters()),
        "student": FP32 * own,
        "AdamW's moments": moment_bytes((p for _, p in student.trained()), setup.moments_8bit),
        "averaged weights": 0 if setup.ema_on_cpu else FP32 * trained,
    }


def update_peak(setup: Setup, teacher: Field, student: Student, rows: int, length: int) -> int:
    """The most bytes that an update of ``rows`` utterances of ``length`` frames takes beyond what
    is there all the time; gradients, and the copy that AdamW works with, included.
    """
    student.zero_grad(set_to_none=True)
    live = _Live()
    live.ignore(teacher.network)
    live.ignore(student)
    with live:
        run_update(setup, teacher, student, rows, length)
        gradients = sum(p.grad.nbytes for _, p in student.trained() if p.grad is not None)
        largest = max(p.numel() * FP32 for _, p in student.trained())
    student.zero_grad(set_to_none=True)
    # AdamW updates one tensor after the other; two temporaries of the largest
    return max(live.peak, gradients + 2 * largest)


def run_update(setup: Setup, teacher: Field, student: Student, rows: int, length: int) -> None:
    """The teacher's evaluation and the student's two passes, on noise; leaves gradients."""
    network: Requested = student.network  # type: ignore[assignment]
    z, cond = network.request(rows, length)
    t = torch.full((rows,), 0.25)
    parts = []
    half = torch.autocast("cpu", torch.bfloat16) if setup.teacher_bf16 else nullcontext()
    with torch.no_grad(), half:
        for own in in_parts(rows, setup.teacher_rows):
            twice = {key: torch.cat([value[own]] * setup.branches) for key, value in cond.items()}
            z_twice, t_twice = (torch.cat([value[own]] * setup.branches) for value in (z, t))
            branch = teacher.network(z_twice, t_twice, twice)
            parts.append(branch.float().chunk(setup.branches)[0].clone())
            del branch, twice, z_twice
    target = torch.cat(parts)
    del parts
    k = setup.targets
    many = {key: torch.cat([value] * k) for key, value in cond.items()}
    with torch.autocast("cpu", torch.bfloat16) if setup.bf16 else nullcontext():
        u = student(torch.cat([z] * k), t.repeat(k), t.repeat(k) + 0.5, many)
    ((u.float() - torch.cat([target] * k)) ** 2).mean().backward()
