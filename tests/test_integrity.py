"""What was saved is whole, or said not to be: checksums, states before the newest, nothing that is
not finite, permissions, leftovers.
"""

from __future__ import annotations

import json
import os
import random
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from loop_toy import Toy
from test_loop import assert_same, fit, log, one_thread, settings  # noqa: F401

from mfdistill import checkpoint
from mfdistill.checkpoint import load_config, load_tensors, save_folder, write_config
from mfdistill.commands.info import describe
from mfdistill.companions import SECTION, checksums, write_companions
from mfdistill.distill import state
from mfdistill.distill.interrupt import Interrupted
from mfdistill.errors import UserError
from mfdistill.integrity import FILES, SEAL, file_digest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks" / "models"


def damages(size: int, seed: int) -> list[Callable[[bytes], bytes]]:
    """One flipped bit at five places, and five truncations."""
    draw = random.Random(seed)

    def flip(bit: int) -> Callable[[bytes], bytes]:
        def change(data: bytes) -> bytes:
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            return bytes(changed)

        return change

    def cut(length: int) -> Callable[[bytes], bytes]:
        return lambda data: data[:length]

    return [
        *(flip(draw.randrange(8 * size)) for _ in range(5)),
        *(cut(size * k // 5) for k in range(5)),
    ]


def load_all(folder: Path) -> None:
    load_config(folder)
    load_tensors(folder)


def test_every_flip_and_cut_of_a_model_folder_is_found(tmp_path: Path) -> None:
    companions = {"vocab.txt": b"a\nb\n"}
    write_companions(tmp_path, companions)
    config = {"role": "student", "schedule": [0.0, 1.0], SECTION: checksums(companions)}
    save_folder(tmp_path, {"w": torch.randn(50, 3)}, config)
    load_all(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())[FILES] == {
        "model.safetensors": file_digest(tmp_path / "model.safetensors")
    }
    for file in (tmp_path / "model.safetensors", tmp_path / "config.json"):
        whole = file.read_bytes()
        for change in damages(len(whole), 3):
            file.write_bytes(change(whole))
            for use in (load_all, lambda folder: describe(str(folder))):
                with pytest.raises(UserError, match=file.name):
                    use(tmp_path)
        file.write_bytes(whole)
    describe(str(tmp_path))
    (tmp_path / "vocab.txt").write_text("a\nc\n")
    with pytest.raises(UserError, match="vocab.txt: is not the one"):
        describe(str(tmp_path))


def test_a_schedule_is_written_without_losing_checksums(tmp_path: Path) -> None:
    save_folder(tmp_path, {"w": torch.ones(2)}, {"role": "student"})
    write_config(tmp_path, {**load_config(tmp_path), "schedule": [0.0, 0.5, 1.0]})
    load_all(tmp_path)
    assert load_config(tmp_path)["schedule"] == [0.0, 0.5, 1.0]
    # edited by hand: an error that says how to mean it
    file = tmp_path / "config.json"
    edited = json.loads(file.read_text()) | {"schedule": [0.0, 0.4, 1.0]}
    file.write_text(json.dumps(edited))
    with pytest.raises(UserError, match='"sha256": null'):
        load_all(tmp_path)
    file.write_text(json.dumps(edited | {SEAL: None}))
    load_all(tmp_path)


def test_folders_without_checksums_load() -> None:
    old = BENCHMARKS / "enhance-student"
    assert FILES not in json.loads((old / "config.json").read_text())
    load_all(old)
    assert "before there were any" in describe(str(old))["files"]


def test_info_of_a_missing_or_short_model(tmp_path: Path) -> None:
    file, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    save_folder(tmp_path, {"w": torch.ones(200)}, {"role": "student"})
    whole = file.read_bytes()
    for checked in (True, False):
        if not checked:
            bare = {k: v for k, v in load_config(tmp_path).items()}
            config.write_text(json.dumps(bare))
        file.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UserError, match="model.safetensors: damaged"):
            describe(str(tmp_path))
        file.unlink()
        with pytest.raises(UserError, match="model.safetensors: is missing"):
            describe(str(tmp_path))


@pytest.mark.parametrize("name", ["raw.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_newest_state_is_named_and_the_one_before_used(tmp_path: Path, name: str) -> None:
    fit(settings(tmp_path / "whole"))
    with pytest.raises(Interrupted):
        fit(settings(tmp_path / "cut"), Toy(12, at=9, signum=signal.SIGTERM))
    assert [
        state.load_info(folder, check=True)["step"] for folder in state.folders(tmp_path / "cut")
    ] == [10, 8]
    file = tmp_path / "cut" / "training_state" / name
    whole = file.read_bytes()
    for change in damages(len(whole), 1):
        file.write_bytes(change(whole))
        found = state.find_state(tmp_path / "cut")
        assert found is not None and found.info["step"] == 8 and name in found.damaged[0]
    file.write_bytes(damages(len(whole), 2)[0](whole))
    resumed = fit(settings(tmp_path / "cut", resume=True))
    assert resumed.seen[0][0] == 4 * 8
    said = [line["text"] for line in log(tmp_path / "cut", "note")]
    assert any(name in text and "state of step 8 is used" in text for text in said)
    assert_same(tmp_path / "whole", tmp_path / "cut")


def test_no_whole_state_is_an_error(tmp_path: Path) -> None:
    fit(settings(tmp_path, steps=2, keep_states=1))
    assert len(state.folders(tmp_path)) == 1
    (tmp_path / "training_state" / "raw.safetensors").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"raw.safetensors: damaged.*no other state: start again with --overwrite"
    ):
        fit(settings(tmp_path, steps=2, resume=True))
    fit(settings(tmp_path, steps=2, overwrite=True))


def test_nothing_that_is_not_finite_is_saved(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="w holds values that are not finite"):
        save_folder(tmp_path / "model", {"w": torch.tensor([1.0, float("nan")])}, {})
    assert not (tmp_path / "model" / "model.safetensors").exists()

    class Bursting(Toy):
        def forward(self, batch):  # type: ignore[no-untyped-def]
            if round(batch["progress"] * self.steps) == 6:
                with torch.no_grad():
                    next(self.model.parameters())[0, 0] = float("inf")
            return super().forward(batch)

    with pytest.raises(UserError, match="not finite"):
        fit(settings(tmp_path / "run", max_skipped=50), Bursting(12))
    found = state.find_state(tmp_path / "run")
    assert found is not None and found.info["step"] == 4
    assert load_config(tmp_path / "run")["training"]["step"] == 4
    assert all(value.isfinite().all() for value in load_tensors(tmp_path / "run").values())


def test_a_run_that_ends_with_skipped_updates_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="ended at step 12.*last 2 updates.*model is that of step 10"
    ):
        fit(settings(tmp_path / "end"), Toy(12, bad=(5, 10, 11)))
    with pytest.raises(UserError, match="ended at step 12"):
        fit(settings(tmp_path / "end", resume=True))
    fit(settings(tmp_path / "middle"), Toy(12, bad=(5, 9, 10)))


def test_files_have_the_permissions_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        fit(settings(tmp_path / "run", steps=2))
    finally:
        os.umask(before)
    files = [
        *(tmp_path / "run" / name for name in ("model.safetensors", "config.json", "log.jsonl")),
        *(tmp_path / "run" / "training_state").iterdir(),
    ]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o640}


