"""Chatterbox-Turbo's flow against the original's own numbers
(``../shared/golden/chatterbox_meanflow``), and its layout both ways.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mfdistill.errors import UserError
from mfdistill.flow import cosine_times, solve
from mfdistill.students import Student, load_student, sample
from mfdistill.students.token_to_mel import token_to_mel
from mfdistill.systems.chatterbox import export_chatterbox
from mfdistill.systems.cosyvoice_front import load_front
from mfdistill.systems.mel_flow import export_cosyvoice
from mfdistill.teachers import load_teacher

CASES = {
    "u_t_r": "average_velocity",
    "u_t_r_null": "average_velocity",
    "teacher_velocity_and_init": "init_identity",
    "sample_2step": "sample",
    "sample_1step": "sample",
    "sample_2step_batch2": "sample",
    "sample_4step": "sample",
    "teacher_sample_10step_cosine_cfg07": "sample",
    "flow_inference_2step": "token_to_mel",
}
MIXER = "flow.decoder.estimator.time_embed_mixer.weight"


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    return shared / "golden" / "chatterbox_meanflow"


@pytest.fixture(scope="module")
def file(folder: Path) -> Path:
    return folder / "s3gen_meanflow.safetensors"


@pytest.fixture(scope="module")
def config(folder: Path) -> dict[str, Any]:
    return manifest(folder)["models"]["turbo_like"]["config"]


@pytest.fixture(scope="module")
def plain(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same file with the mixer's key deleted."""
    path = tmp_path_factory.mktemp("plain") / "s3gen.safetensors"
    save_file({name: value for name, value in load_file(file).items() if name != MIXER}, path)
    return path


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


def test_average_velocity(folder: Path, file: Path, config: dict[str, Any]) -> None:
    _, x = case(folder, "u_t_r")
    student = load_student(file, kind="chatterbox", config=config)
    with torch.no_grad():
        u = student(x["in.x"], x["in.t"], x["in.r"], conditions(x))
        embedding = student.network.get_submodule("estimator.time_mlp")
        assert far(u, x["out.u"]) < 2e-4 and (u * (1 - x["in.mask"])).abs().max() == 0
        assert far(embedding.embedding(x["in.t"]), x["out.e_t"]) < 1e-4
        assert far(embedding.embedding(x["in.r"]), x["out.e_r"]) < 1e-4
        assert far(embedding(torch.stack([x["in.t"], x["in.r"]], -1)), x["out.mixed"]) < 1e-4


def test_average_velocity_of_the_null_condition(
    folder: Path, file: Path, config: dict[str, Any]
) -> None:
    _, x = case(folder, "u_t_r_null")
    student, z, zeros = load_student(file, config=config), x["in.x"], torch.zeros_like(x["in.x"])
    with torch.no_grad():
        for cond in (
            {"mu": zeros, "cond": zeros, "spks": torch.zeros(3, 80), "mask": x["in.mask"]},
            {"mask": x["in.mask"]},
        ):
            assert far(student(z, x["in.t"], x["in.r"], cond), x["out.u_null"]) < 2e-4


def test_without_the_mixer_it_is_a_teacher(
    folder: Path, file: Path, plain: Path, config: dict[str, Any]
) -> None:
    _, x = case(folder, "teacher_velocity_and_init")
    z, t, r, cond = x["in.x"], x["in.t"], x["in.r"], conditions(x)
    teacher = load_teacher(plain, config=config, guidance_strength=0)
    v = teacher.velocity(z, t, cond)
    assert far(v, x["out.v_teacher"]) < 2e-4
    assert far(teacher.velocity(z, t, {"mask": cond["mask"]}), x["out.v_teacher_null"]) < 2e-4
    assert (
        far(
            load_teacher(plain, kind="cosyvoice2", config=config).velocity(z, t, cond),
            x["out.v_teacher_cfg07"],
        )
        < 2e-4
    )
    student, loaded = Student.from_teacher(teacher).eval(), load_student(file, config=config)
    mixer = loaded.network.get_submodule("estimator.time_mlp")
    with torch.no_grad():
        mixer.weight.copy_(torch.cat([torch.eye(128), torch.zeros(128, 128)], 1))
        for model in (student, loaded):
            u = model(z, t, r, cond)
            assert torch.equal(u, v) and far(u, x["out.u_with_identity_mixer"]) < 2e-4
    with pytest.raises(UserError, match="time_embed_mixer"):
        load_teacher(file, kind="cosyvoice2", config=config)
    left_out = load_teacher(
        file, kind="cosyvoice2", config={**config, "meanflow": False}, guidance_strength=0
    )
    assert torch.equal(left_out.velocity(z, t, cond), v)
    with pytest.raises(
        UserError, match="lacks decoder.estimator.time_embed_mixer.weight.*kind cosyvoice2"
    ):
        load_student(plain, kind="chatterbox", config=config)


