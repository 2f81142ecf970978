"""What distillation and finishing keep, on real speech: every row by the same code on the same
utterances.

    python benchmarks/quality.py --data ../shared/data --tasks vocode-8k
    python benchmarks/quality.py --given committed --models finished regression-losses

Models that are not given are trained for minutes, not updates; each training and each row's scores
are kept under --out, and a restart goes on where it was stopped. Everything is chosen on the
validation split; the table is of the test split, whose speakers and noises no stage before it has
heard. Checkpoints are rounded to half precision first. Writes benchmarks/results/quality.json and
.png, quality_paired.json (differences to --against, with paired intervals) and, with
--curve-minutes, quality_minutes.json and .png.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import recipes
import tyro
from record import HERE, commit, digest, halve, into, machine, precision, recorded, tables
from scores import METRICS, Scored, System, score_systems, versus
from stages import planned, train_for

from mfdistill.checkpoint import load_config
from mfdistill.commands.os3_search import OS3Search
from mfdistill.commands.os3_search import run as os3_search
from mfdistill.data import open_eval
from mfdistill.distill.finishing.config import FinishConfig
from mfdistill.distill.logs import say
from mfdistill.distill.opening import open_model
from mfdistill.errors import UserError
from mfdistill.metrics import differences, pesq_mode, scoring_pool, summarise
from mfdistill.report import write_table
from mfdistill.report.tables import header
from mfdistill.search.config import SearchConfig

Label = Literal["vocode-8k", "vocode", "phase-8k", "enhance", "token2mel"]
# the row that a page may quote, declared before any is measured
CLAIM = ("finished", 1)
KEYS = (
    *("task", "model", "name", "claim", "objective", "network", "nfe", "schedule", "times"),
    *("start", "critics", "temperature", "losses"),
    *("split", "sample_rate", "pesq_mode", "n", "params", "spectral", "train_hours"),
)
TAIL = ("rtf", "searched", "checkpoint_sha256", "commit", "machine")
SHOWN = (
    *("pesq", "estoi", "sisdr", "lsd", "mcd", "periodicity", "spksim"),
    *("dnsmos_sig", "dnsmos_ovrl", "plcmos", "wer", "fd_speaker", "fd_frames"),
)
DRAWN = ("teacher", "student", "finished", "regression-losses", "unprocessed")
REGRESSION = "regression, same losses"
SEARCHED = {"enhance": "pesq"}  # the others by speaker similarity, the paper's metric


@dataclass(frozen=True)
class Options:
    """Train, distil, finish, search and evaluate on real speech."""

    data: str = "../shared/data"
    """Corpus with train, valid and test speakers (see the README on data), noises beside it."""
    tasks: tuple[Label, ...] = ("vocode-8k", "vocode", "phase-8k", "enhance", "token2mel")
    models: tuple[str, ...] = ()
    """Train and score these (and what they are made from) instead of all in PLAN."""
    given: tuple[str, ...] = ()
    """NAME=FOLDER: take a model instead of training it; 'committed' takes all that lie in
    benchmarks/models as TASK-NAME.
    """
    given_hours: tuple[str, ...] = ()
    """NAME=HOURS: of all training behind a given model, where no recorded row says it."""
    out: str = "runs/quality"
    """Folder of the trainings and the scores."""
    results: str = str(HERE / "results")
    """Folder of the recorded tables; pages are only written with the default."""
    teacher_minutes: float = 60.0
    student_minutes: float = 40.0
    finish_minutes: float = 15.0
    finish_nfe: tuple[int, ...] = (1, 2)
    """Numbers of steps that models are finished for."""
    critics_minutes: float = 15.0
    """Of finishing with critics, after finishing without."""
    rows: tuple[str, ...] = ()
    """Score these (MODEL-STEPS, as teacher-20) beside the unprocessed input instead of all."""
    table: bool = True
    """Train and score the models above; --no-table only draws the figure that follows."""
    curve_minutes: tuple[float, ...] = ()
    """Budgets of the figure of quality against minutes from a given teacher: each is spent on
    distilling (a fifth) and finishing, and on a regression; the largest on finishing the
    teacher, too.
    """
    critic_weight: float = 0.03
    temperature: float = 0.0
    """Of finished models."""
    crop_s: float = 1.0
    batch_size: int = 8
    mixed_precision: Literal["no", "bf16"] = field(default_factory=precision)
    search_limit: int = 16
    """Validation utterances that a schedule is scored on; 0 searches none."""
    search_iterations: int = 6
    limit: int = 40
    """Test utterances."""
    metrics: tuple[str, ...] = METRICS
    against: tuple[str, ...] = ("teacher-20", "teacher-32", "regression-losses-1")
    """Rows that all others are compared with, where they are there."""
    workers: int = 1
    store: bool = False
    """Put the half-precision teacher, student and finished models into benchmarks/models."""
    pilot: int = 10
    """Updates that tell a training's pace."""


