"""Low-rank deltas on linear and convolution layers (LoRA, arXiv 2106.09685): ``W + s B A`` with the
layer's own ``W`` frozen; ``B`` starts at zero, so nothing changes until the first update.
"""

from __future__ import annotations

import copy
import math
import re

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mfdistill.errors import UserError
from mfdistill.networks import dit, mel_unet_layers
from mfdistill.networks.lora_config import LoraConfig
from mfdistill.networks.ncsnpp import NCSNpp

_BLOCKS = (
    dit.Attention, dit.FeedForward, mel_unet_layers.TransformerBlock, mel_unet_layers.ResidualBlock,
)  # fmt: skip
LORA = ("lora_A", "lora_B")


class LoraLinear(nn.Linear):
    """A linear layer with a delta; ``lora_A`` (rank, in), ``lora_B`` (out, rank)."""

    scale: float

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        low = F.linear(input, self.lora_A)  # type: ignore[arg-type]
        return F.linear(input, self.weight, self.bias) + self.scale * F.linear(low, self.lora_B)  # type: ignore[arg-type]

    def delta(self) -> Tensor:
        """``s B A`` in the shape of the weight."""
        return self.scale * (self.lora_B @ self.lora_A)  # type: ignore[operator]


class _LoraConv:
    """A convolution with a delta: ``lora_A`` (rank, in, kernel...), ``lora_B`` (out, rank, 1...);
    put before the class of the layer that it extends, so that its padding is that layer's.
    """

    scale: float

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002
        return super()._conv_forward(input, weight + self.delta(), bias)  # type: ignore[misc]

    def delta(self) -> Tensor:
        """``s B A`` in the shape of the weight."""
        a, b = self.lora_A, self.lora_B  # type: ignore[attr-defined]
        return self.scale * (b.flatten(1) @ a.flatten(1)).unflatten(1, a.shape[1:])


def shared_copy(network: nn.Module) -> nn.Module:
    """A copy of the modules that holds the very parameters and buffers of ``network``."""
    held = {id(value): value for value in (*network.parameters(), *network.buffers())}
    return copy.deepcopy(network, held)  # type: ignore[arg-type]


def target_layers(network: nn.Module, config: LoraConfig, time_embedding: str) -> list[str]:
    """Names of the layers that get a delta, in the network's order.

    Raises:
        UserError: none, or a pattern that fits no layer.
    """
    if isinstance(network, NCSNpp):  # its faster rules read the weights themselves
        raise UserError("--lora.rank: not for this network; leave it out")
    layers = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d)
        and getattr(module, "groups", 1) == 1
        and not name.startswith(f"{time_embedding}.")
    }
    if config.targets:
        for pattern in config.targets:
            if not any(re.search(pattern, name) for name in layers):
                raise UserError(
                    f"--lora.targets {pattern}: fits no linear or convolution layer; names are "
                    f"such as {', '.join(list(layers)[:3])}"
                )
        return [name for name in layers if any(re.search(p, name) for p in config.targets)]
    blocks = tuple(f"{n}." for n, m in network.named_modules() if isinstance(m, _BLOCKS))
    found = [name for name in layers if not blocks or name.startswith(blocks)]
    if not found:
        raise UserError("--lora.rank: this network has no linear or convolution layers to adapt")
    return found


def add_deltas(network: nn.Module, config: LoraConfig, names: list[str], seed: int = 0) -> None:
    """Give the layers ``names`` their deltas, in place; their own weights are untouched.

    The rank of a layer is at most the smaller side of its weight.
    """
    assert config.rank is not None
    generator = torch.Generator().manual_seed(seed)
    for name in names:
        layer = network.get_submodule(name)
        weight: Tensor = layer.weight  # type: ignore[assignment]
        extended = _lora_class(type(layer))
        layer.__class__ = extended
        a = torch.empty(config.rank, *weight.shape[1:])
        bound = 1 / math.sqrt(a[0].numel())  # as nn.Linear and PEFT draw it
        a.uniform_(-bound, bound, generator=generator)
        ones = [1] * (weight.ndim - 2)
        b = torch.zeros(weight.shape[0], config.rank, *ones)
        for leaf, value in zip(LORA, (a, b), strict=True):
            layer.register_parameter(leaf, nn.Parameter(value.to(weight.device)))
        layer.scale = config.scale  # type: ignore[assignment]


@torch.no_grad()
def merge_deltas(network: nn.Module) -> None:
    """Add every delta to its layer's weight, which becomes one of its own, and remove it."""
    for layer in network.modules():
        if not isinstance(layer, LoraLinear | _LoraConv):
            continue
        weight: Tensor = layer.weight  # type: ignore[assignment]
        whole = weight.float() + layer.delta().float()
        layer.weight = nn.Parameter(whole.to(weight.dtype))  # type: ignore[assignment]
        for leaf in LORA:
            delattr(layer, leaf)
        del layer.scale
        layer.__class__ = _CLASSES[type(layer)]


_EXTENDED: dict[type, type] = {}
_CLASSES: dict[type, type] = {}


def _lora_class(layer: type) -> type:
    """The class of a layer with a delta, one for each class of layers."""
    if layer not in _EXTENDED:
        base = LoraLinear if issubclass(layer, nn.Linear) else _LoraConv
        name = f"Lora{layer.__name__}"
        made = base if layer is nn.Linear else type(name, (base, layer), {})
        _EXTENDED[layer], _CLASSES[made] = made, layer
    return _EXTENDED[layer]
