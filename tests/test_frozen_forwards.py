"""The committed models answer as they did when they were committed: a change of a network, a
loader or a schedule that moves their numbers is seen here, without ../shared.
"""

from __future__ import annotations

import json

import pytest
import torch
from frozen_forwards import FILE, ROOT, answer, folders, numbers, picked
from precision import MARGIN, relative_error

from mfdistill.distill.opening import open_model

FROZEN = json.loads(FILE.read_text())


def test_every_committed_model_is_frozen() -> None:
    assert list(FROZEN) == folders()


def test_the_generator_is_the_one_that_was_used() -> None:
    """C's example generator from seed 1: its first three states."""
    states = [(float(x) + 1) * 2**30 for x in numbers(3, 1)]
    assert states == [1103527590, 377401575, 662824084]


@pytest.mark.parametrize("folder", FROZEN)
def test_forwards(folder: str) -> None:
    model, frozen = open_model(ROOT / folder), FROZEN[folder]
    values = torch.tensor(frozen["values"], dtype=torch.float64)
    for dtype, tolerance in ((torch.float64, 1e-8), (torch.float32, MARGIN * frozen["single"])):
        out = answer(model, dtype)
        assert float(out.norm()) == pytest.approx(frozen["norm"], rel=tolerance)
        assert relative_error(picked(out), values) < 2 * tolerance
    assert frozen["single"] < 1e-5
