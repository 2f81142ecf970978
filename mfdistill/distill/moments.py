"""AdamW, its two moments in fp32 or in 8 bits: torchao's, after Dettmers et al. (arXiv 2110.02861),
codes of a dynamic map with a scale for every ``BLOCK`` of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mfdistill.distill.settings import TrainConfig
from mfdistill.extras import needed
from mfdistill.plain import Plain

if TYPE_CHECKING:
    from torch.optim import Optimizer

BLOCK = 256
LEAST = 4096  # values of a tensor whose moments are worth it
FP32 = 4
SIGNED = {"exp_avg": True, "exp_avg_sq": False}


def adamw(groups: list[Plain], config: TrainConfig, device: torch.device) -> Optimizer:
    """The optimiser of a run.

    Raises:
        UserError: torchao is asked for and not installed.
    """
    if config.moments == "fp32":
        return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)
    kind = needed("torchao.optim", "--moments 8bit").AdamW8bit

    class Uncompiled(kind):
        """Compiling the step for every shape takes minutes on a CPU, and a compiler."""

        def step(self, closure: Any = None) -> Any:
            with torch.compiler.set_stance("force_eager"):
                return super().step(closure)

    made = Uncompiled if device.type == "cpu" else kind
    return made(groups, lr=config.lr, betas=config.betas, block_size=BLOCK)


def moment_bytes(tensors: Iterable[Tensor], eight_bit: bool) -> int:
    """Of both moments of parameters."""

    def one(count: int) -> int:
        if not eight_bit or count < LEAST or count % BLOCK:
            return FP32 * count
        return count + FP32 * (count // BLOCK + 256)

    return sum(2 * one(value.numel()) for value in tensors)


def saved_moment(moment: str, name: str, value: Tensor) -> dict[str, Tensor]:
    """A moment of parameter ``name`` as plain tensors, by the names that they are saved under."""
    codes = getattr(value, "codes", None)
    if codes is None:
        return {f"{moment}.{name}": torch.as_tensor(value)}
    return {f"{moment}:codes.{name}": codes, f"{moment}:scale.{name}": value.scale}  # type: ignore[attr-defined]


def loaded_moment(moment: str, name: str, saved: Mapping[str, Tensor]) -> Tensor:
    """Inverse of ``saved_moment``, to the bit."""
    if (plain := saved.get(f"{moment}.{name}")) is not None:
        return plain
    codes, scale = (saved[f"{moment}:{part}.{name}"] for part in ("codes", "scale"))
    kind = needed("torchao.optim.subclass_8bit", "--moments 8bit").OptimState8bit
    value = kind.zeros(codes.shape, SIGNED[moment], BLOCK)
    value.codes.copy_(codes)
    value.scale.copy_(scale)
    return value
