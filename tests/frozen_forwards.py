"""What the committed models answer to a fixed input: ``python tests/frozen_forwards.py`` writes
``frozen_forwards.json``, ``test_frozen_forwards.py`` compares.

The input comes from a generator of our own, whole numbers only, so that no version of a library
changes it. Written once by a commit whose models were known to be good; written again only where an
answer is meant to change.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from precision import relative_error
from torch import Tensor

from mfdistill.distill.opening import Model, open_model
from mfdistill.tasks.mel import MelTask, Token2Mel

ROOT = Path(__file__).resolve().parents[1]
FILE = Path(__file__).with_suffix(".json")
PLACES = ("benchmarks/models", "mfdistill/models")
FRAMES = 12
PICKED = 24  # values of an answer that are kept, evenly spread over it


def folders() -> list[str]:
    """The committed models, from the root of the repository."""
    found = (path for place in PLACES for path in (ROOT / place).iterdir() if path.is_dir())
    return sorted(str(path.relative_to(ROOT)) for path in found)


def numbers(n: int, seed: int) -> Tensor:
    """n numbers in [-1, 1), float64, of a linear congruential generator modulo 2^31 (that of C's
    standard).
    """
    value, found = seed, []
    for _ in range(n):
        value = (1103515245 * value + 12345) % 2**31
        found.append(value / 2**30 - 1)
    return torch.tensor(found, dtype=torch.float64)


def answer(model: Model, dtype: torch.dtype) -> Tensor:
    """u, v or x_hat of a model at one state, pair of times and condition, computed in ``dtype``:
    (1, 2, f, FRAMES) or (1, 1, mels, FRAMES), float64.
    """
    network = copy.deepcopy(model.module).to(dtype)
    task = model.audio_task
    shape = (2, task.config.stft.bins) if task.restores else (1, task.config.n_mels)
    size = shape[0] * shape[1] * FRAMES
    z, y = (numbers(size, seed).reshape(1, *shape, FRAMES).to(dtype) for seed in (1, 2))
    cond = {"y": 0.5 * y}
    if isinstance(task, MelTask):
        prompt = (torch.arange(FRAMES) < FRAMES // 3).to(dtype)[None, None, None]
        units = torch.arange(FRAMES)[None] % task.vocabulary
        cond = {"y": 0.5 * y * prompt, "prompt": prompt, "mask": prompt * 0 + 1, "units": units}
        if isinstance(task, Token2Mel):
            cond["units"] = torch.stack([units] * (task.config.unit_levels + 1), -1)
            cond["mu"] = 0.5 * numbers(size, 3).reshape(y.shape).to(dtype)
            cond["speaker"] = numbers(task.speaker_dim, 4)[None].to(dtype) / 10
    # exact in binary, so that no clock loses digits
    times = [torch.full((1,), t, dtype=dtype) for t in (0.375, 0.75)]
    with torch.no_grad():
        if model.role == "student":
            out = network(z, *times, cond)
        else:
            out = network(z, times[0], cond)
    return out.double()


def picked(out: Tensor) -> Tensor:
    flat = out.flatten()
    return flat[torch.arange(PICKED) * (len(flat) - 1) // (PICKED - 1)]


def record(folder: str) -> dict[str, Any]:
    """The answer in double precision, its size and some of its values; and how far single precision
    is from it.
    """
    model = open_model(ROOT / folder)
    out = answer(model, torch.float64)
    return {
        "norm": round(float(out.norm()), 9),
        "single": float(f"{relative_error(answer(model, torch.float32), out):.2g}"),
        "values": [round(float(value), 9) for value in picked(out)],
    }


def main() -> None:
    rows = {folder: record(folder) for folder in folders()}
    lines = [f"{json.dumps(folder)}: {json.dumps(row)}" for folder, row in rows.items()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
