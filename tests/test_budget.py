"""Steps by a budget of time, and schedules for several numbers of steps in one search."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from mfdistill.commands.budget import chosen_within, steps_within
from mfdistill.errors import UserError
from mfdistill.search.config import SearchConfig
from mfdistill.search.development import Block
from mfdistill.search.run import search_counts


def test_as_many_steps_as_fit() -> None:
    # 40 ms for 2 s of speech: 20 ms per second and step
    assert [steps_within(ms, 0.04, 2.0) for ms in (20, 39.9, 41, 100, 1e6)] == [1, 1, 2, 5, 8]
    with pytest.raises(UserError, match="one step takes 20 ms"):
        steps_within(19.9, 0.04, 2.0)


def test_the_second_utterance_is_measured() -> None:
    class Speech:
        def __init__(self, flow_s: float):
            self.flow_s, self.wave = flow_s, np.zeros(16000)

    times = iter([5.0, 0.01])
    assert chosen_within(35, lambda: Speech(next(times)), 16000) == 3  # type: ignore[arg-type, return-value]


class Best:
    """Utterances whose score is best where every inner time is ``t^2`` of equal steps."""

    direction, column, n = 1, "score", 4
    made: list[str] = []  # noqa: RUF012

    def __init__(self, name: str):
        self.made.append(name)
        self.asked: list[tuple[float, ...]] = []

    def values(self, schedule: Sequence[float]) -> np.ndarray:
        self.asked.append(tuple(schedule))
        wanted = np.linspace(0, 1, len(schedule)) ** 2
        return -np.abs(np.array(schedule) - wanted).sum() - np.arange(self.n) * 1e-6

    def fingerprint(self) -> str:
        return "best"


class Student:
    schedule = [0.0, 1.0]  # noqa: RUF012


def test_every_number_of_steps_is_searched_on_the_same_utterances(tmp_path: Path) -> None:
    Best.made.clear()

    def blocks() -> Iterator[Block]:
        yield Best("first"), [f"u{i}" for i in range(4)]

    student, folder = Student(), tmp_path
    config = SearchConfig(nfe=2, up_to=4, limit=4, iterations=12, starts=("uniform",), resolution=0)
    found = search_counts(blocks(), student, config, folder=folder)  # type: ignore[arg-type]
    assert Best.made == ["first"]
    assert found["nfe"] == 2 and student.schedule == found["schedule"]
    for nfe in (2, 3, 4):
        schedule = json.loads((folder / f"o3s-{nfe}.json").read_text())["schedule"]
        assert len(schedule) == nfe + 1
        assert np.abs(np.array(schedule) - np.linspace(0, 1, nfe + 1) ** 2).max() < 0.05
    with pytest.raises(UserError, match="--up-to 2: must be at least --nfe 3"):
        SearchConfig(nfe=3, up_to=2)
