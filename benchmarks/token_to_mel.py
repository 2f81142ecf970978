"""Speech units to Mel (CosyVoice's setting) on real speech: trains, distils, searches and evaluates from one command.

    python benchmarks/token_to_mel.py --data ../shared/data

Every stage resumes where it was stopped; finished stages are skipped. O3S sees validation speakers only; the table is of the test split,
whose speakers no stage before it has heard. Writes benchmarks/results/token_to_mel.json and .png.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import tyro

from mfdistill.commands.options import Corpus, ValidOptions
from mfdistill.commands.speech_train import SpeechOptions
from mfdistill.commands.student_distill import StudentDistill
from mfdistill.commands.student_distill import run as student_distill
from mfdistill.commands.teacher_train import TeacherTrain
from mfdistill.commands.teacher_train import run as teacher_train
from mfdistill.distill.objectives.config import IntegralConfig
from mfdistill.distill.settings import TrainConfig
from mfdistill.flow.config import IntervalConfig
from mfdistill.networks.frames_config import FramesSizes

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Options:
    """Token-to-Mel on real speech."""

    data: str = "../shared/data"
    """Corpus with train, valid and test speakers."""
    stages: tuple[Literal["train", "search", "rollouts", "evaluate"], ...] = ("train", "search", "rollouts", "evaluate")
    out: str = "runs/token2mel"
    """Folder of the runs."""
    vocoder: str = os.path.relpath(HERE / "models" / "vocode-student")
    """A vocode model with the same Mel spectrogram."""
    channels: int = 160
    blocks: int = 6
    """Of the network."""
    teacher_steps: int = 3000
    student_steps: int = 500
    """Updates."""
    mixed_precision: Literal["no", "bf16"] = "bf16"


def main(options: Options) -> None:
    """All stages."""
    if "train" in options.stages:
        train(options)


def train(options: Options) -> None:
    """Teacher and student."""
    out = Path(options.out)
    corpus = Corpus(source=options.data)
    common = TrainConfig(
        batch_size=8, lr=2e-3, warmup=100, ema_decay=0.998, mixed_precision=options.mixed_precision, valid_every=600, save_every=100,
        log_every=50, resume=True,
    )
    teacher_train(
        TeacherTrain(
            task="token2mel", data=corpus, training=replace(common, out=str(out / "teacher"), steps=options.teacher_steps),
            valid=ValidOptions(valid_files=8, valid_metrics=()), speech=SpeechOptions(vocoder=options.vocoder),
            frames=FramesSizes(channels=options.channels, blocks=options.blocks),
        )
    )
    student_distill(
        StudentDistill(
            teacher=str(out / "teacher"), data=corpus,
            training=replace(common, out=str(out / "student"), steps=options.student_steps, lr=1e-3, warmup=50, valid_every=250),
            valid=ValidOptions(valid_files=8, valid_metrics=()),
            integral=IntegralConfig(targets_per_rollout=3, interval=IntervalConfig(p_full=0.5)),
        )
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
