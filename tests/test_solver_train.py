"""Learned solvers: training lowers the loss of a known flow, resumes exactly, and what is saved is
used wherever a solver is named.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from mfdistill.checkpoint import load_tensors, save_folder
from mfdistill.commands.evaluate import Evaluate
from mfdistill.commands.evaluate import run as evaluate
from mfdistill.commands.options import Corpus
from mfdistill.commands.restore import Restore
from mfdistill.commands.restore import run as restore
from mfdistill.commands.sampling import solver_steps
from mfdistill.commands.solver_train import SolverTrain
from mfdistill.commands.solver_train import run as solver_train
from mfdistill.commands.stream import Stream
from mfdistill.commands.stream import run as stream
from mfdistill.config import to_dict
from mfdistill.distill.objectives.config import IntegralConfig
from mfdistill.distill.settings import TrainConfig
from mfdistill.errors import UserError
from mfdistill.flow import Tableau, solve
from mfdistill.networks import CompactConfig, build_network
from mfdistill.search.config import SolverConfig
from mfdistill.search.learned import find_solver, load_solver, sample_learned
from mfdistill.search.solver_losses import log_stft_loss
from mfdistill.search.solver_train import start
from mfdistill.systems.table import mel_task
from mfdistill.tasks import default_task, get_task

RATE = 8000
COMPOSED = "2xmidpoint+1xeuler@0.2"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher with random weights, and some speech-like sound."""
    root = tmp_path_factory.mktemp("solver")
    torch.manual_seed(0)
    sizes = CompactConfig(
        channels=8,
        blocks=1,
        embedding=8,
        causal=True,
        freqs=128,
        sigma_0=0.25,
        filter_frames=2,
        filter_bins=1,
    )
    network = build_network("compact", sizes)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    section = {"name": "compact", "config": to_dict(sizes)}
    config = {
        "role": "teacher",
        "task": to_dict(default_task("phase", RATE, causal=True)),
        "network": section,
    }
    save_folder(root / "teacher", network.state_dict(), config)
    time = np.arange(RATE) / RATE
    for split in ("train", "valid", "test"):
        for k in range(2):
            file = root / "speech" / split / "a" / f"{split}{k}.wav"
            file.parent.mkdir(parents=True, exist_ok=True)
            wave = sum(
                np.sin(2 * np.pi * (100 + 20 * k) * h * time + h * h) / h for h in range(1, 20)
            ) * (1 + np.sin(20 * time))
            soundfile.write(file, (0.05 * wave).astype(np.float32), RATE)
    return root


def command(place: Path, out: str, steps: int = 6) -> SolverTrain:
    training = TrainConfig(
        out=str(place / out),
        steps=steps,
        batch_size=2,
        lr=0.05,
        warmup=0,
        weight_decay=0.0,
        ema_decay=0.0,
        schedule="constant",
        log_every=1,
        save_every=3,
        num_workers=0,
    )
    data = Corpus(source=str(place / "speech"), crop_s=0.25)
    return SolverTrain(
        teacher=str(place / "teacher"),
        solver=SolverConfig(nfe=3),
        data=data,
        training=training,
        valid_files=0,
    )


def test_training_resumes_to_the_same_solver_and_keeps_its_constraints(place: Path) -> None:
    whole = solver_train(command(place, "whole"))
    first = command(place, "parts")
    solver_train(replace(first, training=replace(first.training, time_limit_hours=1e-9)))
    parts = solver_train(replace(first, training=replace(first.training, resume=True)))
    a, b = (load_tensors(folder) for folder in (whole, parts))
    assert a.keys() == {"a_raw", "b_raw", "c_raw"} and all(
        torch.equal(a[name], b[name]) for name in a
    )
    begun = start(SolverConfig(nfe=3))
    # it has moved
    assert float((a["c_raw"][1:] - begun.c_raw[1:]).detach().abs().max()) > 1e-3
    table = load_solver(whole).tableau()
    assert table.c[0] == 0 and list(table.c) == sorted(table.c) and table.c[-1] <= 0.85 + 1e-6
    assert sum(table.b) == pytest.approx(1, abs=1e-6) and min(table.b) >= 0.05
    assert [sum(row) for row in table.a] == pytest.approx(list(table.c), abs=1e-5)


