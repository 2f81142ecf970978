"""CosyVoice 2's flow against the original's own numbers (``../shared/golden/cosyvoice2``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mfdistill.flow import cosine_times, solve, trajectory
from mfdistill.students import Student
from mfdistill.students.token_to_mel import token_to_mel
from mfdistill.systems.cosyvoice_front import load_front
from mfdistill.systems.mel_flow import masked_error, training_pair
from mfdistill.teachers import load_teacher

CASES = {
    "forward": "velocity",
    "forward_streaming": "velocity",
    "streaming_prefix": "prefix_consistency",
    "sample_cosine4_cfg07": "sample",
    "sample_cosine10_cfg07_fixed_noise": "sample",
    "sample_cosine6_cfg07_streaming": "sample",
    "flow_inference_10step": "token_to_mel",
    "cfm_loss": "training_loss",
}


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    return shared / "golden" / "cosyvoice2"


@pytest.fixture(scope="module")
def config(folder: Path) -> dict[str, Any]:
    return manifest(folder)["models"]["cosyvoice2"]["config"]


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def case(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    return next(row for row in manifest(folder)["cases"] if row["name"] == name), load_file(
        folder / f"{name}.safetensors"
    )


def conditions(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensors[f"in.{name}"] for name in ("mu", "mask", "spks", "cond")}


def far(value: Tensor, expected: Tensor) -> float:
    """Relative L2 distance."""
    return ((value - expected).norm() / expected.norm()).item()


def test_every_case_of_the_manifest_is_tested(folder: Path) -> None:
    assert {row["name"]: row["kind"] for row in manifest(folder)["cases"]} == CASES


@pytest.mark.parametrize("file", ["flow.pt", "flow.safetensors", "."])
@pytest.mark.parametrize("name", [name for name, kind in CASES.items() if kind == "velocity"])
def test_velocity(folder: Path, config: dict[str, Any], name: str, file: str) -> None:
    row, x = case(folder, name)
    options = {"kind": "cosyvoice2", "config": config, "streaming": row["params"]["streaming"]}
    cond = conditions(x)
    for strength, out in ((0.0, "out.v_cond"), (0.7, "out.v_cfg07"), (None, "out.v_cfg07")):
        teacher = load_teacher(folder / file, guidance_strength=strength, **options)
        assert teacher.branches == (2 if strength != 0 else 1)
        v = teacher.velocity(x["in.x"], x["in.t"], cond)
        assert far(v, x[out]) < row["tolerance"]["rtol"]
        assert (v * (1 - x["in.mask"])).abs().max() == 0
        student = Student.from_teacher(teacher).eval()
        u = student(x["in.x"], x["in.t"], torch.rand(3), cond)
        assert torch.equal(
            u,
            load_teacher(folder / file, guidance_strength=0, **options).velocity(
                x["in.x"], x["in.t"], cond
            ),
        )
    bare = load_teacher(folder / file, guidance_strength=0, **options)
    for null in (
        {"mask": x["in.mask"]},
        {**{key: torch.zeros_like(value) for key, value in cond.items()}, "mask": x["in.mask"]},
    ):
        assert far(bare.velocity(x["in.x"], x["in.t"], null), x["out.v_uncond"]) < 2e-4


def test_training_file(folder: Path, config: dict[str, Any]) -> None:
    """Its last bias is 0.01 higher, and it has the plain entries epoch and step."""
    _, x = case(folder, "forward")
    teacher = load_teacher(folder / "epoch_3_step_7000.pt", config=config, guidance_strength=0)
    assert (
        far(
            teacher.velocity(x["in.x"], x["in.t"], conditions(x)),
            x["out.v_cond"] + 0.01 * x["in.mask"],
        )
        < 2e-4
    )


def test_prefix_consistency(folder: Path, config: dict[str, Any]) -> None:
    row, x = case(folder, "streaming_prefix")
    teacher = load_teacher(
        folder / "flow.pt", kind="cosyvoice2", config=config, guidance_strength=0, streaming=True
    )
    n, cond = row["params"]["prefix_frames"], conditions(x)
    start = {key: value if key == "spks" else value[:, :, :n] for key, value in cond.items()}
    whole, prefix = (
        teacher.velocity(x["in.x"], x["in.t"], cond),
        teacher.velocity(x["in.x"][:, :, :n], x["in.t"], start),
    )
    assert far(whole, x["out.v_full"]) < 2e-4 and far(prefix, x["out.v_prefix"]) < 2e-4
    assert (whole[:, :, :n] - prefix).abs().max() < 1e-5
    offline = {**cond, "streaming": torch.tensor(False)}
    plain = load_teacher(folder / "flow.pt", kind="cosyvoice2", config=config, guidance_strength=0)
    assert torch.equal(
        teacher.velocity(x["in.x"], x["in.t"], offline), plain.velocity(x["in.x"], x["in.t"], cond)
    )
    assert far(plain.velocity(x["in.x"], x["in.t"], cond)[:, :, :n], prefix) > 0.01


@pytest.mark.parametrize("name", [name for name, kind in CASES.items() if kind == "sample"])
def test_sample(folder: Path, config: dict[str, Any], name: str) -> None:
    row, x = case(folder, name)
    params, cond = row["params"], conditions(x)
    sizes = {
        **config,
        "fixed_noise": params["fixed_noise_seed0"],
        "temperature": params["temperature"],
    }
    teacher = load_teacher(
        folder / "flow.pt",
        config=sizes,
        guidance_strength=params["cfg_rate"],
        streaming=params["streaming"],
    )
    times = cosine_times(params["steps"])
    assert torch.allclose(torch.tensor(times), x["out.time_grid"], atol=1e-7)
    noise = teacher.prior(cond) if params["fixed_noise_seed0"] else x["in.noise"]
    assert far(noise, x["in.noise"]) < 1e-6  # the last bit of randn is the processor's
    states = trajectory(lambda z, t: teacher.velocity(z, t, cond), noise, times, "euler")
    assert far(states[1], x["out.state_after_first_step"]) < 2e-4
    assert far(states[-1], x["out.sample"]) < row["tolerance"]["rtol"]


def test_batches_equal_single_samples(folder: Path, config: dict[str, Any]) -> None:
    """The original's guided sampler takes one utterance only."""
    _, x = case(folder, "forward")
    teacher = load_teacher(folder / "flow.pt", config=config)
    cond, lens = conditions(x), [22, 15, 19]
    batch = solve(lambda z, t: teacher.velocity(z, t, cond), x["in.x"], cosine_times(3), "euler")
    for i, n in enumerate(lens):
        one = {
            key: value[i : i + 1] if key == "spks" else value[i : i + 1, :, :n]
            for key, value in cond.items()
        }
        single = solve(
            lambda z, t, one=one: teacher.velocity(z, t, one),
            x["in.x"][i : i + 1, :, :n],
            cosine_times(3),
            "euler",
        )
        assert far(batch[i : i + 1, :, :n], single) < 1e-4


