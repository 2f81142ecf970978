"""3 x 3 convolutions on a CPU with a quarter of the multiplications: Winograd's F(4 x 4, 3 x 3)
(Lavin and Gray, arXiv 1509.09308).

Tiles of 6 x 6 pixels become 36 matrix products over the channels. All images here are channels last
and already padded by a pixel on
every side: ``(n, h + 2, w + 2, c)``, contiguous. In single precision the error is about 1e-6 of the
result (a direct convolution: 2e-7).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

# half the rounding of the usual 0, 1, -1, 2, -2
_POINTS = (0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))
_STRIP = 2048  # pixels at a time: their tiles stay in the cache


def worthwhile(pixels: int, h: int, w: int, inputs: int, outputs: int) -> bool:
    """Whether it is faster than a direct convolution (measured): else the 3 x 3 weights cost more
    than they save.
    """
    return h % 4 == 0 and w % 4 == 0 and min(inputs, outputs) >= 96 and pixels >= 1024


def _transforms() -> tuple[Tensor, Tensor, Tensor]:
    """Toom and Cook's matrices for the points and infinity: output (4, 6), kernel (6, 3), input (6,
    6), in double precision.
    """
    points = torch.tensor(_POINTS, dtype=torch.float64)
    output, kernel = torch.zeros(4, 6, dtype=torch.float64), torch.zeros(6, 3, dtype=torch.float64)
    for j, point in enumerate(points):
        others = torch.cat([points[:j], points[j + 1 :]])
        output[:, j] = point ** torch.arange(4)
        kernel[j] = point ** torch.arange(3) / (point - others).prod()
    output[3, 5] = kernel[5, 2] = 1
    # the input's matrix is what makes every output a convolution: sum_j output[i, j] kernel[j, k]
    # input[j, l] = [l is i + k]
    left = torch.einsum("ij,jk->ikj", output, kernel).reshape(12, 6)
    i, k, j = torch.meshgrid(torch.arange(4), torch.arange(3), torch.arange(6), indexing="ij")
    data = torch.linalg.lstsq(left, (i + k == j).double().reshape(12, 6)).solution
    balance = 2 ** (kernel.abs().sum(1) / data.abs().sum(1)).sqrt().log2().round()[:, None]
    return output, kernel / balance, data * balance


@functools.cache
def _matrices(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The transforms of both axes at once: (16, 36), (36, 9), (36, 36)."""
    output, kernel, data = (torch.kron(matrix, matrix).to(dtype) for matrix in _transforms())
    return output, kernel, data


def transform_kernel(weight: Tensor) -> Tensor:
    """``(outputs, inputs, 3, 3)`` to ``(36, inputs, outputs)``."""
    outputs, inputs = weight.shape[:2]
    return (_matrices(weight.dtype)[1] @ weight.permute(2, 3, 1, 0).reshape(9, -1)).view(
        36, inputs, outputs
    )


def convolve(padded: Tensor, kernel: Tensor, out: Tensor) -> None:
    """Write the convolution of ``padded`` into ``out`` (n, h, w, outputs); ``kernel`` from
    ``transform_kernel``.
    """
    back = _matrices(padded.dtype)[0]
    tiled = _tiled(out)
    for images, rows, count, tiles in _strips(padded):
        products = torch.bmm(tiles.view(36, -1, padded.shape[-1]), kernel)
        strip = torch.mm(back, products.view(36, -1)).view(4, 4, *count, -1)
        tiled[images, rows].copy_(strip.permute(2, 3, 0, 4, 1, 5))


def weight_gradient(padded: Tensor, gradient: Tensor) -> Tensor:
    """Gradient ``(outputs, inputs, 3, 3)`` of the weights from the input and the output's gradient
    (n, h, w, outputs).
    """
    back, of_kernel, _ = _matrices(padded.dtype)
    inputs, outputs = padded.shape[-1], gradient.shape[-1]
    total = padded.new_zeros(36, inputs, outputs)
    tiled = _tiled(gradient)
    for images, rows, _, tiles in _strips(padded):
        strip = tiled[images, rows].permute(2, 4, 0, 1, 3, 5).reshape(16, -1)
        products = torch.mm(back.t(), strip).view(36, -1, outputs)
        total.baddbmm_(tiles.view(36, -1, inputs).transpose(1, 2), products)
    return (
        torch.mm(of_kernel.t(), total.view(36, -1)).view(3, 3, inputs, outputs).permute(3, 2, 0, 1)
    )


def _tiled(image: Tensor) -> Tensor:
    """``(n, h, w, c)`` as ``(n, h / 4, 4, w / 4, 4, c)``."""
    return image.unflatten(2, (-1, 4)).unflatten(1, (-1, 4))


def _strips(padded: Tensor) -> Iterator[tuple[slice, slice, tuple[int, int, int], Tensor]]:
    """Transformed tiles ``(36, images * rows * columns * c)`` of a few images or a few rows of one,
    with their places and numbers.
    """
    data = _matrices(padded.dtype)[2]
    n, h, w, c = padded.shape
    down, across = (h - 2) // 4, (w - 2) // 4
    at_once = max(1, _STRIP // (16 * across))
    images, rows = max(1, at_once // down), min(at_once, down)
    a, b, d, _ = padded.stride()
    for i in range(0, n, images):
        for row in range(0, down, rows):
            count = min(images, n - i), min(rows, down - row), across
            offset = padded.storage_offset() + i * a + 4 * row * b
            tiles = padded.as_strided(
                (6, 6, *count, c), (b, d, a, 4 * b, 4 * d, 1), offset
            ).reshape(36, -1)
            yield slice(i, i + count[0]), slice(row, row + count[1]), count, torch.mm(data, tiles)
