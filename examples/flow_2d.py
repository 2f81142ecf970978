"""Distil a flow in the plane, from Python alone: your own network, your own data, one step instead
of twenty.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import mfdistill as mf


class Embedding(nn.Module):
    """Times (b,) to (b, 16): what becomes an embedding of two times in the student."""

    def forward(self, t: Tensor) -> Tensor:
        return (t[:, None] * torch.arange(1, 17, device=t.device)).sin()


class Network(nn.Module):
    """``network(z_t, t, cond) -> v``, z_t (b, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = Embedding()
        self.layers = nn.Sequential(
            nn.Linear(18, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2)
        )

    def forward(self, z: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        return self.layers(torch.cat([z, self.embed(t)], 1))


def ring(number: int) -> dict[str, Tensor]:
    """Batch ``number``: points on a circle."""
    angle = 6.2832 * torch.rand(128, generator=torch.Generator().manual_seed(number))
    return {"z_1": torch.stack([angle.cos(), angle.sin()], 1)}


def main(folder: Path, steps: int = 600) -> tuple[float, float]:
    """Mean distance from the circle of the teacher's 20 steps and of the student's one."""
    torch.manual_seed(0)
    network, task = Network(), mf.OwnTask(std=1.0)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for number in range(2 * steps):  # the teacher: any flow-matching program; here five lines
        z_1, t = ring(number)["z_1"], torch.rand(128)
        z_0 = task.prior_like(z_1)
        loss = (network(z_0 + t[:, None] * (z_1 - z_0), t, {}) - (z_1 - z_0)).square().mean()
        optimizer.zero_grad(), loss.backward(), optimizer.step()

    teacher = mf.Field(network, task, time_embedding="embed")
    student = mf.Student.from_teacher(teacher)
    intervals = mf.IntervalConfig(p_full=0.5)
    objective = mf.IntegralObjective(
        student, teacher, task.path, mf.IntegralConfig(interval=intervals)
    )
    config = mf.TrainConfig(out=str(folder), steps=steps, lr=2e-3, num_workers=0, log_every=100)
    mf.train(objective, mf.OwnBatches(ring), task, config)

    student = mf.load_student(folder, network=Network())
    z_0 = task.prior_like(torch.empty(1000, 2))
    many = mf.solve(lambda z, t: teacher.velocity(z, t, {}), z_0, 20)
    one = mf.sample(student, z_0, {}, steps=1)
    return tuple(float((z.norm(dim=1) - 1).abs().mean()) for z in (many, one))  # type: ignore[return-value]


if __name__ == "__main__":
    teacher_error, student_error = main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/flow-2d"))
    sys.stdout.write(
        f"distance from the circle: teacher, 20 steps {teacher_error:.3f}; student, 1 step {student_error:.3f}\n"
    )
