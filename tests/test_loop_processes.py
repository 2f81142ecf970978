"""The training loop in processes of its own: two of them, and one that is killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from loop_toy import MODEL_CONFIG, Data, Task, Toy, build, energy, sources
from test_loop import assert_same, log, one_thread, settings, state_tensors  # noqa: F401

from mfdistill.distill import TrainConfig, state
from mfdistill.distill.train import train

TOY = Path(__file__).with_name("loop_toy.py")
HANG_S = 3600  # a guard against deadlocks, not a limit on a busy machine
Job = tuple[str, TrainConfig, dict[str, Any]]


def start(jobs: list[Job], result: Path, processes: int = 1) -> subprocess.Popen[str]:
    """Train the jobs one after another; several processes by torchrun, since ``accelerate launch
    --cpu`` starts one without MPI.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = [
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        str(processes),
        "--master_port",
        str(port),
    ]
    root = str(TOY.parents[1])
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
        "PYTHONPATH": root,
    }
    arguments = [
        str(TOY),
        str(result),
        json.dumps([(kind, asdict(config), toy) for kind, config, toy in jobs]),
    ]
    command = [sys.executable, *(launcher if processes > 1 else []), *arguments]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def test_two_processes_are_one(tmp_path: Path) -> None:
    base = settings(tmp_path, save_every=0, steps=6)
    jobs: list[Job] = [
        ("toy", replace(base, out=str(tmp_path / "one-step"), steps=1, warmup=0), {}),
        ("toy", replace(base, out=str(tmp_path / "toy")), {}),
        ("toy", replace(base, out=str(tmp_path / "accumulated"), accumulation=2), {}),
        ("integral", replace(base, out=str(tmp_path / "integral"), lr=1e-3), {}),
        ("meanflow", replace(base, out=str(tmp_path / "meanflow"), lr=1e-3, accumulation=2), {}),
        ("finish", replace(base, out=str(tmp_path / "finish"), lr=1e-3, accumulation=2), {}),
        ("critics", replace(base, out=str(tmp_path / "critics"), lr=1e-3), {}),
        ("dmd", replace(base, out=str(tmp_path / "dmd"), lr=1e-3, accumulation=2), {}),
    ]
    bad, drawing, cut = (
        replace(base, out=str(tmp_path / name)) for name in ("bad", "drawing", "cut")
    )
    last: list[Job] = [
        ("bad", bad, {}),
        ("drawing", drawing, {}),
        ("toy", cut, {"at": 4, "signum": int(signal.SIGTERM)}),
    ]
    process = start([*jobs, *last], tmp_path / "seen", 2)
    errors = process.communicate(timeout=HANG_S)[1]
    assert process.returncode == 0, errors
    ranks = [json.loads((tmp_path / f"seen.{rank}").read_text()) for rank in range(2)]
    for number, (kind, config, arguments) in enumerate(jobs):
        alone = replace(config, out=config.out + "-alone", accumulation=1)
        objective = build(kind, alone, arguments)
        train(objective, *sources(kind), alone, model_config=MODEL_CONFIG)
        if isinstance(objective, Toy):
            parts = [rank[number] for rank in ranks]
            k = config.accumulation
            together = [
                sum((part[step * k + j] for part in parts for j in range(k)), [])
                for step in range(config.steps)
            ]
            assert together == objective.seen
        one, two = state_tensors(Path(alone.out)), state_tensors(Path(config.out))
        # gradients are in the optimiser's exp_avg: after one step it is a tenth of the gradient
        for key in one:
            torch.testing.assert_close(
                two[key],
                one[key],
                # where gradients of the players beside almost cancel, Adam makes steps of rounding
                atol=1e-5 if kind in ("critics", "dmd") else 1e-6,
                rtol=1e-5,
                msg=lambda text, key=key, kind=kind: f"{kind} {key}: {text}",
            )
        for a, b in zip(log(Path(alone.out)), log(Path(config.out)), strict=True):
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-5) and a[
                "grad_norm"
            ] == pytest.approx(b["grad_norm"], rel=1e-4)

    # what one process could not read ended the run on both, after saving, and it tells it
    told = "10.wav: damaged; replace it; saved at step 2, continue with --resume"
    assert [rank[-3] for rank in ranks] == [["ToldElsewhere", told], ["UserError", told]]
    assert state.load_info(tmp_path / "bad" / "training_state")["step"] == 2
    # dropout: the first process draws what one process would, the other never the same
    alone = replace(base, out=str(tmp_path / "drawing-alone"))
    alone_drawing = build("drawing", alone, {})
    train(alone_drawing, *sources("drawing"), alone, model_config=MODEL_CONFIG)
    assert ranks[0][-2] == alone_drawing.seen
    assert len({tuple(draw) for rank in ranks for draw in rank[-2]}) == 2 * base.steps

    # the last job: a signal to rank 0 stopped both after the same step
    assert [rank[-1] for rank in ranks] == [143, 143]
    assert state.load_info(tmp_path / "cut" / "training_state")["step"] == 5