@dataclass(frozen=True)
class Planned:
    """A model: what it is made from, for how long, and which rows it gives."""

    make: Callable[[Options, recipes.Setup, Mapping[str, Path]], recipes.Train]
    minutes: Callable[[Options, Callable[[str], float]], float]
    """Of its own training; ``spent(name)`` are the minutes of another's own."""
    of: str | None = None
    """The model that it goes on from."""
    needs: tuple[str, ...] = ()
    """Others that must be there."""
    role: Literal["teacher", "student", "regression"] = "student"
    nfe: tuple[int, ...] = (1,)
    search: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)


def _finish(
    role: Literal["student", "teacher", "regression"], start: str, critics: bool, random: bool
) -> Callable[[Options, recipes.Setup, Mapping[str, Path]], recipes.Train]:
    def make(options: Options, setup: recipes.Setup, folders: Mapping[str, Path]) -> recipes.Train:
        config = FinishConfig(
            nfe=(1,) if random else options.finish_nfe,
            temperature=0.0 if random else options.temperature,
        )
        weight = options.critic_weight if critics else 0.0
        return recipes.finished(setup, role, folders[start], config, weight, random)

    return make


def finish(start: str, begun: str, critics: bool = False) -> Planned:
    """A model finished from ``start``, which began as a student, a teacher or a regression."""
    role = "student" if critics or begun == "student" else begun
    return Planned(
        _finish(role, start, critics, False),  # type: ignore[arg-type]
        lambda options, spent: options.critics_minutes if critics else options.finish_minutes,
        of=start,
        nfe=(1, 2),
        about={"model": "finished", "critics": critics, "start": begun, "losses": "finish"},
    )


def distilled(objective: Literal["integral", "meanflow"]) -> Planned:
    """A student of the teacher."""
    return Planned(
        lambda options, setup, folders: recipes.student(setup, folders["teacher"], objective),
        lambda options, spent: options.student_minutes,
        of="teacher",
        nfe=(1, 2, 3),
        search=True,
        about={"model": "student"},
    )


def control(
    minutes: Callable[[Callable[[str], float]], float], losses: str, start: str = "teacher"
) -> Planned:
    """A network of the same size that answers at once, trained from random weights, or trained on
    from another one of these with critics.
    """
    about = {"model": "regression", "losses": losses, "critics": losses == "critics"}
    if losses == "plain":
        return Planned(
            lambda options, setup, folders: recipes.regression(setup, folders["teacher"]),
            lambda options, spent: minutes(spent),
            needs=("teacher",),
            role="regression",
            about=about,
        )
    if losses == "critics":
        return Planned(
            _finish("student", start, True, False),
            lambda options, spent: options.critics_minutes,
            of=start,
            about=about,
        )
    return Planned(
        _finish("teacher", "teacher", False, True),
        lambda options, spent: minutes(spent),
        needs=("teacher",),
        about=about,
    )


def short(spent: Callable[[str], float]) -> float:
    """As long as student and finishing."""
    return spent("student") + spent("finished")


def long(spent: Callable[[str], float]) -> float:
    """As long as teacher, student and finishing."""
    return spent("start") + spent("teacher") + short(spent)


