"""How much disk a run needs: its model, the state that it is resumed from, and their twins while
they are written.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from mfdistill.distill.moments import FP32, moment_bytes
from mfdistill.distill.state import module_tensors
from mfdistill.students.student import borrowed_by


@dataclass(frozen=True)
class DiskNeed:
    """Bytes, without logs."""

    model: int
    """``model.safetensors``, and once more in ``best/`` where a run keeps one."""
    state: int
    """``training_state/``: raw weights, averages, AdamW's two moments."""
    companions: int = 0
    best: bool = False
    states: int = 1
    """That are kept."""

    @property
    def kept(self) -> int:
        """Between saves."""
        return (1 + self.best) * (self.model + self.companions) + self.states * self.state

    @property
    def most(self) -> int:
        """While saving: model and state are each written whole beside the one before."""
        return self.kept + max(self.model, self.state)

    def told(self, out: Path) -> str:
        """For the start of a run, with what is free where ``out`` lies."""
        free = shutil.disk_usage(next(p for p in (out, *out.absolute().parents) if p.exists())).free
        short = (
            "" if free >= self.most else "; that is not enough: free some, or name another --out"
        )
        return (
            f"disk: {size(self.kept)} in {out} between saves (model {size(self.model)}, state "
            f"{size(self.state)}), {size(self.most)} while saving; {size(free)} free{short}"
        )


def disk_need(
    objective: nn.Module,
    model: nn.Module,
    companions: int = 0,
    best: bool = False,
    states: int = 1,
    moments_8bit: bool = False,
) -> DiskNeed:
    """Counted from the tensors that a run saves.

    Args:
        companions: bytes of the files that go with the model. best: the run keeps ``best/`` too.
        states: how many saves are kept to be resumed from. moments_8bit: AdamW's.
    """
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    borrowed = borrowed_by(model)
    weights = sum(v.nbytes for name, v in model.state_dict().items() if name not in borrowed)
    raw = sum(value.nbytes for value in module_tensors(objective).values())
    moments = moment_bytes((p for p in objective.parameters() if p.requires_grad), moments_8bit)
    return DiskNeed(weights, raw + FP32 * trained + moments, companions, best, states)


def size(count: float) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
