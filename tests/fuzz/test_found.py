"""What mutation and worst inputs tried by hand found, kept: files made by code, each one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from page_runs import make_evaluation, make_search

from mfdistill.checkpoint import load_config, save_folder
from mfdistill.commands.info import describe
from mfdistill.commands.pages import write_report
from mfdistill.commands.push import stage
from mfdistill.companions import SECTION, named_companions
from mfdistill.data import DataConfig
from mfdistill.distill.objectives.config import IntegralConfig
from mfdistill.distill.run import prepare_folder
from mfdistill.distill.settings import TrainConfig, check
from mfdistill.errors import MOST, UserError
from mfdistill.metrics.score import scoring_pool
from mfdistill.search.config import SearchConfig
from mfdistill.weights import tensor_sizes


def saved(folder: Path, **config: Any) -> Path:
    save_folder(folder, {"w": torch.ones(4)}, {"role": "student", **config})
    return folder


@pytest.mark.parametrize(
    "change",
    [
        {"schedule": [[0.0, 1.0]]},
        {"schedule": [0.0, {"x": 1}]},
        {"schedule": [0.0, None]},
        {"schedule": ["\0", 1.0]},
        {"schedules": {"2": 5}},
        {"schedules": {"two": [0.0, 0.5, 1.0]}},
        {"schedules": {"2": [0.0, [0.5], 1.0]}},
        {"command": ["student-distill"]},
        {"command": {"name": 5}},
    ],
)
def test_sections_of_a_config_that_are_none(tmp_path: Path, change: dict[str, Any]) -> None:
    name = next(iter(change))
    with pytest.raises(UserError, match=f"config.json: {name}"):
        describe(str(saved(tmp_path, **change)))


def test_a_number_of_steps_is_a_schedule(tmp_path: Path) -> None:
    assert load_config(saved(tmp_path, schedule=2))["schedule"] == 2
    assert describe(str(tmp_path))["role"] == "student"


def test_an_error_is_a_line_however_long_the_value(tmp_path: Path) -> None:
    text = f"file: {'x' * 10**6}; what to do"
    told = str(UserError(text))
    assert len(told) <= MOST and told.startswith("file: xx") and told.endswith("x; what to do")
    assert str(UserError("short, größer")) == "short, größer"
    assert str(UserError("--x\x1b[2J\n\ty: no such option")) == "--x [2J  y: no such option"


def test_companions_lie_in_their_folder(tmp_path: Path) -> None:
    outside = tmp_path / "mine.txt"
    outside.write_text("x")
    names = {"../mine.txt": "0", str(outside): "0", "..": "0", "": "0", "vocab.txt": "0", "n": 5}
    run = saved(tmp_path / "run", **{SECTION: names})
    assert named_companions(run) == {"vocab.txt": "0"}
    prepare_folder(TrainConfig(out=str(run), overwrite=True), None)
    assert outside.exists() and not (run / "model.safetensors").exists()


def test_nothing_damaged_is_pushed(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", task={"name": "enhance"})
    data = bytearray((model / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (model / "model.safetensors").write_bytes(data)
    (tmp_path / "staged").mkdir()
    with pytest.raises(UserError, match="model.safetensors: damaged"):
        stage(model, tmp_path / "staged", "me/x", None)
    assert not list((tmp_path / "staged").iterdir())


TABLES = ("evaluation.json", "utterances.json")


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize(
    "text", ["{}", "[1]", "[[]]", '[{"model": 1}]', "[" * 5000, "nonsense", '[{"model": "a"}]', ""]
)
def test_tables_that_are_none(tmp_path: Path, name: str, text: str) -> None:
    make_evaluation(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=f"{name}.*evaluate again"):
        write_report(tmp_path)


@pytest.mark.parametrize("change", [{"pesq": "x"}, {"pesq_ci95": [1]}, {"rtf": {}}, {"n": "8"}])
def test_cells_that_are_no_numbers(tmp_path: Path, change: dict[str, Any]) -> None:
    make_evaluation(tmp_path)
    file = tmp_path / "evaluation.json"
    rows = json.loads(file.read_text())
    file.write_text(json.dumps([rows[0] | change, *rows[1:]]))
    with pytest.raises(UserError, match=f"evaluation.json: {next(iter(change))} is"):
        write_report(tmp_path)


@pytest.mark.parametrize("change", [{"nfe": "2"}, {"schedule": 5}, {"starts": {}}, {"column": 1}])
def test_searches_that_are_none(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / "o3s-2.json").write_text(json.dumps(make_search() | change))
    with pytest.raises(UserError, match=f"o3s-2.json: {next(iter(change))} is"):
        write_report(tmp_path)
    (tmp_path / "o3s-2.json").write_text(json.dumps(make_search()))
    assert write_report(tmp_path).is_file()


def test_a_missing_model_is_called_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="model.safetensors: is missing"):
        tensor_sizes(tmp_path / "model.safetensors")


@pytest.mark.parametrize("count", [0, -3, 100000])
def test_processes_are_not_started_by_the_thousand(count: int) -> None:
    with (
        pytest.raises(UserError, match=f"--workers {count}: must lie between 1 and 64"),
        scoring_pool(count),
    ):
        pass


@pytest.mark.parametrize(
    ("name", "value"), [("batch_size", 10**12), ("num_workers", 10**8), ("keep_states", 10**6)]
)
def test_options_that_would_take_the_machine(name: str, value: int) -> None:
    flag = f"--{name.replace('_', '-')} {value}: must be at most"
    with pytest.raises(UserError, match=flag):
        check(TrainConfig(**{name: value}), 1)
    with pytest.raises(UserError, match="--data.crop-s 1000000000.0: must be positive and at most"):
        DataConfig(crop_s=1e9)
    with pytest.raises(UserError, match="--integral.substeps 1000000000: must lie between 1 and"):
        IntegralConfig(substeps=10**9)
    with pytest.raises(UserError, match="--nfe 1000000: at most 64"):
        SearchConfig(nfe=10**6)
    with pytest.raises(UserError, match="--data.shuffle-buffer"):
        DataConfig(shuffle_buffer=10**12)
