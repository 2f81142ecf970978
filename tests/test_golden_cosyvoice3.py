"""CosyVoice 3's own numbers (a tiny flow with random weights): every case of the golden set,
through the public entry points.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mfdistill.errors import UserError
from mfdistill.flow import cosine_times, solve
from mfdistill.students import Student
from mfdistill.students.token_to_mel import token_to_mel
from mfdistill.systems.cosyvoice_front import load_front
from mfdistill.systems.mel_flow import masked_error, training_pair
from mfdistill.teachers import load_teacher

VELOCITY = ("forward", "forward_streaming")
SAMPLE = (
    "sample_cosine4_cfg07",
    "sample_cosine10_cfg07_fixed_noise",
    "sample_cosine6_cfg07_streaming",
)
FILES = ("flow.pt", "flow.safetensors", "epoch_3_step_7000.pt")


class Golden:
    def __init__(self, folder: Path):
        self.folder = folder
        self.manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
        self.config: dict[str, Any] = self.manifest["models"]["cosyvoice3"]["config"]

    def case(self, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
        case = next(case for case in self.manifest["cases"] if case["name"] == name)
        return case, load_file(self.folder / case["file"])

    def teacher(
        self, strength: float | None, streaming: bool = False, file: str = "flow.pt", **options: Any
    ) -> Any:
        config = {**self.config, **options}
        return load_teacher(
            self.folder / file,
            kind="cosyvoice3",
            config=config,
            guidance_strength=strength,
            streaming=streaming,
        )


@pytest.fixture(scope="module")
def golden(shared: Path) -> Golden:
    return Golden(shared / "golden" / "cosyvoice3")


def error(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float(((a - b).norm() / b.norm()).detach())


def condition(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensors[f"in.{key}"] for key in ("mu", "mask", "spks", "cond")}


def test_every_case_has_a_test(golden: Golden) -> None:
    names = {*VELOCITY, *SAMPLE, "streaming_prefix", "flow_inference_10step", "cfm_loss"}
    assert {case["name"] for case in golden.manifest["cases"]} == names


@pytest.mark.parametrize("name", VELOCITY)
def test_velocity_with_and_without_guidance(golden: Golden, name: str) -> None:
    case, tensors = golden.case(name)
    z, t, cond = tensors["in.x"], tensors["in.t"], condition(tensors)
    streaming = case["params"]["streaming"]
    for key, strength in (("v_cond", 0.0), ("v_uncond", -1.0), ("v_cfg07", 0.7), ("v_cfg07", None)):
        teacher = golden.teacher(strength, streaming)
        assert teacher.branches == (1 if strength == 0 else 2)
        assert (
            error(teacher.velocity(z, t, cond), tensors[f"out.{key}"])
            < case["tolerance"]["rtol"] / 10
        ), key
    other = golden.teacher(None, not streaming)
    for flag in (torch.tensor(streaming), torch.full((len(z),), streaming)):
        assert (
            error(other.velocity(z, t, {**cond, "streaming": flag}), tensors["out.v_cfg07"])
            < case["tolerance"]["rtol"] / 10
        )


def test_streaming_prefix(golden: Golden) -> None:
    case, tensors = golden.case("streaming_prefix")
    z, t, cond, frames = (
        tensors["in.x"],
        tensors["in.t"],
        condition(tensors),
        case["params"]["prefix_frames"],
    )
    teacher = golden.teacher(0.0, streaming=True)
    whole = teacher.velocity(z, t, cond)
    prefix = teacher.velocity(
        z[..., :frames],
        t,
        {key: value if key == "spks" else value[..., :frames] for key, value in cond.items()},
    )
    assert error(whole, tensors["out.v_full"]) < 1e-5
    assert error(prefix, tensors["out.v_prefix"]) < 1e-5
    assert error(prefix, whole[..., :frames]) < 1e-5


@pytest.mark.parametrize("name", SAMPLE)
def test_samples(golden: Golden, name: str) -> None:
    case, tensors = golden.case(name)
    params, cond, tolerance = case["params"], condition(tensors), case["tolerance"]["rtol"]
    times = cosine_times(params["steps"])
    torch.testing.assert_close(torch.tensor(times), tensors["out.time_grid"], rtol=0, atol=1e-6)
    teacher = golden.teacher(
        params["cfg_rate"], params["streaming"], fixed_noise=params["fixed_noise_seed0"]
    )
    z_0 = tensors["in.noise"]
    if params["fixed_noise_seed0"]:
        # the last bit of randn is the processor's
        assert error(teacher.prior(cond), z_0) < 1e-6
    velocity = lambda z, t: teacher.velocity(z, t, cond)  # noqa: E731
    assert (
        error(solve(velocity, z_0, times[:2], "euler"), tensors["out.state_after_first_step"])
        < tolerance / 10
    )
    assert error(solve(velocity, z_0, times, "euler"), tensors["out.sample"]) < tolerance / 10


@pytest.mark.parametrize("file", FILES[:2])
def test_flow_inference(golden: Golden, file: str) -> None:
    case, tensors = golden.case("flow_inference_10step")
    given = [tensors[f"in.{key}"] for key in ("token", "prompt_token", "prompt_feat", "embedding")]
    front = load_front(golden.folder / file)
    cond = front.condition(*given, finalize=case["params"]["finalize"])
    for key, value in cond.items():
        assert error(value, tensors[f"out.{key}"]) < 1e-6, key
    teacher = golden.teacher(None, file=file, fixed_noise=True)
    assert error(teacher.prior(cond), tensors["in.noise"]) < 1e-6
    mel = token_to_mel(teacher, front, *given, cosine_times(case["params"]["steps"]))
    assert error(mel, tensors["out.mel"]) < case["tolerance"]["rtol"] / 10


def test_a_growing_stream_repeats_what_it_said(golden: Golden) -> None:
    """Two tokens are a chunk's third: all that is said of a prefix, up to its last whole chunk,
    stays.
    """
    _, tensors = golden.case("flow_inference_10step")
    token, *given = (
        tensors[f"in.{key}"] for key in ("token", "prompt_token", "prompt_feat", "embedding")
    )
    front, teacher = load_front(golden.folder / "flow.pt"), golden.teacher(None, fixed_noise=True)
    whole = token_to_mel(teacher, front, token, *given, cosine_times(3), streaming=True)
    part = token_to_mel(
        teacher, front, token[:, :8], *given, cosine_times(3), streaming=True, finalize=False
    )
    assert part.shape[-1] == 2 * (8 - front.lookahead)
    # 4 prompt tokens and 5 others: three whole chunks of 6 frames
    assert error(part, whole[..., : part.shape[-1]]) < 1e-4


def test_training_loss(golden: Golden) -> None:
    case, tensors = golden.case("cfm_loss")
    state, target = training_pair(
        tensors["in.x1"], tensors["in.noise"], tensors["in.t"], case["params"]["sigma_min"]
    )
    assert error(state, tensors["out.state"]) < 1e-6
    assert error(target, tensors["out.target"]) < 1e-6
    velocity = golden.teacher(0.0).velocity(state, tensors["in.t"], condition(tensors))
    assert (
        error(masked_error(velocity, target, tensors["in.mask"]).reshape(1), tensors["out.loss"])
        < 1e-5
    )


@pytest.mark.parametrize("streaming", [False, True])
def test_an_untrained_student_is_the_teacher_for_every_r(golden: Golden, streaming: bool) -> None:
    _, tensors = golden.case("forward")
    z, t, cond = tensors["in.x"], tensors["in.t"], condition(tensors)
    teacher = golden.teacher(0.0, streaming)
    student = Student.from_teacher(teacher)
    for r in (t, torch.ones_like(t), t + (1 - t) * 0.3):
        assert torch.equal(student(z, t, r, cond), teacher.velocity(z, t, cond))
    one = {key: value[:1] for key, value in cond.items()}
    for time in (t[:1], t[0]):  # training squeezes the time of a batch of one to 0-d
        assert torch.equal(
            student(z[:1], time, torch.ones_like(time), one), teacher.velocity(z[:1], time, one)
        )


def test_all_files_load_and_are_recognised(golden: Golden) -> None:
    case, tensors = golden.case("forward")
    z, t, cond = tensors["in.x"], tensors["in.t"], condition(tensors)
    velocity = {}
    for file in FILES:
        teacher = load_teacher(golden.folder / file, config=golden.config, guidance_strength=0)
        assert teacher.config["kind"] == "cosyvoice3"  # type: ignore[attr-defined]
        velocity[file] = teacher.velocity(z, t, cond)
    assert torch.equal(velocity["flow.pt"], velocity["flow.safetensors"])
    torch.testing.assert_close(
        velocity["epoch_3_step_7000.pt"] - velocity["flow.pt"],
        torch.full_like(z, 0.01),
        rtol=0,
        atol=1e-5,
    )


def test_other_sizes_and_kinds_are_one_clear_line(golden: Golden) -> None:
    file = golden.folder / "flow.pt"
    with pytest.raises(UserError, match=r"lacks transformer_blocks.2.*looks like kind cosyvoice3"):
        golden.teacher(0.0, depth=3)
    with pytest.raises(UserError, match="unknown key 'dimm'; did you mean 'dim'"):
        golden.teacher(0.0, dimm=3)
    with pytest.raises(UserError, match="kind 'cosyvoice2'.*looks like kind cosyvoice3"):
        load_teacher(file, kind="cosyvoice2")
    with pytest.raises(UserError, match="no chunks to stream in"):
        golden.teacher(0.0, streaming=True, static_chunk_size=0)
