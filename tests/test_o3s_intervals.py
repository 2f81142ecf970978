"""Searches that choose their own number of utterances, on scores whose value on every utterance is
known.
"""

import json
import math

import numpy as np
import pytest

from mfdistill.config import from_dict, to_dict
from mfdistill.errors import UserError
from mfdistill.flow.speech_grids import f5_times
from mfdistill.metrics import mean_ci95
from mfdistill.search import SearchConfig
from mfdistill.search.compare import alike, baselines, compare, settled
from mfdistill.search.development import Development, mean_score, spans
from mfdistill.search.run import search_with

BEST = 0.3


class Noisy:
    """Utterances first .. last of a score with its peak at ``BEST``: utterance i adds a difficulty
    of its own, which pairing takes away, and weighs the loss by ``1 +- spread`` in turn, which it
    does not.
    """

    column = "spksim"

    def __init__(self, first, last, gain=1.0, spread=0.0, direction=1, log=None):
        self.first, self.n, self.gain, self.direction = first, last - first, gain, direction
        index = np.arange(first, last)
        self.difficulty, self.weight = 10.0 * index, 1 + spread * (-1.0) ** index
        self.log = [] if log is None else log

    def values(self, schedule):
        self.log.append((self.first, schedule))
        return -self.gain * self.weight * abs(schedule[1] - BEST) - self.difficulty

    def fingerprint(self):
        return f"noisy {self.first} {self.n}"


class Student:
    schedule = None


def search(total, tmp_path=None, log=None, make=Noisy, **options):
    config = {"nfe": 2, "metric": "spksim"} | {
        key: options.pop(key) for key in list(options) if key in SearchConfig.__dataclass_fields__
    }
    built = []

    def blocks():
        for first, last in spans(total, config.get("limit", "auto")):
            built.append((first, last))
            yield make(first, last, log=log, **options), [f"u{i}" for i in range(first, last)]

    found = search_with(blocks(), Student(), SearchConfig(**config), folder=tmp_path)
    return found, built


def test_spans_double():
    assert spans(1000, "auto") == [(0, 8), (8, 16), (16, 32), (32, 64), (64, 128)]
    assert spans(20, "auto") == [(0, 8), (8, 16), (16, 20)] and spans(5, "auto") == [(0, 5)]
    assert (
        spans(20, 16) == [(0, 16)]
        and spans(5, 16) == [(0, 5)]
        and spans(20, None) == [(0, 20)]
        and spans(0, "auto") == [(0, 0)]
    )


def test_a_clear_lead_needs_the_first_utterances_only():
    """The loss of utterance i is (1 +- 0.1) of the distance: the lead over uniform is 0.2, its
    interval far from zero.
    """
    found, built = search(64, spread=0.1, resolution=1e-6)
    # sway, [0, 0.293, 1], is the best other one
    assert built == [(0, 8), (8, 16)] and found["n"] == 8 and len(found["rounds"]) == 1
    assert found["stopped"] == "better than sway by more than chance"
    assert found["utterances"] == [f"u{i}" for i in range(8)] and found["schedule"][
        1
    ] == pytest.approx(BEST, abs=0.005)
    rows = {row["name"]: row for row in found["comparison"]["rows"]}
    assert (
        list(rows) == ["found", "uniform", "sway"]
        and found["comparison"]["n"] == 8
        and found["comparison"]["unseen"]
    )
    lead = abs(0.5 - BEST) - abs(found["schedule"][1] - BEST)
    half = mean_ci95(lead * (1 + 0.1 * (-1.0) ** np.arange(8, 16)))[1]
    assert rows["uniform"]["difference"] == pytest.approx(lead) and rows["uniform"][
        "difference_ci95"
    ] == pytest.approx(half)
    # unpaired, nothing could be said
    assert rows["uniform"]["significant"] and rows["uniform"]["value_ci95"] > 10
    assert rows["found"]["difference"] is None and rows["found"]["significant"] is None


