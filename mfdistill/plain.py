"""Names for mappings whose keys a docstring lists and whose values are plain or tensors. What comes
out of a file is checked where it is read (``config.from_dict``, ``checkpoint.load_config``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

if TYPE_CHECKING:
    from torch import Tensor

Section = Mapping[str, Any]
"""An object of a JSON file, to be read."""
Plain = dict[str, Any]
"""The same, being made."""
Row = Mapping[str, Any]
"""A line of a table, by its columns."""
Raw = Mapping[str, Any]
"""A micro-batch of data as its set makes it: tensors, lists and "index" (b,)."""
Item = Mapping[str, Any]
"""An utterance of an evaluation set (``data.evaluation.EvalSet``)."""


class Batch(TypedDict):
    """What an objective takes, as a task makes it of a ``Raw`` (``distill.objectives.base`` says
    more).
    """

    z_1: Tensor
    cond: dict[str, Tensor]
    index: Tensor
    loss_mask: NotRequired[Tensor | None]
    gain: NotRequired[Tensor]
    progress: NotRequired[float]
    step: NotRequired[int]
    loss_count: NotRequired[Tensor | None]
