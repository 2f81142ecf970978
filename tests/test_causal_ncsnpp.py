"""The causal NCSN++, Stream.FM files made on the spot, folding, compression, and what a foreign
pickle may not do.
"""

import functools
import os
from collections import OrderedDict

import pytest
import torch
from cli_corpus import make_corpus
from safetensors.torch import save_file

from mfdistill.audio.features import StftConfig, window
from mfdistill.audio.mel import MelConfig, MelOperator
from mfdistill.cli import main
from mfdistill.errors import UserError
from mfdistill.flow import TABLEAUS, solve, stages, tableau, total_derivative
from mfdistill.networks import build_network
from mfdistill.networks.causal_layers import Resample, SubBandNorm
from mfdistill.search.learned import LearnedSolver, load_solver
from mfdistill.students import Student
from mfdistill.students.compress import decouple
from mfdistill.students.fold import fold_time
from mfdistill.systems.files import read_foreign
from mfdistill.systems.streamfm import load_predictor
from mfdistill.teachers import load_teacher
from mfdistill.teachers.imported import import_teacher

SIZES = {"nf": 8, "ch_mult": [1, 2], "num_res_blocks": 1, "input_freqs": 32}


def network_of(**options):
    torch.manual_seed(0)
    network = build_network("causal_ncsnpp", {**SIZES, **options}).eval()
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if (
                value.is_floating_point()
                and name.endswith(("bias", "running_mean"))
                or "CConv_1" in name
            ):
                value.copy_(0.2 * torch.randn_like(value))
    return network


def lightning(path, network, prefix="dnn.", extra=None, stft=None, **settings):
    """A file as Lightning writes it, with references to things that are not needed."""
    stft = stft or StftConfig(n_fft=64, hop=32)
    state = {f"{prefix}{key}": value for key, value in network.state_dict().items()}
    state |= {
        "feature_extractor.window_tensor": window(stft),
        "feature_extractor.alpha": torch.tensor(0.5),
    }
    state |= {"feature_extractor.beta": torch.tensor(1.0), **(extra or {})}
    hyper = {
        "sampling_rate": 16000,
        "optimizer_constructor": functools.partial(torch.nn.Identity),
        "sigma_x": 0.001,
        **settings,
    }
    torch.save({"epoch": 1, "state_dict": OrderedDict(state), "hyper_parameters": hyper}, path)
    return path


def states(frames=6, b=2):
    return torch.randn(b, 2, 32, frames), torch.rand(b), {"y": torch.randn(b, 2, 32, frames)}


def test_receptive_field_by_an_impulse():
    network = (
        build_network(
            "causal_ncsnpp", {**SIZES, "ch_mult": [1, 1], "conditional": False, "input_channels": 2}
        )
        .double()
        .eval()
    )
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("bias"):
                value.zero_()
            elif value.ndim == 4:
                value.fill_(0.01)
        y = torch.zeros(1, 2, 32, 150, dtype=torch.float64)
        y[..., 20] = 1.0
        seen = network(y, torch.zeros(1), {"y": y})[0].abs().sum((0, 1)).nonzero()[:, 0]
    levels, blocks, dilation = 2, 1, 2
    field = (
        1
        + 2
        + (levels - 1) * (4 * blocks + 2 * dilation + 2)
        + 4 * blocks
        + 8
        + (levels - 1) * (4 * blocks + 4)
        + 4 * (blocks + 1)
        + 2
    )
    assert (int(seen[0]), int(seen[-1]) - 20 + 1) == (20, field)


def test_resampling_by_hand():
    x = torch.tensor([1.0, 2.0, 4.0, 8.0])[None, None, :, None]
    down, up = (Resample((1, 3, 3, 1), flag)(x).flatten() for flag in (False, True))
    assert torch.allclose(down * 8, torch.tensor([3 + 6 + 4.0, 2 + 12 + 24.0]))
    assert torch.allclose(
        up * 8, torch.tensor([3 + 2, 1 + 6, 6 + 4, 2 + 12, 12 + 8, 4 + 24, 24, 8.0])
    )
    with pytest.raises(UserError, match="taps"):
        Resample((1, 2, 1), False)


