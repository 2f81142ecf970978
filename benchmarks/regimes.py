"""Where sampling matters: the difficulty of each task is swept, and everything is trained for the
same time on it.

    python benchmarks/regimes.py --minutes 5 --regimes vocode-80 vocode-10

Of --minutes M per model: a teacher has M, its student M/2, a finished student M/2 (with critics:
M/4 without and M/4 with them; or with distribution matching), so 2 M in all; each regression has
2 M. A network that answers at once gives the mean of what is possible; a flow can give one of the
possibilities. From which difficulty on is that heard: by Fréchet distance, DNSMOS and voicing, and
at what price in PESQ and word errors? *spread* is the log-spectral distance between what two seeds
give: 0 for a mean.

Trainings and scores are kept under --out, and a restart goes on. Writes
benchmarks/results/regimes.json, .csv and .png.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import recipes
import tyro
from record import HERE, commit, hours_of, into, machine, precision, recorded
from scores import System, score_systems, spread_of, versus
from stages import train_for

from mfdistill.commands.degrade import Degrade
from mfdistill.commands.degrade import run as degrade
from mfdistill.commands.options import Corpus
from mfdistill.data import open_eval
from mfdistill.distill.finishing.config import FinishConfig, completed
from mfdistill.distill.logs import say
from mfdistill.distill.opening import open_model
from mfdistill.metrics import scoring_pool, summarise
from mfdistill.report import markdown_table, write_table
from mfdistill.report.tables import header
from mfdistill.tasks import TASKS

Regime = Literal[
    "vocode-80", "vocode-40", "vocode-20", "vocode-10", "enhance-10", "enhance-0", "enhance--5",
    "bandwidth-4", "bandwidth-2", "bandwidth-1", "codec-12", "codec-6",
    "token2mel-1024", "token2mel-128", "token2mel-16",
]  # fmt: skip
"""Task and its difficulty: Mel bands, dB, kHz that are kept, kbit/s, units of one level."""
METRICS = (
    *("pesq", "estoi", "lsd", "mcd", "voicing", "spksim", "dnsmos", "wer"),
    *("fd_speaker", "fd_frames"),
)
SHOWN = (
    *("fd_frames", "fd_speaker", "dnsmos_sig", "lsd", "vuv_f1", "spread", "pesq", "wer", "spksim"),
)
DRAWN = ("fd_frames", "fd_speaker", "dnsmos_sig", "vuv_f1", "lsd", "spread", "pesq", "wer")
LINES = {
    "teacher-20": "teacher, 20 steps",
    "student-1": "student, 1 step",
    "finished-0-1": "finished, temperature 0",
    "finished-0.3-1": "finished, temperature 0.3",
    "finished-1-1": "finished, temperature 1",
    "finished-matched-1": "finished, temperature 1, distribution matching",
    "regression": "regression",
    "regression-losses": "regression, losses of finishing",
    "regression-critics": "regression, critics",
}
UNITS = {"vocode": "Mel bands", "enhance": "dB", "bandwidth": "kHz", "codec": "kbit/s", "token2mel": "units"}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """Train everything on every difficulty, and compare."""

    data: str = "../shared/data"
    """Corpus with train, valid and test speakers, noises beside it."""
    regimes: tuple[Regime, ...] = get_args(Regime)
    minutes: float = 5.0
    """Of a teacher; see above for the others."""
    out: str = "runs/regimes"
    results: str = str(HERE / "results")
    """Folder of the recorded table; docs/results.md is only written with the default."""
    sample_rate: Literal[8000, 16000] | None = None
    """By default 8000 for vocode, 16000 for the others; token2mel is always at 16000."""
    temperatures: tuple[float, ...] = (0.0, 0.3, 1.0)
    """Of the finished students."""
    critics: bool = True
    """Finish, and train a regression, with critics too."""
    critic_weight: float = 0.03
    matching: float = 1.0
    """Weight of distribution matching in one more finished student, at temperature 1, beside a
    third of the usual losses; 0 is none.
    """
    batch_size: int = 8
    crop_s: float = 1.0
    mixed_precision: Literal["no", "bf16"] = field(default_factory=precision)
    limit: int = 40
    """Test utterances."""
    spread_limit: int = 8
    """Of them, how many are restored from two seeds."""
    metrics: tuple[str, ...] = METRICS
    workers: int = 1
    pilot: int = 10
    """Updates that tell a training's pace."""


