"""The benchmarks' own machinery: minutes become updates once, trainings and scores are kept, and
what a model needs is made before it.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mfdistill.checkpoint import write_json
from mfdistill.distill.settings import TrainConfig
from mfdistill.errors import UserError
from mfdistill.metrics import summarise
from mfdistill.metrics.score import EVIDENCE

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``module("quality")`` imports a benchmark."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    for name in ("quality", "regimes", "recipes", "scores", "stages", "record"):
        sys.modules.pop(name, None)


class Trainer:
    """Trains at 2 s per update after a slow first one, and stops after ``most`` of them."""

    def __init__(self, most: int = 10**6):
        self.calls: list[TrainConfig] = []
        self.most = most

    def __call__(self, settings: TrainConfig) -> None:
        self.calls.append(settings)
        steps = min(settings.steps, self.most)
        out = Path(settings.out)
        write_json(
            out / "config.json",
            {"format": "mfdistill/1", "training": {"step": steps, "hours": steps * 2 / 3600}},
        )
        (out / "model.safetensors").touch()
        lines = [
            {"step": i + 1, "kind": "train", "hours": (60 + i * 2) / 3600} for i in range(steps)
        ]
        (out / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_minutes_become_updates_once(module: Any, tmp_path: Path) -> None:
    stages, out = module("stages"), tmp_path / "student"
    stopped = Trainer(most=20)
    settings = TrainConfig(warmup=100, ema_decay=0.998, save_every=500)
    stages.train_for(2.0, stopped, out, settings, pilot=4)
    pilot, run = stopped.calls
    assert pilot.steps == 4 and not pilot.resume and not Path(pilot.out).exists()
    # 2 minutes at 2 s per update; a tenth of them warm up, and the average forgets the first half
    assert run.steps == 60 and run.warmup == 6 and run.save_every == 60
    assert run.ema_decay == pytest.approx(1 - 10 / 60) and run.valid_every == 0
    # stopped early: goes on to the same end, whatever the pace is by now
    again = Trainer()
    stages.train_for(2.0, again, out, settings, pilot=4)
    assert [(call.steps, call.resume) for call in again.calls] == [(60, True)]
    finished = Trainer()
    stages.train_for(2.0, finished, out, settings, pilot=4)
    assert not finished.calls


def test_scores_are_kept_whole(module: Any, tmp_path: Path) -> None:
    scores = module("scores")
    rng = np.random.default_rng(0)
    pairs = [(rng.random((3, 4)), rng.random((2, 4))) for _ in range(2)]
    rows = [
        {"name": "a", "pesq": 2.5, "failed": "", EVIDENCE: {"fd_frames": pairs[0], "fd_speaker": None}},
        {"name": "b", "pesq": math.nan, "failed": "pesq: silent", EVIDENCE: {"fd_frames": pairs[1], "fd_speaker": None}},
    ]  # fmt: skip
    scores._keep(tmp_path / "s-0.3-1", rows, {"rtf": 0.1, "times": [0.0, 1.0]})
    scores._keep(tmp_path / "s-0.3-2", [], {})
    back, facts = scores._kept(tmp_path / "s-0.3-1")
    assert facts == {"rtf": 0.1, "times": [0.0, 1.0]}
    assert repr(summarise(back)) == repr(summarise(rows))
    assert (back[1][EVIDENCE]["fd_frames"][1] == pairs[1][1]).all()
    assert back[0][EVIDENCE]["fd_speaker"] is None and back[1]["failed"] == "pesq: silent"


def test_columns_of_differences(module: Any) -> None:
    scores = module("scores")
    one, other = (
        scores.Scored(
            scores.System(name),
            [{"utterance": i, "name": str(i), "pesq": 2.0 + i + more} for i in range(3)],
            {},
        )
        for name, more in (("one", 0.25), ("other", 0.0))
    )
    columns = scores.versus(one, other, "teacher")
    assert columns == {"pesq_vs_teacher": 0.25, "pesq_vs_teacher_ci95": 0.0}


def bench(quality: Any, tmp_path: Path, task: str = "vocode", rate: int = 8000, **options: Any):
    given = quality.Options(out=str(tmp_path), results=str(tmp_path / "results"), **options)
    return quality.Bench(given, module_setup(task, rate))


def module_setup(task: str, rate: int) -> Any:
    return sys.modules["recipes"].setup_of(task, rate, "data")


def test_what_a_model_needs_is_made_before_it(module: Any, tmp_path: Path) -> None:
    quality = module("quality")
    whole = bench(quality, tmp_path).wanted()
    assert whole == [name for name in quality.PLAN if name != "start"]
    made: set[str] = set()
    for name, plan in quality.PLAN.items():
        assert {*plan.needs, *([plan.of] if plan.of else [])} <= made
        made.add(name)
    chosen = bench(quality, tmp_path, models=("finished-critics",)).wanted()
    assert chosen == ["teacher", "student", "finished", "finished-critics"]
    noisy = bench(quality, tmp_path, "enhance", 16000, models=("regression-critics",)).wanted()
    assert noisy == ["start", "teacher", "regression-losses", "regression-critics"]
    assert "finished-regression" not in bench(quality, tmp_path, "token2mel", 16000).wanted()
    (tmp_path / "mine").mkdir()
    given = bench(
        quality, tmp_path, given=(f"student={tmp_path / 'mine'}",), models=("finished",)
    ).wanted()
    assert given == ["teacher", "student", "finished"]
    write_json(tmp_path / "mine" / "config.json", {"format": "mfdistill/1"})
    folders = {name: tmp_path / "mine" for name in ("teacher", "student")}
    few = bench(quality, tmp_path, rows=("teacher-20", "student-1"))
    few.folder = few.stored = folders.__getitem__
    few.total_hours = lambda name: 1.0
    names = [system.name for system in few.systems(["teacher", "student"])]
    assert names == ["unprocessed", "teacher-20", "student-1"]
    few.options = replace(few.options, rows=("teacher-3",))
    with pytest.raises(UserError, match="--rows teacher-3: no such row"):
        few.systems(["teacher", "student"])
    with pytest.raises(UserError, match="--given student=nowhere: needs NAME=FOLDER"):
        bench(quality, tmp_path, given=("student=nowhere",))


def test_controls_get_the_time_that_the_others_took(module: Any, tmp_path: Path) -> None:
    quality = module("quality")
    options = {"teacher_minutes": 60.0, "student_minutes": 40.0, "finish_minutes": 15.0}
    plain = bench(quality, tmp_path, **options)
    assert plain.minutes("finished-teacher") == plain.minutes("regression-losses") == 55.0
    assert plain.minutes("regression-losses-long") == 115.0
    assert plain.minutes("cfm-continued") == 55.0 and plain.minutes("finished-critics") == 15.0
    noisy = bench(quality, tmp_path, "enhance", 16000, **options)
    assert noisy.minutes("regression-long") == 135.0  # the teacher's start counts
    folder = tmp_path / "given"
    for name in ("teacher", "student"):
        write_json(folder / name / "config.json", {"format": "mfdistill/1"})
        (folder / name / "model.safetensors").touch()
    pairs = tuple(f"{name}={folder / name}" for name in ("teacher", "student"))
    unknown = bench(quality, tmp_path, given=pairs, **options)
    with pytest.raises(UserError, match="--given-hours student=HOURS"):
        unknown.minutes("regression")
    hours = ("teacher=1.0", "student=1.5")  # of all training behind each
    known = bench(quality, tmp_path, given=pairs, given_hours=hours, **options)
    assert known.minutes("regression") == pytest.approx(30 + 15)
    assert known.minutes("regression-long") == pytest.approx(60 + 30 + 15)


def test_one_row_of_a_task_is_its_claim(module: Any, tmp_path: Path) -> None:
    quality, scores = module("quality"), module("scores")
    one = bench(quality, tmp_path)
    weights = tmp_path / "model"
    scored = {}
    for name in one.wanted():
        plan = quality.PLAN[name]
        for nfe in plan.nfe:
            system = scores.System(f"{name}-{nfe}", weights, plan.role, nfe, about=plan.about)
            facts = {"nfe": nfe, "times": None, "params": 1, "rtf": 0.1} | dict(plan.about)
            rows = [{"name": str(i), "pesq": 2.0 + i, "failed": ""} for i in range(3)]
            scored[system.name] = scores.Scored(system, rows, facts)
    rows = quality.rows_of(one, scored)
    claimed = [row for row in rows if row["claim"]]
    assert [row["name"] for row in claimed] == ["finished-1"]
    assert claimed[0] | {"pesq_ci95": 0} == claimed[0] | {
        "model": "finished", "start": "student", "critics": False, "nfe": 1, "schedule": "uniform",
        "pesq": 3.0, "pesq_ci95": 0, "n": 3,
    }  # fmt: skip
    assert {row["start"] for row in rows if row["model"] == "finished"} == {
        "student",
        "teacher",
        "regression",
    }
    paired = quality.paired_rows(one, scored)
    assert {row["against"] for row in paired} == {"teacher-20", "regression-losses-1"}
    assert all(row["pesq"] == 0 and row["pesq_n"] == 3 for row in paired)
    quality.record(one, scored)
    kept = json.loads((tmp_path / "results" / "quality.json").read_text())
    assert len(kept) == len(rows) and (tmp_path / "results" / "quality.png").is_file()


def test_the_regimes_figure_and_table(module: Any, tmp_path: Path) -> None:
    regimes = module("regimes")
    rows = [
        {"regime": regime, "task": regime.split("-")[0], "name": name, "minutes": 1.0, "n": 3, "machine": "m",
         "train_hours": 0.1, "fd_frames": 1.0 + i, "pesq": 2.0, "spread": 0.5}
        for regime in ("vocode-80", "vocode-10", "enhance--5")
        for i, name in enumerate(regimes.LINES)
    ]  # fmt: skip
    regimes.draw(rows, tmp_path / "regimes.png")
    assert (tmp_path / "regimes.png").read_bytes()[:4] == b"\x89PNG"
    text = regimes.tables(rows)
    assert text.count("| teacher-20 |") == 3 and "`enhance--5`, teacher 1 minutes" in text


def test_regimes_set_the_difficulty(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    regimes = module("regimes")
    made = []
    monkeypatch.setattr(regimes, "degrade", made.append)
    options = regimes.Options(out=str(tmp_path), data="corpus")
    assert regimes.setup_of(options, "vocode-20").numbers.n_mels == 20
    limited = regimes.setup_of(options, "bandwidth-2")
    assert limited.data.cutoff == limited.test.cutoff == (0.25,)  # of 8 kHz
    assert regimes.setup_of(options, "token2mel-16").speech.units == 16
    assert not made
    noisy = regimes.setup_of(options, "enhance--5")
    assert noisy.data.snr_db == (-7.5, -2.5) and noisy.data.source == "corpus"
    coded = regimes.setup_of(options, "codec-6")
    assert [(job.task, job.target) for job in made] == [
        ("enhance", noisy.test.source),
        ("codec", coded.data.source),
    ]
    assert made[0].snr_db == (-5.0, -5.0) and made[1].codec_kbps == (6.0, 6.0)
    assert replace(coded.data, crop_s=1.0) == coded.test
