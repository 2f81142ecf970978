"""O3S on scores whose best schedule is known."""

import logging
import math

import pytest

from mfdistill.errors import UserError
from mfdistill.search import o3s, o3s_from
from mfdistill.search.o3s import _dip

UNIFORM = {n: tuple(i / n for i in range(n + 1)) for n in range(1, 6)}
OPTIMUM = {
    1: (0.0, 1.0),
    2: (0.0, 0.3, 1.0),
    3: (0.0, 0.137, 0.52, 1.0),
    4: (0.0, 0.1, 0.2, 0.35, 1.0),
}


def concave(n):
    """Separable and concave, with its peak at OPTIMUM[n]."""
    return lambda schedule: (
        -sum(
            (1 + i) * (t - best) ** 2
            for i, (t, best) in enumerate(zip(schedule, OPTIMUM[n], strict=True))
        )
    )


class Counting:
    def __init__(self, score):
        self.score, self.calls = score, []

    def __call__(self, schedule):
        self.calls.append(schedule)
        return self.score(schedule)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_finds_the_peak_of_a_separable_concave_score(n):
    result = o3s(concave(n), UNIFORM[n])
    assert result.schedule == pytest.approx(OPTIMUM[n], abs=0.01)
    assert result.score == concave(n)(result.schedule)
    assert result.unimodal and not result.warnings


@pytest.mark.parametrize("n", [2, 3, 4])
def test_every_schedule_asked_for_is_strictly_ordered(n):
    # pushes points against their neighbours
    count = Counting(lambda schedule: schedule[-2] - schedule[1])
    result = o3s(count, UNIFORM[n])
    for schedule in [*count.calls, result.schedule]:
        assert schedule[0] == 0.0 and schedule[-1] == 1.0
        assert all(b - a >= 0.9e-3 for a, b in zip(schedule, schedule[1:], strict=False))


def test_the_last_coordinate_is_visited_first():
    visits = [e.coordinate for e in o3s(concave(4), UNIFORM[4]).evaluations if e.sweep == 1]
    assert list(dict.fromkeys(visits)) == [3, 2, 1]


def test_same_search_twice():
    first, second = o3s(concave(3), UNIFORM[3]), o3s(concave(3), UNIFORM[3])
    assert first == second


def test_evaluation_counts():
    """1 + (2 K + 1) per visit; with n = 2 one visit improves and two fail: 76, of which the failing
    ones repeat known schedules.
    """
    two = Counting(concave(2))
    result = o3s(two, UNIFORM[2])
    assert len(result.evaluations) == 76
    assert result.scored == len(two.calls) == len(set(two.calls)) == 25
    # n = 3: the first sweep improves twice; the second again where its brackets have moved; then
    # three visits fail: 5 to 7 visits, and 1 + 25 * 7 = 176 where every visit of the second sweep
    # gains. Keeping the best of a line, not its last point, saves one here.
    three = Counting(concave(3))
    result = o3s(three, UNIFORM[3])
    assert (len(result.evaluations) - 1) % 25 == 0
    assert len(result.evaluations) in (126, 151, 176)
    assert len(three.calls) == len(set(three.calls)) == result.scored < len(result.evaluations)


def test_one_step_is_scored_once_and_left_alone():
    count = Counting(lambda schedule: 3.5)
    result = o3s_from(count, {"uniform": UNIFORM[1], "sway": UNIFORM[1]})
    assert result.schedule == (0.0, 1.0) and result.score == 3.5
    assert count.calls == [(0.0, 1.0)] and len(result.evaluations) == 1


def test_ties_and_small_gains_keep_the_incumbent():
    assert o3s(lambda schedule: 1.0, UNIFORM[3]).schedule == pytest.approx(UNIFORM[3], abs=1e-6)
    flat = lambda schedule: 1.0 + 1e-3 * schedule[1]  # noqa: E731
    assert o3s(flat, UNIFORM[2], margin=0.01).schedule == UNIFORM[2]
    assert o3s(flat, UNIFORM[2], margin=0.0).schedule[1] > 0.9


def test_a_plateau_around_the_peak_does_not_push_the_search_away():
    plateau = lambda schedule: -max(0.0, abs(schedule[1] - 0.7) - 0.15)  # noqa: E731
    assert 0.55 <= o3s(plateau, UNIFORM[2]).schedule[1] <= 0.85


def test_patience_ends_the_search_early():
    assert len(o3s(lambda schedule: 0.0, UNIFORM[4], patience=1).evaluations) == 1 + 25
    assert len(o3s(lambda schedule: 0.0, UNIFORM[4]).evaluations) == 1 + 25 * 4


