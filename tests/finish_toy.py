"""A minute student to be finished on humming: task, data set and objective for tests of critics."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mfdistill.distill.finishing.config import CriticConfig, DmdConfig, FinishConfig, schedules
from mfdistill.distill.objectives import FinishObjective
from mfdistill.networks.compact import CompactConfig, CompactNet
from mfdistill.students import Student
from mfdistill.tasks import default_task, get_task
from mfdistill.teachers.field import Field

TASK = get_task(replace(default_task("vocode", 8000), temperature=0.0))


class Waves:
    """Sample i is a hum seeded by i, 0.3 s."""

    def share(self, step: int, global_batch: int, rank: int, world: int) -> range:
        size = global_batch // world
        return range(step * global_batch + rank * size, step * global_batch + (rank + 1) * size)

    def jobs(self, indices: Any) -> Any:
        def wave(i: int) -> Tensor:
            generator = torch.Generator().manual_seed(i)
            t = torch.arange(2400) / 8000
            pitch = 100 + 100 * torch.rand(1, generator=generator)
            hum = sum(torch.sin(2 * math.pi * k * pitch * t) / k for k in range(1, 10))
            return 0.1 * hum + 0.01 * torch.randn(2400, generator=generator)

        return (lambda i=i: {"clean": wave(i), "degraded": wave(i), "index": i} for i in indices)


def network() -> CompactNet:
    sizes = CompactConfig(
        **{"channels": 4, "blocks": 1, "embedding": 8, "freqs": 128, "mean": "zero"},  # type: ignore[arg-type]
        sigma_0=1.0,
        shape="magnitude",
    )
    return CompactNet(sizes)


def finish(critic: CriticConfig | None = None, **more: Any) -> FinishObjective:
    """One or two steps by log-Mel, with critics or what else ``FinishObjective`` takes."""
    torch.manual_seed(3)
    student, config = Student.from_network(network(), TASK), FinishConfig(log_mel=1.0)
    return FinishObjective(
        student, TASK, schedules(config, {}), config, seed=1, critic=critic, **more
    )


def matched(weight: float, warmup: int) -> FinishObjective:
    """With distribution matching against a teacher of other random weights."""
    torch.manual_seed(5)
    return finish(dmd=DmdConfig(weight, warmup=warmup), teacher=Field(network(), TASK))
