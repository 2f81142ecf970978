"""A system, a task, an objective and a metric, each one file outside the package, used by the
commands.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from cli_corpus import QUICK, SMALL, make_corpus
from safetensors.torch import load_file, save_file

from mfdistill.cli import main
from mfdistill.distill.objectives.catalog import OBJECTIVES
from mfdistill.metrics import METRICS
from mfdistill.networks import CompactConfig, build_network
from mfdistill.systems.table import SYSTEMS
from mfdistill.tasks.task import TASKS

EXTEND = Path(__file__).resolve().parents[1] / "examples" / "extend"
FEW = [*QUICK[:-2], "--valid-metrics", "level", "--num-workers", "0"]


@pytest.fixture(autouse=True)
def tables_as_before() -> Iterator[None]:
    tables: list[dict] = [SYSTEMS, TASKS, OBJECTIVES, METRICS]
    before = [dict(table) for table in tables]
    yield
    for table, rows in zip(tables, before, strict=True):
        table.clear()
        table.update(rows)


def run(*arguments: str, files: tuple[str, ...]) -> None:
    given = [word for name in files for word in ("--extend", str(EXTEND / f"{name}.py"))]
    for table in (SYSTEMS, TASKS, OBJECTIVES, METRICS):
        for name in ("tone", "upper", "arrival", "level"):
            table.pop(name, None)
    assert main([*given, *arguments]) == 0, arguments


def test_a_task_an_objective_and_a_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data, files = str(make_corpus(tmp_path / "corpus")), ("task", "objective", "metric")
    here = ["--data", data, "--data.crop-s", "0.5"]
    run(
        "teacher-train",
        "--task",
        "upper",
        "--sample-rate",
        "8000",
        *here,
        *SMALL,
        *FEW,
        files=files,
    )
    run(
        "student-distill",
        "--teacher",
        "runs/teacher",
        "--objective",
        "arrival",
        "--own",
        "steps=2",
        *FEW,
        files=files,
    )
    config = json.loads(Path("runs/student/config.json").read_text())
    assert (
        config["objective"] == {"name": "arrival", "steps": 2} and config["task"]["name"] == "upper"
    )
    assert config["command"]["options"]["own"] == ["steps=2"]
    run("os3-search", "--metric", "level", "--limit", "2", "--iterations", "1", files=files)
    run("evaluate", "--student", "runs/student", "--metrics", "level", "--limit", "2", files=files)
    rows = json.loads(Path("runs/evaluation/evaluation.json").read_text())
    rows = rows["rows"] if isinstance(rows, dict) else rows
    assert {row["model"] for row in rows} >= {"teacher", "student"}
    assert all(row["task"] == "upper" and row["level"] <= 0 for row in rows)
    wave = next(Path(data, "clean", "test").rglob("*.wav"))
    run("restore", "runs/student", str(wave), "out.wav", files=files)
    assert Path("out.wav").is_file()
    assert main(["student-distill", "--teacher", "runs/teacher", "--objective", "nothing"]) == 2


def test_a_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = str(make_corpus(tmp_path / "corpus"))
    torch.manual_seed(0)
    network = build_network(
        "compact", CompactConfig(freqs=128, channels=4, blocks=1, embedding=8, recurrent=0)
    )
    save_file(
        {f"tone.{name}": value for name, value in network.state_dict().items()},
        "theirs.safetensors",
    )
    quick = [*QUICK, "--data", data, "--data.crop-s", "0.5", "--num-workers", "0"]
    run("student-distill", "--teacher", "theirs.safetensors", *quick, files=("system",))
    run(
        "restore",
        "theirs.safetensors",
        str(next(Path(data, "clean", "test").rglob("*.wav"))),
        "out.wav",
        files=("system",),
    )
    run("export", "runs/student", "back.safetensors", "--layout", "tone", files=("system",))
    assert all(name.startswith("tone.student.") for name in load_file("back.safetensors"))


def test_files_that_extend_nothing_are_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    empty = tmp_path / "empty.py"
    empty.write_text("x = 1\n")
    for file, message in (
        (empty, "has none of the tables"),
        (tmp_path / "no.py", "no such Python file"),
    ):
        assert main(["--extend", str(file), "info"]) == 2
        assert message in capsys.readouterr().err
    clash = tmp_path / "clash.py"
    clash.write_text("from mfdistill.tasks import Phase\nTASKS = {'phase': (Phase, None)}\n")
    assert main(["--extend", str(clash), "info"]) == 2
    assert "has a row 'phase' already" in capsys.readouterr().err
