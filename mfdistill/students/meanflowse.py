"""MeanFlowSE checkpoints as students, and students of that architecture back in its layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mfdistill.errors import UserError
from mfdistill.students.student import Student
from mfdistill.teachers.enhancement import open_enhancement


def load_meanflowse(
    path: Path,
    device: torch.device | str = "cpu",
    config: Mapping[str, Any] | None = None,
    streaming: bool = False,
) -> Student:
    """A student from a MeanFlowSE checkpoint: ``u(z, t, r)`` is its network at ``1 - t`` and ``d =
    r - t``.

    The schedule is its recommended single step, from ``1 - T_rev`` to 1; ``flow.meanflowse_times``
    gives its other grids.

    Raises:
        UserError: another kind of file, weights that do not fit the sizes, or options that have no
            counterpart here.
    """
    if streaming:
        raise UserError(
            f"{path}: kind meanflowse has no streaming form (its norms see all frames); leave streaming out"
        )
    network, task, description, settings = open_enhancement("meanflowse", path, config)
    if description["name"] != "ncsnpp":
        raise UserError(
            f"{path}: a network without a second time is no student; load it as a teacher"
        )
    start = 1 - float(settings.get("T_rev") or 1)
    parent = {"file": str(path), "kind": "meanflowse", "weights": settings.get("weights", "ema")}
    name: str = network.time_embedding_name  # type: ignore[assignment]
    return (
        Student(network, name, task, [start, 1.0], description, parent, "delta").to(device).eval()
    )
