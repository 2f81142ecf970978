"""Eight-bit convolutions and linear layers for CPUs: weights per output channel, activations per
layer with ranges that were measured once.

Fixed ranges make every output depend on its own inputs alone, so that a network streams as it did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mfdistill.errors import UserError

Ranges = Mapping[str, tuple[float, float, float, float]]
"""By a layer's name: least and greatest input, least and greatest output."""


class Int8Layer(nn.Module):
    """An ``nn.Conv2d`` or ``nn.Linear`` computed in eight bits, float in and out.

    Buffers: ``weight`` int8 with ``weight_scale (out,)`` in float64, ``bias``, and ``input``,
    ``output``: scale and zero point (2,).
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear):
        super().__init__()
        self.options = (
            (layer.stride, layer.padding, layer.dilation, layer.groups)
            if isinstance(layer, nn.Conv2d)
            else None
        )
        self.register_buffer("weight", torch.zeros_like(layer.weight, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.ones(layer.weight.shape[0], dtype=torch.float64))
        bias = layer.bias.detach() if layer.bias is not None else torch.zeros(layer.weight.shape[0])
        self.register_buffer("bias", bias.clone())
        for name in ("input", "output"):
            self.register_buffer(name, torch.tensor([1.0, 0.0], dtype=torch.float64))
        self._packed: tuple[Any, ...] | None = None

    @torch.no_grad()
    def fill(self, layer: nn.Conv2d | nn.Linear, limits: tuple[float, float, float, float]) -> None:
        """Round a layer's weights, and fix the ranges of its activations."""
        flat = layer.weight.detach().double().flatten(1)
        scale = flat.abs().amax(1).clamp_min(1e-12) / 127
        self.weight.copy_(
            (flat / scale[:, None])
            .round()
            .clamp(-127, 127)
            .to(torch.int8)
            .reshape(layer.weight.shape)
        )  # type: ignore[operator]
        self.weight_scale.copy_(scale)  # type: ignore[operator]
        for name, (low, high) in (("input", limits[:2]), ("output", limits[2:])):
            # 0 is exact: padding is made of it
            low, high = min(low, 0.0), max(high, 0.0)
            step = max((high - low) / _LEVELS[name], 1e-12)
            getattr(self, name).copy_(torch.tensor([step, round(-low / step)]))
        self._packed = None

    def forward(self, x: Tensor) -> Tensor:
        if self._packed is None:
            self._packed = self._pack()
        packed, (scale, zero), (out_scale, out_zero) = self._packed
        quantized = torch.quantize_per_tensor(x.float(), scale, zero, torch.quint8)
        run = torch.ops.quantized.linear if self.options is None else torch.ops.quantized.conv2d
        return run(quantized, packed, out_scale, out_zero).dequantize().to(x.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Int8Layer:
        exact = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        # they move, but stay what they are when the rest of a network becomes float64 or half
        for name, value in exact.items():
            setattr(self, name, value.to(getattr(self, name).device))
        self._packed = None
        return self

    def _pack(self) -> tuple[Any, ...]:
        # torch 2.15 announces the end of quantized tensors; torchao's way quantizes the graph of a
        # whole exported network for a compiler, not a layer of a module that streams eagerly
        zeros = torch.zeros_like(self.weight_scale, dtype=torch.int64)  # type: ignore[arg-type]
        weight = torch._make_per_channel_quantized_tensor(self.weight, self.weight_scale, zeros, 0)  # type: ignore[arg-type]
        if self.options is None:
            packed = torch.ops.quantized.linear_prepack(weight, self.bias)
        else:
            stride, padding, dilation, groups = self.options
            packed = torch.ops.quantized.conv2d_prepack(
                weight, self.bias, list(stride), list(padding), list(dilation), groups
            )
        pairs = [(float(pair[0]), int(pair[1])) for pair in (self.input, self.output)]  # type: ignore[index]
        return packed, *pairs

    def __deepcopy__(self, memo: dict[int, Any]) -> Int8Layer:
        new = object.__new__(type(self))
        nn.Module.__init__(new)
        new.options, new._packed = self.options, None
        for name, buffer in self.named_buffers(recurse=False):
            new.register_buffer(name, buffer.clone())
        return new


_LEVELS = {"input": 127, "output": 255}
# Inputs have seven bits: without VNNI instructions, sums of pairs of eight-bit products saturate at
# 16 bits


def has_int8(network: nn.Module) -> bool:
    """Whether some of its layers are computed in eight bits."""
    return any(isinstance(module, Int8Layer) for module in network.modules())


def layers_of(network: nn.Module, chosen: Callable[[str, nn.Module], bool]) -> list[str]:
    """Names of the convolutions and linear layers for which ``chosen(name, layer)``."""
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and chosen(name, module)
    ]


def put_int8(network: nn.Module, names: Iterable[str], ranges: Ranges | None = None) -> None:
    """Replace layers by their eight-bit form, in place: filled where ranges are given, else ready
    for ``load_state_dict``.

    Raises:
        UserError: a name that is no convolution or linear layer of the network.
    """
    for name in names:
        parent_name, _, last = name.rpartition(".")
        try:
            parent, layer = network.get_submodule(parent_name), network.get_submodule(name)
        except AttributeError as error:
            raise UserError(
                f"network: int8: '{name}' is no layer of this network; restore config.json or compress again"
            ) from error
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            raise UserError(
                f"network: int8: '{name}' is no convolution or linear layer; restore config.json or compress again"
            )
        new = Int8Layer(layer)
        if ranges is not None:
            new.fill(layer, ranges[name])
        setattr(parent, last, new)
