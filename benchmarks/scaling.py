"""What several processes cost: steps of one process, of two under DDP and of two that share the
model out (FSDP2), over gloo on the CPU.

``python benchmarks/scaling.py`` trains the compact network on noise at one global batch, writes
``results/scaling.json`` and the table in ``docs/distributed.md``. CPU seconds are what says
something where a machine is busy with other work: they count neither waiting nor other programs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import record
import torch

from mfdistill.checkpoint import write_json
from mfdistill.distill import TrainConfig
from mfdistill.distill.objectives import IntegralObjective, MeanFlowConfig, MeanFlowObjective
from mfdistill.distill.processes import make_accelerator
from mfdistill.distill.train import train
from mfdistill.networks.compact import CompactConfig, CompactNet
from mfdistill.students import Student
from mfdistill.tasks import TaskConfig, get_task
from mfdistill.teachers.field import Field


class Noise:
    """A corpus of noise: 1 s at 16 kHz."""

    def share(self, step: int, global_batch: int, rank: int, world: int) -> range:
        size = global_batch // world
        return range(step * global_batch + rank * size, step * global_batch + (rank + 1) * size)

    def jobs(self, indices: Any) -> Iterator[Any]:
        def sample(index: int) -> dict[str, Any]:
            wave = 0.1 * torch.randn(16000, generator=torch.Generator().manual_seed(index))
            return {"clean": wave, "degraded": wave.flip(0), "index": index}

        return (lambda i=i: sample(i) for i in indices)


def measure(objective: str, sharded: bool, world: int, steps: int, batch: int) -> dict[str, Any]:
    """One run on ``world`` forked processes; the first step does not count."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as place:
        children = []
        for rank in range(world):
            child = os.fork()
            if child == 0:
                if world > 1:
                    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                    os.environ |= {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1"}
                    os.environ["MASTER_PORT"] = str(port)
                try:
                    one(objective, sharded, steps, batch, Path(place), rank)
                finally:
                    os._exit(0)
            children.append(child)
        for child in children:
            os.waitpid(child, 0)
        parts = [json.loads((Path(place) / f"{rank}.json").read_text()) for rank in range(world)]
    found = {name: sum(part[name] for part in parts) for name in parts[0]}
    return {
        "objective": objective,
        "processes": world,
        "how": "one process" if world == 1 else "FSDP2" if sharded else "DDP",
        "wall_s_per_step": round(found["wall"] / world / (steps - 1), 3),
        "cpu_s_per_step": round(found["cpu"] / (steps - 1), 3),
        "state_mb_per_process": round(found["bytes"] / world / 1e6, 2),
    }


def one(name: str, sharded: bool, steps: int, batch: int, place: Path, rank: int) -> None:
    """What one of the processes does."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    task = get_task(TaskConfig(name="enhance"))
    network = CompactNet(CompactConfig(freqs=task.config.stft.bins))
    teacher = Field(network)
    student = Student.from_teacher(teacher)
    objective: Any = (
        IntegralObjective(student, teacher, task.path)
        if name == "integral"
        else MeanFlowObjective(student, teacher, task.path, MeanFlowConfig())
    )
    config = TrainConfig(
        str(place / "run"), steps=steps, batch_size=batch, valid_every=0, save_every=0,
        log_every=10**6, sharded=sharded,
    )  # fmt: skip
    accelerator, marks = make_accelerator(config), []
    forward = objective.forward

    def marked(given: Any) -> Any:
        used = resource.getrusage(resource.RUSAGE_SELF)
        marks.append((time.monotonic(), used.ru_utime + used.ru_stime))
        return forward(given)

    objective.forward = marked
    model = {"role": "student", "task": None, "network": None, "objective": None}
    train(objective, Noise(), task, config, model_config=model, accelerator=accelerator)
    local = [p.to_local() if hasattr(p, "to_local") else p for p in objective.parameters()]
    spent = {"wall": marks[-1][0] - marks[0][0], "cpu": marks[-1][1] - marks[0][1]}
    # parameters, gradients, averages and two moments
    spent["bytes"] = 5 * sum(value.numel() * value.element_size() for value in local)
    (place / f"{rank}.json").write_text(json.dumps(spent))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=11)
    parser.add_argument("--batch", type=int, default=4)
    options = parser.parse_args()
    # Accelerate gives each process all cores otherwise, whose threads then wait by spinning
    os.environ |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    rows = [
        measure(objective, sharded, world, options.steps, options.batch)
        for objective in ("integral", "meanflow")
        for sharded, world in ((False, 1), (False, 2), (True, 2))
    ]
    write_json(record.HERE / "results" / "scaling.json", rows)
    head = "| objective | processes | wall s / step | CPU s / step, all | weights and what goes with them, MB / process |\n"
    lines = [
        f"| {row['objective']} | {row['how']} x {row['processes']} | {row['wall_s_per_step']} | {row['cpu_s_per_step']} "
        f"| {row['state_mb_per_process']} |"
        for row in rows
    ]
    page = record.HERE.parent / "docs" / "distributed.md"
    record.into(page, "scaling.json", head + "|---|---|---:|---:|---:|\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