def test_a_better_solver_is_found_for_a_known_flow() -> None:
    """dz/dt = -6 z: the gradient through the evaluations leads from the classical start towards
    exp(-6).
    """
    solver = start(SolverConfig(nfe=2))
    optimizer = torch.optim.Adam(solver.parameters(), lr=0.05)
    z_0 = torch.ones(1, 1, dtype=torch.float64)

    def error() -> torch.Tensor:
        return (
            (sample_learned(lambda z, t: -6 * z, z_0, solver) - torch.exp(torch.tensor(-6.0)))
            .square()
            .mean()
        )

    before = float(error().detach())
    for _ in range(100):
        optimizer.zero_grad()
        error().backward()
        optimizer.step()
    assert float(error().detach()) < 1e-3 * before


def test_log_stft_loss_is_blind_to_phase_and_sees_level() -> None:
    wave = torch.randn(1, RATE, generator=torch.Generator().manual_seed(0))
    assert (
        float(log_stft_loss(wave, wave, RATE)) == 0 and float(log_stft_loss(-wave, wave, RATE)) == 0
    )
    # ten times the amplitude: log10 of the power differs by 2 in every bin
    assert float(log_stft_loss(10 * wave, wave, RATE)) == pytest.approx(4, rel=1e-4)


def test_solvers_by_name_composition_and_folder(place: Path, tmp_path: Path) -> None:
    folder = str(solver_train(command(place, "used", 1)))
    assert isinstance(find_solver(folder), Tableau) and find_solver(COMPOSED) == COMPOSED
    assert solver_steps(COMPOSED, 10) == (COMPOSED, 2)
    with pytest.raises(UserError, match="multiple"):
        solver_steps(COMPOSED, 7)
    with pytest.raises(UserError, match="no such solver"):
        find_solver("runs/nowhere")
    with pytest.raises(UserError, match="holds a teacher"):
        find_solver(str(place / "teacher"))
    IntegralConfig(solver=COMPOSED)
    with pytest.raises(UserError, match="stops before"):
        IntegralConfig(solver="1xeuler@0.5")

    source = str(next((place / "speech" / "test").rglob("*.wav")))
    made = {}
    for name in ("euler", COMPOSED, folder):
        target = tmp_path / f"{len(made)}.wav"
        restore(Restore(str(place / "teacher"), source, str(target), solver=name))
        made[name], _ = soundfile.read(target)
    assert not np.allclose(made["euler"], made[folder], atol=1e-3) and not np.allclose(
        made[COMPOSED], made[folder], atol=1e-3
    )
    stream(
        Stream(source, str(tmp_path / "stream.wav"), student=str(place / "teacher"), solver=folder)
    )
    assert soundfile.info(tmp_path / "stream.wav").frames == RATE

    rows = evaluate(
        Evaluate(
            teacher=str(place / "teacher"),
            data=Corpus(source=str(place / "speech")),
            out=str(tmp_path / "evaluation"),
            limit=1,
            metrics=("lsd",),
            teacher_nfe=(3,),
            teacher_solver=(folder, COMPOSED),
            audio=0,
        )
    )
    found = {(row["schedule"], row["nfe"]): row["lsd"] for row in rows}
    assert (
        found.keys() == {("", 0), ("uniform", 3), ("used", 3), (COMPOSED, 5)}
        and len(set(found.values())) == 4
    )


def test_one_step_of_a_learned_table_is_what_training_sampled() -> None:
    solver = start(SolverConfig(nfe=4))
    z_0 = torch.randn(2, 3, dtype=torch.float64)
    with torch.no_grad():
        expected = sample_learned(lambda z, t: torch.sin(z) + t[:, None], z_0, solver)
    assert torch.allclose(
        solve(lambda z, t: torch.sin(z) + t[:, None], z_0, 1, solver.tableau()), expected, atol=1e-6
    )


def test_bad_settings_are_named() -> None:
    for settings, words in (
        ({"nfe": 0}, "nfe"), ({"nfe": 1}, "nothing to learn"), ({"nfe": 30}, "b-min"), ({"log_stft": 0.0}, "no loss"),
        ({"c_max": 1.5}, "c-max"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            SolverConfig(**settings)


def test_teachers_of_mel_spectrograms_are_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for task in (get_task(default_task("text2mel", RATE)), mel_task("f5", 8)):
        monkeypatch.setattr(
            "mfdistill.teachers.load_teacher", lambda *_, task=task: SimpleNamespace(task=task)
        )
        with pytest.raises(UserError, match="--teacher .*: makes Mel spectrograms"):
            solver_train(command(place, "mel"))