def main(options: Options) -> None:
    """All regimes, one after another; each one's rows are recorded as soon as they are measured."""
    for regime in options.regimes:
        setup = setup_of(options, regime)
        runs = Path(options.out) / f"{regime}-{options.minutes:g}min"
        systems = train(options, setup, runs)
        record(options, regime, setup, measure(options, regime, setup, runs, systems))


def setup_of(options: Options, regime: Regime) -> recipes.Setup:
    """The task at its difficulty; pairs that the corpus cannot make by itself are made once."""
    task, _, number = regime.partition("-")
    rate = options.sample_rate or (8000 if task == "vocode" else 16000)
    rate = 16000 if task == "token2mel" else rate
    setup = recipes.setup_of(task, rate, options.data, options.crop_s)  # type: ignore[arg-type]
    data, value = setup.data, float(number)
    if task == "vocode":
        return replace(setup, numbers=replace(setup.numbers, n_mels=int(value)))
    if task == "bandwidth":
        limited = replace(data, cutoff=(1000 * value / (rate / 2),))
        # what is above the cutoff is sampled whole, so the student learns the whole flow
        return replace(setup, data=limited, test=limited, integral=recipes.FREE)
    if task == "token2mel":
        return replace(setup, speech=replace(setup.speech, units=int(value), levels=1))
    pairs = Path(options.out) / "pairs" / f"{regime}-{rate}"
    if task == "codec":
        # coding in every training step would take longer than the step
        degrade(Degrade("codec", options.data, str(pairs), rate, codec_kbps=(value, value)))
        made = Corpus(source=str(pairs), crop_s=data.crop_s)
        return replace(setup, data=made, test=made)
    degrade(Degrade("enhance", options.data, str(pairs), rate, snr_db=(value, value)))
    around = replace(data, snr_db=(value - 2.5, value + 2.5))
    return replace(setup, data=around, test=replace(data, source=str(pairs)))


