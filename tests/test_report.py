"""Tables and figures: exact numbers in the files, and figures that are drawn, whole, and of what
they should be.
"""

import csv
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mfdistill.errors import UserError
from mfdistill.report import (
    curves_plot,
    markdown_table,
    model_card,
    o3s_plot,
    quality_plot,
    table,
    write_table,
)

ROWS: list[dict[str, Any]] = [
    {"model": "teacher", "nfe": 20, "params": 620000, "pesq": 2.214, "pesq_ci95": 0.12, "pesq_n": 7, "lsd": 9.0, "n": 8},
    {"model": "student", "nfe": 1, "schedule": "uniform", "params": 640000, "pesq": 2.0, "pesq_ci95": None, "lsd": 8.0, "n": 8},
    {"model": "student", "nfe": 2, "schedule": "o3s", "pesq": 2.1, "pesq_ci95": 0.1, "pesq_n": 8, "lsd": 8.5, "n": 8},
    {"model": "unprocessed", "nfe": 0, "pesq": math.nan, "pesq_ci95": math.nan, "lsd": 12.0, "n": 8},
]  # fmt: skip


def search(n: int, direction: int = 1) -> dict[str, Any]:
    best = [(k / n) ** 1.5 for k in range(n + 1)]
    seen = [
        {
            "schedule": [k / n for k in range(n + 1)],
            "score": None,
            "start": "uniform",
            "sweep": 0,
            "coordinate": 0,
        }
    ]
    for start in ("uniform", "sway"):
        for sweep in (1, 2):
            for coordinate in range(1, n):
                for step in (-0.02, 0.0, 0.02):
                    schedule = [t + step * (k == coordinate) for k, t in enumerate(best)]
                    score = direction * (
                        3.0 - sum((a - b) ** 2 for a, b in zip(schedule, best, strict=True))
                    )
                    seen.append(
                        {
                            "schedule": schedule,
                            "score": score,
                            "start": start,
                            "sweep": sweep,
                            "coordinate": coordinate,
                        }
                    )
    starts = [
        {"name": "uniform", "from": [k / n for k in range(n + 1)], "schedule": best, "score": 3.0}
    ]
    return {
        "metric": "lsd" if direction < 0 else "spksim",
        "direction": direction,
        "evaluations": seen,
        "schedule": best,
        "starts": starts,
    }


def size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and data[-8:-4] == b"IEND"
    return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])


def test_table_text() -> None:
    from rich.console import Console

    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table(ROWS, title="vocode"))
    text = console.export_text()
    for part in (
        "PESQ ↑",
        "LSD (dB) ↓",
        "2.21 ±0.12 n=7",
        "2.10 ±0.10",
        "0.62 M",
        "vocode",
        "unprocessed",
    ):
        assert part in text
    assert "nan" not in text and "ci95" not in text and "pesq_n" not in text


def test_markdown_marks_the_best_by_direction() -> None:
    lines = markdown_table(ROWS, ["model", "nfe", "pesq", "lsd"]).splitlines()
    assert lines[0] == "| model | NFE | PESQ | LSD (dB) |" and lines[1] == "|---|---:|---:|---:|"
    assert lines[2] == "| teacher | 20 | **2.21 ±0.12 n=7** | 9.00 |"
    assert lines[3] == "| student | 1 | 2.00 | **8.00** |"
    assert lines[5] == "| unprocessed | 0 | - | 12.00 |"
    assert markdown_table([{"a": "x|y"}], {"a": "Name"}).splitlines()[2] == "| x\\|y |"


def test_write_table_keeps_numbers(tmp_path: Path) -> None:
    rows = [*ROWS, {"model": "student", "schedule": [0.0, 0.4, 1.0], "sisdr": math.inf}]
    csv_file, json_file = write_table(tmp_path / "deep" / "quality.v1", rows)
    assert (csv_file.name, json_file.name) == ("quality.v1.csv", "quality.v1.json")
    back = json.loads(
        json_file.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON")
    )
    assert (
        back[0] == ROWS[0]
        and back[3]["pesq"] is None
        and back[4] == {"model": "student", "schedule": [0.0, 0.4, 1.0], "sisdr": None}
    )
    with csv_file.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert (
        float(lines[0]["pesq"]) == 2.214
        and lines[3]["pesq"] == ""
        and lines[4]["schedule"] == "0.0 0.4 1.0"
    )
    assert sorted(path.name for path in csv_file.parent.iterdir()) == [
        "quality.v1.csv",
        "quality.v1.json",
    ]
    write_table(tmp_path / "none", [])
    assert json.loads((tmp_path / "none.json").read_text()) == []


@pytest.mark.parametrize("n, direction", [(1, 1), (2, 1), (3, -1), (6, 1)])
def test_o3s_plot(tmp_path: Path, n: int, direction: int) -> None:
    width, height = size(o3s_plot(search(n, direction), tmp_path / "o3s.png"))
    assert width >= 640 and height >= 200
    assert [path.name for path in tmp_path.iterdir()] == ["o3s.png"]


