"""Random numbers as pure functions of (seed, global sample index, stream): the same for any batch
split, process count or resume.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from mfdistill.flow.paths import CHANNEL_STD

_MASK = 0xFFFFFFFF


def uniform(
    seed: int,
    index: Tensor,
    stream: str,
    n: int = 1,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """``n`` uniforms on [0, 1) per sample.

    Args:
        seed: of the run. index: (b,) integers, the global sample indices. stream: what the numbers
            are for ("times", "noise", ...); different streams are independent.
        device: where the result goes (default: the CPU, where the numbers are always made).

    Returns: (b, n).
    """
    out = torch.empty(len(index), n, dtype=dtype)
    for row, generator in zip(out, _generators(seed, index, stream), strict=True):
        row.uniform_(generator=generator)
    return out.to(device or "cpu")


def normal(
    seed: int,
    index: Tensor,
    stream: str,
    shape: Sequence[int],
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Standard normals, ``shape`` of them per sample; arguments as `uniform`. Returns: (b,
    *shape).
    """
    out = torch.empty(len(index), *shape, dtype=dtype)
    for row, generator in zip(out, _generators(seed, index, stream), strict=True):
        row.normal_(generator=generator)
    return out.to(device or "cpu")


def noise(
    seed: int,
    index: Tensor,
    stream: str,
    shape: Sequence[int],
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """What `paths.GaussianPath` calls eps: complex noise of total variance 1 as two real channels.
    ``shape`` (2, f, n) -> (b, 2, f, n).
    """
    return normal(seed, index, stream, shape, device, dtype).mul_(CHANNEL_STD)


def _generators(seed: int, index: Tensor, stream: str) -> list[torch.Generator]:
    if index.ndim != 1 or index.is_floating_point():
        raise ValueError(
            f"index must be (b,) integers, got {index.dtype} of shape {tuple(index.shape)}"
        )
    key = int.from_bytes(
        hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=8).digest(), "little"
    )
    generators = []
    for i in index.tolist():
        # torch's CPU generator uses only 32 bits of its seed: a bijection of the index keeps the
        # samples of one stream distinct
        generators.append(
            torch.Generator().manual_seed((_mix(i ^ (key & _MASK)) + (key >> 32)) & _MASK)
        )
    return generators


def _mix(value: int) -> int:
    """MurmurHash3's 32-bit finaliser (public domain): a bijection that scatters neighbouring
    indices.
    """
    value &= _MASK
    value = ((value ^ (value >> 16)) * 0x85EBCA6B) & _MASK
    value = ((value ^ (value >> 13)) * 0xC2B2AE35) & _MASK
    return value ^ (value >> 16)
