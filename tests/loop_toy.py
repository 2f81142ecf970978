"""A tiny objective, task and data set for tests of the training loop; run as a program, it trains (under a launcher or to be killed)."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mfdistill.config import from_dict
from mfdistill.distill import TrainConfig
from mfdistill.distill.interrupt import Interrupted
from mfdistill.distill.train import make_accelerator, train

MODEL_CONFIG = {"role": "teacher", "task": {"name": "toy"}, "network": {"name": "toy", "config": {"width": 4}}, "objective": None}


def _draw(index: int, n: int) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(index))


class Data:
    """Sample i is noise seeded by i; frames past ``8 - i % 3`` do not count."""

    def share(self, step: int, global_batch: int, rank: int, world: int) -> range:
        size = global_batch // world
        first = step * global_batch + rank * size
        return range(first, first + size)

    def jobs(self, indices: Any) -> Any:
        return ((lambda i=i: {"clean": _draw(i, 32), "degraded": _draw(i + 10**6, 32), "index": i}) for i in indices)


class Task:
    sample_rate = 16

    def gain(self, wave: Tensor) -> Tensor:
        return torch.ones(len(wave), 1)

    def target(self, wave: Tensor) -> Tensor:
        return wave.reshape(len(wave), 2, 2, 8)

    def condition(self, wave: Tensor) -> dict[str, Tensor]:
        return {"y": wave.reshape(len(wave), 2, 2, 8)}


class Toy(nn.Module):
    """Predicts z_1 from y by a small network; notes the indices it saw, and sends itself ``signum`` at step ``at`` on rank 0."""

    def __init__(self, steps: int, at: int = -1, signum: int = 0, bad: tuple[int, ...] = ()) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.GELU(), nn.Dropout(0.0), nn.Linear(16, 8))
        self.steps, self.at, self.signum, self.bad = steps, at, signum, bad
        self.seen: list[list[int]] = []

    def forward(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        step = round(batch["progress"] * self.steps)
        if step == self.at and os.environ.get("RANK", "0") == "0":
            os.kill(os.getpid(), self.signum)
        self.seen.append(batch["index"].tolist())
        error = (self.model(batch["cond"]["y"]) - batch["z_1"]).square().sum(1)
        mask = (torch.arange(8) < 8 - batch["index"][:, None] % 3).float()[:, None]
        loss = (error * mask).sum() / (error.numel() / 8 * 7)
        if step in self.bad:
            loss = loss * float("nan")
        return loss, {"frames": mask.sum()}


def main() -> None:
    """``loop_toy.py RESULT.json JOBS``: JOBS is a JSON list of [settings, toy arguments]; writes what each rank saw."""
    torch.set_num_threads(1)
    seen, accelerator = [], None
    for settings, arguments in json.loads(sys.argv[2]):
        config = from_dict(TrainConfig, settings)
        accelerator = accelerator or make_accelerator(config)
        toy = Toy(config.steps, **arguments)
        try:
            train(toy, Data(), Task(), config, model_config=MODEL_CONFIG, accelerator=accelerator)
        except Interrupted as stop:
            sys.exit(stop.exit_code)
        seen.append(toy.seen)
    assert accelerator is not None
    Path(f"{sys.argv[1]}.{accelerator.process_index}").write_text(json.dumps(seen))
    if accelerator.num_processes > 1:
        accelerator.end_training()


if __name__ == "__main__":
    main()

KILL, TERM = int(signal.SIGKILL), int(signal.SIGTERM)
