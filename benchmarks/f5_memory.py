"""Memory of one distillation step of F5-TTS Base (337 M parameters), and how many Mel frames of a
micro-batch fit into 24 GB.

    python benchmarks/f5_memory.py

What is there all the time follows from the number of parameters: weights of teacher and student,
gradients, AdamW's two averages and the averaged weights, all in fp32. What the student's forward
pass keeps for the backward pass is counted on torch's fake tensors, which have sizes and no memory
(CPU kernels, whose attention keeps no square matrix, as the fused ones of GPUs): of 1 and of 2
blocks, from which the 22 follow. One block more stands for what the backward pass works with. With
checkpointed activations a block keeps its input, and one block at a time is computed again. To see
how far the count is right, one block is really run, and the growth of the process is measured.

Not in the count: what AdamW needs while it works (up to the size of the weights, when the
activations are gone), and what a GPU adds: its context (about 0.5 GB), workspaces of its libraries,
fragmentation; hence --usable. The teacher's guided evaluations run before, without a graph, and
need less.

Writes benchmarks/results/f5-memory.json.
"""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor

from mfdistill.checkpoint import write_json
from mfdistill.networks import build_network
from mfdistill.students import Student

RESULT = Path(__file__).resolve().parent / "results" / "f5-memory.json"
GIB, DEPTH = 2**30, 22
Precision = Literal["no", "bf16"]
COPIES = (
    "teacher",
    "student",
    "gradients",
    "AdamW's first average",
    "AdamW's second average",
    "averaged weights",
)


@dataclass(frozen=True)
class Options:
    """What is counted."""

    batch: int = 4
    """Utterances of a micro-batch."""
    frames: int = 1024
    """Mel frames of each (93.75 a second)."""
    card_gb: float = 24.0
    usable: float = 0.9
    """Share of the card's memory that a step may take."""
    real: bool = False
    """Only run one block on 2 x 512 frames and print how the process grew (called by the benchmark
    itself).
    """


def make(depth: int) -> Student:
    return Student(build_network("f5", {"depth": depth}), "transformer.time_embed").train()


def forward(student: Student, batch: int, frames: int, precision: Precision = "no") -> Tensor:
    """The loss of one micro-batch."""
    z, mask = torch.randn(batch, frames, 100), torch.ones(batch, frames, dtype=torch.bool)
    cond = {
        "cond": torch.randn(batch, frames, 100),
        "text": torch.zeros(batch, 150, dtype=torch.long),
        "mask": mask,
    }
    t = torch.full((batch,), 0.25)
    with torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext():
        return student(z, t, t + 0.5, cond).float().square().mean()


def kept(depth: int, batch: int, frames: int, precision: Precision) -> int:
    """Bytes that a forward pass keeps, every storage once and no parameters."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        student = make(depth)
        own = {p.untyped_storage()._cdata for p in student.parameters()}
        # the tensors themselves, so that no storage's address comes twice
        seen: dict[int, Tensor] = {}

        def pack(x: Tensor) -> Tensor:
            seen.setdefault(x.untyped_storage()._cdata, x)
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            loss = forward(student, batch, frames, precision)
        total = sum(x.untyped_storage().nbytes() for key, x in seen.items() if key not in own)
        del loss
    return total


def really(batch: int, frames: int) -> tuple[float, float]:
    """GiB by which this process grows from before one block's forward pass to its end, and to the
    end of the backward pass.
    """
    torch.set_num_threads(1)
    student = make(1)
    forward(student, 1, 8).backward()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loss = forward(student, batch, frames)
    middle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loss.backward()
    return (middle - before) * 1024 / GIB, (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    ) * 1024 / GIB


def main(options: Options) -> None:
    if options.real:
        sys.stdout.write(" ".join(map(str, really(2, 512))) + "\n")
        return
    total = options.batch * options.frames
    with torch.device("meta"):
        weights = 4 * sum(p.numel() for p in make(DEPTH).parameters())
    room = options.usable * options.card_gb * 1e9 - len(COPIES) * weights
    rows: list[dict[str, Any]] = []
    for precision in ("no", "bf16"):
        one, two = (kept(depth, options.batch, options.frames, precision) for depth in (1, 2))
        block, around = two - one, one - (two - one)
        entry = 4 * 1024 * total  # a block's input, in fp32 also under autocast
        for again in (False, True):
            activations = around + (DEPTH * entry + 2 * block if again else (DEPTH + 1) * block)
            rows.append({
                "precision": precision, "checkpoint_activations": again, "kib_per_frame": activations / total / 1024,
                "activations_gib": activations / GIB, "frames_that_fit": int(room / (activations / total)),
            })  # fmt: skip
    done = subprocess.run(
        [sys.executable, __file__, "--real"], check=True, capture_output=True, text=True
    )
    to_loss, to_gradient = map(float, done.stdout.split())
    write_json(RESULT, {
        "command": "python benchmarks/f5_memory.py",
        "machine": f"counted on fake tensors, torch {torch.__version__}; the check was run on a {platform.machine()} CPU",
        "network": "F5TTS_v1_Base, 337 M parameters, 22 blocks", "batch": options.batch, "frames": options.frames,
        "card_gb": options.card_gb, "usable": options.usable, "fixed_gib": len(COPIES) * weights / GIB, "fixed": list(COPIES), "rows": rows,
        "check": {"blocks": 1, "batch": 2, "frames": 512, "counted_kept_gib": kept(1, 2, 512, "no") / GIB,
                  "measured_forward_gib": to_loss, "measured_backward_gib": to_gradient},
    })  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Options))
