"""Distil a Mel network of your own: any ``nn.Module`` that predicts the velocity of (b, mels, n)
frames under a condition, with the frames that count; saved, loaded and sampled from Python.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

import mfdistill as mf

MELS, FRAMES = 8, 24


class MelNetwork(nn.Module):
    """A stand-in for yours: convolutions over frames, steered by time and by features "mu"."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(1, 32), nn.SiLU(), nn.Linear(32, 32))
        self.first, self.last = (
            nn.Conv1d(2 * MELS, 32, 3, padding=1),
            nn.Conv1d(32, MELS, 3, padding=1),
        )

    def forward(self, z: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        h = self.first(torch.cat([z, cond["mu"]], 1)) + self.embed(t)[:, :, None]
        return self.last(nn.functional.silu(h)) * cond["mask"]

    def embed(self, t: Tensor) -> Tensor:
        return self.time(t)


class PerSample(nn.Module):
    """Your embedder wants (b, 1)? mfdistill calls it with (b,): put a line around it."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, t: Tensor) -> Tensor:
        return self.inner(t[:, None])


def network() -> MelNetwork:
    own = MelNetwork()
    own.time = PerSample(own.time)  # type: ignore[assignment]
    return own


def batch(number: int) -> dict[str, object]:
    """Features, the Mel frames that belong to them, and which of them count."""
    generator = torch.Generator().manual_seed(number)
    mu = torch.randn(16, MELS, FRAMES, generator=generator)
    lengths = torch.randint(FRAMES // 2, FRAMES + 1, (16, 1), generator=generator)
    mask = (torch.arange(FRAMES) < lengths).float()[:, None]
    return {
        "z_1": mu.roll(1, 2).tanh() * mask,
        "cond": {"mu": mu * mask, "mask": mask},
        "loss_mask": mask,
    }


def main(folder: Path, steps: int = 60) -> Tensor:
    torch.manual_seed(0)
    task = mf.OwnTask(std=1.0)
    teacher = mf.Field(
        network(), task, time_embedding="time"
    )  # load your weights into network() first
    student = mf.Student.from_teacher(teacher, schedule=2)
    objective = mf.IntegralObjective(student, teacher, task.path)
    config = mf.TrainConfig(out=str(folder), steps=steps, num_workers=0, log_every=steps)
    mf.train(objective, mf.OwnBatches(batch), task, config)
    student = mf.load_student(folder, network=network())
    told = batch(10**6)["cond"]
    return mf.sample(student, task.prior_like(told["mu"]), told)  # type: ignore[index, arg-type]


if __name__ == "__main__":
    sys.stdout.write(
        f"{tuple(main(Path(sys.argv[1] if len(sys.argv) > 1 else 'runs/mel-network')).shape)}\n"
    )
