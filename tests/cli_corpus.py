"""A minute corpus for tests of the commands, and a program that runs several commands in one set of
processes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import soundfile

SMALL = ["--network.channels", "4", "--network.blocks", "1", "--network.embedding", "8"]
QUICK = [
    "--steps",
    "3",
    "--batch-size",
    "2",
    "--warmup",
    "1",
    "--log-every",
    "1",
    "--valid-files",
    "2",
    "--valid-metrics",
    "sisdr",
]


def voice(seed: int, seconds: float = 1.2, rate: int = 8000) -> np.ndarray:
    """Something that sounds a little like syllables: harmonics of a gliding pitch, in bursts, and a
    hiss.
    """
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(110 + 15 * (seed % 7) + 20 * np.sin(2 * np.pi * 2 * t)) / rate
    wave = (
        sum(np.sin(k * phase) / k for k in range(1, 12))
        * np.maximum(0, np.sin(2 * np.pi * 3 * t + seed)) ** 0.5
    )
    return (0.1 * wave + 0.002 * rng.standard_normal(t.size)).astype(np.float32)


def make_corpus(root: Path) -> Path:
    """``clean/{train,valid,test}/<speaker>/`` and ``noise/{train,test}/``, 8 kHz."""
    seed = 0
    for split, speakers in (("train", 3), ("valid", 2), ("test", 2)):
        for speaker in range(speakers):
            for take in range(2):
                seed += 1
                file = root / "clean" / split / f"{split}{speaker}" / f"{take}.wav"
                file.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(file, voice(seed), 8000)
    for split in ("train", "test"):
        (root / "noise" / split).mkdir(parents=True)
        noise = 0.05 * np.random.default_rng(len(split)).standard_normal(16000)
        soundfile.write(root / "noise" / split / "hiss.wav", noise.astype(np.float32), 8000)
    return root


def run_all(commands: list[list[str]]) -> None:
    """Every command in this process; the process group stays until the last one."""
    from mfdistill import cli

    leave, cli._leave = cli._leave, lambda: None
    for arguments in commands:
        code = cli.main(arguments)
        if code:
            sys.exit(code)
    leave()


if __name__ == "__main__":
    run_all(json.loads(sys.argv[1]))