PLAN: dict[str, Planned] = {
    "start": Planned(
        lambda options, setup, folders: recipes.regression(setup),
        lambda options, spent: options.teacher_minutes / 3,
        role="regression",
        nfe=(),
    ),
    "teacher": Planned(
        lambda options, setup, folders: recipes.teacher(setup, folders.get("start")),
        lambda options, spent: options.teacher_minutes,
        role="teacher",
        nfe=(1, 2, 5, 10, 20),
        about={"model": "teacher"},
    ),
    "student": distilled("integral"),
    "student-meanflow": distilled("meanflow"),
    "finished": finish("student", "student"),
    "finished-critics": finish("finished", "student", critics=True),
    "finished-meanflow": finish("student-meanflow", "student"),
    "finished-meanflow-critics": finish("finished-meanflow", "student", critics=True),
    # the teacher finished directly, as long as distilling and finishing took: does distilling help?
    "finished-teacher": replace(
        finish("teacher", "teacher"), minutes=lambda options, spent: short(spent)
    ),
    "finished-teacher-critics": finish("finished-teacher", "teacher", critics=True),
    "regression": control(short, "plain"),
    "finished-regression": finish("regression", "regression"),
    "regression-losses": control(short, "finish"),
    "regression-critics": control(short, "critics", "regression-losses"),
    "regression-long": control(long, "plain"),
    "regression-losses-long": control(long, "finish"),
    "regression-critics-long": control(long, "critics", "regression-losses-long"),
    "cfm-continued": Planned(
        lambda options, setup, folders: recipes.continued(setup, folders["teacher"]),
        lambda options, spent: short(spent),
        of="teacher",
        role="teacher",
        about={"model": "cfm-continued"},
    ),
}
MEL_LEFT_OUT = ("finished-regression",)  # their plain regression is a finished one already


def main(options: Options) -> None:
    """All tasks, one after another; each one's rows are recorded as soon as they are measured."""
    unknown = [name for name in options.models if name not in PLAN]
    if unknown:
        raise UserError(f"--models {' '.join(unknown)}: choose from {', '.join(PLAN)}")
    for label in options.tasks:
        task, _, rate = label.partition("-")
        setup = recipes.setup_of(
            task,  # type: ignore[arg-type]
            8000 if rate else 16000,
            options.data,
            options.crop_s,
        )
        bench = Bench(options, setup)
        names = bench.wanted() if options.table else ["teacher"]
        for name in names:
            bench.train(name)
        if options.table:
            record(bench, bench.score(names))
        if options.curve_minutes:
            curve(bench)


