"""Every task from training to a stream, with tiny networks: train 3 steps, distil 3 steps, restore
a file, stream it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mfdistill.commands.options import Corpus, ValidOptions
from mfdistill.commands.restore import Restore
from mfdistill.commands.restore import run as restore
from mfdistill.commands.student_distill import StudentDistill
from mfdistill.commands.student_distill import run as student_distill
from mfdistill.commands.teacher_train import TeacherTrain
from mfdistill.commands.teacher_train import run as teacher_train
from mfdistill.data import open_eval
from mfdistill.distill.settings import TrainConfig
from mfdistill.networks.config import CompactSizes
from mfdistill.students import load_student, sample
from mfdistill.students.streaming import StreamRestorer

RATE = 8000


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of something voiced for each split, two noises, two rooms."""
    root = tmp_path_factory.mktemp("corpus")
    rng, time = np.random.default_rng(0), np.arange(RATE) / RATE
    for split in ("train", "valid", "test"):
        for k in range(2):
            pitch = 110 * (1 + 0.1 * k)
            voiced = sum(
                np.sin(2 * np.pi * pitch * h * time + rng.uniform(0, 6)) / h for h in range(1, 25)
            ) * (1 + np.sin(12 * time))
            write(root / "clean" / split / "a" / f"{split}{k}.wav", 0.05 * voiced)
    for k in range(2):
        for split in ("train", "test"):
            write(root / "noise" / split / f"{k}.wav", 0.1 * rng.standard_normal(RATE))
        decay = rng.standard_normal(2000) * np.exp(-np.arange(2000) / 300)
        write(root / "rir" / f"{k}.wav", np.concatenate([np.zeros(40), [4.0], 0.3 * decay]) / 5)
    return root


def write(file: Path, wave: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, wave.astype(np.float32), RATE)


@pytest.mark.parametrize("task", ["enhance", "vocode", "phase", "dereverb", "codec", "bandwidth"])
def test_train_distil_restore_stream(task: str, corpus: Path, tmp_path: Path) -> None:
    data = Corpus(source=str(corpus), crop_s=0.25)
    training = TrainConfig(
        out=str(tmp_path / "teacher"), steps=3, batch_size=2, warmup=1, log_every=3, num_workers=0
    )
    command = TeacherTrain(
        task=task,
        sample_rate=RATE,
        causal=True,
        data=data,
        training=training,
        valid=ValidOptions(valid_files=0),  # type: ignore[arg-type]
        network=CompactSizes(channels=8, blocks=1, embedding=8, filter_frames=2, filter_bins=1),
    )
    teacher = teacher_train(command)
    student_folder = student_distill(
        StudentDistill(
            teacher=str(teacher),
            data=data,
            valid=command.valid,
            training=replace(training, out=str(tmp_path / "student"), batch_size=2),
        )
    )
    student = load_student(student_folder)
    assert (
        student.task is not None
        and student.task.config.name == task
        and student.task.config.stft.causal
    )

    item = open_eval(data, "test", student.task.degradation, RATE)[0]
    assert torch.equal(item["clean"], item["degraded"]) == (student.task.degradation == "none")
    write(tmp_path / "in.wav", item["degraded"].numpy())
    restore(
        Restore(str(student_folder), str(tmp_path / "in.wav"), str(tmp_path / "out.wav"), nfe=1)
    )
    made, rate = soundfile.read(tmp_path / "out.wav")
    assert (
        rate == RATE
        and made.shape == item["degraded"].shape
        and np.isfinite(made).all()
        and np.abs(made).max() > 1e-3
    )

    degraded = item["degraded"][:2000][None]
    stream = StreamRestorer(student, gain=2.0, seeds=[7])
    streamed = torch.cat(
        [stream.push(degraded[:, :777]), stream.push(degraded[:, 777:]), stream.flush()], 1
    )
    whole = offline(student, degraded, 2.0, 7)
    assert float((streamed - whole).abs().max()) < 1e-5 * float(whole.abs().max())


@torch.no_grad()
def offline(
    student: torch.nn.Module, degraded: torch.Tensor, gain: float, seed: int
) -> torch.Tensor:
    """The same from the whole signal, with a stream's noise: drawn frame by frame."""
    task = student.task
    cond = task.condition(degraded * gain)  # type: ignore[operator, union-attr]
    generator = torch.Generator().manual_seed(seed)
    _, _, freqs, frames = cond["y"].shape
    eps = (
        torch.cat([torch.randn(1, 2, freqs, 1, generator=generator) for _ in range(frames)], 3)
        * 0.5**0.5
    )
    z_1 = sample(student, task.path.prior(cond, eps), cond)  # type: ignore[arg-type, union-attr]
    return task.waveform(z_1, degraded.shape[-1]) / gain  # type: ignore[operator, union-attr]