def train(options: Options, setup: recipes.Setup, runs: Path) -> list[System]:
    """Every model of a regime, each once; the rows that they give."""
    minutes = options.minutes
    settings = replace(
        recipes.SETTINGS, batch_size=options.batch_size, mixed_precision=options.mixed_precision
    )

    def run(name: str, share: float, make: recipes.Train) -> Path:
        say(f"--- {runs.name}: {name}, {share * minutes:.3g} minutes")
        return train_for(share * minutes, make, runs / name, settings, options.pilot)

    systems = [System("unprocessed", about={"train_hours": 0.0})]

    def row(name: str, folders: Sequence[Path], role: str, nfe: int, placed: bool = False) -> None:
        hours = round(sum(map(hours_of, folders)), 3)
        systems.append(System(name, folders[-1], role, nfe, placed, {"train_hours": hours}))

    start, teacher_share = None, 1.0
    if setup.from_regression:
        start, teacher_share = run("start", 0.4, recipes.regression(setup)), 0.6
    teacher = run("teacher", teacher_share, recipes.teacher(setup, start))
    before = [*([start] if start else []), teacher]
    for nfe in (1, 20):
        row(f"teacher-{nfe}", before, "teacher", nfe)
    student = run("student", 0.5, recipes.student(setup, teacher))
    for nfe in (1, 2):
        row(f"student-{nfe}", [*before, student], "student", nfe)
    for temperature in options.temperatures:
        name = f"finished-{temperature:g}"
        config = FinishConfig(nfe=(1, 2), temperature=temperature)
        behind = [*before, student]
        share = 0.25 if options.critics else 0.5
        behind.append(run(name, share, recipes.finished(setup, "student", student, config)))
        if options.critics:
            make = recipes.finished(setup, "student", behind[-1], config, options.critic_weight)
            behind.append(run(f"{name}-critics", 0.25, make))
        for nfe in (1, 2):
            row(f"{name}-{nfe}", behind, "student", nfe, nfe > 1)
    if options.matching:
        third = completed(
            FinishConfig(nfe=(1, 2), temperature=1.0), TASKS[setup.task][0].finishing, setup.task
        )
        third = replace(third, **{name: value / 3 for name, value in third.weights.items()})
        make = recipes.finished(setup, "student", student, third, matching=options.matching)
        matched = run("finished-matched", 0.5, make)
        for nfe in (1, 2):
            row(f"finished-matched-{nfe}", [*before, student, matched], "student", nfe)
    one = FinishConfig(nfe=(1,))
    plain = run("regression", 2.0, recipes.regression(setup, teacher))
    row("regression", [plain], "student" if setup.is_mel else "regression", 1)

    def losses(name: str, share: float) -> Path:
        make = recipes.finished(setup, "teacher", teacher, one, random_weights=True)
        return run(name, share, make)

    row("regression-losses", [losses("regression-losses", 2.0)], "student", 1)
    if options.critics:
        base = losses("regression-base", 1.75)
        make = recipes.finished(setup, "student", base, one, options.critic_weight)
        critics = run("regression-critics", 0.25, make)
        row("regression-critics", [base, critics], "student", 1)
    return systems


def measure(
    options: Options, regime: Regime, setup: recipes.Setup, runs: Path, systems: Sequence[System]
) -> list[dict[str, Any]]:
    """Rows of the test split: each system's values, and its differences to the best regression by
    Fréchet distance, under ``KEY_vs_regression``.
    """
    task = open_model(runs / "teacher", role="teacher").task
    utterances = open_eval(
        setup.test, "test", task.degradation, task.sample_rate, limit=options.limit
    )
    few = open_eval(
        setup.test, "test", task.degradation, task.sample_rate, limit=options.spread_limit
    )

    def tell(name: str) -> None:
        say(f"--- {regime}: scoring {name}")

    with scoring_pool(options.workers) as pool:
        scored = score_systems(
            systems, utterances, task, options.metrics, runs / "scores", pool, tell
        )
        spread = {system.name: spread_of(system, few, runs / "scores") for system in systems}
    values = {name: summarise(one.rows) for name, one in scored.items()}
    quality = options.metrics[-1] if "fd_frames" not in options.metrics else "fd_frames"
    rivals = [name for name in scored if name.startswith("regression")]
    best = min(rivals, key=lambda name: values[name].get(quality, float("inf")))
    rows = []
    for name, one in scored.items():
        change = {} if name == best else versus(one, scored[best], "regression")
        row = {
            **{"regime": regime, "task": setup.task, "sample_rate": setup.sample_rate},
            **{"name": name, "minutes": options.minutes, "best_regression": best},
            **values[name],
            **one.facts,
            **{"spread": spread[name], "commit": commit(), "machine": machine()},
            **change,
        }
        rows.append({key: value for key, value in row.items() if not key.startswith("utterance")})
    return rows


