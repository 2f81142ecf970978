"""NCSN++, DCUNet and the checkpoints of FlowSE, MeanFlowSE and SGMSE, without their golden
vectors.
"""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mfdistill.checkpoint import write_tensors
from mfdistill.distill.inference import endpoint, restore
from mfdistill.distill.objectives import (
    IntegralConfig,
    IntegralObjective,
    MeanFlowConfig,
    MeanFlowObjective,
)
from mfdistill.distill.opening import open_model
from mfdistill.errors import UserError
from mfdistill.flow import total_derivative
from mfdistill.flow.grids import flowse_times, meanflowse_times
from mfdistill.networks import build_network
from mfdistill.networks.delta import DeltaEmbedding
from mfdistill.networks.ncsnpp import GroupNorm
from mfdistill.students import Student, load_student, save_student
from mfdistill.systems.enhancement import official_names
from mfdistill.systems.meanflowse import export_meanflowse
from mfdistill.systems.table import recognise
from mfdistill.teachers import load_teacher

SIZES: dict[str, Any] = dict(
    nf=16, ch_mult=(1, 2), num_res_blocks=1, image_size=16, attn_resolutions=(8,)
)
FRONT = dict(n_fft=30, hop_length=8)


def randomised(network: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(
                torch.randn_like(p) / max(4, p[0].numel()) ** 0.5
                if p.ndim > 1
                else p + 0.1 * torch.randn_like(p)
            )
    return network


def official(config: dict[str, Any]) -> dict[str, torch.Tensor]:
    network = randomised(build_network("ncsnpp", config))
    return {
        f"dnn.{theirs}": network.state_dict()[ours]
        for ours, theirs in official_names(network).items()
    }


def written(path: Path, kind: str) -> Path:
    write_tensors(path, official({**SIZES, "delta": kind == "meanflowse"}))
    return path


@pytest.mark.parametrize(
    ("config", "parameters"), [({}, 65_590_822), ({"delta": True}, 65_985_190)]
)
def test_ncsnpp_has_the_published_size(config: dict[str, Any], parameters: int) -> None:
    with torch.device("meta"):
        network = build_network("ncsnpp", config)
    assert sum(p.numel() for p in network.parameters()) == parameters
    names = list(official_names(network).values())
    head = ["output_layer.weight", "output_layer.bias"]
    head += (
        ["delta_gfproj.W", "delta_fc1.weight"]
        if config
        else ["all_modules.0.W", "all_modules.1.weight"]
    )
    assert (
        names[:4] == head
        and "all_modules.50.NIN_3.W" in names
        and len(names) == (652 if config else 647)
    )


@pytest.mark.parametrize("name", ["ncsnpp", "dcunet"])
@pytest.mark.parametrize("frames", [1, 7, 8])
def test_networks_take_any_number_of_frames_and_forward_mode(name: str, frames: int) -> None:
    sizes = (
        SIZES
        if name == "ncsnpp"
        else dict(
            table=((1, 4, 3, 3, 2, 2, 1, 1, 1, 1), (4, 4, 3, 3, 2, 1, 1, 1, 1, 1)), embed_dim=8
        )
    )
    network = randomised(build_network(name, sizes)).eval().double()
    z, y, v = torch.randn(3, 2, 2, 16 if name == "ncsnpp" else 17, frames, dtype=torch.float64)
    t, r = torch.tensor([0.25, 0.5]).double(), torch.tensor([0.75, 0.5]).double()
    student = Student(network, network.time_embedding_name).double()  # type: ignore[arg-type]
    exact = [
        total_derivative(lambda z, t, r: student(z, t, r, {"y": y}), z, t, r, v, m)[1]
        for m in ("forward", "double-backward")
    ]
    torch.testing.assert_close(exact[0], exact[1], rtol=1e-8, atol=1e-8)
    assert exact[0].shape == z.shape


def test_the_written_out_norm_is_the_fused_one(monkeypatch: pytest.MonkeyPatch) -> None:
    norm, x = randomised(GroupNorm(16)), torch.randn(2, 16, 3, 5)
    fused = norm(x)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(norm(x), fused, rtol=1e-5, atol=1e-5)


def test_long_attention_is_that_of_the_whole_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    network = randomised(build_network("ncsnpp", SIZES))
    z, y, t = torch.randn(2, 2, 16, 8), torch.randn(2, 2, 16, 8), torch.tensor([0.1, 0.9])
    whole = network(z, t, {"y": y})
    monkeypatch.setattr("mfdistill.networks.ncsnpp._WEIGHTS", 128)
    torch.testing.assert_close(network(z, t, {"y": y}), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["flowse", "sgmse", "meanflowse"])
def test_bare_weights_need_kind_and_sizes(tmp_path: Path, kind: str) -> None:
    file = written(tmp_path / "w.safetensors", kind)
    teacher: Any = load_teacher(file, kind=kind, config={**SIZES, **FRONT})
    assert teacher.task.config.stft.bins == 16 and teacher.network.config.divide_by_t is (
        kind != "meanflowse"
    )
    with pytest.raises(UserError, match="do not fit kind.*such.*sizes"):
        load_teacher(file, kind=kind, config={**SIZES, **FRONT, "num_res_blocks": 2})
    with pytest.raises(UserError, match="did you mean 'ch_mult'"):
        load_teacher(file, kind=kind, config={**SIZES, "ch_mul": (1, 2)})
    if kind == "meanflowse":
        with pytest.raises(UserError, match="checkpoint of meanflowse, not of flowse"):
            load_teacher(file, kind="flowse", config=SIZES)
    else:
        with pytest.raises(UserError, match="--kind flowse or --kind sgmse"):
            load_teacher(file)


def test_lightning_files_tell_what_they_are(tmp_path: Path) -> None:
    state = official(SIZES)
    raw = collections.OrderedDict((key, value + 1) for key, value in state.items())
    settings = {**SIZES, **FRONT, "ode": "flowmatching", "sigma_max": 0.25, "spec_factor": 0.5}
    ema = {
        "decay": 0.999,
        "num_updates": 1,
        "shadow_params": list(state.values()),
        "collected_params": None,
    }
    torch.save({"state_dict": raw, "hyper_parameters": settings, "ema": ema}, tmp_path / "a.ckpt")
    teacher: Any = load_teacher(tmp_path / "a.ckpt")
    assert (
        teacher.config["parent"]["kind"] == "flowse"
        and teacher.task.path.sigma_0 == 0.25
        and teacher.task.config.stft.scale == 0.5
    )
    assert torch.equal(teacher.network.output_layer.bias, state["dnn.output_layer.bias"])
    again: Any = load_teacher(tmp_path / "a.ckpt", config={"weights": "raw"})
    assert torch.equal(again.network.output_layer.bias, raw["dnn.output_layer.bias"])
    torch.save(
        {"state_dict": raw, "hyper_parameters": {**settings, "backbone": "ncsnpp_v2"}},
        tmp_path / "b.ckpt",
    )
    with (
        pytest.warns(UserWarning, match="no averaged"),
        pytest.raises(UserError, match="ncsnpp_v2"),
    ):
        load_teacher(tmp_path / "b.ckpt")
    for kind, other, said in (
        (
            "flowse",
            {"fir_kernel": (1, 2, 1)},
            "fir_kernel = \\(1, 2, 1\\) is not supported; only \\[1, 3, 3, 1\\] is",
        ),
        (
            "sgmse",
            {"backbone": "ncsnpp_v2"},
            "backbone 'ncsnpp_v2' is not supported; supported are 'ncsnpp' and 'dcunet'",
        ),
        (
            "sgmse",
            {"sde": "bbed"},
            "process 'bbed' has no velocity here; supported are 'flowmatching' and 'ouve'",
        ),
    ):
        process = {} if kind == "flowse" else {"ode": None, "sde": "ouve"}
        hyper = {
            key: value
            for key, value in {**settings, **process, **other}.items()
            if value is not None
        }
        torch.save({"state_dict": raw, "ema": ema, "hyper_parameters": hyper}, tmp_path / "d.ckpt")
        assert recognise(tmp_path / "d.ckpt") == kind
        with pytest.raises(UserError, match=f"d.ckpt: {said}$"):
            load_teacher(tmp_path / "d.ckpt")
    torch.save(
        {
            "state_dict": raw,
            "ema": ema,
            "hyper_parameters": {**settings, "fir_kernel": (1, 3, 3, 1)},
        },
        tmp_path / "e.ckpt",
    )
    assert load_teacher(tmp_path / "e.ckpt")
    torch.save(
        {"state_dict": raw, "ema": {**ema, "shadow_params": ema["shadow_params"][1:]}},
        tmp_path / "c.ckpt",
    )
    with pytest.raises(UserError, match="do not fit its state_dict"):
        load_teacher(tmp_path / "c.ckpt", kind="flowse", config=SIZES)


def test_a_meanflowse_student_survives_saving_and_export(tmp_path: Path) -> None:
    file = written(tmp_path / "w.safetensors", "meanflowse")
    student = load_student(file, config={**SIZES, **FRONT})
    z, y, t, r = (
        torch.randn(2, 2, 16, 4),
        torch.randn(2, 2, 16, 4),
        torch.tensor([0.0, 0.5]),
        torch.tensor([1.0, 0.75]),
    )
    expected = student(z, t, r, {"y": y})
    save_student(student, tmp_path / "folder")
    assert torch.equal(load_student(tmp_path / "folder")(z, t, r, {"y": y}), expected)
    export_meanflowse(student, tmp_path / "out.ckpt")
    back = load_student(tmp_path / "out.ckpt")
    assert (
        torch.equal(back(z, t, r, {"y": y}), expected)
        and back.task is not None
        and student.task is not None
    )
    assert back.task.config == student.task.config and back.schedule == student.schedule
    assert (
        open_model(tmp_path / "out.ckpt").role == "student"
        and open_model(tmp_path / "out.ckpt", role="teacher").role == "teacher"
    )
    flowse = load_teacher(
        written(tmp_path / "f.safetensors", "flowse"), kind="flowse", config={**SIZES, **FRONT}
    )
    with pytest.raises(UserError, match="divided by time"):
        export_meanflowse(Student.from_teacher(flowse, interval="delta"), tmp_path / "no.ckpt")
    with pytest.raises(UserError, match="--interval delta"):
        export_meanflowse(Student.from_teacher(flowse), tmp_path / "no.ckpt")


@pytest.mark.parametrize("kind", ["flowse", "sgmse"])
def test_distillation_stays_where_the_teacher_was_trained(tmp_path: Path, kind: str) -> None:
    teacher: Any = load_teacher(
        written(tmp_path / "w.safetensors", kind), kind=kind, config={**SIZES, **FRONT}
    )
    assert teacher.facts.t_last == pytest.approx(0.97)
    student = Student.from_teacher(teacher, interval="delta")
    assert isinstance(student.network.time_embedding, DeltaEmbedding)
    batch = {
        "z_1": torch.randn(2, 2, 16, 4),
        "cond": {"y": torch.randn(2, 2, 16, 4)},
        "index": torch.arange(2),
    }
    if kind == "sgmse":
        with pytest.raises(UserError, match="rollout"):
            IntegralObjective(student, teacher, teacher.task.path)
        with pytest.raises(UserError, match="straight"):
            MeanFlowObjective(student, teacher, teacher.task.path)
    config = IntegralConfig(state="rollout", solver="rk4", substeps=2, targets_per_rollout=2)
    loss, _ = IntegralObjective(student, teacher, teacher.task.path, config)(batch)
    loss.backward()
    assert loss.isfinite() and student.network.time_embedding.linear_2.weight.grad is not None
    task = teacher.task
    sound = restore(task, endpoint("teacher", teacher.network, task), torch.randn(200), 2)
    assert sound.shape == (200,) and sound.isfinite().all()


def test_objective_names_of_meanflowse(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    teacher: Any = load_teacher(
        written(tmp_path / "w.safetensors", "flowse"), kind="flowse", config={**SIZES, **FRONT}
    )
    batch = {
        "z_1": torch.randn(3, 2, 16, 4),
        "cond": {"y": torch.randn(3, 2, 16, 4)},
        "index": torch.arange(3),
    }
    losses = {}
    for impl in ("forward", "autograd", "auto", "fd"):
        for chunk in (0, 1):
            config = MeanFlowConfig(mf_jvp_impl=impl, mf_jvp_chunk=chunk)  # type: ignore[arg-type]
            objective = MeanFlowObjective(
                Student.from_teacher(teacher), teacher, teacher.task.path, config
            )
            losses[impl, chunk] = float(objective(batch)[0].detach())
    for key, value in losses.items():
        assert value == pytest.approx(
            losses[("fd" if key[0] == "fd" else "forward", 0)], rel=1e-3
        ), key
    assert "auto: forward (exact" in "".join(capsys.readouterr())


def test_grids() -> None:
    assert meanflowse_times(1, t_end=0.0) == [0.0, 1.0] and flowse_times(1) == [0.0, 1.0]
    assert meanflowse_times(2) == pytest.approx([0.0, 0.485, 0.97]) and flowse_times(
        2
    ) == pytest.approx([0.0, 0.97, 1.0])
    assert flowse_times(2, t_eps=0.0) == [0.0, 1.0]
    for grid in (meanflowse_times, flowse_times):
        with pytest.raises(UserError):
            grid(0)
