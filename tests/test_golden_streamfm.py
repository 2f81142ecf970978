"""Stream.FM's reference vectors through the public entry points (see the developers'
../shared/golden/streamfm).
"""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from mfdistill.flow import solve, tableau, tableau_step
from mfdistill.networks.causal_layers import CausalConv, SubBandNorm
from mfdistill.networks.causal_ncsnpp import CausalNCSNpp
from mfdistill.networks.config import CausalNCSNppConfig
from mfdistill.search.learned import LearnedSolver, load_solver, sample_learned, tensors
from mfdistill.students import Student, sample
from mfdistill.students.compress import decouple
from mfdistill.teachers import load_teacher

BACKBONE = {field.name for field in dataclasses.fields(CausalNCSNppConfig)}


@pytest.fixture(scope="module")
def golden(shared):
    folder = shared / "golden" / "streamfm"
    entries = {
        entry["file"]: entry
        for entry in json.loads((folder / "manifest.json").read_text())["files"]
    }

    def open_case(name):
        entry = entries[f"{name}.safetensors"]
        return load_file(folder / entry["file"]), entry, folder

    return open_case


def of_complex(case, name):
    return torch.cat([case[f"{name}_re"], case[f"{name}_im"]], 1)


def compare(ours, theirs, entry):
    tolerance = entry["tolerance"]
    assert ours.shape == theirs.shape
    assert float((ours - theirs).norm() / theirs.norm()) <= tolerance["rel_l2"]
    assert float((ours - theirs).abs().max() / theirs.abs().max()) <= tolerance["max_over_max"]


def teacher_of(entry, folder, **options):
    return load_teacher(
        folder / entry["weights"], kind="streamfm", config=entry["config"], **options
    )


def network_of(entry, folder, dtype=torch.float32):
    network = CausalNCSNpp(
        CausalNCSNppConfig(
            **{key: value for key, value in entry["config"].items() if key in BACKBONE}
        )
    )
    network.load_state_dict(load_file(folder / entry["weights"]))
    return network.eval().to(dtype)


def split(x):
    """Official complex input [X_t, Y] as real channels -> z_t and y."""
    return x[:, [0, 2]], x[:, [1, 3]]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "name", ["forward", "decoupled_net_forward", "lightning_flow_forward", "flow_path"]
)
def test_velocity(golden, name, streaming):
    case, entry, folder = golden(name)
    teacher = teacher_of(entry, folder, streaming=streaming)
    path = name == "flow_path"
    z, y = (
        (of_complex(case, "X_t"), of_complex(case, "Y")) if path else split(of_complex(case, "x"))
    )
    v = of_complex(case, "v_pred" if path else "v")
    compare(teacher.velocity(z, case["t"], {"y": y}), v, entry)
    if not streaming:
        student = Student.from_teacher(teacher)
        assert torch.equal(
            student(z, case["t"], torch.ones_like(case["t"]), {"y": y}),
            teacher.velocity(z, case["t"], {"y": y}),
        )


def test_float64(golden):
    case, entry, folder = golden("forward")
    teacher = teacher_of(entry, folder).to(dtype=torch.float64)
    z, y = split(of_complex(case, "x").double())
    v = of_complex(case, "v64")
    assert (
        float((teacher.velocity(z, case["t"].double(), {"y": y}) - v).norm() / v.norm())
        <= entry["float64_tolerance"]["rel_l2"]
    )


def test_kind_is_recognised_and_the_file_tells_its_sizes(golden):
    _, entry, folder = golden("lightning_flow_forward")
    teacher = load_teacher(folder / "lightning_flow.ckpt")
    config = teacher.task.config
    assert (config.sigma_0, config.sigma_1, config.normalise, config.stft.window) == (
        0.35,
        0.001,
        "peak",
        "sqrt-hann",
    )
    assert teacher.network.config == CausalNCSNppConfig(nf=8, ch_mult=(1, 2), num_res_blocks=1)
    assert (
        load_teacher(folder / "decoupled_net_weights.safetensors").network.config.decoupled_K == 4
    )