def test_an_unclear_lead_doubles_until_it_is_known_to_the_resolution():
    """Per-utterance differences of mean 0.2 g and deviation 6 * 0.2 g: the half width falls as t /
    sqrt(n - 1).
    """
    halves = {n: mean_ci95(0.2 * (1 + 6 * (-1.0) ** np.arange(n)))[1] for n in (8, 16, 32)}
    resolution = 1.01 * halves[32]
    assert halves[16] > resolution
    found, built = search(200, spread=6.0, resolution=resolution, make=Far)
    assert [part["n"] for part in found["rounds"]] == [8, 16, 32] and built == spans(64, "auto")
    assert (
        found["stopped"].startswith("lead over uniform known to within")
        and found["n"] == 32 == found["comparison"]["n"]
    )
    lead = 0.2 - abs(found["schedule"][1] - 0.7)  # lines end early at this resolution
    half = mean_ci95(lead * (1 + 6 * (-1.0) ** np.arange(32, 64)))[1]
    assert (
        found["comparison"]["rows"][1]["difference_ci95"] == pytest.approx(half)
        and half < resolution
    )


class Far(Noisy):
    """Sway far from the peak: uniform is the best that costs no search."""

    def values(self, schedule):
        self.log.append((self.first, schedule))
        return -self.weight * (abs(schedule[1] - 0.7) + (schedule[1] < 0.4)) - self.difficulty


def test_the_split_is_used_up():
    found, built = search(20, spread=50.0, resolution=1e-9)
    assert (
        built == [(0, 8), (8, 16), (16, 20)]
        and found["n"] == 20
        and found["stopped"] == "no more utterances"
    )
    assert [part["comparison"]["unseen"] for part in found["rounds"]] == [True, True, False]
    assert [part["comparison"]["n"] for part in found["rounds"]] == [8, 4, 20]


def test_no_utterance_is_scored_twice_and_the_end_is_that_of_a_fixed_search():
    log = []
    found, _ = search(20, log=log, spread=50.0, resolution=1e-9)
    assert len(log) == len(set(log))
    fixed, _ = search(20, spread=50.0, resolution=1e-9, limit=20)
    for key in ("schedule", "score", "requests", "comparison", "utterances"):
        assert found[key] == fixed[key]
    # the rest was known: a schedule of all three blocks costs nothing again
    assert found["rounds"][-1]["scored"] < fixed["scored"]
    assert (
        found["sampled"] == sum({0: 8, 8: 8, 16: 4}[first] for first, _ in log)
        and fixed["sampled"] == 20 * fixed["scored"]
    )


