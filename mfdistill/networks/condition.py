"""What a network finds in its condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor


def need(cond: Mapping[str, Tensor], names: Sequence[str], what: str) -> None:
    """Raise ``ValueError`` where one of ``names`` is missing; ``what`` says all that is needed."""
    if missing := [name for name in names if cond.get(name) is None]:
        raise ValueError(f"the condition has no '{missing[0]}'; this network needs {what}")
