"""VoxCPM's own flow head and sampler beside ours on tiny random weights, of VoxCPM and VoxCPM2:
velocity, guidance, sampler, and a student in the original's mean mode.

    python benchmarks/peers/voxcpm.py --src <clone>/VoxCPM [--write tests/data/voxcpm.safetensors]
    [--out benchmarks/results/peer_voxcpm.json]

``--src`` is a clone of OpenBMB/VoxCPM (Apache-2.0); nothing of it is in this repository. Only its
packages ``modules.locdit`` and ``modules.minicpm4`` are imported (they need pydantic). ``--write``
stores weights, inputs and the original's answers, which tests compare with.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from golden import Found, bare_package, error, perturbed, run
from safetensors.torch import load_file, save_file
from torch import Tensor

from mfdistill.flow import solve
from mfdistill.students import Student, sample
from mfdistill.systems.voxcpm import export_voxcpm, voxcpm_times
from mfdistill.teachers import load_teacher

HIDDEN, LATENTS = 16, 6
LM: dict[str, Any] = {
    "bos_token_id": 0, "eos_token_id": 0, "hidden_size": HIDDEN, "intermediate_size": 24, "max_position_embeddings": 64,
    "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "vocab_size": 0,
    "rope_scaling": {"type": "longrope", "long_factor": [1.1, 1.4], "short_factor": [1.0, 1.2], "original_max_position_embeddings": 32},
    "use_mup": True, "scale_emb": 1.0, "dim_model_base": 8, "scale_depth": 1.4, "rope_theta": 10000.0,
}  # fmt: skip
DIT = {"hidden_dim": HIDDEN, "ffn_dim": 24, "num_heads": 4, "num_layers": 2}
PATCH = {"voxcpm": 2, "voxcpm2": 4}


def originals(src: Path) -> tuple[Any, Any, Any]:
    """The package's modules without its ``__init__``, which imports its whole program."""
    sys.dont_write_bytecode = True
    root = src.resolve() / "src" / "voxcpm"
    for name, place in (("voxcpm", root), ("voxcpm.modules", root / "modules")):
        bare_package(name, place)
    locdit = importlib.import_module("voxcpm.modules.locdit")
    cfm = importlib.import_module("voxcpm.modules.locdit.unified_cfm")
    return locdit, cfm, importlib.import_module("voxcpm.modules.minicpm4")


def made(modules: Any, name: str, seed: int, mean: bool = False) -> Any:
    """Its sampler with its head, every weight of which matters."""
    locdit, cfm, minicpm = modules
    torch.manual_seed(seed)
    head = locdit.VoxCPMLocDiT if name == "voxcpm" else locdit.VoxCPMLocDiTV2
    model = cfm.UnifiedCFM(
        LATENTS, cfm.CfmConfig(), head(minicpm.MiniCPM4Config(**LM), LATENTS), mean
    )
    perturbed(model)
    return model.eval()


def config(name: str, mean: bool = False) -> dict[str, Any]:
    """As the original's ``config.json``, as far as the head is concerned."""
    sizes = {"lm_config": LM, "dit_config": DIT, "patch_size": PATCH[name], "feat_dim": LATENTS}
    return {"architecture": name, **sizes, "dit_mean_mode": mean}


def folder(model: Any, root: Path, name: str) -> Path:
    """``model.safetensors`` with its ``config.json``; returns the file."""
    root.mkdir()
    state = {f"feat_decoder.{key}": value.clone() for key, value in model.state_dict().items()}
    save_file(state | {"base_lm.norm.weight": torch.ones(3)}, root / "model.safetensors")
    (root / "config.json").write_text(json.dumps(config(name)))
    return root / "model.safetensors"


@torch.no_grad()
def compare(modules: Any, name: str, root: Path) -> Found:
    """Relative errors, and the tensors of the golden file."""
    model, unit = made(modules, name, 0), PATCH[name]
    file = folder(model, root / name, name)
    teacher = load_teacher(file)
    count, tokens = 3, 1 if name == "voxcpm" else 2
    z = torch.randn(2, LATENTS, count * unit)
    hidden = torch.randn(2, tokens * HIDDEN, count)
    before = torch.randn(2, LATENTS, count * unit)
    cond = {"mu": hidden.repeat_interleave(unit, 2), "cond": before}

    def patches(x: Tensor) -> Tensor:  # (b, d, n) -> (b count, d, unit)
        return x.unflatten(2, (count, -1)).transpose(1, 2).flatten(0, 1)

    def rows(x: Tensor) -> Tensor:
        return x.unflatten(0, (2, count)).transpose(1, 2).flatten(2)

    mu, x, prefix = hidden.transpose(1, 2).flatten(0, 1), patches(z), patches(before)
    zero = torch.zeros(len(x))
    errors, answers = {}, {}

    def both(what: str, ours: Tensor, theirs: Tensor) -> None:
        errors[f"{name}_{what}"], answers[f"{name}.answer.{what}"] = error(ours, theirs), theirs

    for t in (0.25, 0.75):
        theirs = -rows(model.estimator(x, mu, torch.full((len(x),), 1 - t), prefix, zero))
        teacher.guidance_strength = 0.0
        both(f"velocity_{t}", teacher.velocity(z, torch.tensor(t), cond), theirs)
    times = torch.tensor([1 - t for t in voxcpm_times(4)])
    teacher.guidance_strength = 1.0

    def theirs_by(star: bool) -> Tensor:
        # its first step is zeroed then, which is the sampler's, not the field's: it is made empty
        steps = torch.cat([times[:1], times]) if star else times
        return rows(model.solve_euler(x, steps, mu, prefix, 2.0, star))

    for star, rule in ((False, "cfg"), (True, "zero-star")):
        teacher.guidance_rule = rule  # type: ignore[assignment]
        ours = solve(lambda s, t: teacher.velocity(s, t, cond), z, voxcpm_times(4), "euler")
        both(f"sampler_4_{rule}", ours, theirs_by(star))
    student = Student.from_teacher(teacher, 2, interval="delta").eval()
    for p in student.network.time.delta_time_mlp.parameters():  # type: ignore[union-attr]
        p.add_(0.2 * torch.randn_like(p))
    made_file = export_voxcpm(student, root / f"{name}.safetensors", file)
    served = made(modules, name, 1, mean=True)
    tensors = load_file(made_file)
    assert "base_lm.norm.weight" in tensors
    head = {
        k.removeprefix("feat_decoder."): v
        for k, v in tensors.items()
        if k.startswith("feat_decoder.")
    }
    served.load_state_dict(head, strict=True)
    theirs = rows(served.solve_euler(x, torch.tensor([1.0, 0.5, 0.0]), mu, prefix, 1.0, False))
    errors[f"{name}_student_in_the_original"] = error(sample(student, z, cond), theirs)
    golden = {f"{name}.weight.{key}": value for key, value in load_file(file).items()}
    golden |= {f"{name}.{key}": value for key, value in {"z": z, **cond}.items()}
    return errors, golden | answers


def compare_both(src: Path, root: Path) -> Found:
    """Of VoxCPM and VoxCPM2."""
    modules, errors, golden = originals(src), {}, {}
    for name in PATCH:
        found, tensors = compare(modules, name, root)
        errors |= found
        golden |= tensors
    return errors, golden


if __name__ == "__main__":
    run(__doc__, compare_both, {name: json.dumps(config(name)) for name in PATCH})
