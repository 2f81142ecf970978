"""The arithmetic of ``silu(group_norm(x))``, of its tangent and of its gradient, over images that
are channels last ``(n, h, w, c)``.

Every elementwise chain runs over a few rows at a time, which stay in the cache. Tangent and
gradient of the norm have the same form ``a dx + p x + q`` with a, p, q per sample and channel,
since its Jacobian is symmetric up to gamma.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# elements of a few image rows that pass through all elementwise steps before the next ones
_CHUNK = 2**16


def tangent_of_norm_silu(norm: nn.GroupNorm, x: Tensor, dx: Tensor) -> Tensor:
    """The tangent of ``silu(norm(x))``, on any device; no graph."""
    with torch.no_grad():
        x, dx = channels_last(x), channels_last(dx)
        a, b, mean, rstd = affine(x, norm.weight, norm.bias, norm.num_groups, norm.eps)
        p, q = _through_norm(a, norm.num_groups, mean, rstd, *_sums(x, dx, mean))
        y = x * a[:, None, None] + b[:, None, None]
        dy = dx * a[:, None, None] + x * p[:, None, None] + q[:, None, None]
        s = y.sigmoid()
        return (dy * s * (1 + y * (1 - s))).permute(0, 3, 1, 2)


def channels_last(x: Tensor) -> Tensor:
    """``(n, c, h, w)`` as contiguous ``(n, h, w, c)``: a view of an image that is channels last
    already.
    """
    return x.permute(0, 2, 3, 1).contiguous()


def rows(image: Tensor) -> Iterator[tuple[int, slice]]:
    """Sample and rows of every chunk."""
    n, h, w, c = image.shape
    step = max(1, _CHUNK // (w * c)) if image.device.type == "cpu" else h
    for i in range(n):
        for row in range(0, h, step):
            yield i, slice(row, row + step)


def affine(
    image: Tensor, gamma: Tensor, beta: Tensor, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Group norm as ``x a + b`` per sample and channel; a, b, mean and 1 / std, all (n, c)."""
    n, h, w, c = image.shape
    counts, means, squares = [], [[] for _ in range(n)], [[] for _ in range(n)]
    for i, part in rows(image):
        chunk = image[i, part].flatten(0, 1)
        mean = chunk.mean(0)
        means[i].append(mean)
        squares[i].append((chunk - mean).square_().sum(0))
        if i == 0:
            counts.append(len(chunk))
    # per channel from the chunks' (Chan's formula), then per group from the channels': nothing
    # large is subtracted from anything large
    share = (torch.tensor(counts, dtype=torch.float64, device=image.device) / (h * w))[
        None, :, None
    ]
    chunks = torch.stack([torch.stack(part) for part in means]).double()
    mean = (share * chunks).sum(1)
    variance = torch.stack([torch.stack(part) for part in squares]).double().sum(1) / (h * w)
    variance = variance + (share * (chunks - mean[:, None]).square()).sum(1)
    of_group = mean.view(n, groups, -1).mean(-1, keepdim=True)
    variance = (variance.view(n, groups, -1) + (mean.view(n, groups, -1) - of_group).square()).mean(
        -1, keepdim=True
    )
    spread = (n, groups, c // groups)
    mean, rstd = (
        of_group.expand(spread).reshape(n, c),
        (variance + eps).rsqrt().expand(spread).reshape(n, c),
    )
    a = gamma * rstd
    b = beta - mean * a
    return a.to(image.dtype), b.to(image.dtype), mean.to(image.dtype), rstd.to(image.dtype)


def _sums(image: Tensor, other: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Per sample and channel: the sums of ``other`` and of ``other (x - mean)``, in double
    precision.
    """
    first, second = (
        torch.zeros_like(mean, dtype=torch.float64),
        torch.zeros_like(mean, dtype=torch.float64),
    )
    for i, part in rows(image):
        x, o = image[i, part].flatten(0, 1), other[i, part].flatten(0, 1)
        first[i] += o.sum(0)
        second[i] += (x - mean[i]).mul_(o).sum(0)
    return first / image[0, ..., 0].numel(), second / image[0, ..., 0].numel()


def _through_norm(
    a: Tensor, groups: int, mean: Tensor, rstd: Tensor, first: Tensor, second: Tensor
) -> tuple[Tensor, Tensor]:
    """p and q of a norm's tangent ``a dx + p x + q`` from the channels' means of dx and ``dx (x -
    mean)``.
    """
    n, c = a.shape
    spread = (n, groups, c // groups)
    first, second = (
        m.view(spread).mean(-1, keepdim=True).expand(spread).reshape(n, c) for m in (first, second)
    )
    p = -a * second * rstd.double().square()
    return p.to(a.dtype), (-a * first - p * mean).to(a.dtype)


def activated(
    image: Tensor, dimage: Tensor | None, statistics: Any, groups: int, padded: bool
) -> tuple[Tensor, Tensor | None]:
    """``silu(norm(image))`` and its tangent, each with a border of zeros where ``padded``."""
    a, b, mean, rstd = statistics
    out, inside = _empty(image, padded)
    if dimage is None:
        for i, part in rows(image):
            inside[i, part].copy_(F.silu(torch.addcmul(b[i], image[i, part], a[i]), inplace=True))
        return out, None
    p, q = _through_norm(a, groups, mean, rstd, *_sums(image, dimage, mean))
    dout, dinside = _empty(image, padded)
    for i, part in rows(image):
        y, dsilu = _silu(torch.addcmul(b[i], image[i, part], a[i]))
        inside[i, part].copy_(y)
        dy = torch.addcmul(q[i], image[i, part], p[i]).addcmul_(dimage[i, part], a[i])
        torch.mul(dy, dsilu, out=dinside[i, part])
    return out, dout


def _silu(y: Tensor) -> tuple[Tensor, Tensor]:
    """``silu(y)`` and its derivative."""
    s = y.sigmoid()
    silu = y * s
    return silu, (y - silu).add_(1).mul_(s)


def _empty(image: Tensor, padded: bool) -> tuple[Tensor, Tensor]:
    if not padded:
        out = torch.empty_like(image)
        return out, out
    n, h, w, c = image.shape
    out = image.new_empty(n, h + 2, w + 2, c)
    for border in (out[:, 0], out[:, -1], out[:, :, 0], out[:, :, -1]):
        border.zero_()
    return out, out[:, 1:-1, 1:-1]


def norm_gradient(
    image: Tensor, g: Tensor, statistics: Any, groups: int, own: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, gamma and beta from that of the activation; writes into ``g`` if it is our
    ``own``.
    """
    a, b, mean, rstd = statistics
    out = g if own else torch.empty_like(g)
    for i, part in rows(image):
        torch.mul(g[i, part], _silu(torch.addcmul(b[i], image[i, part], a[i]))[1], out=out[i, part])
    first, second = _sums(image, out, mean)
    pixels = image[0, ..., 0].numel()
    g_gamma, g_beta = (second * rstd).sum(0) * pixels, first.sum(0) * pixels
    gamma = a / rstd
    # the norm's transpose: its tangent's rule with gamma before the means, 1 / std behind
    p, q = _through_norm(rstd, groups, mean, rstd, gamma * first, gamma * second)
    for i, part in rows(image):
        out[i, part].mul_(a[i]).addcmul_(image[i, part], p[i]).add_(q[i])
    return out, g_gamma.to(a.dtype), g_beta.to(a.dtype)
