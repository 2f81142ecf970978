"""What the objectives share: noise, per-sample errors, and the reduction to one loss.

A batch is a mapping with

- ``z_1``: clean features x, (b, 2, f, n); ``cond``: the condition, a dict of tensors with b rows;
- ``index``: (b,) integers, the samples' global indices; every random number is a function of (seed,
  index);
- ``progress``: 0 at the start of the run, 1 at its end (for curricula; default 1); ``step``: the
  number of the update, in training only;
- ``loss_mask``: (b, 1, 1, n), 1 where a frame counts (of Mel states (b, n, 1) or (b, 1, n)), or
  None;
- ``loss_count``: see ``reduce``; needed only with masks and several processes or accumulation.

``objective(batch)`` returns ``(loss, logs)``; the logs are detached scalars.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mfdistill.audio.spectral_loss import spectral_loss
from mfdistill.flow import GaussianPath, noise
from mfdistill.networks.half import is_held_in_bf16
from mfdistill.plain import Batch
from mfdistill.tasks import Restoration
from mfdistill.teachers.field import Field

Logs = dict[str, Tensor]


def end_points(path: GaussianPath, batch: Batch, seed: int) -> tuple[Tensor, Tensor]:
    """``(z_0, z_1)`` of the path with the batch's own noise, in single precision or better."""
    x = batch["z_1"].to(torch.promote_types(batch["z_1"].dtype, torch.float32))
    eps = noise(seed, batch["index"], "noise", x.shape[1:], device=x.device, dtype=x.dtype)
    return path.end_points(x, batch["cond"], eps)


def valid(x: Tensor, mask: Tensor | None) -> Tensor:
    """``x`` with the frames that do not count set to 0."""
    return x if mask is None else x * mask


def norm(x: Tensor, mask: Tensor | None) -> Tensor:
    """(b,) root of the sum of squares over everything that counts."""
    return valid(x, mask).flatten(1).norm(dim=1)


def squared_error(a: Tensor, b: Tensor, mask: Tensor | None) -> Tensor:
    """(b,) mean of ``|a - b|^2`` over what counts: of complex bins, their two channels on axis 1,
    for states (b, 2, f, n); of values for Mel states (b, n, mels) or (b, mels, n), whose mask is
    (b, n, 1) or (b, 1, n).
    """
    return _mean(_squares(a, b), mask)


def absolute_error(a: Tensor, b: Tensor, mask: Tensor | None) -> Tensor:
    """(b,) mean of ``|a - b|`` over what counts, as ``squared_error``."""
    squares = _squares(a, b)
    # a finite gradient where a is b
    return _mean(squares.clamp(min=torch.finfo(squares.dtype).tiny).sqrt(), mask)


def _squares(a: Tensor, b: Tensor) -> Tensor:
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    squares = (a.to(dtype) - b.to(dtype)).square()
    return squares if a.ndim == 3 else squares.sum(1, keepdim=True)


def _mean(error: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return error.flatten(1).mean(1)
    mask = mask.expand_as(error)
    return (error * mask).flatten(1).sum(1) / mask.flatten(1).sum(1).clamp(min=1)


def magnitude_loss(task: Restoration, estimate: Tensor, reference: Tensor) -> Tensor:
    """(b,) ``audio.spectral_loss`` of the signals of two features (b, 2, f, n), in single
    precision.
    """
    length = (reference.shape[-1] - 1) * task.config.stft.hop
    with torch.autocast(reference.device.type, enabled=False):
        return spectral_loss(
            task.waveform(estimate.float(), length),
            task.waveform(reference.float(), length),
            task.sample_rate,
        )


def reduce(per_sample: Tensor, batch: Batch) -> Tensor:
    """The loss: the mean of ``per_sample`` (b,), each sample weighing as many frames as count in
    it.

    ``loss_count`` makes it the same for any split of a batch over processes and micro-batches: it
    is the number of frames that count in the whole batch, per part (``distill.batch.loss_count``).
    """
    mask = batch.get("loss_mask")
    if mask is None:
        return per_sample.mean()
    frames, count = mask.flatten(1).sum(1), batch.get("loss_count")
    return (per_sample * frames).sum() / (frames.sum().clamp(min=1) if count is None else count)


def in_parts(rows: int, size: int) -> list[slice]:
    """All rows of a batch, at most ``size`` at once; 0 is all at once."""
    size = size if size > 0 else max(rows, 1)
    return [slice(start, start + size) for start in range(0, rows, size)]


def progress(batch: Batch) -> float:
    return float(batch.get("progress", 1.0))


def hold(objective: nn.Module, teacher: Field | None) -> None:
    """Give ``objective`` an attribute ``teacher`` outside its module tree: not saved, not
    optimised, not switched by ``train()``.
    """
    object.__setattr__(objective, "teacher", teacher)


def within_reach(teacher: Field | None, t: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """Intervals that start after the latest time that the teacher was trained at (``t_last``) start
    there; anchors stay anchors.
    """
    if teacher is None:
        return t, r
    anchors, t = r <= t, t.clamp(max=teacher.facts.t_last)
    return t, torch.where(anchors, t, r)


@torch.no_grad()
def teacher_velocity(
    teacher: Field, z: Tensor, t: Tensor, cond: Mapping[str, Tensor], autocast: bool = False
) -> Tensor:
    """The teacher's velocity in the precision of its weights, on the device of ``z``; with
    ``autocast`` in the run's mixed precision instead, in the precision of ``z``, as of weights that
    are held in bf16.

    After the latest time that it was trained at it is the velocity of that time at ``z``: so its
    own sampler takes the last step.
    """
    t = t.clamp(max=teacher.facts.t_last)
    weight = next(teacher.network.parameters(), z)
    if weight.device != z.device:
        teacher.to(device=z.device)
    if is_held_in_bf16(teacher.network):
        with torch.autocast(z.device.type, torch.bfloat16):
            return teacher.velocity(z, t, cond).to(z.dtype)
    if autocast:
        return teacher.velocity(z, t, cond).to(z.dtype)
    with torch.autocast(z.device.type, enabled=False):
        return teacher.velocity(z, t, cond)