@pytest.mark.parametrize(
    "name", [name for name, kind in CASES.items() if kind == "sample" and "teacher" not in name]
)
def test_sample(folder: Path, file: Path, config: dict[str, Any], name: str) -> None:
    row, x = case(folder, name)
    student, cond, steps = load_student(file, config=config), conditions(x), row["params"]["steps"]
    assert torch.allclose(torch.linspace(0, 1, steps + 1), x["out.time_grid"])
    assert (
        far(sample(student, x["in.noise"], cond, steps), x["out.sample"]) < row["tolerance"]["rtol"]
    )
    assert (
        far(sample(student, x["in.noise"], cond, [0, 1 / steps]), x["out.state_after_first_step"])
        < 2e-4
    )
    if steps == 2:
        assert torch.equal(
            sample(student, x["in.noise"], cond), sample(student, x["in.noise"], cond, 2)
        )


def test_sample_of_the_teacher(folder: Path, plain: Path, config: dict[str, Any]) -> None:
    row, x = case(folder, "teacher_sample_10step_cosine_cfg07")
    teacher, cond = (
        load_teacher(plain, config=config, guidance_strength=row["params"]["cfg_rate"]),
        conditions(x),
    )
    z_1 = solve(
        lambda z, t: teacher.velocity(z, t, cond),
        x["in.noise"],
        cosine_times(row["params"]["steps"]),
        "euler",
    )
    assert far(z_1, x["out.sample"]) < row["tolerance"]["rtol"]


def test_tokens_to_mel(folder: Path, file: Path, config: dict[str, Any]) -> None:
    row, x = case(folder, "flow_inference_2step")
    front, student = load_front(file), load_student(file, config=config)
    inputs = [x[f"in.{name}"] for name in ("token", "prompt_token", "prompt_feat", "embedding")]
    cond = front.condition(*inputs)
    for name in ("mu", "spks", "cond", "mask"):
        assert far(cond[name], x[f"out.{name}"]) < 1e-5
    mel = token_to_mel(
        student, front, *inputs, steps=row["params"]["steps"], z_0=x["in.start_state"]
    )
    assert far(mel, x["out.mel"]) < row["tolerance"]["rtol"]


def test_the_file_comes_back_as_it_was(file: Path, config: dict[str, Any], tmp_path: Path) -> None:
    student = load_student(file, config=config)
    export_chatterbox(student, tmp_path / "again.safetensors", base=file)
    before, after = load_file(file), load_file(tmp_path / "again.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("name", ["flow.pt", "flow.safetensors"])
def test_a_cosyvoice_student_in_both_layouts(
    shared: Path, folder: Path, tmp_path: Path, name: str
) -> None:
    base = shared / "golden" / "cosyvoice2" / "flow.pt"
    sizes = json.loads((base.parent / "manifest.json").read_text(encoding="utf-8"))["models"][
        "cosyvoice2"
    ]["config"]
    x = case(folder, "u_t_r")[1]
    student = Student.from_teacher(load_teacher(base, config=sizes)).eval()
    with torch.no_grad():
        student.network.get_submodule("estimator.time_mlp").weight.add_(
            0.05 * torch.randn(128, 256)
        )
        u = student(x["in.x"], x["in.t"], x["in.r"], conditions(x))
    export_cosyvoice(student, tmp_path / name, base=base)
    export_chatterbox(student, tmp_path / "s3gen_meanflow.safetensors", base=tmp_path / name)
    for exported in (name, "s3gen_meanflow.safetensors"):
        again = load_student(tmp_path / exported, config=sizes)
        with torch.no_grad():
            assert torch.equal(again(x["in.x"], x["in.t"], x["in.r"], conditions(x)), u)
        fronts = [load_front(path).state_dict() for path in (tmp_path / exported, base)]
        assert all(torch.equal(value, fronts[1][key]) for key, value in fronts[0].items())
    names = set(load_file(tmp_path / "s3gen_meanflow.safetensors"))
    assert names == {
        key for key in load_file(folder / "s3gen_meanflow.safetensors") if key.startswith("flow.")
    }
    streaming = load_student(tmp_path / name, config=sizes, streaming=True)
    with torch.no_grad():
        whole = streaming(x["in.x"], x["in.t"], x["in.r"], conditions(x))
        start = {
            key: value if key == "spks" else value[:, :, :12]
            for key, value in conditions(x).items()
        }
        assert (
            streaming(x["in.x"][:, :, :12], x["in.t"], x["in.r"], start) - whole[:, :, :12]
        ).abs().max() < 1e-5
    with pytest.raises(UserError, match="no streaming form"):
        load_student(
            folder / "s3gen_meanflow.safetensors",
            config={**sizes, "static_chunk_size": 0},
            streaming=True,
        )
