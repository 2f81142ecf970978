"""Causal students of non-causal teachers: the target comes from the network that sees everything,
the student sees no later frame.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from mfdistill.config import to_dict
from mfdistill.errors import UserError
from mfdistill.networks.compact import CompactNet, FrameConv
from mfdistill.tasks import Predictor, get_task
from mfdistill.teachers.field import Field


@torch.no_grad()
def causal_copy(network: nn.Module) -> nn.Module:
    """The causal network that is left when everything that looks ahead is cut off; a network that
    is causal already is returned as it is.

    Weights of the past and the present stay where they are in time. The new taps further back,
    which fill the kernels up, start at zero.

    Raises:
        UserError: a network without a causal form.
    """
    if getattr(network, "causal", False):
        return network
    if not isinstance(network, CompactNet):
        raise UserError(
            f"--causal: {type(network).__name__} has no causal form; the teacher must be a compact network or causal itself"
        )
    causal = CompactNet(replace(network.config, causal=True))
    tensors = {
        key: value for key, value in network.state_dict().items() if key in causal.state_dict()
    }
    for name, module in causal.named_modules():
        if isinstance(module, FrameConv):
            kernel = tensors[f"{name}.conv.weight"]
            tensors[f"{name}.conv.weight"] = torch.cat(
                [torch.zeros_like(kernel[:, :, :1]), kernel[:, :, :2]], 2
            )
    for name in ("decode.weight", "decode.bias"):
        tensors[name] = _past_taps(tensors[name], network)
    if causal.recurrence is not None:
        # the forward direction
        tensors["recurrence.out.weight"] = tensors["recurrence.out.weight"][
            :, : network.config.recurrent
        ]
    causal.load_state_dict(tensors)
    return causal


def _past_taps(rows: Tensor, network: CompactNet) -> Tensor:
    """Rows of the last layer ``(bins of a band * (masks + 2 taps), ...)`` with the filter's taps
    moved so that each keeps its frame.
    """
    config, past = network.config, network.filter.past
    rows = rows.reshape(config.band_stride, -1, *rows.shape[1:]).clone()
    first = rows.shape[1] - 2 * network.filter.taps
    taps = rows[:, first:].reshape(
        config.band_stride, 2, config.filter_frames, config.filter_bins, *rows.shape[2:]
    )
    moved = torch.zeros_like(taps)
    moved[:, :, config.filter_frames - 1 - past :] = taps[:, :, : past + 1]
    rows[:, first:] = moved.reshape(rows[:, first:].shape)
    return rows.flatten(0, 1)


def causal_start(teacher: Field, predictor: Predictor | None = None) -> Field:
    """Where a causal student of ``teacher`` starts: its network cut to the past, its task in causal
    framing (frames end at their newest sample), so that ``Student.from_teacher`` can take it. The
    teacher is not touched.

    Args:
        predictor: in the place of the teacher's.

    Raises:
        UserError: a network without a causal form, a teacher without a task of ours, or a predictor
            that sees later frames (it is not trained with the student, so it cannot be cut).
    """
    task = teacher.task
    if task is None:
        raise UserError(
            "--causal: the teacher has no task of this program; name a folder that teacher-train wrote"
        )
    predictor = predictor if predictor is not None else task.predictor
    if predictor is not None and not predictor.causal:
        raise UserError(
            "--causal: the teacher's predictor sees later frames, and stays as it is; name a causal one with --predictor"
        )
    network = causal_copy(teacher.network)
    description = {"name": "compact", "config": to_dict(network.config)}  # type: ignore[arg-type]
    if network is teacher.network:
        description = teacher.config.get("network") or description
    own = get_task(replace(task.config, stft=replace(task.config.stft, causal=True)), predictor)
    return Field(network, own, {"network": description})
