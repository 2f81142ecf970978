"""The demo's signs of life, and its plan: enough updates for the student, a deadline for each
stage.
"""

from __future__ import annotations

import io
import json
import sys
import time
from pathlib import Path

import pytest

from mfdistill.checkpoint import load_config
from mfdistill.commands import plan
from mfdistill.commands.demo import Demo
from mfdistill.commands.heartbeat import heartbeat


def test_a_line_wherever_nothing_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    err = io.StringIO()
    monkeypatch.setattr(sys, "stderr", err)
    with heartbeat(lambda: "alive", every_s=0.3):
        time.sleep(1.0)
        quiet = err.getvalue().count("alive")
        for _ in range(10):
            sys.stderr.write("work\n")
            time.sleep(0.05)
        assert err.getvalue().count("alive") == quiet
    assert 2 <= quiet <= 3
    assert sys.stderr is err
    with pytest.raises(ValueError), heartbeat(lambda: "alive"):
        raise ValueError


@pytest.mark.parametrize(
    "teacher_s, student_s, batch, least",
    [(0.1, 0.2, 8, 300), (0.5, 1.5, 2, 300), (1.0, 7.0, 1, 300), (30.0, 1e6, 1, 300)],
)
def test_the_student_gets_its_updates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teacher_s: float, student_s: float, batch: int, least: int
) -> None:  # fmt: skip
    command = Demo(out=str(tmp_path))
    monkeypatch.setattr(plan, "seconds_per_update", lambda *_: (1, teacher_s, student_s))
    made = plan.make_plan(command)
    training_s = 60 * command.minutes - plan.BEFORE_S - plan.AFTER_S
    teacher = made["steps"]["teacher"]
    assert (
        teacher * teacher_s <= plan.TEACHER_SHARE * training_s + plan.LEAST["teacher"] * teacher_s
    )
    assert made["limit_s"]["teacher"] <= plan.SLACK * plan.TEACHER_SHARE * training_s
    (tmp_path / "teacher").mkdir()
    done = {
        "format": "mfdistill/1",
        "training": {"hours": teacher * teacher_s / 3600, "step": teacher},
    }
    (tmp_path / "teacher" / "config.json").write_text(json.dumps(done))
    assert load_config(tmp_path / "teacher")["training"]["step"] == teacher
    elapsed_s = plan.BEFORE_S + min(teacher * teacher_s, made["limit_s"]["teacher"])
    made = plan.plan_student(command, made, elapsed_s)
    assert made["steps"]["student"] >= least and made["batch"] == batch
    assert made["limit_s"]["student"] + elapsed_s + plan.AFTER_S <= 60 * command.minutes + 1e-6
    # asked again, the same: a stopped demo goes on as it began
    assert plan.plan_student(command, plan.make_plan(command), 0.0) == made


def test_less_is_searched_where_time_is_short(tmp_path: Path) -> None:
    command, made = Demo(out=str(tmp_path)), {"after_s": 90.0}
    assert [plan.depth(command, made, 540.0 - left) for left in (90, 73, 71, 37, 35, -60)] == [
        *(2, 2, 1, 1, 0, 0)
    ]