def test_killed_run_resumes_to_the_same_bits(tmp_path: Path) -> None:
    config = settings(tmp_path / "killed", save_every=3)
    process = start([("toy", config, {"at": 8, "signum": int(signal.SIGKILL)})], tmp_path / "seen")
    process.communicate(timeout=HANG_S)
    assert process.returncode == -signal.SIGKILL
    assert state.load_info(tmp_path / "killed" / "training_state")["step"] == 6
    for out, resume in (("killed", True), ("whole", False)):
        again = replace(config, out=str(tmp_path / out), resume=resume)
        train(build("toy", again, {}), Data(), Task(), again, model_config=MODEL_CONFIG)
    assert_same(tmp_path / "whole", tmp_path / "killed")
    assert [line["step"] for line in log(tmp_path / "killed")] == [3, 6, 9, 12]


def assert_close(one: Path, two: Path, losses: float | None = 1e-6) -> None:
    """Weights, averages, both moments and, to ``losses`` of their size, logged losses."""
    a, b = state_tensors(one), state_tensors(two)
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(b[key], a[key], atol=1e-6, rtol=1e-5)
    for kind in ("train", "valid") if losses is not None else ():
        lines = zip(log(one, kind), log(two, kind), strict=True)
        for x, y in lines:
            names = {"loss", "weights", "output"} & x.keys()
            for name in names:
                assert y[name] == pytest.approx(x[name], rel=losses), name


def fork(jobs: list[Job], result: Path) -> subprocess.CompletedProcess[str]:
    """Train the jobs one after another on two processes, without a launcher."""
    environment = {
        **os.environ,
        **{"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "FORK": "2"},
        "PYTHONPATH": str(TOY.parents[1]),
    }
    listed = json.dumps([(kind, asdict(config), toy) for kind, config, toy in jobs])
    command = [sys.executable, str(TOY), str(result), listed]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=HANG_S)


def test_sharded_is_one_process_and_a_run_goes_on_either_way(tmp_path: Path) -> None:
    base = settings(tmp_path, save_every=0, steps=6, valid_every=3, lr=1e-3)
    alone = {kind: replace(base, out=str(tmp_path / kind)) for kind in ("integral", "meanflow")}
    mixed = replace(base, out=str(tmp_path / "mixed"), resume=True, valid_every=0)
    step = replace(mixed, time_limit_hours=1e-9)

    def single(kind: str, config: TrainConfig, **more: Any) -> None:
        objective = build(kind, config, {})
        train(objective, Data(), Task(), config, model_config=MODEL_CONFIG, **more)

    for kind, config in alone.items():
        single(kind, config, validate=energy)
    # one step each: alone, by DDP, sharded, sharded, by DDP; then to the end alone
    single("integral", step)
    done = fork(
        [
            ("integral", step, {}),
            ("integral", replace(step, sharded=True), {}),
            *(
                (kind, replace(config, out=f"{config.out}-2", sharded=True, accumulation=k), {})
                for k, (kind, config) in enumerate(alone.items(), start=1)
            ),
            ("integral", replace(step, sharded=True), {}),
            ("integral", step, {}),
        ],
        tmp_path / "seen",
    )
    assert done.returncode == 0, done.stderr
    assert state.load_info(tmp_path / "mixed" / "training_state")["step"] == 5
    single("integral", mixed)
    assert_close(tmp_path / "integral", tmp_path / "integral-2")
    # its loss of 1e4 is a large derivative's, whose sums are rounded in another order
    assert_close(tmp_path / "meanflow", tmp_path / "meanflow-2", losses=1e-5)
    assert_close(tmp_path / "integral", tmp_path / "mixed", losses=None)


@pytest.mark.parametrize("dead", [0, 1])
def test_a_dead_process_is_named(tmp_path: Path, dead: int) -> None:
    toy = {"at": 4, "signum": int(signal.SIGKILL), "rank": dead}
    done = fork([("toy", settings(tmp_path / "run"), toy)], tmp_path / "seen")
    assert done.returncode == signal.SIGKILL
    said = [line for line in done.stderr.splitlines() if line.startswith("mfdistill: ")]
    assert len(said) == 1 and f"error: process {dead} of 2 died" in said[0], done.stderr
