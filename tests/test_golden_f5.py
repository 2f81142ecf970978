"""F5-TTS's own numbers (tiny networks with random weights): every case of the golden set, through
the public entry points.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from precision import single_precision
from safetensors.torch import load_file
from torch import Tensor

from mfdistill.errors import UserError
from mfdistill.flow import f5_times, solve
from mfdistill.students import Student, sample
from mfdistill.systems.f5_inputs import f5_condition, paste_prompt
from mfdistill.tasks.mel_prior import noise
from mfdistill.teachers import load_teacher

FORWARD = (
    "forward_masked",
    "forward_nomask",
    "forward_scalar_time_long_text",
    "forward_t_boundary",
)
SAMPLE = (
    "sample_epss7_sway_cfg2",
    "sample_linear4_sway_cfg2",
    "sample_linear3_nosway_nocfg",
    "sample_batch_epss5_sway_cfg2",
    "sample_epss6_nosway_cfg15",
)
MODELS = ("v1", "base")


class Golden:
    def __init__(self, folder: Path):
        self.folder = folder
        self.manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())

    def case(self, model: str, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
        case = next(
            case
            for case in self.manifest["cases"]
            if (case["model"], case["name"]) == (model, name)
        )
        return case, load_file(self.folder / case["file"])

    def teacher(
        self, model: str, strength: float | None, file: str = "ema_safetensors", **options: Any
    ) -> Any:
        entry = self.manifest["models"][model]
        config = {**entry["config"], **options}
        return load_teacher(
            self.folder / entry["files"][file], kind="f5", config=config, guidance_strength=strength
        )


@pytest.fixture(scope="module")
def golden(shared: Path) -> Golden:
    return Golden(shared / "golden" / "f5")


def error(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float(((a - b).norm() / b.norm()).detach())


def condition(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensors[f"in.{key}"] for key in ("cond", "text", "mask") if f"in.{key}" in tensors}


def test_every_case_has_a_test(golden: Golden) -> None:
    assert {(case["model"], case["name"]) for case in golden.manifest["cases"]} == {
        (m, n) for m in MODELS for n in (*FORWARD, *SAMPLE)
    }


@pytest.mark.parametrize("name", FORWARD)
@pytest.mark.parametrize("model", MODELS)
def test_velocity_with_and_without_guidance(golden: Golden, model: str, name: str) -> None:
    case, tensors = golden.case(model, name)
    z, t, cond = tensors["in.z"], tensors["in.t"], condition(tensors)
    for key, strength in (("v_cond", 0.0), ("v_uncond", -1.0), ("v_cfg2", 2.0), ("v_cfg2", None)):
        if f"out.{key}" in tensors:
            teacher = golden.teacher(model, strength)
            for teacher.packed in (True, False):
                assert (
                    error(teacher.velocity(z, t, cond), tensors[f"out.{key}"])
                    < case["tolerance"]["rtol"] / 10
                ), (key, teacher.packed)
    teacher = golden.teacher(model, 0.0)
    for key in ("audio", "text"):
        if f"out.v_drop_{key}" in tensors:
            drop = {f"drop_{key}": torch.ones(len(z), dtype=torch.bool)}
            assert (
                error(teacher.velocity(z, t, {**cond, **drop}), tensors[f"out.v_drop_{key}"])
                < case["tolerance"]["rtol"] / 10
            )
    if "out.time_embedding" in tensors:
        embedding = teacher.network.get_submodule(teacher.time_embedding)
        # sines of 1000 t: what single precision leaves of them depends on the processor
        allowed = single_precision(embedding, t)
        assert error(embedding(t), tensors["out.time_embedding"]) < allowed < 1e-4


@pytest.mark.parametrize("name", SAMPLE)
@pytest.mark.parametrize("model", MODELS)
def test_samples(golden: Golden, model: str, name: str) -> None:
    case, tensors = golden.case(model, name)
    params, tolerance = case["params"], case["tolerance"]["rtol"]
    times = f5_times(params["steps"], params["sway_sampling_coef"], params["use_epss"])
    torch.testing.assert_close(torch.tensor(times), tensors["out.time_grid"], rtol=0, atol=1e-6)
    lengths = tensors["in.prompt_len"]
    cond = f5_condition(tensors["in.prompt"], tensors["in.text"], tensors["in.duration"], lengths)
    totals = cond["mask"].sum(1).tolist() if "mask" in cond else [cond["cond"].shape[1]]
    z_0 = noise(totals, seed=params["noise_seed"])
    # the last bit of randn is the processor's
    assert error(z_0, tensors["in.noise"]) < 1e-6
    teacher = golden.teacher(model, params["cfg_strength"])
    assert teacher.branches == (2 if params["cfg_strength"] else 1)
    z_1 = solve(lambda z, t: teacher.velocity(z, t, cond), z_0, times, "euler")
    first = solve(lambda z, t: teacher.velocity(z, t, cond), z_0, times[:2], "euler")
    assert error(first, tensors["out.state_after_first_step"]) < tolerance / 10
    assert error(z_1, tensors["out.final_state"]) < tolerance / 10
    assert error(paste_prompt(z_1, cond, lengths), tensors["out.sample"]) < tolerance / 10


@pytest.mark.parametrize("model", MODELS)
def test_an_untrained_student_is_the_teacher_for_every_r(golden: Golden, model: str) -> None:
    for name in FORWARD:
        _, tensors = golden.case(model, name)
        z, t, cond = tensors["in.z"], tensors["in.t"], condition(tensors)
        teacher = golden.teacher(model, 0.0)
        student = Student.from_teacher(teacher)
        velocity = teacher.velocity(z, t, cond)
        for r in (t, torch.ones_like(t), t + (1 - t) * 0.3):
            assert torch.equal(student(z, t, r, cond), velocity)
        assert torch.equal(
            sample(student, z, cond, [0.0, 1.0]), z + teacher.velocity(z, torch.tensor(0.0), cond)
        )


def test_training_files_give_the_averaged_weights_and_on_request_the_others(golden: Golden) -> None:
    case, tensors = golden.case("v1", "forward_masked")
    z, t, cond = tensors["in.z"], tensors["in.t"], condition(tensors)
    averaged = golden.teacher("v1", 0.0, "trainer_pt").velocity(z, t, cond)
    assert torch.equal(averaged, golden.teacher("v1", 0.0).velocity(z, t, cond))
    assert (
        error(golden.teacher("v1", 0.0, "trainer_pt", weights="raw").velocity(z, t, cond), averaged)
        > 0.01
    )
    with pytest.raises(UserError, match="moving average only"):
        golden.teacher("v1", 0.0, weights="raw")


def test_the_kind_is_found_from_the_file(golden: Golden) -> None:
    entry = golden.manifest["models"]["v1"]
    for file in entry["files"].values():
        assert load_teacher(golden.folder / file, config=entry["config"]).config["kind"] == "f5"


def test_other_sizes_and_kinds_are_one_clear_line(golden: Golden) -> None:
    entry = golden.manifest["models"]["v1"]
    file = golden.folder / entry["files"]["ema_safetensors"]
    with pytest.raises(
        UserError, match=r"lacks transformer_blocks.2.*looks like kind f5 of dim 64, depth 2"
    ):
        load_teacher(file, kind="f5", config={**entry["config"], "depth": 3})
    with pytest.raises(UserError, match=r"has transformer_blocks.1"):
        load_teacher(file, kind="f5", config={**entry["config"], "depth": 1})
    with pytest.raises(UserError, match="lacks layers.0.*looks like kind f5 "):
        load_teacher(
            file, kind="f5-unett", config={"dim": 64, "depth": 2, "heads": 2, "dim_head": 32}
        )
    with pytest.raises(UserError, match=r"do not fit kind 'f5'.*looks like kind cosyvoice3"):
        load_teacher(
            golden.folder.parent / "cosyvoice3" / "flow.pt", kind="f5", config=entry["config"]
        )
    with pytest.raises(UserError, match="looks like kind f5"):
        load_teacher(file, kind="cosyvoice3", config={})
