"""Group norm, SiLU and a 3 x 3 convolution as one operation for CPUs: less memory traffic, and only
the input is kept for the gradient.

``fused`` computes ``out = scale * (skip + shift + conv(silu(norm(x))))``, and beside it, where a
tangent comes in, the tangent that goes
out: norms, activations and what the backward needs are computed once for both. What the usual
modules keep for the backward (the input, the norm's output, the activation) is recomputed from the
input. Images are channels last. Tangents never have a graph.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mfdistill.networks import winograd
from mfdistill.networks.norm_silu import activated, affine, channels_last, norm_gradient, rows


def can_fuse(x: Tensor) -> bool:
    """On CPUs in single or double precision, outside autocast, ``torch.compile`` and torch's own
    forward mode; elsewhere the network's modules are called one by one.
    """
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and torch._C._functorch.peek_interpreter_stack() is None  # type: ignore[attr-defined]
        and torch.autograd.forward_ad._current_level < 0
    )


def fused(
    x: Tensor,
    dx: Tensor | None,
    norm: torch.nn.GroupNorm | None,
    weight: Tensor | None = None,
    shift: Tensor | None = None,
    dshift: Tensor | None = None,
    skip: Tensor | None = None,
    dskip: Tensor | None = None,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor | None]:
    """``scale * (skip + shift + conv(silu(norm(x))))`` and its tangent (None without ``dx``).

    Args:
        x: (n, c, h, w), and its tangent. norm: None leaves norm and activation out. weight: (o, c,
            3, 3), None leaves the convolution out.
        shift: (n, o), its tangent likewise. skip: shaped like the result, its tangent likewise.
    """
    gamma, beta, groups, eps = (
        (None, None, 0, 0.0)
        if norm is None
        else (norm.weight, norm.bias, norm.num_groups, norm.eps)
    )
    out, dout = _Fused.apply(
        x, dx, gamma, beta, groups, eps, weight, shift, dshift, skip, dskip, scale
    )  # type: ignore[misc]
    return out, dout


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x, dx, gamma, beta, groups, eps, weight, shift, dshift, skip, dskip, scale
    ):  # noqa: ANN001, ANN205
        image, dimage = channels_last(x), None if dx is None else channels_last(dx)
        n, h, w, c = image.shape
        fast = weight is not None and winograd.worthwhile(n * h * w, h, w, c, weight.shape[0])
        y, dy = image, dimage
        statistics = None
        if gamma is not None:
            statistics = affine(image, gamma, beta, groups, eps)
            y, dy = activated(image, dimage, statistics, groups, padded=fast)
        elif fast:
            y, dy = _padded(image), None if dimage is None else _padded(dimage)
        out = _finish(
            y if weight is None else _convolve(y, weight, fast), shift, skip, scale, y is image
        )
        dout = None
        if dimage is not None:
            assert dy is not None
            dout = _finish(
                dy if weight is None else _convolve(dy, weight, fast),
                dshift,
                dskip,
                scale,
                dy is dimage,
            )
            dout = dout.permute(0, 3, 1, 2)
            ctx.mark_non_differentiable(dout)
        ctx.save_for_backward(x, gamma, beta, weight, *(statistics or ()))
        ctx.options = groups, eps, scale, fast, skip is not None, shift is not None
        ctx.set_materialize_grads(False)
        return out.permute(0, 3, 1, 2), dout

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        gradient = gradients[0]
        if gradient is None:
            return (None,) * 12
        x, gamma, beta, weight, *statistics = ctx.saved_tensors
        groups, eps, scale, fast, has_skip, has_shift = ctx.options
        needs = ctx.needs_input_grad
        if torch.is_grad_enabled():  # the gradient will be differentiated again
            return _differentiable_gradients(x, gamma, beta, weight, gradient, ctx.options, needs)
        g = gradient if scale == 1 else gradient * scale
        g_skip, g = g if has_skip else None, channels_last(g)
        g_shift = g.sum((1, 2)) if has_shift and needs[7] else None
        image = channels_last(x)
        g_weight = g_gamma = g_beta = None
        if weight is not None:
            if needs[6]:
                y = image
                if gamma is not None:
                    y = activated(image, None, statistics, groups, padded=fast)[0]
                elif fast:
                    y = _padded(image)
                g_weight = _weight_gradient(y, g, weight, fast)
                del y
            g = _input_gradient(g, image, weight)
        if gamma is not None:
            g, g_gamma, g_beta = norm_gradient(image, g, statistics, groups, own=weight is not None)
        g_x = g.permute(0, 3, 1, 2) if needs[0] else None
        return g_x, None, g_gamma, g_beta, None, None, g_weight, g_shift, None, g_skip, None, None


def _differentiable_gradients(x, gamma, beta, weight, gradient, options, needs):  # noqa: ANN001, ANN202
    groups, eps, scale, _, has_skip, has_shift = options
    with torch.enable_grad():
        # fresh leaves would lose what x was made of: views stand for the inputs
        places = {0: x, 2: gamma, 3: beta, 6: weight}
        views: dict[int, Tensor] = {
            i: tensor.view_as(tensor) for i, tensor in places.items() if tensor is not None
        }
        y = views[0]
        if gamma is not None:
            y = F.silu(F.group_norm(y, groups, views[2], views[3], eps))
        if weight is not None:
            y = F.conv2d(y, views[6], padding=1)
        wanted = [(i, view) for i, view in views.items() if needs[i]]
        found = torch.autograd.grad(
            y * scale, [tensor for _, tensor in wanted], gradient, create_graph=True
        )
    result: list[Tensor | None] = [None] * 12
    for (i, _), tensor in zip(wanted, found, strict=True):
        result[i] = tensor
    if has_shift:
        result[7] = (gradient * scale).sum((2, 3))
    if has_skip:
        result[9] = gradient * scale
    return tuple(result)


def _padded(image: Tensor) -> Tensor:
    return F.pad(image, (0, 0, 1, 1, 1, 1))


def _convolve(y: Tensor, weight: Tensor, fast: bool) -> Tensor:
    if not fast:
        return channels_last(F.conv2d(y.permute(0, 3, 1, 2), weight, padding=1))
    out = y.new_empty(len(y), y.shape[1] - 2, y.shape[2] - 2, weight.shape[0])
    winograd.convolve(y, winograd.transform_kernel(weight), out)
    return out


def _finish(
    out: Tensor, shift: Tensor | None, skip: Tensor | None, scale: float, borrowed: bool
) -> Tensor:
    """``scale (out + shift + skip)``, in place unless ``out`` is an input."""
    if borrowed:
        out = out.clone()
    if shift is None and skip is None:
        return out if scale == 1 else out.mul_(scale)
    skip = None if skip is None else channels_last(skip)
    for i, some in rows(out):
        part = out[i, some]
        if shift is not None:
            part += shift[i]
        if skip is not None:
            part += skip[i, some]
        if scale != 1:
            part *= scale
    return out


def _input_gradient(g: Tensor, image: Tensor, weight: Tensor) -> Tensor:
    turned = weight.flip(2, 3).transpose(0, 1)
    n, h, w, _ = g.shape
    fast = winograd.worthwhile(n * h * w, h, w, *weight.shape[:2])
    return _convolve(_padded(g) if fast else g, turned, fast)


def _weight_gradient(y: Tensor, g: Tensor, weight: Tensor, fast: bool) -> Tensor:
    if fast:
        return winograd.weight_gradient(y, g)
    options = [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [False, True, False]
    return torch.ops.aten.convolution_backward(
        g.permute(0, 3, 1, 2), y.permute(0, 3, 1, 2), weight, None, *options
    )[1]
