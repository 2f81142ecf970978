"""A network's value and its tangent in one pass: forward-mode differentiation of which only the
values have a graph.

``torch.func.jvp`` computes a network's value again, without the graph that the loss needs, and
takes norms and activations apart. Here a network is written for pairs (value, tangent): the
tangents go through the same layers under ``no_grad``, and the loss's gradient starts from the
values of the same pass. A tangent of None is left out, so the plain call is the same code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mfdistill.networks.fused import fused
from mfdistill.networks.norm_silu import tangent_of_norm_silu

Dual = tuple[Tensor, Tensor | None]


def linear(f: Callable[..., Tensor], *inputs: Dual) -> Dual:
    """``f``, linear in all inputs together, of values and of tangents."""
    values, tangents = zip(*inputs, strict=True)
    value = f(*values)
    if tangents[0] is None:
        return value, None
    with torch.no_grad():
        return value, f(*tangents)


def affine(layer: nn.Conv2d | nn.Linear, x: Dual) -> Dual:
    """A convolution or linear layer: the tangent goes without the bias."""
    value = layer(x[0])
    if x[1] is None:
        return value, None
    with torch.no_grad():
        if isinstance(layer, nn.Linear):
            return value, F.linear(x[1], layer.weight)
        return value, F.conv2d(
            x[1], layer.weight, None, layer.stride, layer.padding, layer.dilation, layer.groups
        )


def through(f: Callable[..., Tensor], *inputs: Dual) -> Dual:
    """Any ``f``, by ``torch.func.jvp``: for small parts, since the value is computed twice where it
    has a graph.
    """
    values, tangents = zip(*inputs, strict=True)
    if tangents[0] is None:
        return f(*values), None
    with torch.no_grad():
        value, tangent = torch.func.jvp(f, tuple(x.detach() for x in values), tangents)[:2]
    return (f(*values) if torch.is_grad_enabled() else value), tangent.detach()


def norm_silu(norm: nn.GroupNorm, x: Dual, fuse: bool) -> Dual:
    if fuse:
        return fused(*x, norm)
    value, tangent = x
    return F.silu(norm(value)), None if tangent is None else tangent_of_norm_silu(
        norm, value, tangent
    )


def conv(
    layer: nn.Conv2d,
    x: Dual,
    fuse: bool,
    norm: nn.GroupNorm | None = None,
    shift: Dual | None = None,
    skip: Dual | None = None,
    scale: float = 1.0,
    dropout: float = 0.0,
) -> Dual:
    """``scale (skip + shift + conv(dropout(silu(norm(x)))))`` with a 3 x 3 layer; shift is (n, o),
    without a norm also no activation.

    Args:
        fuse: in one operation (``networks.fused``); not with dropout.
    """
    if fuse:
        shift = _plus(shift, layer.bias, len(x[0]))
        return fused(*x, norm, layer.weight, *shift, *(skip or (None, None)), scale)
    if norm is not None:
        x = norm_silu(norm, x, False)
    if dropout:
        mask = F.dropout(torch.ones_like(x[0]), dropout)
        x = linear(lambda h: h * mask, x)
    y = affine(layer, x)
    if shift is not None:
        y = linear(lambda h, s: h + s[:, :, None, None], y, shift)
    return y if skip is None else linear(lambda s, h: (s + h) * scale, skip, y)


def _plus(shift: Dual | None, bias: Any, n: int) -> Dual:
    return (bias.expand(n, -1), None) if shift is None else (shift[0] + bias, shift[1])
