"""A tiny objective, task and data set for tests of the training loop; run as a program, it trains
(under a launcher or to be killed).
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import finish_toy
import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from mfdistill.config import from_dict
from mfdistill.distill import TrainConfig
from mfdistill.distill.finishing.config import CriticConfig, FinishConfig, schedules
from mfdistill.distill.interrupt import Interrupted
from mfdistill.distill.objectives import (
    CFMObjective,
    FinishObjective,
    IntegralConfig,
    IntegralObjective,
    MeanFlowConfig,
    MeanFlowObjective,
)
from mfdistill.distill.train import make_accelerator, train
from mfdistill.errors import UserError
from mfdistill.flow import GaussianPath
from mfdistill.networks.compact import CompactConfig, CompactNet
from mfdistill.peers import end_with_others
from mfdistill.students import Student
from mfdistill.tasks import Restoration
from mfdistill.teachers.field import Field

MODEL_CONFIG = {
    "role": "teacher",
    "task": {"name": "toy"},
    "network": {"name": "toy", "config": {"width": 4}},
    "objective": None,
}


def _draw(index: int, n: int) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(index))


class Data:
    """Sample i is noise seeded by i; frames past ``8 - i % 3`` do not count."""

    def share(self, step: int, global_batch: int, rank: int, world: int) -> range:
        size = global_batch // world
        first = step * global_batch + rank * size
        return range(first, first + size)

    def jobs(self, indices: Any) -> Any:
        return (
            (lambda i=i: {"clean": _draw(i, 32), "degraded": _draw(i + 10**6, 32), "index": i})
            for i in indices
        )


class BadData(Data):
    """Sample 10 cannot be read: of two processes that share batches of 4, the second one's in its
    third step.
    """

    def jobs(self, indices: Any) -> Any:
        def unreadable() -> Any:
            raise UserError("10.wav: damaged; replace it")

        return (
            unreadable if index == 10 else next(iter(super(BadData, self).jobs([index])))
            for index in indices
        )


class Task(Restoration):
    sample_rate = 16
    predictor = None

    def __init__(self) -> None: ...

    path = GaussianPath(sigma_0=0.5, temperature=0.7)

    def gain(self, wave: Tensor) -> Tensor:
        return torch.ones(len(wave), 1)

    def target(self, wave: Tensor) -> Tensor:
        return wave.reshape(len(wave), 2, 2, 8)

    def condition(self, wave: Tensor, text: str | None = None) -> dict[str, Tensor]:
        return {"y": wave.reshape(len(wave), 2, 2, 8)}


class Toy(nn.Module):
    """Predicts z_1 from y by a small network; notes the indices it saw, and sends itself ``signum``
    at step ``at`` on one rank.
    """

    def __init__(
        self, steps: int, at: int = -1, signum: int = 0, bad: tuple[int, ...] = (), rank: int = 0
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Linear(8, 16), nn.LayerNorm(16), nn.GELU(), nn.Dropout(0.0), nn.Linear(16, 8)
        )
        self.steps, self.at, self.signum, self.bad = steps, at, signum, bad
        self.seen: list[list[int]] = []
        self.rank = str(rank)

    def forward(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        step = round(batch["progress"] * self.steps)
        if step == self.at and os.environ.get("RANK", "0") == self.rank:
            os.kill(os.getpid(), self.signum)
        self.seen.append(batch["index"].tolist())
        error = (self.model(batch["cond"]["y"]) - batch["z_1"]).square().sum(1)
        mask = (torch.arange(8) < 8 - batch["index"][:, None] % 3).float()[:, None]
        loss = (error * mask).sum() / (error.numel() / 8 * 7)
        if step in self.bad:
            loss = loss * float("nan")
        return loss, {"frames": mask.sum()}


class Drawing(Toy):
    """Notes what a draw of the global generator gives at each update, as dropout would see it."""

    def forward(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        drawn = torch.rand(()).item()
        out = super().forward(batch)
        self.seen[-1] = [drawn]  # type: ignore[list-item]
        return out


def build(kind: str, config: TrainConfig, arguments: dict[str, Any]) -> nn.Module:
    """The toy, or a real objective on a minute compact network."""
    if kind in ("toy", "bad"):
        return Toy(config.steps, **arguments)
    if kind == "drawing":
        return Drawing(config.steps, **arguments)
    torch.manual_seed(1)
    network = CompactNet(
        CompactConfig(freqs=2, channels=4, blocks=2, band_stride=1, recurrent=4, embedding=8)
    )
    for p in network.parameters():  # some start at zero, which would hide what depends on time
        nn.init.normal_(p, std=0.3) if p.ndim >= 2 else None
    path = GaussianPath(sigma_0=0.5)
    if kind == "cfm":
        return CFMObjective(network, path, seed=config.seed)
    teacher = Field(network)
    if kind == "dmd":
        return finish_toy.matched(0.1, warmup=2)
    if kind == "critics":
        return finish_toy.finish(CriticConfig(0.1, warmup=2, ramp=2, r1=0.1, lr=1e-4))
    if kind == "finish":
        finish = FinishConfig(features=1.0, anchor=0.5, temperature=Task.path.temperature)
        return FinishObjective(
            Student.from_teacher(teacher),
            Task(),  # type: ignore[arg-type]
            schedules(finish, {"schedules": {"2": [0.0, 0.7, 1.0]}}),
            finish,
            teacher,
            config.seed,
        )
    if kind == "integral":
        return IntegralObjective(
            Student.from_teacher(teacher),
            teacher,
            path,
            IntegralConfig(targets_per_rollout=2),
            config.seed,
        )
    return MeanFlowObjective(
        Student.from_teacher(teacher), teacher, path, MeanFlowConfig(), config.seed
    )


def energy(model: nn.Module, step: int, accelerator: Any) -> dict[str, float]:
    """A validation: what the weights are and what the model makes of them."""
    weights = sum(float(p.double().square().sum()) for p in model.parameters())
    z = Task().target(torch.stack([_draw(i, 32) for i in (1, 2)]))
    time = torch.full((2,), 0.5)
    return {"weights": weights, "output": float(model(z, time, time, {"y": z}).abs().mean())}


def sources(kind: str) -> tuple[Any, Any]:
    """Data set and task of a job."""
    if kind in ("critics", "dmd"):
        return finish_toy.Waves(), finish_toy.TASK
    return BadData() if kind == "bad" else Data(), Task()


def main() -> None:
    """``loop_toy.py RESULT JOBS``: JOBS is a JSON list of [kind, settings, arguments of the toy].

    Each rank writes a list of what the jobs gave: the indices that the toy saw, or the exit code of
    an interrupted run.
    """
    torch.set_num_threads(1)
    seen: list[Any] = []
    accelerator: Any = None
    sharded = False
    for kind, settings, arguments in json.loads(sys.argv[2]):
        config = from_dict(TrainConfig, settings)
        if accelerator is None or sharded != config.sharded:
            AcceleratorState._reset_state()
            os.environ.pop("ACCELERATE_USE_FSDP", None)  # Accelerate's note of the one before
            accelerator, sharded = make_accelerator(config), config.sharded
        objective = build(kind, config, arguments)
        try:
            train(
                objective,
                *sources(kind),
                config,
                model_config=MODEL_CONFIG,
                validate=energy if config.valid_every else None,
                accelerator=accelerator,
            )
        except Interrupted as stop:
            seen.append(stop.exit_code)
        except UserError as error:
            seen.append([type(error).__name__, str(error)])
        except RuntimeError:
            end_with_others()
            raise
        else:
            seen.append(getattr(objective, "seen", None))
    Path(f"{sys.argv[1]}.{accelerator.process_index}").write_text(json.dumps(seen))
    accelerator.end_training()


def fork(ranks: int) -> None:
    """As a launcher does, without importing everything once more for each process; ends with the
    worst of their exit codes.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            return main()
        children.append(child)
    sys.exit(max(abs(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])) for child in children))


if __name__ == "__main__":
    fork(int(os.environ["FORK"])) if "FORK" in os.environ else main()