@pytest.mark.parametrize(("freqs", "bands"), [(32, 4), (10, 2), (7, 1)])
def test_norm_by_definition(freqs, bands):
    norm = SubBandNorm(8, freqs, 4)
    assert norm.weight.shape == (8, bands) and norm.running_mean.shape == (2, bands)
    x = 3 * torch.randn(2, 8, freqs, 5) + 1
    y = norm(x).detach()
    group = y[:, 4:, : freqs // bands]
    assert abs(float(group.mean())) < 1e-5 and abs(float(group.var(correction=0)) - 1) < 1e-3
    assert torch.allclose(norm.running_mean[1, 0], 0.1 * x[:, 4:, : freqs // bands].mean())
    norm.frozen = True
    before = norm.running_mean.clone()
    assert torch.equal(norm(x), norm.eval()(x)) and torch.equal(norm.running_mean, before)


def test_frame_norm_keeps_no_statistics_and_leaks_nothing():
    network = build_network("causal_ncsnpp", {**SIZES, "norm": "subband_grouped_framenorm"}).train()
    assert not any("running" in key for key in network.state_dict())
    z, t, cond = states()
    later = z.clone()
    later[..., 4:] += 1
    assert torch.equal(network(z, t, cond)[..., :4], network(later, t, cond)[..., :4])


def test_derivative_of_a_student_in_training():
    student = Student.from_network(network_of().double())
    assert student.training and all(
        m.frozen for m in student.modules() if isinstance(m, SubBandNorm)
    )
    z, t, cond = states()
    z, t, cond = z.double(), t.double() * 0.5, {"y": cond["y"].double()}

    def u(z, t, r):
        return student(z, t, r, cond)

    v, r = torch.randn_like(z), t + 0.3
    _, forward = total_derivative(u, z, t, r, v, method="forward")
    _, central = total_derivative(u, z, t, r, v, method="central", eps=1e-6)
    assert float((forward - central).norm() / central.norm()) < 1e-5


def test_unit_embedding_is_slow_in_time():
    network = network_of(fourier_scale=16.0).double()
    fast = Student.from_network(network)
    slow = Student(network_of().double(), "temb_modules", interval="unit").eval()
    slow.network.load_state_dict(
        {k: v for k, v in network.state_dict().items() if not k.startswith("temb_modules")},
        strict=False,
    )
    t = torch.linspace(0.1, 0.9, 50, dtype=torch.float64)

    def speed(student):
        def e(t):
            return student.network.temb_modules(torch.stack([t, t], -1))

        return float((e(t + 1e-6) - e(t - 1e-6)).norm() / 2e-6 / e(t).norm())

    assert speed(slow) < 0.2 * speed(fast)
    time = torch.tensor([[0.2, 0.2], [0.2, 0.9]], dtype=torch.float64)
    e = slow.network.temb_modules(time)
    assert torch.equal(e[0], e[1]) and slow.config["interval"] == "unit"


@pytest.mark.parametrize("rank", [0, 3])
def test_folded_time_is_exact_and_streams(rank):
    network = network_of()
    student = Student.from_network(decouple(network, rank) if rank else network).double().eval()
    torch.nn.init.normal_(student.network.temb_modules.weight, std=0.1)
    folded = fold_time(student, 0.0, 1.0)
    z, _, cond = states()
    z, cond = z.double(), {"y": cond["y"].double()}
    zero, one = z.new_zeros(2), z.new_ones(2)
    with torch.no_grad():
        whole = student(z, zero, one, cond)
        assert float((folded(z, one, cond) - whole).norm() / whole.norm()) < 1e-14
        assert not torch.equal(student(z, one, one, cond), whole)
        state, frames = folded.init_state(2), []
        for k in range(z.shape[3]):
            frame, state = folded.step(
                z[..., k : k + 1], one, {"y": cond["y"][..., k : k + 1]}, state
            )
            frames.append(frame)
    assert float((torch.cat(frames, 3) - whole).norm() / whole.norm()) < 1e-12
    assert sum(p.numel() for p in folded.parameters()) < sum(
        p.numel() for p in student.parameters()
    )
    with pytest.raises(UserError, match="no time"):
        fold_time(folded)


def test_decoupling_at_full_rank_changes_nothing():
    network = network_of().double()
    z, t, cond = states()
    z, cond = z.double(), {"y": cond["y"].double()}
    with torch.no_grad():
        whole, same, less = (
            network(z, t, cond),
            decouple(network, 8)(z, t, cond),
            decouple(network, 1)(z, t, cond),
        )
    assert float((same - whole).norm() / whole.norm()) < float((less - whole).norm() / whole.norm())
    with pytest.raises(UserError, match="already"):
        decouple(decouple(network, 4), 4)
    with pytest.raises(UserError, match="rank 99"):
        decouple(network, 99)


def test_predictor_and_flow_in_one_file(tmp_path):
    flow, predictor = network_of(input_channels=6), network_of(input_channels=2, conditional=False)
    within = {
        f"initial_predictor.dnn.{key}": value for key, value in predictor.state_dict().items()
    }
    path = lightning(tmp_path / "se.ckpt", flow, extra=within, sigma_e=0.05, normalize_mode="none")
    teacher = load_teacher(path)
    assert teacher.task.config.normalise == "none" and teacher.task.path.mean == "e"
    z, t, cond = states()
    e = predictor(cond["y"], t, cond)
    full = {**cond, "e": e}
    with torch.no_grad():
        order = [z[:, 0], e[:, 0], cond["y"][:, 0], z[:, 1], e[:, 1], cond["y"][:, 1]]
        assert torch.allclose(
            teacher.velocity(z, t, cond), flow.backbone(torch.stack(order, 1), t), atol=1e-6
        )
    assert torch.equal(teacher.velocity(z, t, cond), teacher.velocity(z, t, full))
    streaming = load_teacher(path, kind="streamfm", streaming=True)
    assert torch.allclose(streaming.velocity(z, t, cond), teacher.velocity(z, t, cond), atol=1e-5)
    noise = teacher.prior(cond, torch.Generator().manual_seed(0)) - e
    assert abs(float(noise.square().sum(1).mean().sqrt()) / 0.05 - 1) < 0.2
    assert torch.equal(Student.from_teacher(teacher)(z, t, t, full), teacher.velocity(z, t, full))
    assert set(teacher.task.condition(torch.randn(1, 640))) == {"y", "e"}
    assert torch.equal(load_predictor(path)(cond["y"], t, cond), e)
    import_teacher(path, tmp_path / "folder")
    stored = load_teacher(tmp_path / "folder")
    assert torch.equal(stored.task.completed(cond)["e"], e)
    assert torch.equal(stored.velocity(z, t, full), teacher.velocity(z, t, full))
    alone = lightning(tmp_path / "predictor.ckpt", predictor)
    with pytest.raises(UserError, match="predictor by itself"):
        load_teacher(alone)
    bare = load_teacher(
        lightning(tmp_path / "bare.ckpt", flow), config={"predictor": str(alone), "sigma_e": 0.05}
    )
    assert torch.equal(bare.velocity(z, t, cond), teacher.velocity(z, t, cond))
    with pytest.raises(UserError, match="run the predictor first"):
        load_teacher(tmp_path / "bare.ckpt").velocity(z, t, cond)


def test_vocoder_and_bandwidth_files(tmp_path):
    stft = StftConfig(n_fft=64, hop=32, window="hann")
    operator = MelOperator(stft, MelConfig(n_mels=8))
    extra = {
        "post_Y_fn.mel_scale.fb": operator.filterbank + 0.01,
        "post_Y_fn.pseudoinverse": operator.inverse,
    }
    teacher = load_teacher(
        lightning(tmp_path / "mel.ckpt", network_of(), extra=extra, stft=stft, sigma_y=0.25)
    )
    config = teacher.task.config
    assert (config.name, config.n_mels, config.stft.window, config.stft.hop, config.normalise) == (
        "vocode",
        8,
        "hann",
        32,
        "peak",
    )
    assert torch.equal(teacher.task.mel.filterbank, operator.filterbank + 0.01)
    sigma = torch.linspace(0.1, 0.4, 32)[:, None]
    bandwidth = lightning(
        tmp_path / "bwe.ckpt",
        network_of(),
        extra={"sigma_y": sigma, "sigma_x": sigma / 3000},
        sigma_x=sigma / 3000,
    )
    path = load_teacher(bandwidth).task.path
    y = torch.zeros(1, 2, 32, 3)
    s_0, s_1 = path.scales({"y": y}, y)
    assert torch.allclose(s_0.expand(1, 1, 32, 3)[0, 0, :, 1], sigma[:, 0]) and torch.allclose(
        s_1, s_0 / 3000
    )


def test_learned_solver_file(tmp_path):
    network, solver = network_of(), LearnedSolver.from_tableau("rk4_3over8")
    extra = {**solver.state_dict(), "wrapped_model.sigma_x": torch.tensor(0.001)}
    path = lightning(
        tmp_path / "LRK4.ckpt",
        network,
        prefix="wrapped_model.dnn.",
        extra=extra,
        b_min=0.05,
        c_max=0.85,
    )
    assert load_solver(path).tableau() == solver.tableau()
    z, t, cond = states()
    with torch.no_grad():
        assert torch.equal(load_teacher(path).velocity(z, t, cond), network(z, t, cond))
    with pytest.raises(UserError, match="a_raw is missing"):
        load_solver(lightning(tmp_path / "flow.ckpt", network))
    nodes = torch.tensor(solver.tableau().c)
    assert (
        float(nodes[0]) == 0 and float(nodes[-1]) <= 0.85 + 1e-6 and bool((nodes.diff() > 0).all())
    )


def test_wrong_files_are_explained(tmp_path):
    path = lightning(tmp_path / "flow.ckpt", network_of())
    with pytest.raises(UserError, match="did you mean 'nf'"):
        load_teacher(path, config={"nff": 8})
    with pytest.raises(UserError, match="lacks down_modules.*kind streamfm; give its sizes"):
        load_teacher(path, config={"num_res_blocks": 2})
    with pytest.raises(UserError, match="guidance strength"):
        load_teacher(path, guidance_strength=1.0)
    torch.save({"state_dict": {"all_modules.0.W": torch.zeros(3)}}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="lacks pyramid_downsample.fir_kernel"):
        load_teacher(tmp_path / "other.ckpt", kind="streamfm")
    with pytest.raises(UserError, match="prior's spread"):
        load_teacher(path).prior({"y": torch.zeros(1, 2, 32, 3)})
    within = {
        f"initial_predictor.dnn.{key}": value
        for key, value in network_of(input_channels=2, conditional=False).state_dict().items()
    }
    # the original's option to leave the input out
    with pytest.raises(UserError, match="predictor before a flow of 4 channels"):
        load_teacher(lightning(tmp_path / "se.ckpt", network_of(), extra=within, sigma_e=0.05))
    bands = load_teacher(
        path, config={"task": "vocode", "n_mels": 20, "sigma_y": 0.25}
    ).task.config.n_mels
    assert bands == 20


class Call:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("wrap", [False, True])
def test_a_pickle_that_calls_something_is_refused(tmp_path, wrap):
    mark = tmp_path / "called"
    call = (
        Call(functools.partial, os.system, f"touch {mark}")
        if wrap
        else Call(os.system, f"touch {mark}")
    )
    torch.save({"state_dict": {}, "hyper_parameters": {"x": call}}, tmp_path / "evil.ckpt")
    with pytest.raises(UserError, match="system") as caught:
        read_foreign(tmp_path / "evil.ckpt")
    assert "\n" not in str(caught.value) and not mark.exists()


def test_references_are_read_as_inert_stand_ins(tmp_path):
    torch.save(
        {"x": functools.partial(torch.nn.Identity), "w": torch.ones(2)}, tmp_path / "file.ckpt"
    )
    values = read_foreign(tmp_path / "file.ckpt").values
    assert (
        torch.equal(values["w"], torch.ones(2))
        and not callable(values["x"])
        and vars(values["x"]) == {}
    )


@pytest.mark.parametrize(
    "name",
    [
        *TABLEAUS,
        "generic2-0.6",
        "2xmidpoint+1xeuler@0.2",
        "rk5_ralston3_ralston2",
        "euler@0.1+2xheun3",
    ],
)
def test_solvers_reach_the_end_of_a_linear_flow(name):
    table = tableau(name)
    assert stages(name) == table.stages and abs(sum(table.b) - 1) < 1e-12
    assert all(abs(sum(row) - node) < 1e-12 for row, node in zip(table.a, table.c, strict=True))
    z = torch.ones(2, 3, dtype=torch.float64)
    error = [
        float(
            (solve(lambda z, t: -z, z, steps, name) - z * torch.exp(torch.tensor(-1.0))).abs().max()
        )
        for steps in (8, 16)
    ]
    assert error[1] < 0.6 * error[0]


def test_a_stream_fm_file_in_the_commands(tmp_path, monkeypatch, capsys):
    make_corpus(tmp_path / "corpus")
    monkeypatch.chdir(tmp_path)
    file, wave = (
        str(lightning(tmp_path / "flow.ckpt", network_of(), sigma_y=0.35)),
        "corpus/clean/test/test0/0.wav",
    )
    brief = [
        "--data",
        "corpus",
        "--data.crop-s",
        "0.25",
        "--batch-size",
        "2",
        "--steps",
        "1",
        "--warmup",
        "0",
        "--valid-files",
        "0",
    ]
    assert main(["info", file]) == 0 and "streamfm" in capsys.readouterr().out
    assert main(["restore", file, wave, "restored.wav", "--nfe", "1"]) == 0
    assert main(["student-distill", "--teacher", file, "--out", "student", *brief]) == 0
    evaluate = [
        "evaluate",
        "--student",
        "student",
        "--teacher",
        file,
        "--metrics",
        "sisdr",
        "--limit",
        "1",
        "--audio",
        "0",
        "--out",
        "e",
    ]
    assert main([*evaluate, "--teacher-nfe", "1", "--student-nfe", "1"]) == 0
    assert main(["solver-train", "--teacher", file, "--nfe", "2", "--out", "solver", *brief]) == 0
    # does not say its prior's spread
    save_file(network_of().state_dict(), tmp_path / "bare.safetensors")
    (tmp_path / "sizes.json").write_text('{"sigma_y": 0.35}')
    for command in (
        ["restore", "bare.safetensors", wave, "x.wav"],
        ["student-distill", "--teacher", "bare.safetensors", *brief],
    ):
        assert main([*command]) == 2 and "JSON with sigma_y" in capsys.readouterr().err
    assert main(["teacher-import", "bare.safetensors", "imported", "--sizes", "sizes.json"]) == 0
    assert main(["restore", "imported", wave, "x.wav", "--nfe", "1"]) == 0