def test_leftovers_of_dead_processes_are_removed(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    own = checkpoint.part_of(tmp_path / "other.safetensors")
    dead = own.with_name(own.name.replace(str(os.getpid()), str(child)))
    elsewhere = own.with_name(f".model.safetensors.another_machine-{child}.part")
    for file in (own, dead, elsewhere):
        file.touch()
    fit(settings(tmp_path, steps=2, overwrite=True))
    assert own.exists() and elsewhere.exists() and not dead.exists()


def test_the_benchmark_of_faults_finds_every_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS.parent))
    import faults

    fit(settings(tmp_path / "run"))
    rows = faults.damage(tmp_path / "run")
    # two files of a model, four of a state, each cut at 5 places and flipped at 5
    assert [(row.tried, row.survived) for row in rows] == [(10, 10), (10, 10), (20, 20), (20, 20)]
    assert faults.loads(tmp_path / "run") == faults.resumes(tmp_path / "run") == ""
    assert all("RUN" in row.said for row in rows)


def test_the_benchmark_of_faults_survives_a_kill_and_a_full_disk(tmp_path: Path) -> None:
    words = ["--short", "--kills", "1", "--steps", "10", "--only", "kills", "disk"]
    command = [sys.executable, str(BENCHMARKS.parent / "faults.py"), *words]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "faults.json")],
        env={**os.environ, "PYTHONPATH": str(BENCHMARKS.parents[1])},
        capture_output=True,
        text=True,
    )
    rows = json.loads((tmp_path / "faults.json").read_text())
    assert [(row["tried"], row["survived"]) for row in rows] == [(1, 1), (1, 1), (2, 2)], rows
    assert done.returncode == 0, done.stderr
