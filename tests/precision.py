"""What single precision gives: the measure of tolerances that hold on any processor."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

MARGIN = 4.0
"""Two processors differ by at most the sum of their errors; twice that."""


def relative_error(value: Tensor, expected: Tensor) -> float:
    """``|value - expected| / |expected|``, in double precision."""
    assert value.shape == expected.shape
    value, expected = value.detach().double(), expected.detach().double()
    return float((value - expected).norm() / expected.norm())


def single_precision(module: nn.Module, *inputs: Tensor) -> float:
    """``MARGIN`` times the relative error of ``module(*inputs)`` in single precision against the
    same code in double precision.
    """
    exact = copy.deepcopy(module).double()
    with torch.no_grad():
        return MARGIN * relative_error(module(*inputs), exact(*(x.double() for x in inputs)))