def test_o3s_plot_shows_the_metric_in_its_own_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = []
    monkeypatch.setattr(
        "mfdistill.report.schedules.save_figure",
        lambda figure, path: figures.append(figure) or path,
    )
    o3s_plot(search(3, -1), tmp_path / "o3s.png")
    (figure,) = figures
    first, second, below = figure.axes
    assert figure.get_suptitle() == "O3S at 3 NFE: LSD (dB) 3"
    assert first.get_ylabel() == "LSD (dB)" and second.get_xlabel() == "position of $t_{2}$"
    xs, ys = first.lines[0].get_data()
    assert (
        list(xs) == pytest.approx([(1 / 3) ** 1.5 + step for step in (-0.02, 0.0, 0.02)])
        and max(ys) == 3.0
    )
    assert [tick.get_text() for tick in below.get_yticklabels()] == [
        "uniform: start",
        "uniform: end",
        "chosen",
    ]
    with pytest.raises(UserError, match="no schedule"):
        o3s_plot({"metric": "pesq", "evaluations": []}, tmp_path / "o3s.png")
    o3s_plot(
        {"metric": "pesq", "best": [0.0, 0.5, 1.0], "evaluations": [], "starts": 2},
        tmp_path / "o3s.png",
    )


def test_curves_plot(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"step": s, "kind": "train", "loss": 1 / s, "lr": 1e-3, "time": 1.0} for s in range(1, 60)
    ]
    rows += [
        {"step": 50, "kind": "valid", "pesq": 2.0, "lsd": None},
        {"step": 50, "kind": "note", "text": "saved"},
    ]
    width, _ = size(curves_plot(rows, tmp_path / "curves.png", title="runs/teacher"))
    assert width > 1000  # three panels: valid pesq, train loss, train lr
    with pytest.raises(UserError, match="no numbers to draw"):
        curves_plot(rows[-1:], tmp_path / "curves.png")


def test_quality_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size(quality_plot(ROWS, tmp_path / "quality.png"))
    figures = []
    monkeypatch.setattr(
        "mfdistill.report.quality.save_figure", lambda figure, path: figures.append(figure) or path
    )
    quality_plot(
        [{**row, "task": task} for task in ("vocode", "enhance") for row in ROWS],
        tmp_path / "two.png",
        columns=["lsd"],
    )
    (figure,) = figures
    assert [panel.get_title() for panel in figure.axes] == [
        "vocode: LSD (dB) ↓",
        "enhance: LSD (dB) ↓",
    ]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "teacher",
        "student uniform",
        "student o3s",
        "unprocessed",
    ]
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["1", "2", "20"]
    # a task lacks a metric: no empty panel
    less = [{k: v for k, v in row.items() if not k.startswith("lsd")} for row in ROWS]
    quality_plot(
        [{**row, "task": "vocode"} for row in ROWS] + [{**row, "task": "phase"} for row in less],
        tmp_path / "less.png",
        columns=["lsd", "pesq"],
    )
    drawn = [panel.get_title() for panel in figures[1].axes if panel.get_visible()]
    assert drawn == ["vocode: LSD (dB) ↓", "vocode: PESQ ↑", "phase: PESQ ↑"]
    with pytest.raises(UserError, match="evaluate first"):
        quality_plot([{"model": "teacher", "nfe": 1}], tmp_path / "none.png")


def test_a_figure_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        quality_plot(ROWS, tmp_path / "file" / "quality.png")
    with pytest.raises(UserError, match="cannot be written"):
        write_table(tmp_path / "file" / "quality", ROWS)


def test_model_card() -> None:
    config = {
        "role": "student",
        "task": {"name": "vocode", "stft": {"sample_rate": 16000}},
        "network": {"name": "compact", "config": {"channels": 8}},
        "objective": {"name": "integral", "substeps": 4, "interval": {"kind": "uniform"}},
        "schedule": [0.0, 0.4, 1.0],
        "training": {"steps": 3000, "seed": 0},
        "parent": {"path": "runs/teacher"},
    }
    card = model_card(
        config,
        [
            {**row, "task": "vocode", "pesq_mode": "wb", "split": "test", "commit": "abc"}
            for row in ROWS
        ],
    )
    for part in (
        "library_name: mfdistill",
        "# vocode student",
        "| Parameters | 0.64 M |",
        "| Schedule | `[0, 0.4, 1]` (2 NFE) |",
        "| Objective | integral (substeps 4) |",
        "| Training | steps 3000, seed 0 |",
        "| Distilled from | path runs/teacher |",
        "8 utterances of the test split; wide-band PESQ (P.862.2); ± is a 95 % confidence interval",
        "| student | 2 | o3s |",
    ):
        assert part in card
    assert "abc" not in card and "Not evaluated" not in card
    assert "Not evaluated yet" in model_card({"role": "teacher"})


def test_import_is_light() -> None:
    code = "import sys, mfdistill.report; print([m for m in ('torch', 'matplotlib', 'rich.table') if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
