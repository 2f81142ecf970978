"""F5-TTS's own UNetT (E2-TTS) beside ours on tiny random weights: all ways of joining its halves,
padding, dropped prompt and text, and guidance.

    python benchmarks/peers/f5_unett.py --src <clone>/F5-TTS
    [--write tests/data/f5_unett.safetensors] [--out benchmarks/results/peer_f5_unett.json]

``--src`` is a clone of SWivid/F5-TTS (MIT); nothing of it is in this repository. Only its network
is imported (it needs x_transformers). ``--write`` stores weights, inputs and the original's
answers, which tests compare with.
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from pathlib import Path
from typing import Any

import torch
from golden import Found, bare_package, error, perturbed, run
from safetensors.torch import save_file

from mfdistill.teachers import load_teacher

SIZES: dict[str, Any] = {
    "dim": 16, "depth": 4, "heads": 2, "dim_head": 8, "ff_mult": 2, "mel_dim": 6, "text_num_embeds": 9,
    "text_dim": 6, "conv_layers": 1,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "concat": {"text_mask_padding": False, "pe_attn_head": 1, "skip_connect_type": "concat"},
    "add": {"text_mask_padding": True, "pe_attn_head": None, "skip_connect_type": "add"},
    "none": {
        "text_mask_padding": True,
        "pe_attn_head": None,
        "skip_connect_type": "none",
        "attn_mask_enabled": True,
    },
}


def original(src: Path) -> Any:
    """The module with UNetT, without the package's program around it."""
    sys.dont_write_bytecode = True
    root = src.resolve() / "src" / "f5_tts"
    for name, place in (("f5_tts", root), ("f5_tts.model", root / "model")):
        bare_package(name, place)
    tools = types.ModuleType("f5_tts.model.utils")
    tools.is_package_available = lambda name: False  # type: ignore[attr-defined]
    sys.modules["f5_tts.model.utils"] = tools
    return importlib.import_module("f5_tts.model.backbones.unett").UNetT


def made(kind: Any, options: dict[str, Any], seed: int) -> Any:
    """A network whose every weight matters."""
    torch.manual_seed(seed)
    model = kind(**SIZES, **options, dropout=0.0).eval()
    perturbed(model)
    return model


@torch.no_grad()
def compare(kind: Any, root: Path) -> Found:
    """Relative errors, and the tensors of the golden file."""
    errors, golden = {}, {}
    z, prompt = torch.randn(2, 11, 6), torch.randn(2, 11, 6)
    text = torch.tensor([[1, 4, 2, 7, 3], [5, 6, 1, -1, -1]])
    valid = torch.ones(2, 11, dtype=torch.bool)
    valid[1, 8:] = False
    golden |= {"z": z, "cond": prompt, "text": text, "mask": valid}
    for number, (name, options) in enumerate(MODELS.items()):
        model = made(kind, options, number)
        state = {f"ema_model.transformer.{key}": v for key, v in model.state_dict().items()}
        save_file({k: v.clone() for k, v in state.items()}, root / f"{name}.safetensors")
        teacher = load_teacher(
            root / f"{name}.safetensors", "f5-unett", config={**SIZES, **options}
        )
        given: dict[str, Any] = {"x": z, "cond": prompt, "text": text}
        for what, mask in (("padded", valid), ("whole", None)):
            theirs = model(**given, time=torch.tensor(0.25), mask=mask)
            nothing = model(
                **given, time=torch.tensor(0.25), mask=mask, drop_audio_cond=True, drop_text=True
            )
            cond = {"cond": prompt, "text": text} | ({} if mask is None else {"mask": mask})
            for strength, answer in ((0.0, theirs), (2.0, theirs + (theirs - nothing) * 2.0)):
                teacher.guidance_strength = strength
                ours = teacher.velocity(z, torch.tensor(0.25), cond)
                errors[f"{name}_{what}_{strength:g}"] = error(ours, answer)
                golden[f"{name}.answer.{what}_{strength:g}"] = answer
        golden |= {f"{name}.weight.{key}": v for key, v in model.state_dict().items()}
    return errors, golden


if __name__ == "__main__":
    run(
        __doc__,
        lambda src, root: compare(original(src), root),
        {name: json.dumps({**SIZES, **changes}) for name, changes in MODELS.items()},
    )