def test_killed_between_blocks_it_goes_on(tmp_path):
    whole, _ = search(20, tmp_path / "whole", spread=50.0, resolution=1e-9)
    cache = (tmp_path / "whole" / "o3s_cache.jsonl").read_text().splitlines(keepends=True)
    for kept in (5, len(cache) // 2, len(cache) - 1):
        folder, log = tmp_path / str(kept), []
        folder.mkdir()
        (folder / "o3s_cache.jsonl").write_text("".join(cache[:kept]) + '{"finger')
        found, _ = search(20, folder, log, spread=50.0, resolution=1e-9)
        assert len(log) == len(cache) - kept
        assert (found["schedule"], found["score"], found["comparison"]) == (
            whole["schedule"],
            whole["score"],
            whole["comparison"],
        )
    assert (
        json.loads((tmp_path / "whole" / "o3s.json").read_text())["comparison"]
        == whole["comparison"]
    )
    assert (tmp_path / "whole" / "o3s.png").stat().st_size > 1000


def test_lines_end_where_the_utterances_cannot_tell():
    whole, _ = search(8, limit=8, resolution=0.0)
    coarse, _ = search(8, limit=8, resolution=0.05)
    assert (
        whole["rounds"][0]["ended_early"]
        == 0
        < coarse["rounds"][0]["ended_early"]
        == coarse["rounds"][0]["visits"]
    )
    assert coarse["requests"] < whole["requests"] / 2
    assert abs(coarse["schedule"][1] - BEST) <= 0.05
    # the mean is as clear, the interval is not: no line may end
    noisy, _ = search(8, limit=8, resolution=0.05, spread=100.0)
    assert noisy["rounds"][0]["ended_early"] < noisy["rounds"][0]["visits"]


def test_lower_is_better_keeps_the_metrics_sign():
    found, _ = search(64, spread=0.1, direction=-1, resolution=1e-6)
    row = found["comparison"]["rows"][1]
    assert (
        row["value"] > 0 > row["difference"]
        and row["significant"]
        and found["stopped"] == "better than sway by more than chance"
    )


def test_baselines():
    assert list(baselines(2)) == ["uniform", "sway"] and list(baselines(1)) == ["uniform"]
    five = baselines(5)
    assert list(five) == ["uniform", "sway", "epss"] and five["epss"] == pytest.approx(
        f5_times(5), abs=1e-6
    )


def rows_of(first, second, direction=1):
    schedules = {"found": (0.0, 0.3, 1.0), "uniform": (0.0, 0.5, 1.0)}
    return compare(schedules, {"found": np.array(first), "uniform": np.array(second)}, direction)


def test_settled():
    half = mean_ci95([1.0, 2.0, 3.0])[1]
    assert rows_of([11.0, 22.0, 33.0], [10.0, 20.0, 30.0])[1]["difference_ci95"] == pytest.approx(
        half
    )
    assert settled(rows_of([11.0, 22.0, 33.0], [10.0, 20.0, 30.0]), 1, 0.1) is None  # 2 +- 2.48
    assert (
        settled(rows_of([11.0, 22.0, 33.0], [10.0, 20.0, 30.0]), 1, 3.0)
        == "lead over uniform known to within 3"
    )
    assert (
        settled(rows_of([1.0, 1.1, 1.2], [0.0, 0.0, 0.0]), 1, 0.0)
        == "better than uniform by more than chance"
    )
    # worse by more than chance: more utterances may mend that
    assert settled(rows_of([0.0, 0.0, 0.0], [1.0, 1.1, 1.2]), 1, 9.0) is None
    # the search kept a start
    assert settled(rows_of([1.0, 2.0], [1.0, 2.0]), 1, 0.0) == "lead over uniform known to within 0"
    assert (
        settled(rows_of([1.0], [0.0]), 1, 9.0) is None
        and settled(rows_of([1.0, math.nan], [0.0, 0.0]), 1, 9.0) is None
    )


def test_alike():
    assert alike(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0]), 0.0)
    assert alike(np.array([1.0, 5.0]), np.array([1.5, 5.5]), 0.5) and not alike(
        np.array([1.0, 5.0]), np.array([1.5, 5.5]), 0.4
    )
    # no mean difference, but who knows
    assert not alike(np.array([1.0, -1.0]), np.array([0.0, 0.0]), 0.5)
    assert not alike(np.array([1.0]), np.array([1.0]), 9.0) and not alike(
        np.array([1.0, math.nan]), np.array([1.0, 1.0]), 9.0
    )


def test_a_value_that_is_missing_is_the_worst():
    assert (
        mean_score(np.array([1.0, math.nan])) == -math.inf
        and mean_score(np.array([1.0, 2.0])) == 1.5
    )
    dev = Development([(Noisy(0, 4), "abcd"), (Noisy(4, 6), "ef")])
    assert dev.take() and dev.take() and not dev.take() and dev.sampled == 0
    assert (
        dev.values((0.0, BEST, 1.0)).tolist() == [-0.0, -10.0, -20.0, -30.0, -40.0, -50.0]
        and dev.sampled == 6
    )
    assert dev.values((0.0, BEST, 1.0), 1).tolist() == [-40.0, -50.0] and dev.sampled == 6


def test_options_survive_the_file():
    config = SearchConfig(limit="auto", resolution=0.01)
    assert (
        from_dict(SearchConfig, to_dict(config)) == config
        and from_dict(SearchConfig, {"limit": 4}).limit == 4
    )
    with pytest.raises(UserError, match="limit"):
        from_dict(SearchConfig, {"limit": "all"})
    assert (
        SearchConfig().resolution_of("pesq", 3.0) == 0.02
        and SearchConfig().resolution_of("teacher-mse", -0.5) == 0.005
    )
    assert config.resolution_of("pesq", 3.0) == 0.01
