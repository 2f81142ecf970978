"""The sampler as it is trained: from the prior, along a schedule, gradients through every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mfdistill.distill.objectives.base import Batch
from mfdistill.flow import GaussianPath, jump, noise, uniform


def start(path: GaussianPath, batch: Batch, seed: int, t: float = 0.0) -> Tensor:
    """A draw of the prior at its own temperature, for every sample of a batch, in single precision
    or better.
    """
    x = batch["z_1"].to(torch.promote_types(batch["z_1"].dtype, torch.float32))
    if path.temperature == 0:
        return path.prior(batch["cond"], torch.zeros_like(x), t)
    eps = noise(seed, batch["index"], "noise", x.shape[1:], device=x.device, dtype=x.dtype)
    return path.prior(batch["cond"], eps, t)


def reached(
    student: nn.Module, z_0: Tensor, cond: Mapping[str, Tensor], times: Sequence[float]
) -> Tensor:
    """What ``students.sample`` gives, with its gradient."""
    return jump(lambda z, t, r: student(z, t, r, cond), z_0, times)


def drawn(choices: Sequence[int], batch: Batch, seed: int) -> Sequence[int]:
    """One of ``choices``, a function of (seed, step), so that every process draws the same; all of
    them where the batch belongs to no step (validation).
    """
    if "step" not in batch:
        return choices
    u = uniform(seed, torch.tensor([batch["step"]]), "steps", dtype=torch.float64)
    return [choices[int(u.item() * len(choices))]]
