"""Tiny checkpoints of F5-TTS, CosyVoice 2 and Matcha-TTS with random weights, and folders of speech
for them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from safetensors.torch import save_file

from mfdistill.networks import build_network
from mfdistill.networks.conformer import TokenEncoderConfig
from mfdistill.systems.cosyvoice_front import ConformerFront
from mfdistill.systems.f5 import f5_facts
from mfdistill.systems.mel_flow import mel_facts
from mfdistill.systems.table import mel_task
from mfdistill.teachers import Field

SYMBOLS = [" ", *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,'"]
F5 = {
    "dim": 16,
    "depth": 2,
    "heads": 2,
    "dim_head": 8,
    "mel_dim": 8,
    "text_num_embeds": len(SYMBOLS),
    "text_dim": 8,
    "conv_layers": 1,
}
COSY = {
    "in_channels": 32,
    "out_channels": 8,
    "channels": [16],
    "attention_head_dim": 8,
    "n_blocks": 1,
    "num_mid_blocks": 1,
    "num_heads": 2,
    "static_chunk_size": 4,
}
MATCHA = {
    "in_channels": 16,
    "channels": [16, 16],
    "attention_head_dim": 8,
    "n_blocks": 1,
    "num_mid_blocks": 1,
}


def mel_field(
    network: torch.nn.Module, strength: float = 0.0, config: Any = None, **prior: Any
) -> Field:
    """A teacher of CosyVoice's kind on a network of any sizes."""
    task = mel_task("cosyvoice2", network.estimator.bands, **prior)
    return Field(network, task, config, facts=mel_facts(network), guidance_strength=strength)


def f5_field(network: torch.nn.Module, strength: float = 0.0, packed: bool = True) -> Field:
    """A teacher of F5-TTS's kind on a network of any sizes."""
    task = mel_task("f5", network.config.mel_dim)
    return Field(network, task, facts=f5_facts(network), guidance_strength=strength, packed=packed)


def noisy(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """No weight is zero, as after training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * (0.2 if p.ndim > 1 else 0.1))
    return module


def sizes_file(folder: Path, sizes: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "sizes.json"
    file.write_text(json.dumps(sizes))
    return file


def f5_file(folder: Path) -> Path:
    """A published kind of file with its vocabulary beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    net = noisy(build_network("f5", F5))
    state = {f"ema_model.{name}": value.contiguous() for name, value in net.state_dict().items()}
    save_file(
        {**state, "initted": torch.tensor(True), "step": torch.tensor(7)},
        folder / "model.safetensors",
    )
    (folder / "vocab.txt").write_text("\n".join(SYMBOLS) + "\n")
    return folder / "model.safetensors"


def cosyvoice_file(folder: Path) -> Path:
    """A ``flow.pt`` with estimator and front end."""
    folder.mkdir(parents=True, exist_ok=True)
    net = noisy(build_network("matcha_unet", COSY))
    front = noisy(
        ConformerFront(
            20, 192, 8, TokenEncoderConfig(width=16, heads=2, inner=16, blocks=1, up_blocks=1)
        ),
        1,
    )
    state = {f"decoder.{name}": value for name, value in net.state_dict().items()}
    torch.save({**state, **front.state_dict()}, folder / "flow.pt")
    return folder / "flow.pt"


def matcha_file(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    published = {
        "n_blocks": 1,
        "num_heads": 2,
        "act_fn": "snakebeta",
        "static_chunk_size": 0,
        "causal": False,
        "matcha": True,
    }
    net = noisy(build_network("matcha_unet", {**MATCHA, "out_channels": 8, **published}))
    torch.save(
        {"state_dict": {f"decoder.{name}": value for name, value in net.state_dict().items()}},
        folder / "matcha.ckpt",
    )
    return folder / "matcha.ckpt"


def speech(
    root: Path,
    rate: int = 24000,
    seconds: tuple[float, ...] = (0.6, 0.7, 0.9, 1.1),
    features: str | None = None,
) -> Path:
    """Recordings with texts, and with CosyVoice's ("tokens") or Matcha-TTS's ("mu") features where
    asked for.
    """
    rng, lines = np.random.default_rng(0), ["path\tspeaker\ttext"]
    root.mkdir(parents=True, exist_ok=True)
    for i, length in enumerate(seconds):
        t = np.arange(round(length * rate)) / rate
        wave = 0.1 * np.sin(2 * np.pi * (150 + 40 * i) * t) + 0.01 * rng.standard_normal(t.size)
        soundfile.write(root / f"take{i}.wav", wave.astype(np.float32), rate)
        lines.append(f"take{i}.wav\tme\tHello there, number {'abcdefgh'[i]}.")
        if features == "tokens":
            made = {
                "tokens": torch.from_numpy(rng.integers(0, 20, round(25 * length))),
                "embedding": torch.randn(192),
            }
        else:
            made = {"mu": torch.randn(8, round(86 * length))}
        if features:
            save_file(made, root / f"take{i}.safetensors")
    (root / "transcripts.tsv").write_text("\n".join(lines) + "\n")
    return root


COSY3 = {
    "dim": 16,
    "depth": 2,
    "heads": 2,
    "dim_head": 8,
    "mel_dim": 8,
    "mu_dim": 8,
    "spk_dim": 8,
    "static_chunk_size": 4,
}


def moved(student: Any, seed: int = 5) -> Any:
    """A student whose second time matters, as after training."""
    generator = torch.Generator().manual_seed(seed)
    name = student.network.time_embedding_name
    with torch.no_grad():
        weight = student.network.get_submodule(name).weight
        weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    return student.eval()