def test_path_and_loss(golden):
    case, entry, folder = golden("flow_path")
    task = teacher_of(entry, folder).task
    x, y, t = case["x"][:, 0], case["y"][:, 0], case["t"]
    gain = task.gain(y)
    compare(1 / gain, case["norm_factors"][:, 0], entry)
    cond = task.condition(y * gain)
    compare(cond["y"], of_complex(case, "Y"), entry)
    compare(task.target(x * gain), of_complex(case, "X"), entry)
    z_0, z_1 = task.path.end_points(task.target(x * gain), cond, of_complex(case, "Z"))
    compare(z_1 - z_0, of_complex(case, "v_target"), entry)
    s = t[:, None, None, None]
    compare((1 - s) * z_0 + s * z_1, of_complex(case, "X_t"), entry)
    error = of_complex(case, "v_target") - of_complex(case, "v_pred")
    compare(0.5 * error.square().sum((1, 2, 3)).mean(), case["loss"], entry)


def test_euler_from_waveform_to_waveform(golden):
    case, entry, folder = golden("enhance")
    teacher = teacher_of(entry, folder)
    task, y = teacher.task, case["y"][:, 0]
    gain = task.gain(y)
    cond = task.condition(y * gain)
    compare(cond["y"], of_complex(case, "Y"), entry)
    z_0 = task.path.prior(cond, of_complex(case, "Z"))
    z_1 = solve(lambda z, t: teacher.velocity(z, t, cond), z_0, entry["config"]["N"], "euler")
    compare(z_1, of_complex(case, "X_hat"), entry)
    compare(task.waveform(z_1, y.shape[1]) / gain, case["x_hat"][:, 0], entry)
    compare(task.waveform(cond["y"], y.shape[1]) / gain, case["y_resynth"], entry)


def test_euler_trajectory(golden):
    case, entry, folder = golden("euler3")
    teacher = teacher_of(entry, folder)
    cond = {"y": of_complex(case, "Y")}
    z = cond["y"] + case["sigma"] * of_complex(case, "Z")
    compare(z, of_complex(case, "x0"), entry)
    for steps, t in enumerate(case["t_grid"]):
        z = z + teacher.velocity(z, t, cond) / 3
        compare(z, of_complex(case, f"x{steps + 1}"), entry)
    compare(
        sample(Student.from_teacher(teacher), of_complex(case, "x0"), cond, 3),
        of_complex(case, "x3"),
        entry,
    )
    compare(z, of_complex(case, "x_final_stream"), entry)


def test_trace(golden):
    case, entry, folder = golden("trace")
    network, seen = network_of(entry, folder), {}
    for name, module in network.named_modules():
        module.register_forward_hook(
            lambda _, inputs, output, name=name: seen.setdefault(name, []).append(output)
        )
    with torch.no_grad():
        compare(network.backbone(case["x_chan"], case["t"]), case["v_chan"], entry)
    compare(seen["temb_modules"][0], case["temb"], entry)
    for key in (key for key in case if key.startswith("out.")):
        name, branch = key.removeprefix("out."), 0
        if name.endswith((".h", ".x")):
            name, branch = name[:-2], int(name.endswith(".x"))
        compare(seen[name][branch], case[key], entry)


@pytest.mark.parametrize("name", ["stream", "decoupled_net_forward"])
def test_frame_by_frame(golden, name):
    case, entry, folder = golden(name)
    network = network_of(entry, folder)
    z, y = split(case["x_chan"] if name == "stream" else of_complex(case, "x")[:1])
    state, frames = network.init_state(1), []
    with torch.no_grad():
        for k in range(z.shape[3]):
            frame, state = network.step(
                z[..., k : k + 1], case["t"][:1], {"y": y[..., k : k + 1]}, state
            )
            frames.append(frame)
    compare(torch.cat(frames, 3), case["v_stream" if name == "stream" else "v_stream_first"], entry)
    for key, stored in case.items():
        if key.startswith("state.") and stored.shape[2] > 1:
            past = stored[..., 1:]
            assert any(
                part[0].shape == past.shape and torch.allclose(part[0], past, atol=1e-5)
                for part in state
            ), key


def test_norm(golden):
    case, entry, _ = golden("norm")
    norm = SubBandNorm(16, 32, 4)
    before = {name: case[f"{name}_before"] for name in ("running_mean", "running_var")}
    norm.load_state_dict({"weight": case["weight"], "bias": case["bias"], **before})
    norm.requires_grad_(False)
    compare(norm(case["x"]), case["y_train"], entry)
    compare(norm.running_mean, case["running_mean_after"], entry)
    compare(norm.running_var, case["running_var_after"], entry)
    compare(norm.eval()(case["x"]), case["y_eval_after"], entry)