def test_loss(folder: Path, config: dict[str, Any]) -> None:
    row, x = case(folder, "cfm_loss")
    state, target = training_pair(x["in.x1"], x["in.noise"], x["in.t"], row["params"]["sigma_min"])
    assert far(state, x["out.state"]) < 1e-6 and far(target, x["out.target"]) < 1e-6
    teacher = load_teacher(folder / "flow.pt", config=config, guidance_strength=0)
    loss = masked_error(teacher.velocity(state, x["in.t"], conditions(x)), target, x["in.mask"])
    assert far(loss, x["out.loss"][0]) < row["tolerance"]["rtol"]


def test_tokens_to_mel(folder: Path, config: dict[str, Any]) -> None:
    row, x = case(folder, "flow_inference_10step")
    front, teacher = load_front(folder / "flow.pt"), load_teacher(folder / "flow.pt", config=config)
    inputs = [x[f"in.{name}"] for name in ("token", "prompt_token", "prompt_feat", "embedding")]
    cond = front.condition(*inputs)
    for name in ("mu", "spks", "cond", "mask"):
        assert far(cond[name], x[f"out.{name}"]) < 1e-5
    mel = token_to_mel(
        teacher, front, *inputs, steps=cosine_times(row["params"]["steps"]), z_0=x["in.noise"]
    )
    assert far(mel, x["out.mel"]) < row["tolerance"]["rtol"]