class Bench:
    """One task's models: where each is, and how long it took."""

    def __init__(self, options: Options, setup: recipes.Setup):
        self.options, self.setup = options, setup
        self.runs = Path(options.out) / setup.label
        self.settings = replace(
            recipes.SETTINGS,
            batch_size=options.batch_size,
            mixed_precision=options.mixed_precision,
        )
        self.given = self._given()
        self.hours = dict(pair.split("=", 1) for pair in options.given_hours)

    def _given(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for text in self.options.given:
            name, _, folder = text.partition("=")
            if text == "committed":
                places = {one: HERE / "models" / f"{self.setup.label}-{one}" for one in PLAN}
                found |= {one: place for one, place in places.items() if place.is_dir()}
            elif name not in PLAN or not Path(folder).is_dir():
                raise UserError(f"--given {text}: needs NAME=FOLDER, NAME of {', '.join(PLAN)}")
            else:
                found[name] = Path(folder)
        return found

    def wanted(self) -> list[str]:
        """Names in the order in which they are made, with what they need and the teacher, whose
        task all are scored by.
        """
        found: dict[str, None] = {
            name: None for name in ("teacher", *(self.options.models or PLAN))
        }
        for name in reversed(PLAN):
            if name in found and name not in self.given:
                plan = PLAN[name]
                needs = [*plan.needs, *([plan.of] if plan.of else [])]
                if name == "teacher" and self.setup.from_regression:
                    needs.append("start")
                found |= dict.fromkeys(needs)
        left_out: set[str] = set(MEL_LEFT_OUT) if self.setup.is_mel else set()
        if not self.setup.from_regression or "teacher" in self.given:
            left_out.add("start")
        return [name for name in PLAN if name in found and name not in left_out]

    def folder(self, name: str) -> Path:
        return self.given.get(name, self.runs / name)

    def train(self, name: str) -> None:
        """One model, unless it is given or was trained before; and its schedules."""
        if name in self.given:
            return
        plan = PLAN[name]
        needed = {*plan.needs, *([plan.of] if plan.of else [])}
        if name == "teacher" and self.setup.from_regression:
            needed.add("start")
        folders = {other: self.folder(other) for other in needed}
        minutes = plan.minutes(self.options, self.minutes)
        say(f"--- {self.setup.label}: {name}, {minutes:.3g} minutes")
        make = plan.make(self.options, self.setup, folders)
        train_for(minutes, make, self.runs / name, self.settings, self.options.pilot)
        if plan.search and self.options.search_limit:
            self._search(self.runs / name)

    def _search(self, folder: Path) -> None:
        for nfe in (2, 3):
            if str(nfe) not in (load_config(folder).get("schedules") or {}):
                os3_search(
                    OS3Search(
                        student=str(folder),
                        data=self.setup.data,
                        search=SearchConfig(
                            nfe=nfe,
                            metric=SEARCHED.get(self.setup.task, "spksim"),
                            limit=self.options.search_limit,
                            iterations=self.options.search_iterations,
                            workers=self.options.workers,
                        ),
                    )
                )

    def total_hours(self, name: str) -> float | None:
        """Of all training behind a model; None where nobody says it."""
        if name in self.given:
            if name in self.hours:
                return float(self.hours[name])
            wanted = digest(self.given[name] / "model.safetensors")
            for row in recorded(HERE / "results" / "quality.json"):
                if row["checkpoint_sha256"] == wanted and row["train_hours"] is not None:
                    return float(row["train_hours"])
        plan = PLAN[name]
        before = [plan.of] if plan.of else []
        if name == "teacher" and self.setup.from_regression and name not in self.given:
            before.append("start")
        parts = [own_hours(self.folder(name)), *map(self.total_hours, before)]
        return None if None in parts else sum(part for part in parts if part is not None)

    def minutes(self, name: str) -> float:
        """Of a model's own training, for others that get as long: as planned, or of a given one as
        recorded.

        Raises:
            UserError: nobody says how long a given one took.
        """
        if name == "start" and (not self.setup.from_regression or "teacher" in self.given):
            return 0.0
        plan = PLAN[name]
        if name not in self.given:
            file = self.runs / f"{name}-plan.json"
            if file.is_file():
                return float(planned(file)["minutes"])
            return plan.minutes(self.options, self.minutes)
        own = self.total_hours(name)
        before = self.total_hours(plan.of) if plan.of else 0.0
        if own is None or before is None:
            raise UserError(
                f"--given-hours {name}=HOURS: others are to be trained as long as it was"
            )
        return max(0.0, 60 * (own - before))

    def stored(self, name: str) -> Path:
        """The checkpoint that is scored."""
        if name in self.given or self.setup.is_mel:
            return self.folder(name)
        half = halve(self.folder(name), self.runs / "half" / name)
        if self.options.store and name in ("teacher", "student", "finished", "finished-critics"):
            halve(self.folder(name), HERE / "models" / f"{self.setup.label}-{name}")
        return half

    def systems(self, names: Sequence[str]) -> list[System]:
        """One for every row."""
        found = [System("unprocessed", about={"model": "unprocessed", "train_hours": 0.0})]
        for name in names:
            plan, folder = PLAN[name], self.stored(name)
            hours = self.total_hours(name)
            about = dict(plan.about) | {"train_hours": None if hours is None else round(hours, 3)}
            about["spectral"] = (load_config(folder).get("objective") or {}).get("spectral")
            if about.get("model") == "finished":
                about["temperature"] = load_config(folder)["task"]["temperature"]
            known = load_config(folder).get("schedules") or {}
            is_finished = about.get("model") == "finished"
            # a Mel task's regressions are students of one step
            role = "student" if self.setup.is_mel and plan.role == "regression" else plan.role
            more = (32,) if self.setup.is_mel and name == "teacher" else ()
            for nfe in (*plan.nfe, *more):
                # a finished model is used on the steps that it was trained on
                placed = is_finished and str(nfe) in known
                found.append(System(f"{name}-{nfe}", folder, role, nfe, placed, about))
            for nfe in map(int, known if plan.search else ()):
                searched = {"searched": SEARCHED.get(self.setup.task, "spksim")}
                found.append(System(f"{name}-{nfe}-o3s", folder, role, nfe, True, about | searched))
        wanted = ("unprocessed", *(self.options.rows or (one.name for one in found)))
        unknown = set(wanted) - {one.name for one in found}
        if unknown:
            raise UserError(f"--rows {' '.join(sorted(unknown))}: no such row of these models")
        return [one for one in found if one.name in wanted]

    def score(self, names: Sequence[str]) -> dict[str, Scored]:
        """Of every row."""
        return score_all(self, self.systems(names))


def own_hours(folder: Path) -> float | None:
    """Of a model's own training, where its folder says it."""
    config = load_config(folder)
    hours = config.get("hours", (config.get("training") or {}).get("hours"))
    return None if hours is None else float(hours)


def score_all(bench: Bench, systems: Sequence[System]) -> dict[str, Scored]:
    """On the task's test utterances."""
    options, setup = bench.options, bench.setup
    task = open_model(bench.stored("teacher"), role="teacher").task
    utterances = open_eval(
        setup.test, "test", task.degradation, task.sample_rate, limit=options.limit
    )
    with scoring_pool(options.workers) as pool:
        return score_systems(
            systems,
            utterances,
            task,
            options.metrics,
            bench.runs / "scores",
            pool,
            lambda name: say(f"--- {setup.label}: scoring {name}, {len(utterances)} utterances"),
        )


def rows_of(bench: Bench, scored: Mapping[str, Scored]) -> list[dict[str, Any]]:
    """Rows as the file wants them."""
    setup, rows = bench.setup, []
    for name, one in scored.items():
        row = {
            "task": setup.task,
            "name": name,
            "split": "test",
            "sample_rate": setup.sample_rate,
            "pesq_mode": pesq_mode(setup.sample_rate),
            "schedule": schedule_of(one),
            "claim": (name.rsplit("-", 1)[0], one.facts["nfe"]) == CLAIM,
            "commit": commit(),
            "machine": machine(),
        }
        row |= one.facts | summarise(one.rows)
        measured = [key for key in row if key not in (*KEYS, *TAIL, "utterance", "failed")]
        kept = [key for key in measured if not key.startswith("utterance")]
        rows.append({key: row.get(key) for key in (*KEYS, *kept, *TAIL)})
    return rows


def schedule_of(one: Scored) -> str:
    """How a row's steps are called in the file."""
    nfe, times = one.facts["nfe"], one.facts["times"]
    if one.system.folder is None or one.system.role == "regression":
        return ""
    equal = times is None or all(abs(t - i / nfe) < 1e-6 for i, t in enumerate(times))
    return "uniform" if equal else "o3s"


def paired_rows(bench: Bench, scored: Mapping[str, Scored]) -> list[dict[str, Any]]:
    """Every row's differences to those of --against."""
    about = {"task": bench.setup.task, "sample_rate": bench.setup.sample_rate}
    return [
        about | {"name": name, "against": other} | differences(one.rows, scored[other].rows)
        for other in bench.options.against
        if other in scored
        for name, one in scored.items()
        if name != other
    ]


def record(bench: Bench, scored: Mapping[str, Scored]) -> None:
    """Replace the task's rows in the recorded results, and draw them."""
    from mfdistill.report import quality_plot

    folder, key = Path(bench.options.results), (bench.setup.task, bench.setup.sample_rate)

    def merged(name: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        others = recorded(folder / f"{name}.json")
        both = [row for row in others if (row["task"], row["sample_rate"]) != key] + rows
        write_table(folder / name, both)
        return both

    rows = merged("quality", rows_of(bench, scored))
    merged("quality_paired", paired_rows(bench, scored))
    if folder == HERE / "results":
        columns = {"train_hours": "hours"} | {name: header(name) for name in SHOWN} | {"rtf": "RTF"}
        for page in (HERE.parent / "README.md", HERE.parent / "docs" / "results.md"):
            if page.is_file():
                into(page, "quality.json", tables(rows, columns))
    drawn = [
        row | {"task": f"{row['task']}, {row['sample_rate'] // 1000} kHz"}
        for row in rows
        if "name" not in row
        or row["name"].removesuffix("-o3s").rstrip("0123456789").strip("-") in DRAWN
    ]
    quality_plot(
        drawn,
        folder / "quality.png",
        columns=[name for name in SHOWN if any(name in row for row in drawn)][:9],
    )


def named(series: str, minutes: float | None) -> str:
    """A system's name."""
    return f"{series.replace(',', '').replace(' ', '-')}-{minutes or 0:g}"


def curve(bench: Bench) -> None:
    """Quality against minutes of training from a given teacher, a regression from scratch
    beside it.
    """
    options, setup, source = bench.options, bench.setup, bench.folder("teacher")
    config = FinishConfig(nfe=(1,), temperature=options.temperature)
    systems = [
        System("teacher-20", bench.stored("teacher"), "teacher", 20, about={"minutes": None})
    ]
    pace: list[float] = []  # of all that only differ in their start
    for minutes in options.curve_minutes:

        def run(name: str, share: float, make: recipes.Train, minutes: float = minutes) -> Path:
            out = bench.runs / f"minutes-{minutes:g}" / name
            say(f"--- {setup.label}: {name}, {share * minutes:.3g} minutes")
            alike = pace[0] if pace and name != "student" else None
            train_for(share * minutes, make, out, bench.settings, options.pilot, alike)
            if name != "student":
                pace.append(planned(out.with_name(f"{name}-plan.json"))["seconds_per_update"])
            return out

        student = run("student", 0.2, recipes.student(setup, source))
        whole = {
            "distilled and finished": run(
                "finished", 0.8, recipes.finished(setup, "student", student, config)
            )
        }
        whole[REGRESSION] = run(
            "regression",
            1.0,
            recipes.finished(setup, "teacher", source, config, random_weights=True),
        )
        if minutes == max(options.curve_minutes):
            whole["teacher finished"] = run(
                "finished-teacher", 1.0, recipes.finished(setup, "teacher", source, config)
            )
        systems += [
            System(
                named(name, minutes),
                folder,
                "student",
                1,
                about={"series": name, "minutes": minutes},
            )
            for name, folder in whole.items()
        ]
    scored = score_all(bench, systems)
    key = {"task": setup.task, "sample_rate": setup.sample_rate}
    rows = []
    for name, one in scored.items():
        row = key | one.facts | summarise(one.rows) | {"commit": commit(), "machine": machine()}
        rivals = {"teacher": "teacher-20", "regression": named(REGRESSION, one.facts["minutes"])}
        for rival, other in rivals.items():
            if other in scored and other != name:
                row |= versus(one, scored[other], rival)
        rows.append(row)
    file = Path(options.results) / "quality_minutes"
    others = [
        row
        for row in recorded(file.with_suffix(".json"))
        if (row["task"], row["sample_rate"]) != (setup.task, setup.sample_rate)
    ]
    write_table(file, [*others, *rows])
    draw_curve(rows, file.with_name(f"quality_minutes-{setup.label}.png"), setup.label)


def draw_curve(rows: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """A panel per metric: a line per way to spend the minutes, the teacher's 20 steps across."""
    from mfdistill.report.figures import COLOURS, GREY, new_figure, save_figure, shared_legend, tidy

    columns = [name for name in SHOWN if name in rows[0]][:6]
    across = 4 if len(columns) == 4 else min(3, len(columns))
    down = -(-len(columns) // across)
    figure = new_figure(11.0, 2.8 * down + 0.9, f"{title}: one evaluation")
    panels = figure.subplots(down, across, squeeze=False).flatten()
    handles: dict[str, Any] = {}
    series = list(dict.fromkeys(row["series"] for row in rows if row.get("series")))
    for panel, column in zip(panels, columns, strict=False):
        for colour, name in zip(COLOURS, series, strict=False):
            own = [row for row in rows if row.get("series") == name]
            handles[name] = panel.errorbar(
                [row["minutes"] for row in own],
                [row[column] for row in own],
                [row[f"{column}_ci95"] for row in own],
                color=colour,
                marker="o",
                capsize=2.5,
            )
        (teacher,) = (row for row in rows if row.get("series") is None)
        handles["teacher, 20 steps"] = panel.axhline(teacher[column], color=GREY, linestyle="--")
        tidy(panel)
        panel.set_title(header(column), fontsize=9)
        panel.set_xlabel("minutes of training", fontsize=9)
    for panel in panels[len(columns) :]:
        panel.set_visible(False)
    shared_legend(figure, handles)
    save_figure(figure, path)


if __name__ == "__main__":
    main(tyro.cli(Options))
