"""Matcha-TTS's own decoder and sampler beside ours on tiny random weights, with one and with
several speakers.

    python benchmarks/peers/matcha.py --src <clone>/Matcha-TTS
    [--write tests/data/matcha.safetensors] [--out benchmarks/results/peer_matcha.json]

``--src`` is a clone of shivammehta25/Matcha-TTS (MIT); nothing of it is in this repository. Only
its flow is imported (it needs diffusers 0.25, conformer and einops). ``--write`` stores weights,
inputs and the original's answers, which tests compare with.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
import types
from pathlib import Path
from typing import Any

import torch
from golden import Found, bare_package, error, perturbed, run
from torch import Tensor

from mfdistill.flow import schedule, solve
from mfdistill.teachers import load_teacher

MELS, SPEAKER = 6, 4
SIZES: dict[str, Any] = {
    "channels": [16, 16], "dropout": 0.0, "attention_head_dim": 4, "n_blocks": 1, "num_mid_blocks": 1, "num_heads": 2,
    "act_fn": "snakebeta",
}  # fmt: skip


def original(src: Path) -> Any:
    """The flow's module, without the package's program around it; what newer packages lack of what
    diffusers 0.25 imports and never calls here is stood in for.
    """
    sys.dont_write_bytecode = True
    hub: Any = importlib.import_module("huggingface_hub")
    for name in ("cached_download", "HfFolder", "model_info"):
        if not hasattr(hub, name):
            setattr(hub, name, None)
    root = src.resolve() / "matcha"
    for name in ("matcha", "matcha.models", "matcha.models.components", "matcha.utils"):
        bare_package(name, root.joinpath(*name.split(".")[1:]))
    logger = types.ModuleType("matcha.utils.pylogger")
    logger.get_pylogger = logging.getLogger  # type: ignore[attr-defined]
    sys.modules["matcha.utils.pylogger"] = logger
    return importlib.import_module("matcha.models.components.flow_matching")


def made(module: Any, speakers: int, seed: int) -> Any:
    """A flow whose every weight matters."""
    torch.manual_seed(seed)
    options = types.SimpleNamespace(solver="euler", sigma_min=1e-4)
    model = module.CFM(2 * MELS, MELS, options, SIZES, speakers, SPEAKER).eval()
    perturbed(model)
    return model


def sampled(teacher: Any, z: Tensor, cond: dict[str, Tensor]) -> Tensor:
    return solve(lambda x, t: teacher.velocity(x, t, cond), z, schedule(4), "euler")


@torch.no_grad()
def compare(module: Any, root: Path) -> Found:
    """Relative errors, and the tensors of the golden file."""
    errors, golden = {}, {}
    z, mu, spks = torch.randn(2, MELS, 12), torch.randn(2, MELS, 12), torch.randn(2, SPEAKER)
    mask = torch.ones(2, 1, 12)
    mask[1, :, 8:] = 0
    golden |= {"z": z, "mu": mu, "spks": spks, "mask": mask}
    for speakers in (1, 2):
        model = made(module, speakers, speakers)
        file = root / f"{speakers}.ckpt"
        torch.save({"state_dict": {f"decoder.{k}": v for k, v in model.state_dict().items()}}, file)
        teacher = load_teacher(file, "matcha", config=SIZES)
        voice = spks if speakers > 1 else None
        cond = {"mu": mu, "mask": mask} | ({} if voice is None else {"spks": voice})
        answers = {
            "velocity": model.estimator(z, mask, mu, torch.full((2,), 0.25), voice),
            "sampler_4": model.solve_euler(z, torch.linspace(0, 1, 5), mu, mask, voice, None),
        }
        ours = {
            "velocity": teacher.velocity(z, torch.tensor(0.25), cond),
            "sampler_4": sampled(teacher, z, cond),
        }
        for what, answer in answers.items():
            errors[f"{speakers}_{what}"] = error(ours[what] * mask, answer * mask)
            golden[f"{speakers}.answer.{what}"] = answer
        golden |= {f"{speakers}.weight.{key}": v for key, v in model.state_dict().items()}
    return errors, golden


if __name__ == "__main__":
    run(
        __doc__,
        lambda src, root: compare(original(src), root),
        {"sizes": json.dumps(SIZES)},
    )
