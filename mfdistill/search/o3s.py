"""O3S, optimal step sampling search (IntMeanFlow, arXiv 2510.07979): where should the few steps of
a student stand?

A schedule ``0 = t_0 < t_1 < ... < t_n = 1`` spends n network evaluations. Its interior points are
visited from the last to the first; each is placed by a ternary search between its neighbours, again
and again, until nothing improves. The paper's reason: quality
is nearly unimodal in each single position. Nothing here knows about networks or audio: ``score`` is
any deterministic function of a schedule, and larger is better.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass

from mfdistill.errors import UserError

Schedule = tuple[float, ...]
# schedules are rounded before they are scored, so that equal ones are recognised; far below the
# search's own resolution
DIGITS = 6
LINE_NOISE = 0.05  # a dip below this share of the range of scores on a line is taken for noise

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """One request for a score. ``coordinate`` is the interior point being moved (1 .. n-1), 0 for
    the starting schedule itself; ``sweep`` counts from 1, 0 for the start; ``cached`` says that the
    score was known already and cost nothing.
    """

    schedule: Schedule
    score: float
    start: str
    sweep: int
    coordinate: int
    cached: bool


@dataclass(frozen=True)
class SearchResult:
    """The best schedule, its score, the name of the start that led to it, the end of every start,
    and all that was seen on the way.
    """

    schedule: Schedule
    score: float
    start: str
    ends: tuple[tuple[str, Schedule, float], ...]
    evaluations: tuple[Evaluation, ...]
    warnings: tuple[str, ...]
    visits: int = 0
    """Lines searched."""
    early: int = 0
    """Of them, ended before ``iterations`` because their probes could not be told apart."""

    @property
    def unimodal(self) -> bool:
        """True when every line that was searched rose and then fell, as the ternary search takes
        for granted.
        """
        return not self.warnings

    @property
    def scored(self) -> int:
        """Evaluations that cost something: not answered from the cache."""
        return sum(not evaluation.cached for evaluation in self.evaluations)


def o3s(
    score: Callable[[Schedule], float],
    start: Sequence[float],
    iterations: int = 12,
    eps: float = 1e-3,
    patience: int | None = None,
    margin: float = 0.0,
    max_sweeps: int = 50,
    name: str = "start",
    memo: MutableMapping[Schedule, float] | None = None,
    observe: Callable[[Evaluation], None] | None = None,
    close: Callable[[Schedule, Schedule], bool] | None = None,
) -> SearchResult:
    """Search from one starting schedule.

    Args:
        score: maximised; must give the same number for the same schedule (common random numbers).
        start: n + 1 times, strictly ascending from 0 to 1. With n = 1 there is nothing to move: it
            is scored once and returned.
        iterations: ternary steps per line, each keeping 2/3 of the interval: 12 leave 0.8 %. A
            visit asks for 2 * iterations + 1 scores, of which the last, in the middle of what is
            left, is known already (ties apart).
        eps: smallest gap between neighbours, so that the order stays strict.
        patience: stop after so many visits in a row without improvement; default n, which is more
            than a whole sweep.
        margin: a move is accepted only if it gains more than this share of the incumbent's score;
            ties and flat regions keep it.
        max_sweeps: an upper bound for scores that creep.
        name: recorded as the evaluations' ``start``.
        memo: known scores by rounded schedule; filled as the search goes on.
        observe: called with every evaluation as it is made.
        close: whether two schedules, both scored, are too alike to be worth telling apart. A visit
            ends where its two probes are alike, and each of them and the best point seen on the
            line, the middle between the probes included; otherwise it goes on as ever, at the cost
            of that middle. (Probes that are alike say nothing alone: they may stand on either side
            of the peak.) None: all ``iterations`` are made.

    Raises:
        UserError: ``start`` is no strictly ascending schedule from 0 to 1, ``iterations`` or
            ``patience`` is not positive, or a score is NaN (minus infinity is fine: the worst).
    """
    best = _checked(start, iterations, patience)
    n = len(best) - 1
    memo = {} if memo is None else memo
    evaluations: list[Evaluation] = []
    warnings: dict[Schedule, str] = {}
    visits = early = 0

    def ask(schedule: Schedule, sweep: int, coordinate: int) -> float:
        cached = schedule in memo
        value = memo[schedule] if cached else float(score(schedule))
        if math.isnan(value):
            raise UserError(
                f"O3S: the score of schedule {list(schedule)} is not a number; nothing can be compared with it"
            )
        memo[schedule] = value
        evaluations.append(Evaluation(schedule, value, name, sweep, coordinate, cached))
        if observe is not None:
            observe(evaluations[-1])
        return value

    best_score = ask(best, 0, 0)
    failures, sweep = 0, 0
    while n > 1 and failures < (n if patience is None else patience) and sweep < max_sweeps:
        sweep += 1
        for i in range(n - 1, 0, -1):
            candidate, value, ended = _line_search(
                ask, best, best_score, i, sweep, iterations, eps, close
            )
            visits, early = visits + 1, early + ended
            if value > best_score + _share(margin, best_score):
                best, best_score, failures = candidate, value, 0
            else:
                failures += 1
            dip = _dip(_line(memo, best, i), margin)
            if dip is not None:
                where = f"start {name}, sweep {sweep}, t_{i} between {best[i - 1]:g} and {best[i + 1]:g}"
                warnings[best[:i] + best[i + 1 :]] = f"{where}: {dip}"
            if failures >= (n if patience is None else patience):
                break
    if sweep >= max_sweeps:
        log.warning(
            "O3S: stopped after %d sweeps, still improving; a larger margin would have ended it earlier",
            sweep,
        )
    for warning in warnings.values():
        log.warning(
            "O3S: the score is not unimodal, the schedule found may be a local optimum: %s", warning
        )
    return SearchResult(
        best,
        best_score,
        name,
        ((name, best, best_score),),
        tuple(evaluations),
        tuple(warnings.values()),
        visits,
        early,
    )


def o3s_from(
    score: Callable[[Schedule], float],
    starts: Mapping[str, Sequence[float]],
    memo: MutableMapping[Schedule, float] | None = None,
    **options,
) -> SearchResult:
    """``o3s`` from several named starting schedules with shared scores; the best end is kept, an
    earlier start on ties.

    Starts that round to the same schedule are searched once. ``options`` go to ``o3s``.
    """
    memo = {} if memo is None else memo
    seen: dict[Schedule, SearchResult] = {}
    for name, start in starts.items():
        key = rounded(start)
        if key not in seen:
            seen[key] = o3s(score, start, name=name, memo=memo, **options)
    if not seen:
        raise UserError("starts: no starting schedule given; name at least one")
    results = list(seen.values())
    best = max(results, key=lambda result: result.score)  # max keeps the first of equals
    return SearchResult(
        best.schedule,
        best.score,
        best.start,
        tuple(end for result in results for end in result.ends),
        tuple(evaluation for result in results for evaluation in result.evaluations),
        tuple(warning for result in results for warning in result.warnings),
        sum(result.visits for result in results),
        sum(result.early for result in results),
    )


def rounded(schedule: Sequence[float]) -> Schedule:
    """The form under which a schedule is scored and cached."""
    return tuple(round(float(t), DIGITS) for t in schedule)


def _line_search(
    ask: Callable[[Schedule, int, int], float],
    best: Schedule,
    best_score: float,
    i: int,
    sweep: int,
    iterations: int,
    eps: float,
    close: Callable[[Schedule, Schedule], bool] | None,
) -> tuple[Schedule, float, bool]:
    """Ternary search of ``t_i`` in (t_{i-1}, t_{i+1}): the best new schedule that it asked for, its
    score, and whether it ended early.
    """
    low, high = best[i - 1] + eps, best[i + 1] - eps
    if high <= low:
        return best, best_score, False
    top, top_score = best, best_score
    found, found_score = best, float("-inf")

    def place(t: float) -> Schedule:
        return rounded((*best[:i], t, *best[i + 1 :]))

    def at(t: float) -> float:
        nonlocal top, top_score, found, found_score
        schedule = place(t)
        value = ask(schedule, sweep, i)
        if value > found_score:
            found, found_score = schedule, value
        if value > top_score:
            top, top_score = schedule, value
        return value

    for _ in range(iterations):
        a, b = low + (high - low) / 3, high - (high - low) / 3
        score_a, score_b = at(a), at(b)
        if close is not None and close(place(a), place(b)):
            at((low + high) / 2)
            if close(place(a), top) and close(place(b), top):
                return found, found_score, True
        # On a plateau the plain rule drifts to one side; staying around the best point seen (the
        # incumbent, at first) does not.
        if score_a < score_b or (score_a == score_b and top[i] >= b):
            low = a
        elif score_a > score_b or top[i] <= a:
            high = b
        else:
            low, high = a, b
    at((low + high) / 2)
    return found, found_score, False


def _line(memo: Mapping[Schedule, float], schedule: Schedule, i: int) -> list[tuple[float, float]]:
    """All known (t_i, score) with the other points where ``schedule`` has them, ascending."""
    same = (
        s
        for s in memo
        if len(s) == len(schedule) and s[:i] == schedule[:i] and s[i + 1 :] == schedule[i + 1 :]
    )
    return sorted((s[i], memo[s]) for s in same)


def _dip(line: Sequence[tuple[float, float]], margin: float) -> str | None:
    """Describe where a line falls before its peak or rises after it by more than noise; None if it
    rises and then falls.
    """
    finite = [score for _, score in line if score > float("-inf")]
    if len(line) < 3 or not finite:
        return None
    peak = max(range(len(line)), key=lambda k: line[k][1])
    noise = max(
        _share(margin, line[peak][1]),
        LINE_NOISE * (max(finite) - min(finite)),
        1e-12 * max(map(abs, finite)),
    )
    for side in (line[: peak + 1], line[peak:][::-1]):
        crest_t, crest = side[0]
        for t, score in side:
            if score > crest:
                crest_t, crest = t, score
            elif crest - score > noise:
                return f"{score:.6g} at {t:g} lies below {crest:.6g} at {crest_t:g} and {line[peak][1]:.6g} at {line[peak][0]:g}"
    return None


def _share(margin: float, score: float) -> float:
    return margin * abs(score) if math.isfinite(score) else 0.0


def _checked(start: Sequence[float], iterations: int, patience: int | None) -> Schedule:
    if iterations < 1:
        raise UserError(
            f"iterations: {iterations} is not positive; 12 place a step to within 0.8 % of its interval"
        )
    if patience is not None and patience < 1:
        raise UserError(
            f"patience: {patience} is not positive; leave it out for the number of steps"
        )
    schedule = rounded(start)
    ascending = all(a < b for a, b in zip(schedule, schedule[1:], strict=False))
    if len(schedule) < 2 or schedule[0] != 0.0 or schedule[-1] != 1.0 or not ascending:
        raise UserError(
            f"starting schedule {list(start)}: must ascend strictly from 0 to 1, for instance [0, 0.5, 1]"
        )
    return schedule
