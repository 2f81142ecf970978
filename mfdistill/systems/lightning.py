"""Lightning checkpoints of FlowSE, MeanFlowSE and SGMSE, or their bare weights: averaged weights,
raw weights and hyper-parameters.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mfdistill.errors import UserError
from mfdistill.plain import Plain
from mfdistill.systems.files import read_foreign
from mfdistill.systems.stand_ins import StandIn

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class EnhancementCheckpoint:
    """What such a file holds, by the network's own names (without ``dnn.``).

    Attributes:
        averaged: the exponential moving averages; the only weights there are where the file has no
            averages.
        raw: the weights without averaging. settings: hyper-parameters, plain values only; empty for
            bare weights.
    """

    path: Path
    averaged: dict[str, Tensor]
    raw: dict[str, Tensor]
    settings: Plain


def read_checkpoint(path: str | Path) -> EnhancementCheckpoint:
    """Read a ``.ckpt`` of the originals, or weights alone (``.safetensors``, ``.pt``) with or
    without the prefix ``dnn.``.

    torch-ema never clears ``collected_params``, so what they are depends on when the file was
    written: the averages are ``shadow_params`` always; the raw weights are ``collected_params`` if
    ``state_dict`` holds the averages, and else ``state_dict``.

    Raises:
        UserError: unreadable, without weights, or with averages that do not fit the weights.
    """
    file = read_foreign(path)
    lightning = isinstance(file.values.get("state_dict"), Mapping)
    state = file.tensors("state_dict") if lightning else file.tensors()
    prefixed = {
        key.removeprefix("dnn."): value for key, value in state.items() if key.startswith("dnn.")
    }
    weights = prefixed or state
    if not weights:
        raise UserError(
            f"{path}: holds no network weights; name a checkpoint of FlowSE, MeanFlowSE or SGMSE"
        )
    settings = {
        key: value
        for key, value in dict(file.values.get("hyper_parameters") or {}).items()
        if _plain(value)
    }
    ema = file.values.get("ema")
    if not isinstance(ema, Mapping) or not ema.get("shadow_params"):
        if lightning:
            warnings.warn(
                f"{path}: has no averaged weights (ema); its last weights are taken", stacklevel=2
            )
        return EnhancementCheckpoint(Path(path), weights, weights, settings)
    averaged = _named(weights, ema["shadow_params"], path)
    raw = weights
    if ema.get("collected_params") and all(
        torch.equal(weights[name], averaged[name]) for name in averaged
    ):
        raw = _named(weights, ema["collected_params"], path)
    return EnhancementCheckpoint(Path(path), averaged, raw, settings)


def _named(
    weights: Mapping[str, Tensor], values: list[Tensor], path: str | Path
) -> dict[str, Tensor]:
    """A list in the order of the parameters (a loss network's may follow them), with the buffers of
    ``weights``.
    """
    names = [name for name in weights if not name.endswith(_BUFFERS)]
    if len(values) < len(names) or any(
        weights[name].shape != value.shape for name, value in zip(names, values, strict=False)
    ):
        raise UserError(
            f"{path}: its averaged weights (ema) do not fit its state_dict; the file is damaged or of another program"
        )
    return {**weights, **dict(zip(names, values, strict=False))}


def _plain(value: object) -> bool:
    return not isinstance(value, (type, Tensor, StandIn))
