"""A regression network in front of a flow: its own estimate bit for bit, the same numbers after
saving, in streams and in ONNX.
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mfdistill.audio.features import StftConfig
from mfdistill.checkpoint import load_tensors, save_folder
from mfdistill.config import to_dict
from mfdistill.distill.objectives import estimate
from mfdistill.distill.opening import open_model
from mfdistill.distill.setup import fit_network
from mfdistill.errors import UserError
from mfdistill.flow import noise_like
from mfdistill.networks import CompactSizes, build_network
from mfdistill.networks.predictor import Predictor, build_predictor, with_predictor
from mfdistill.networks.sizes import UNetSizes
from mfdistill.students import Student, load_student, sample, save_student
from mfdistill.students.causal import causal_start
from mfdistill.students.compress import decouple
from mfdistill.students.streaming import StreamRestorer
from mfdistill.students.verify import in_precision, offline, run_stream, verify
from mfdistill.tasks import Task, TaskConfig, get_task, predicted
from mfdistill.teachers import load_teacher
from mfdistill.teachers.field import Field

STFT = StftConfig(n_fft=64, hop=32, causal=True)
FRONT = TaskConfig("enhance", STFT, sigma_0=0.2, prior_shape="magnitude", normalise="none")
COMPACT = {
    "channels": 8,
    "blocks": 2,
    "freqs": 32,
    "band_stride": 4,
    "embedding": 8,
    "causal": True,
}
FLOWS = {
    "compact": {**COMPACT, "sigma_0": 0.05, "mean": "e", "predicted": True},
    "causal_ncsnpp": {
        "nf": 8,
        "ch_mult": (1, 2),
        "num_res_blocks": 1,
        "input_freqs": 32,
        "input_channels": 6,
    },
}
FRONTS = {"compact": COMPACT, "causal_ncsnpp": {**FLOWS["causal_ncsnpp"], "input_channels": 4}}


def randomised(network: nn.Module, seed: int = 1) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.15 * torch.randn(value.shape, generator=generator))
    return network.eval()


def front(name: str = "compact", mean: str = "y", causal: bool = True) -> Predictor:
    sizes = {**FRONTS[name], "causal": causal} if name == "compact" else FRONTS[name]
    return Predictor(
        randomised(build_network(name, sizes), 2),
        {"network": {"name": name, "config": sizes}, "prior_mean": mean},
    )


def teacher_of(name: str = "compact", predictor: Predictor | None = None) -> Field:
    predictor = predictor or front()
    task = get_task(predicted(FRONT), predictor)
    config = {
        "role": "teacher", "task": to_dict(task.config), "network": {"name": name, "config": FLOWS[name]},
        "predictor": predictor.description,
    }  # fmt: skip
    return Field(randomised(build_network(name, FLOWS[name])), task, config)


def saved(teacher: Field, folder: Path) -> Path:
    save_folder(folder, with_predictor(teacher.network.state_dict(), teacher.task), teacher.config)
    return folder


def noisy(batch: int = 2, frames: int = 11) -> tuple[Tensor, Tensor, Tensor]:
    """State, time and input features."""
    generator = torch.Generator().manual_seed(3)
    z, y = (noise_like((batch, 2, 32, frames), generator) for _ in range(2))
    return z, torch.linspace(0.1, 0.8, batch), y


def relative(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).norm() / b.norm())


def wave(batch: int = 1, hops: int = 14) -> Tensor:
    return 0.1 * torch.randn(
        batch, hops * STFT.hop, generator=torch.Generator().manual_seed(5), dtype=torch.float64
    )


@pytest.mark.parametrize("mean", ["y", "zero"])
@pytest.mark.parametrize("name", FRONTS)
def test_e_is_the_regression_networks_own_estimate(name: str, mean: str, tmp_path: Path) -> None:
    predictor = front(name, mean)
    config = TaskConfig("enhance", STFT, prior_mean=mean, prior_shape="magnitude", normalise="none")  # type: ignore[arg-type]
    about = {
        "role": "regression",
        "task": to_dict(config),
        "network": predictor.description["network"],
    }
    save_folder(tmp_path / "regression", predictor.network.state_dict(), about)
    regression = open_model(tmp_path / "regression")
    _, _, y = noisy()
    cond = get_task(predicted(FRONT), predictor).completed({"y": y})
    with torch.no_grad():
        assert torch.equal(cond["e"], estimate(regression.module, regression.task.path, {"y": y}))
        assert torch.equal(cond["e"], regression.endpoint(y, {"y": y}, None))
    samples = wave().float()
    task = teacher_of(predictor=predictor).task
    assert torch.equal(task.condition(samples)["e"], predictor(regression.task.condition(samples)))  # type: ignore[union-attr]


@pytest.mark.parametrize("name", FLOWS)
def test_the_flow_starts_around_e_and_sees_it(name: str) -> None:
    teacher, (z, t, y) = teacher_of(name), noisy()
    cond = teacher.task.completed({"y": y})  # type: ignore[union-attr]
    drawn = teacher.prior(cond, torch.Generator().manual_seed(0))
    assert abs(float((drawn - cond["e"]).square().sum(1).mean().sqrt()) / 0.05 - 1) < 0.1
    other = {"y": y, "e": cond["e"] + 0.1}
    assert not torch.equal(teacher.velocity(z, t, cond), teacher.velocity(z, t, other))
    assert torch.equal(teacher.velocity(z, t, {"y": y}), teacher.velocity(z, t, cond))
    with pytest.raises(UserError, match="run the predictor first"):
        teacher.network(z, t, {"y": y})


def test_preconditioning_is_exact_for_a_gaussian_around_e() -> None:
    """With weights that answer nothing, the network is the best linear answer for ``x - e ~ N(0,
    c^2)``.
    """
    network = build_network("compact", {**FLOWS["compact"], "residual_std": 0.7}).double()
    (_, t, y), (e, _, _) = noisy(), noisy()
    e, y, t = e.double(), 2 * y.double(), t.double()
    c_squared = 0.7**2 * (
        y.square().sum(1, keepdim=True) + e.square().sum(1, keepdim=True) + 0.02**2
    )
    s_0, s_1, at = 0.05, 0.001, t[:, None, None, None]
    s = (1 - at) * s_0 + at * s_1
    w = torch.randn_like(e)
    expected = (at * c_squared + (s_1 - s_0) * s) / (at**2 * c_squared + s**2) * w
    with torch.no_grad():
        assert relative(network(e + w, t, {"y": y, "e": e}), expected) < 1e-12


@pytest.mark.parametrize("name", FLOWS)
def test_saved_and_loaded_it_is_the_same(name: str, tmp_path: Path) -> None:
    teacher, (z, t, y) = teacher_of(name), noisy()
    folder = saved(teacher, tmp_path / "teacher")
    assert {file.name for file in folder.iterdir()} == {"model.safetensors", "config.json"}
    cond = teacher.task.completed({"y": y})  # type: ignore[union-attr]
    loaded = load_teacher(folder)
    assert torch.equal(loaded.task.completed({"y": y})["e"], cond["e"])  # type: ignore[attr-defined]
    assert torch.equal(loaded.velocity(z, t, cond), teacher.velocity(z, t, cond))
    streaming = load_teacher(folder, streaming=True)
    again = streaming.task.completed({"y": y})  # type: ignore[attr-defined]
    torch.testing.assert_close(again["e"], cond["e"])
    torch.testing.assert_close(streaming.velocity(z, t, again), loaded.velocity(z, t, cond))

    student = Student.from_teacher(loaded).eval()
    save_student(student, tmp_path / "student")
    for own in (student, load_student(tmp_path / "student")):
        assert torch.equal(own.task.completed({"y": y})["e"], cond["e"])  # type: ignore[union-attr]
        for r in (t, t + 0.1, torch.ones(2)):
            with torch.no_grad():
                assert torch.equal(own(z, t, r, cond), teacher.velocity(z, t, cond))
    # it is never optimised or averaged
    assert not any(key.startswith("predictor") for key in student.state_dict())
    model = open_model(tmp_path / "student")
    assert model.params == sum(
        p.numel() for p in [*student.parameters(), *loaded.task.predictor.network.parameters()]
    )  # type: ignore


@pytest.mark.parametrize(
    ("flow", "name"),
    [("compact", "compact"), ("compact", "causal_ncsnpp"), ("causal_ncsnpp", "compact")],
)
def test_stream_equals_offline(flow: str, name: str) -> None:
    teacher = in_precision(teacher_of(flow, front(name)), torch.float64)
    student = in_precision(
        randomised(Student.from_teacher(teacher, [0.0, 0.4, 1.0]), 4), torch.float64
    )
    for batch, block in ((1, 7), (2, 100)):
        assert (
            relative(
                run_stream(StreamRestorer(student, batch=batch), wave(batch), block),
                offline(student, wave(batch)),
            )
            < 1e-12
        )
    restorer = StreamRestorer(teacher, 2, solver="midpoint", fold=True)
    assert (
        relative(run_stream(restorer, wave(), 100), offline(teacher, wave(), 2, "midpoint")) < 1e-12
    )
    assert (
        sum(name.startswith("predictor_") for name in restorer.step.names)
        == len(restorer.step.predictor.init_state(1, 32))
        > 0
    )


def test_every_promise_is_kept_and_the_predictor_is_checked_too() -> None:
    student = randomised(Student.from_teacher(teacher_of()), 4)
    checks = list(verify(student, (1,), hops=12))  # type: ignore[arg-type]
    assert [check.name for check in checks if not check.passed] == []
    assert {"ONNX = eager", "receptive field of the predictor, frames before its own"} <= {
        check.name for check in checks
    }
    network = student.task.predictor.network  # type: ignore[union-attr]
    network.encode.later, network.encode.past = 1, 1
    broken = {check.name for check in verify(student, (1,), onnx=False) if not check.passed}  # type: ignore[arg-type]
    assert "no later frame is seen" in broken


@pytest.mark.parametrize("name", FRONTS)
def test_nothing_later_is_seen(name: str) -> None:
    student = randomised(Student.from_teacher(teacher_of(predictor=front(name))), 4)
    task, (_, _, y), later = student.task, noisy(1, 20), slice(12, None)
    changed = y.clone()
    changed[..., later] += 1
    results = []
    for given in (y, changed):
        cond = task.completed({"y": given})  # type: ignore[union-attr]
        results.append(sample(student, task.path.prior(cond, torch.zeros_like(y)), cond))  # type: ignore[union-attr, arg-type]
    assert torch.equal(results[0][..., :12], results[1][..., :12]) and not torch.equal(
        results[0][..., 12], results[1][..., 12]
    )


def test_onnx_is_eager() -> None:
    student = randomised(Student.from_teacher(teacher_of(predictor=front(mean="zero")), 2), 4)
    eager, graph = (StreamRestorer(student, runner=runner) for runner in ("eager", "onnx"))  # type: ignore[arg-type]
    assert (
        relative(run_stream(graph, wave().float(), 64), run_stream(eager, wave().float(), 64))
        < 1e-5
    )


def test_causal_students_need_a_causal_predictor() -> None:
    sees_all = {**FLOWS["compact"], "causal": False}
    task = get_task(predicted(FRONT), front(causal=False))
    teacher = Field(
        randomised(build_network("compact", sees_all)),
        task,
        {"network": {"name": "compact", "config": sees_all}},
    )
    with pytest.raises(UserError, match="predictor sees later frames"):
        causal_start(teacher)
    with pytest.raises(UserError, match="predictor in front sees later frames"):
        StreamRestorer(teacher_of(predictor=front(causal=False)))
    student = in_precision(
        Student.from_teacher(causal_start(teacher, front())).eval(), torch.float64
    )
    assert (
        relative(run_stream(StreamRestorer(student), wave(), 50), offline(student, wave())) < 1e-12
    )
    assert task.predictor is not student.task.predictor


def test_a_predicted_network_is_cut_to_the_past() -> None:
    """As tests/test_causal_students.py does for one without a predictor: weights on later frames at
    zero, nothing changes.
    """
    sizes = {**FLOWS["compact"], "causal": False, "filter_frames": 5}
    network = randomised(build_network("compact", sizes))
    with torch.no_grad():
        for block in [network.encode, *(block.conv for block in network.blocks)]:  # type: ignore[union-attr]
            block.conv.weight[:, :, 2] = 0  # type: ignore[union-attr]
        for rows in (network.decode.weight, network.decode.bias):  # type: ignore[union-attr]
            rows.view(4, 36, *rows.shape[1:])[:, 6:].view(4, 2, 5, 3, *rows.shape[1:])[:, :, 3:] = 0  # type: ignore[operator]
    z, t, y = noisy()
    causal = causal_start(Field(network, get_task(predicted(FRONT), front()))).network
    with torch.no_grad():
        torch.testing.assert_close(
            causal(z, t, {"y": y, "e": z}), network(z, t, {"y": y, "e": z}), rtol=1e-4, atol=1e-5
        )


def test_compressed_networks_keep_their_predictor() -> None:
    student = randomised(Student.from_teacher(teacher_of()), 4)
    small = copy.deepcopy(student)
    small.network = decouple(student.network, 8)
    z, t, y = noisy()
    cond = small.task.completed({"y": y})  # type: ignore[union-attr]
    with torch.no_grad():
        assert relative(small(z, t, torch.ones(2), cond), student(z, t, torch.ones(2), cond)) < 0.5


def test_networks_that_do_not_see_an_estimate_are_refused() -> None:
    task: Task = get_task(predicted(FRONT), front())
    fitted = fit_network(
        task, None, "compact", CompactSizes(band_stride=4), UNetSizes(), residual_std=0.5
    )
    assert fitted.predicted and fitted.mean == "e"  # type: ignore[union-attr]
    assert fit_network(task, None, "causal_ncsnpp", CompactSizes(), UNetSizes()).input_channels == 6  # type: ignore[union-attr]
    for backbone in ("ncsnpp", "dcunet"):
        with pytest.raises(
            UserError, match=f"--backbone {backbone}: does not see a predictor's estimate"
        ):
            fit_network(task, None, backbone, CompactSizes(), UNetSizes())
    with pytest.raises(UserError, match="mean 'e'"):
        build_network("compact", {**FLOWS["compact"], "predicted": False})


def test_damaged_folders_are_told(tmp_path: Path) -> None:
    teacher = teacher_of()
    folder = saved(teacher, tmp_path / "teacher")
    lacking = {
        key: value for key, value in load_tensors(folder).items() if key != "predictor.position"
    }
    save_folder(folder, lacking, teacher.config)
    with pytest.raises(UserError, match="predictor: weights do not fit config.json.*position"):
        load_teacher(folder)
    for wrong in (
        {"network": {"name": "compact"}},
        {"prior_mean": "y"},
        {"network": {"name": "compact"}, "prior_mean": "e"},
    ):
        with pytest.raises(UserError, match="folder: predictor: needs"):
            build_predictor(wrong, "folder")