def record(
    options: Options, regime: Regime, setup: recipes.Setup, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Replace the regime's rows in the recorded result, and draw it."""
    file = Path(options.results) / "regimes"
    known = [row for row in recorded(file.with_suffix(".json")) if row["regime"] != regime]
    order = list(get_args(Regime))
    both = sorted([*known, *rows], key=lambda row: order.index(row["regime"]))
    write_table(file, both)
    draw(both, file.with_suffix(".png"))
    page = HERE.parent / "docs" / "results.md"
    if Path(options.results) == HERE / "results" and page.is_file():
        into(page, "regimes.json", tables(both))


def tables(rows: Sequence[Mapping[str, Any]]) -> str:
    """One markdown table for every regime."""
    columns = {"name": "", "train_hours": "hours"} | {name: header(name) for name in SHOWN}
    parts = []
    for regime in dict.fromkeys(row["regime"] for row in rows):
        own = [row for row in rows if row["regime"] == regime]
        parts.append(
            f"`{regime}`, teacher {own[0]['minutes']:g} minutes, {own[0]['n']} test utterances "
            f"({own[0]['machine']}):\n\n{markdown_table(own, columns)}"
        )
    return "\n\n".join(parts) + "\n"


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A line of panels per task, one per metric: difficulty across and a line per system or, where
    only one difficulty was measured, the systems one below another.
    """
    from mfdistill.report.figures import new_figure, save_figure, shared_legend

    tasks = list(dict.fromkeys(row["task"] for row in rows))
    columns = [name for name in DRAWN if any(name in row for row in rows)]
    figure = new_figure(2.6 * len(columns), 2.5 * len(tasks) + 0.9)
    panels = figure.subplots(len(tasks), len(columns), squeeze=False)
    handles: dict[str, Any] = {}
    for line, task in zip(panels, tasks, strict=True):
        own = [row for row in rows if row["task"] == task]
        regimes = list(dict.fromkeys(row["regime"] for row in own))
        for number, (panel, column) in enumerate(zip(line, columns, strict=True)):
            if len(regimes) == 1:
                _beside(panel, own, column, labelled=number == 0)
            else:
                handles |= _across(panel, own, column, regimes)
            panel.set_title(
                f"{task if len(regimes) > 1 else regimes[0]}: {header(column)}", fontsize=9
            )
    if handles:
        shared_legend(figure, handles)
    save_figure(figure, path)


def _beside(panel: Any, rows: Sequence[Mapping[str, Any]], column: str, labelled: bool) -> None:
    """Every system's value and interval, the systems from top to bottom."""
    from mfdistill.report.figures import COLOURS, GREY, tidy

    shown = [row for name in LINES for row in rows if row["name"] == name and _number(row, column)]
    for place, row in enumerate(shown):
        panel.errorbar(
            row[column],
            -place,
            xerr=row.get(f"{column}_ci95"),
            color=GREY if row["name"].startswith("regression") else COLOURS[0],
            marker="o",
            capsize=2.5,
        )
    names = [LINES[row["name"]] if labelled else "" for row in shown]
    panel.set_yticks([-place for place in range(len(shown))], names, fontsize=8)
    tidy(panel)


def _across(
    panel: Any, rows: Sequence[Mapping[str, Any]], column: str, regimes: Sequence[str]
) -> dict[str, Any]:
    """A line per system over the difficulties; the handles of a legend."""
    from mfdistill.report.figures import COLOURS, tidy

    handles = {}
    for k, (name, label) in enumerate(LINES.items()):
        found = {row["regime"]: row for row in rows if row["name"] == name}
        at = [i for i, regime in enumerate(regimes) if _number(found.get(regime), column)]
        if at:
            (handles[label],) = panel.plot(
                at,
                [found[regimes[i]][column] for i in at],
                color=COLOURS[k % len(COLOURS)],
                linestyle="--" if name.startswith("regression") else "-",
                marker="o" if k < len(COLOURS) else "s",
                markersize=4,
            )
    panel.set_xticks(range(len(regimes)), [regime.partition("-")[2] for regime in regimes])
    panel.set_xlabel(UNITS[rows[0]["task"]], fontsize=9)
    tidy(panel)
    return handles


def _number(row: Mapping[str, Any] | None, column: str) -> bool:
    return row is not None and isinstance(row.get(column), (int, float))


if __name__ == "__main__":
    main(tyro.cli(Options))