def test_tableaus(golden):
    case, entry, _ = golden("tableaus")
    for name in sorted({key.split("|")[0] for key in case}):
        for ours, part in zip(tensors(tableau(name)), "abc", strict=True):
            torch.testing.assert_close(ours, case[f"{name}|{part}"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("start", ["rk4_3over8", "rk5_ralston3_ralston2"])
def test_learned_solver_starts_as_theirs(golden, start):
    case, entry, _ = golden("learned_rk")
    solver = LearnedSolver.from_tableau(start)
    mine = (solver.a_raw, solver.b_raw, solver.c_raw[1:], *solver())
    for ours, part in zip(mine, ("a_raw", "b_raw", "c_raw", "a", "b", "c"), strict=True):
        theirs = case[f"init.{start}.{part}"]
        compare(ours.detach(), theirs[1:] if part == "c_raw" else theirs, entry)


def test_learned_solver(golden, tmp_path):
    case, entry, folder = golden("learned_rk")
    teacher = teacher_of(entry, folder)
    cond = {"y": of_complex(case, "Y")}
    z_0 = cond["y"] + case["sigma"] * of_complex(case, "Z")
    for tag in "ABC":
        save_file(
            {part: case[f"{tag}.{part}"] for part in ("a_raw", "b_raw", "c_raw")},
            tmp_path / f"{tag}.safetensors",
        )
        solver = load_solver(tmp_path / f"{tag}.safetensors")
        for ours, part in zip(solver(), "abc", strict=True):
            compare(ours.detach(), case[f"{tag}.{part}"], entry)
        if tag == "C":
            compare(solver.penalty().detach(), case["C.a_penalty"], entry)
            continue

        def velocity(z, t):
            return teacher.velocity(z, t, cond)

        compare(
            sample_learned(velocity, z_0, solver).detach(), of_complex(case, f"{tag}.x_out"), entry
        )
        one = tableau_step(velocity, z_0, torch.zeros(1), torch.ones(1), solver.tableau())
        compare(one, of_complex(case, f"{tag}.x_out_stream"), entry)


def test_decoupled_convolution(golden):
    case, entry, _ = golden("decoupled_conv")
    conv = CausalConv(16, 16, 3, int(case["dilation_time"]))
    conv.load_state_dict({"weight": case["weight"], "bias": case["bias"]})
    whole = torch.nn.ModuleDict({"conv": conv})
    with torch.no_grad():
        compare(conv(case["x"]), case["y_full"], entry)
        compare(decouple(whole, 9)["conv"](case["x"]), case["y_decoupled_K9"], entry)
        four = decouple(whole, 4)["conv"]
        compare(four(case["x"]), case["y_decoupled"], entry)
        factors = (
            four.depthwise_conv.weight.reshape(16, 4, 3, 3),
            four.pointwise_conv.weight.reshape(16, 16, 4),
        )
        product = torch.einsum("ikab,oik->oiab", *factors)
        compare(product, case["effective_weight"], entry)


def test_decoupled_network_by_our_own_factors(golden):
    case, entry, folder = golden("decoupled_net_forward")
    plain = load_teacher(
        folder / "weights.safetensors", config=golden("forward")[1]["config"]
    ).network
    compressed = decouple(plain, 4)
    assert set(compressed.state_dict()) == set(load_file(folder / entry["weights"]))
    with torch.no_grad():
        compare(compressed.backbone(of_complex(case, "x"), case["t"]), of_complex(case, "v"), entry)


def test_names_and_shapes_of_the_published_sizes(shared):
    keys = json.loads((shared / "specs" / "streamfm_keys.json").read_text())
    with torch.device("meta"):
        flow = CausalNCSNpp(CausalNCSNppConfig())
        predictor = CausalNCSNpp(CausalNCSNppConfig(input_channels=2, conditional=False))
        decoupled = CausalNCSNpp(CausalNCSNppConfig(decoupled_K=4))
    shapes = {key: list(value.shape) for key, value in flow.state_dict().items()}
    assert shapes == keys["published_flow_4ch"]["keys"]
    assert (
        sum(p.numel() for p in flow.parameters()) == 27_895_944
        and sum(p.numel() for p in predictor.parameters()) == 24_608_776
    )
    assert len(predictor.state_dict()) == 358
    replaced = keys["decoupled_K4_flow_4ch"]["replacement_keys"]
    assert {
        key: list(value.shape) for key, value in decoupled.state_dict().items() if key not in shapes
    } == replaced