def test_two_peaks_are_reported(caplog):
    peaks = lambda schedule: math.cos(6 * math.pi * schedule[1]) + 0.2 * schedule[1]  # noqa: E731
    with caplog.at_level(logging.WARNING):
        result = o3s(peaks, UNIFORM[2])
    assert not result.unimodal
    assert "t_1 between 0 and 1" in result.warnings[0] and "unimodal" in caplog.text


def test_wiggles_below_the_noise_are_not_reported():
    wiggly = lambda schedule: -((schedule[1] - 0.4) ** 2) + 1e-4 * math.sin(900 * schedule[1])  # noqa: E731
    assert o3s(wiggly, UNIFORM[2]).unimodal


def test_a_line_without_a_score_above_zero_has_no_dip():
    assert _dip([(0.1, 0.0), (0.5, 0.0), (0.9, 0.0)], 0.0) is None


def test_the_best_of_several_starts_is_kept():
    # from 0.5 the search climbs the nearer, lower hill of the second point
    def two_hills(schedule):
        return max(-abs(schedule[1] - 0.6), 1.0 - 5 * abs(schedule[1] - 0.05)) - abs(
            schedule[2] - 0.65
        )

    result = o3s_from(
        two_hills, {"uniform": (0.0, 0.5, 0.6, 1.0), "low": (0.0, 0.05, 0.1, 1.0)}, iterations=12
    )
    assert result.score == max(score for _, _, score in result.ends)
    assert [name for name, _, _ in result.ends] == ["uniform", "low"]
    assert {e.start for e in result.evaluations} == {"uniform", "low"}


def test_known_scores_are_not_asked_again():
    whole = Counting(concave(3))
    reference = o3s(whole, UNIFORM[3])
    # what a killed search left behind
    memo = {schedule: concave(3)(schedule) for schedule in whole.calls[:40]}
    rest = Counting(concave(3))
    resumed = o3s(rest, UNIFORM[3], memo=memo)
    assert rest.calls == whole.calls[40:]
    assert resumed.schedule == reference.schedule and resumed.score == reference.score


def test_minus_infinity_is_the_worst_and_nan_is_an_error():
    cliff = lambda schedule: -math.inf if schedule[1] > 0.6 else -abs(schedule[1] - 0.4)  # noqa: E731
    assert o3s(cliff, UNIFORM[2]).schedule[1] == pytest.approx(0.4, abs=0.01)
    with pytest.raises(UserError, match="not a number"):
        o3s(lambda schedule: math.nan, UNIFORM[2])


def within(resolution, score):
    return lambda a, b: abs(score(a) - score(b)) <= resolution


def test_a_line_whose_probes_are_alike_ends_early():
    flat = Counting(lambda schedule: 1.0)
    result = o3s(flat, UNIFORM[2], close=within(0.0, flat.score))
    # two visits of two probes and their middle; the second visit knows them, and the middle is the
    # start
    assert (len(result.evaluations), len(flat.calls), result.visits, result.early) == (
        1 + 2 * 3,
        3,
        2,
        2,
    )
    assert result.schedule == UNIFORM[2]
    assert (whole := o3s(lambda schedule: 1.0, UNIFORM[2])).visits == 2 and whole.early == 0


def test_alike_probes_on_both_sides_of_a_peak_do_not_end_the_line():
    peak = lambda schedule: -abs(schedule[1] - 0.5)  # noqa: E731  1/3 and 2/3 score the same
    start = (0.0, 0.9, 1.0)
    result = o3s(peak, start, close=within(0.05, peak))
    assert peak(result.schedule) >= -0.05
    assert 0 < result.early == result.visits and len(result.evaluations) < len(
        o3s(peak, start).evaluations
    )


def test_alike_probes_below_the_incumbent_do_not_end_the_line():
    hill = lambda schedule: max(0.0, 1 - 8 * abs(schedule[1] - 0.85))  # noqa: E731  the first probes see only the plain before it
    result = o3s(hill, (0.0, 0.8, 1.0), close=within(0.1, hill))
    assert result.score >= 0.9 > hill((0.0, 0.8, 1.0))


@pytest.mark.parametrize(
    "start", [(0.0,), (0.0, 0.5), (0.1, 1.0), (0.0, 0.5, 0.5, 1.0), (0.0, 0.7, 0.2, 1.0)]
)
def test_bad_starts(start):
    with pytest.raises(UserError, match="ascend strictly"):
        o3s(lambda schedule: 0.0, start)
