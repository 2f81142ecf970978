"""Parity with MeanFlowSE, FlowSE and SGMSE: every case of their golden sets, through the public
entry points.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mfdistill.audio.features import StftConfig, inverse_features, stft_features
from mfdistill.distill.ema import EMA
from mfdistill.distill.objectives import MeanFlowConfig, MeanFlowObjective, base, meanflow
from mfdistill.distill.objectives.derivative import finite_difference
from mfdistill.distill.objectives.meanflow import meanflow_weight
from mfdistill.flow import annealed_gamma, solve, total_derivative
from mfdistill.flow.grids import flowse_times, meanflowse_times
from mfdistill.networks.ncsnpp import fir_down, fir_kernel, fir_up
from mfdistill.networks.ouve import ouve_std
from mfdistill.students import Student, load_student, sample
from mfdistill.systems.lightning import read_checkpoint
from mfdistill.teachers import load_teacher

KINDS = ("meanflowse", "flowse", "sgmse")
CKPT = "epoch=0_last.ckpt"
RECIPE = MeanFlowConfig(
    teacher_free=True,
    mf_jvp_eps=1e-3,
    mf_weight_final=0.25,
    mf_warmup_frac=0.5,
    mf_skip_weight_thresh=0.05,
    mf_delta_gamma_start=8.0,
    t_eps=0.03,
    time_kind="start-gap",
    min_gap=1e-6,
)


class Case:
    """One golden case: parameters, tolerance, tensors (complex ones as two channels)."""

    def __init__(self, shared: Path, kind: str, name: str):
        self.folder = shared / "golden" / kind
        self.manifest = json.loads((self.folder / "manifest.json").read_text())
        case = next(case for case in self.manifest["cases"] if case["name"] == name)
        self.params, self.tolerance = case.get("params", {}), case.get("tolerance", {})
        self.tensors = load_file(self.folder / case["file"])

    def __getitem__(self, name: str) -> Tensor:
        if f"{name}_re" in self.tensors:
            return torch.cat([self.tensors[f"{name}_re"], self.tensors[f"{name}_im"]], 1)
        return self.tensors[name]

    def near(self, value: Tensor, name: str, tolerance: float) -> None:
        expected = self[name].double()
        error = float((value.detach().double() - expected).norm() / expected.norm())
        assert error < tolerance, f"{name}: relative error {error:.3g}"


def ours(t: Tensor) -> Tensor:
    """A time of theirs on our clock, without rounding."""
    return 1 - t.double()


@pytest.mark.parametrize("file", [CKPT, "ema.safetensors"])
@pytest.mark.parametrize("kind", KINDS)
def test_forward(shared: Path, kind: str, file: str) -> None:
    case = Case(shared, kind, "forward")
    config = None if file == CKPT else case.manifest["models"]["ncsnpp"]["config"]
    teacher = load_teacher(case.folder / file, kind=None if file == CKPT else kind, config=config)
    if kind == "sgmse":  # the score itself
        teacher.network.config = dataclasses.replace(teacher.network.config, output="velocity")  # type: ignore[arg-type, assignment]
    name = {"meanflowse": "out.u_diag", "flowse": "out.v", "sgmse": "out.score"}[kind]
    exact = "out.u_diag_fp64" if kind == "meanflowse" else "out.fp64"
    x, y, t = case["in.xt"], case["in.y"], ours(case["in.t"])
    case.near(-teacher.velocity(x, t, {"y": y}), name, 1e-5)
    case.near(-teacher.velocity(x, t.float(), {"y": y}), name, case.tolerance["rel_l2"])
    teacher.to(dtype=torch.float64)
    case.near(-teacher.velocity(x.double(), t, {"y": y.double()}), exact, 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_students_start_as_their_teachers(shared: Path, kind: str) -> None:
    case = Case(shared, kind, "forward")
    teacher = load_teacher(case.folder / CKPT)
    x, cond = case["in.xt"][:3], {"y": case["in.y"][:3]}
    t, r = torch.tensor([0.0, 0.5, 0.75]), torch.tensor([1.0, 0.5, 0.8])
    for interval in ("mixed", "delta") if kind != "meanflowse" else ("mixed",):
        student = Student.from_teacher(teacher, interval=interval)
        assert torch.equal(student(x, t, r, cond), teacher.velocity(x, t, cond)), interval
        student(x, t, r, cond).sum().backward()
        assert all(
            p.grad is not None and p.grad.isfinite().all()
            for p in student.parameters()
            if p.requires_grad
        )


def test_student_forward(shared: Path) -> None:
    case = Case(shared, "meanflowse", "forward")
    student = load_student(case.folder / CKPT)
    x, y, t, r = case["in.xt"], case["in.y"], ours(case["in.t"]), ours(case["in.r"])
    case.near(-student(x, t, r, {"y": y}), "out.u", 1e-5)
    case.near(-student.double()(x.double(), t, r, {"y": y.double()}), "out.u_fp64", 1e-12)
    embedding: Any = student.float().network.time_embedding
    case.near(embedding.embedding(t), "out.temb_t", 1e-5)
    case.near(embedding(torch.stack([t, r], -1)) - embedding.embedding(t), "out.temb_delta", 1e-4)


def test_jvp(shared: Path) -> None:
    case = Case(shared, "meanflowse", "jvp")
    student = load_student(case.folder / CKPT)
    x, y, v, t, r = (
        case["in.xt"],
        case["in.y"],
        -case["in.v"],
        ours(case["in.t"]),
        ours(case["in.r"]),
    )
    single = total_derivative(lambda z, t, r: student(z, t, r, {"y": y}), x, t, r, v)[1]
    case.near(single, "out.jvp_exact_fp64", case.tolerance["jvp_exact_rel_l2_in_fp32"])
    case.near(
        finite_difference(student, x, t, r, v, {"y": y}),
        "out.jvp_fd",
        case.tolerance["jvp_fd_rel_l2"],
    )
    student.double()
    x, y, v = x.double(), y.double(), v.double()
    for method in ("forward", "double-backward"):
        exact = total_derivative(lambda z, t, r: student(z, t, r, {"y": y}), x, t, r, v, method)[1]
        case.near(exact, "out.jvp_exact_fp64", case.tolerance["jvp_exact_rel_l2_in_fp64"])
    case.near(finite_difference(student, x, t, r, v, {"y": y}), "out.jvp_fd_fp64", 1e-3)


@pytest.mark.parametrize("variant", ["recipe", "mid", "early_skip", "exactish", "mae"])
def test_losses(shared: Path, monkeypatch: pytest.MonkeyPatch, variant: str) -> None:
    case = Case(shared, "meanflowse", "losses")
    params = case.params["variants"][variant]
    student = load_student(case.folder / CKPT)
    draws = torch.stack(
        [case[f"in.draw_{name}"] for name in ("t", "r", "mask")] + [torch.zeros(3)], 1
    )
    monkeypatch.setattr(meanflow, "uniform", lambda *args, **options: draws)
    monkeypatch.setattr(base, "noise", lambda *args, **options: case["in.z"])
    options: dict[str, Any] = dict(
        mf_first_order_coef=params["coef"],
        mf_jvp_impl=params["impl"],
        loss_type=params["loss_type"],
    )
    config = dataclasses.replace(
        RECIPE,
        **options,
        mf_jvp_clip=0.0 if params["clip"] > 1e9 else params["clip"],
        mf_jvp_chunk=2,
    )
    assert student.task is not None
    objective = MeanFlowObjective(student, None, student.task.path, config)
    batch = {
        "z_1": case["in.x1_clean"],
        "cond": {"y": case["in.y"]},
        "index": torch.arange(3),
        "progress": params["progress"],
    }
    loss, logs = objective(batch)
    scale, close = (
        0.5 * case["in.y"][0, 0].numel(),
        dict(rtol=case.tolerance["loss_rtol"], atol=0.0),
    )
    torch.testing.assert_close(loss * scale, case[f"out.{variant}.loss_total"], **close)
    torch.testing.assert_close(logs["cfm"] * scale, case[f"out.{variant}.loss_cfm"], **close)
    assert ("mf" not in logs) is params["skipped"]
    if not params["skipped"]:
        torch.testing.assert_close(logs["mf"] * scale, case[f"out.{variant}.loss_mf"], **close)
    (loss * scale).backward()
    norm = torch.stack([p.grad.norm() for p in student.parameters() if p.grad is not None]).norm()
    torch.testing.assert_close(
        norm, case[f"out.{variant}.grad_norm"], rtol=case.tolerance["grad_rtol"], atol=0.0
    )


@pytest.mark.parametrize("kind", ["flowse", "sgmse"])
def test_their_training_losses(shared: Path, kind: str) -> None:
    case = Case(shared, kind, "losses")
    teacher = load_teacher(case.folder / CKPT)
    teacher.network.config = dataclasses.replace(teacher.network.config, output="velocity")  # type: ignore[arg-type, assignment]
    x, y, xt, z, t = (case[name] for name in ("in.x_clean", "in.y", "out.xt", "in.z", "out.t"))
    output = -teacher.velocity(xt, ours(t), {"y": y})
    std = case["out.std"][:, None, None, None]
    if kind == "flowse":
        error = output - (y - x + 0.487 * z)
        losses = {"mse": error.square().sum(), "mae": error.square().sum(1).sqrt().sum()}
    else:
        denoised = output * std.square() + xt
        losses = {
            "score_matching": (output * std + z).square().sum(),
            "denoiser": (denoised - case["out.mean"]).square().sum(),
        }
    for name, value in losses.items():
        torch.testing.assert_close(
            0.5 * value / len(x), case[f"out.{name}.loss"], rtol=case.tolerance["rtol"], atol=0.0
        )


def test_meanflowse_samplers(shared: Path) -> None:
    case = Case(shared, "meanflowse", "samplers")
    student, teacher = load_student(case.folder / CKPT), load_teacher(case.folder / CKPT)
    cond = {"y": case["in.y"]}
    assert student.schedule == [0.0, 1.0] and student.task is not None
    for name, params in case.params.items():
        times = meanflowse_times(params["N"], params["T_rev"], params["t_end"])
        z = student.task.path.prior(cond, case[f"in.{name}.z"], times[0])
        if params["solver"] == "euler_mf":
            x = sample(student, z, cond, times)
        else:
            x = solve(lambda z, t: teacher.velocity(z, t, cond), z, times, "euler")
        case.near(x, f"out.{name}.x", 1e-4)


def test_flowse_samplers(shared: Path) -> None:
    case = Case(shared, "flowse", "samplers")
    teacher: Any = load_teacher(case.folder / CKPT)
    cond = {"y": case["in.y"]}
    for name, params in case.params.items():
        if not isinstance(params, dict):
            continue
        z = teacher.task.path.prior(cond, case[f"in.{name}.z"])
        times = flowse_times(params["N"], case.params["T_rev"], case.params["t_eps"])
        assert len(times) == params["nfe"] + 1
        case.near(
            solve(lambda z, t: teacher.velocity(z, t, cond), z, times, "euler"),
            f"out.{name}.x",
            case.tolerance["rel_l2"],
        )


@pytest.mark.parametrize("kind", ["meanflowse", "flowse"])
def test_enhance(shared: Path, kind: str) -> None:
    case = Case(shared, kind, "enhance")
    model: Any = (
        load_student(case.folder / CKPT)
        if kind == "meanflowse"
        else load_teacher(case.folder / CKPT)
    )
    wave, task = case["in.noisy"], model.task
    gain = task.gain(wave)
    cond = task.condition(wave * gain)
    z = task.path.prior(cond, case["in.z"])
    if kind == "meanflowse":
        case.near(cond["y"][..., : case["out.spec"].shape[-1]], "out.spec", 1e-5)
        x = sample(model, z, cond)
    else:
        x = solve(
            lambda z, t: model.velocity(z, t, cond), z, flowse_times(case.params["N"]), "euler"
        )
    case.near(x, "out.sample", 1e-3)
    enhanced = (task.waveform(x, wave.shape[1]) / gain)[0]
    torch.testing.assert_close(
        enhanced, case["out.enhanced"], rtol=case.tolerance["rtol"], atol=case.tolerance["atol"]
    )


def test_features(shared: Path) -> None:
    case = Case(shared, "meanflowse", "spec_transform")
    for name, params in case.params.items():
        kind = params["transform_type"]
        config = StftConfig(
            n_fft=params["n_fft"],
            hop=params["hop_length"],
            window="sqrt-hann" if params["window"] == "sqrthann" else "hann",
            scale=1.0 if kind == "none" else params["spec_factor"],
            exponent=params["spec_abs_exponent"] if kind == "exponent" else 1.0,
            compression="log" if kind == "log" else "power",
            drop_nyquist=False,
            normalized=False,
        )
        z = stft_features(case["in.wave"], config)
        expected = torch.stack(
            [case.tensors[f"out.{name}.compressed_re"], case.tensors[f"out.{name}.compressed_im"]],
            1,
        )
        torch.testing.assert_close(
            z, expected, **{key: case.tolerance[key] for key in ("rtol", "atol")}
        )
        back = inverse_features(z, config, case["in.wave"].shape[1])
        torch.testing.assert_close(back, case[f"out.{name}.roundtrip"], rtol=1e-4, atol=2e-5)


def test_data_items(shared: Path) -> None:
    case = Case(shared, "meanflowse", "data_item")
    task: Any = load_teacher(case.folder / CKPT).task  # type: ignore[attr-defined]
    task = type(task)(dataclasses.replace(task.config, frame_multiple=1))
    for name, params in case.params.items():
        length, have = params["target_samples"], params["samples"]
        start, pad = max(0, (have - length) // 2), max(0, length - have)
        sides = pad // 2, pad - pad // 2
        crop = {
            key: nn.functional.pad(case[f"in.{name}.{key}"][:, start : start + length], sides)
            for key in ("clean", "noisy")
        }
        gain = task.gain(crop["noisy"])
        for key, letter in (("clean", "X"), ("noisy", "Y")):
            expected = torch.stack(
                [case.tensors[f"out.{name}.{letter}_{part}"] for part in ("re", "im")], 1
            )
            torch.testing.assert_close(
                task.features(crop[key] * gain), expected, rtol=1e-4, atol=2e-5
            )


def test_fir(shared: Path) -> None:
    case = Case(shared, "meanflowse", "fir")
    torch.testing.assert_close(
        fir_up(case["in.x"], fir_kernel()), case["out.up"], rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(
        fir_down(case["in.x"], fir_kernel()), case["out.down"], rtol=1e-5, atol=1e-6
    )


def test_sgmse_process(shared: Path) -> None:
    case = Case(shared, "sgmse", "sde")
    for t, std in zip(case["in.t"], case["out.std"], strict=True):
        assert ouve_std(float(t), **case.params) == pytest.approx(float(std), rel=1e-5, abs=1e-7)
    teacher: Any = load_teacher(case.folder / CKPT)
    torch.testing.assert_close(
        teacher.task.path.prior({"y": case["in.y"]}, case["in.z"]), case["out.prior"]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_weights_with_and_without_averaging(shared: Path, kind: str) -> None:
    """One file of each of the three kinds of leftovers that torch-ema leaves in a checkpoint."""
    folder = shared / "golden" / kind
    found = read_checkpoint(folder / CKPT)
    for name, weights in (("ema", found.averaged), ("raw", found.raw)):
        expected = load_file(folder / f"{name}.safetensors")
        assert set(expected) == {f"dnn.{key}" for key in weights}
        assert all(torch.equal(expected[f"dnn.{key}"], value) for key, value in weights.items()), (
            name
        )
    teacher = load_teacher(folder / CKPT, config={"weights": "raw"})
    assert torch.equal(teacher.network.output_layer.weight, found.raw["output_layer.weight"])  # type: ignore[attr-defined]


def test_curricula(shared: Path) -> None:
    manifest = json.loads((shared / "golden/meanflowse/manifest.json").read_text())
    for table in manifest["curricula"]:
        plain = MeanFlowConfig(teacher_free=True, **table["knobs"])
        for row in table["rows"]:
            p = row["progress"]
            assert meanflow_weight(plain, p) == pytest.approx(row["w_mf"], abs=1e-12)
            assert annealed_gamma(plain.interval, p) == pytest.approx(row["gamma"], abs=1e-9)
            skipping = dataclasses.replace(plain, mf_skip_weight_thresh=0.05)
            assert (meanflow_weight(skipping, p) == 0) is row["skipped_at_0p05"]


def test_ema_schedule(shared: Path) -> None:
    case = Case(shared, "meanflowse", "ema_schedule")
    model, rows = nn.Module(), case["in.params"]
    model.p = nn.Parameter(rows[0].clone())
    shadows = case["out.shadow"]
    ema = EMA(model, case.params["decay"])
    updates = (
        rows if len(rows) == len(shadows) and not torch.equal(shadows[0], rows[0]) else rows[1:]
    )
    for values, expected in zip(updates, shadows[len(shadows) - len(updates) :], strict=True):
        with torch.no_grad():
            model.p.copy_(values)
        ema.update()
        torch.testing.assert_close(ema.averages["p"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["dcunet_bn", "dcunet_cbn"])
def test_dcunet(shared: Path, name: str) -> None:
    case = Case(shared, "meanflowse", name)
    teacher = load_teacher(
        case.folder / f"{name}_weights.safetensors",
        kind="flowse",
        config=case.manifest["models"][name]["config"],
    )
    for mode in ("eval", "train_mode"):
        teacher.network.train(mode != "eval")
        output = teacher.velocity(case["in.xt"], ours(case["in.t"]), {"y": case["in.y"]})
        case.near(output, f"out.network_{mode}", 1e-5)
