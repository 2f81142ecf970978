"""Students: equal to their teacher at the start for every r, exact samplers, folders that load
again.
"""

import json

import pytest
import torch
from gaussian import FIELD
from torch import nn

from mfdistill.checkpoint import load_config, save_folder, write_tensors
from mfdistill.config import to_dict
from mfdistill.errors import UserError
from mfdistill.flow import total_derivative
from mfdistill.networks import build_network
from mfdistill.networks.compact import CompactConfig
from mfdistill.networks.delta import DeltaEmbedding, NoisinessEmbedding
from mfdistill.students import (
    IntervalEmbedding,
    Student,
    load_student,
    replace_module,
    sample,
    save_student,
)
from mfdistill.tasks import default_task, get_task
from mfdistill.teachers import Field

TINY = CompactConfig(freqs=16, channels=8, blocks=2, recurrent=4, embedding=8)


class ToyNetwork(nn.Module):
    """A foreign-looking network: the time embedding sits two levels down and time is used nowhere
    else.
    """

    def __init__(self, features: int = 6):
        super().__init__()
        self.time = nn.ModuleDict({"embed": ToyEmbedding(5)})
        self.mlp = nn.Sequential(
            nn.Linear(2 * features + 5, 16), nn.SiLU(), nn.Linear(16, features)
        )

    def forward(self, z, t, cond):
        return self.mlp(torch.cat([z, cond["y"], self.time["embed"](t)], -1))


class ToyEmbedding(nn.Module):
    def __init__(self, d: int):
        super().__init__()
        self.linear = nn.Linear(2, d)

    def forward(self, t):
        assert t.ndim == 1
        return self.linear(torch.stack([t.sin(), t.cos()], -1)).tanh()


def toy_teacher(network: nn.Module) -> Field:
    """Of a network that says nothing of itself."""
    return Field(network, time_embedding="time.embed")


def randomised(network: nn.Module) -> nn.Module:
    """No zero or identity left of the initialisation, so that every branch matters."""
    generator = torch.Generator().manual_seed(1)
    for p in network.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=generator)
    return network


def toy():
    torch.manual_seed(0)
    return toy_teacher(randomised(ToyNetwork())), (6,)


def compact():
    torch.manual_seed(0)
    config = {"network": {"name": "compact", "config": to_dict(TINY)}}
    return Field(randomised(build_network("compact", TINY)), config=config), (2, 16, 7)


def test_times_come_in_any_shape_that_means_one_per_sample():
    torch.manual_seed(0)
    teacher = toy_teacher(ToyNetwork())
    student, cond, z = (
        Student.from_teacher(teacher).eval(),
        {"y": torch.randn(3, 6)},
        torch.randn(3, 6),
    )
    expected = teacher.velocity(z, torch.full((3,), 0.25), cond)
    for t in (
        0.25,
        torch.tensor(0.25),
        torch.tensor([0.25]),
        torch.full((3,), 0.25),
        torch.full((3, 1), 0.25),
    ):
        for r in (
            1,
            torch.tensor(1.0),
            torch.ones(1),
            torch.ones(3),
            torch.ones(3, dtype=torch.float64),
        ):
            assert torch.equal(student(z, t, r, cond), expected)


@pytest.mark.parametrize("make", [toy, compact])
def test_student_equals_teacher_bit_for_bit_at_the_start(make):
    teacher, shape = make()
    student = Student.from_teacher(teacher)
    z, cond = torch.randn(5, *shape), {"y": torch.randn(5, *shape)}
    t = torch.tensor([0.0, 0.1, 0.37, 0.9, 1.0])
    v = teacher.velocity(z, t, cond)
    for r in (t, torch.ones(5), t + (1 - t) * torch.rand(5), torch.tensor(1.0)):
        assert torch.equal(student(z, t, r, cond), v)
    assert torch.equal(
        student(z, torch.tensor(0.25), torch.tensor(0.5), cond),
        teacher.velocity(z, torch.full((5,), 0.25), cond),
    )


@pytest.mark.parametrize("make", [toy, compact])
def test_the_end_of_the_interval_matters_once_training_moved_its_weights(make):
    teacher, shape = make()
    student = Student.from_teacher(teacher)
    z, cond, t = torch.randn(3, *shape), {"y": torch.randn(3, *shape)}, torch.full((3,), 0.25)
    student(z, t, t + 0.5, cond).square().mean().backward()
    weight = next(
        p
        for name, p in student.named_parameters()
        if name.endswith("embed.weight") or name.endswith("time_embedding.weight")
    )
    d = weight.shape[0]
    assert weight.grad[:, d:].abs().max() > 0
    with torch.no_grad():
        weight -= weight.grad
    assert not torch.equal(student(z, t, t + 0.5, cond), student(z, t, t + 0.25, cond))
    assert torch.equal(teacher.velocity(z, t, cond), make()[0].velocity(z, t, cond)), (
        "the teacher must not change with its student"
    )


def test_trainable_parameters_follow_the_teacher_unless_all_are_frozen():
    teacher, _ = toy()
    teacher.network.time["embed"].requires_grad_(False)
    student = Student.from_teacher(teacher)
    frozen = [name for name, p in student.named_parameters() if not p.requires_grad]
    assert frozen == [
        "network.time.embed.embedding.linear.weight",
        "network.time.embed.embedding.linear.bias",
    ]
    teacher.network.requires_grad_(False)
    assert all(p.requires_grad for p in Student.from_teacher(teacher).parameters())
    assert not any(p.requires_grad for p in teacher.network.parameters())


def test_interval_embedding_is_the_identity_on_the_current_time_in_any_matmul_precision():
    torch.manual_seed(0)
    embedding = ToyEmbedding(5)
    interval = IntervalEmbedding(embedding)
    t, r = torch.rand(4), torch.rand(4)
    pair = torch.stack([t, r], -1)
    assert torch.equal(interval.weight, torch.cat([torch.eye(5), torch.zeros(5, 5)], 1))
    assert torch.equal(interval(pair), embedding(t)) and torch.equal(interval(t), embedding(t))
    with torch.no_grad():
        interval.weight.normal_()
    expected = torch.cat([embedding(t), embedding(r)], -1) @ interval.weight.T
    torch.testing.assert_close(interval(pair), expected)
    assert "start" not in interval.state_dict()


def test_what_is_no_time_embedding_is_refused():
    with pytest.raises(UserError, match="must map times"):
        IntervalEmbedding(nn.Identity())
    with pytest.raises(AttributeError):
        replace_module(ToyNetwork(), "time.missing", nn.Identity())


class ExactStudent(nn.Module):
    schedule = [0.0, 0.25, 1.0]

    def forward(self, z, t, r, cond):
        return FIELD.average_velocity(z, t, r)


@pytest.mark.parametrize("steps", [1, 2, 7, [0.0, 0.4, 1.0], [0.0, 0.9, 0.95, 1.0], None])
def test_sampling_is_exact_for_any_schedule(steps):
    z_0 = torch.randn(64, 2, 3, 3, dtype=torch.float64)
    z_1 = sample(ExactStudent(), z_0, {}, steps)  # type: ignore[arg-type]
    torch.testing.assert_close(z_1, FIELD.flow_map(z_0, 0.0, 1.0), rtol=1e-9, atol=1e-9)


def test_sampling_a_part_of_the_way_and_bad_schedules():
    z = torch.randn(8, 2, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(
        sample(ExactStudent(), z, {}, [0.25, 0.75]), FIELD.flow_map(z, 0.25, 0.75)
    )  # type: ignore[arg-type]
    for steps in (0, [0.0], [0.0, 0.5, 0.5, 1.0], [1.0, 0.0], [0.0, 1.5]):
        with pytest.raises(UserError, match="steps"):
            sample(ExactStudent(), z, {}, steps)  # type: ignore[arg-type]


def small_student():
    task = get_task(default_task("enhance"))
    network = CompactConfig(channels=8, blocks=1, recurrent=0, embedding=8)
    description = {"name": "compact", "config": to_dict(network)}
    torch.manual_seed(0)
    return Student.from_network(
        randomised(build_network("compact", network)), task, [0.0, 0.4, 1.0], description
    )


def test_a_saved_student_loads_with_its_schedule(tmp_path):
    student = small_student().eval()
    save_student(student, tmp_path / "student", objective={"name": "integral"})
    loaded = load_student(tmp_path / "student")
    assert (
        loaded.schedule == [0.0, 0.4, 1.0]
        and not loaded.training
        and loaded.task.config == student.task.config
    )
    z, cond = torch.randn(2, 2, 256, 4), {"y": torch.randn(2, 2, 256, 4)}
    assert torch.equal(sample(loaded, z, cond), sample(student, z, cond, [0.0, 0.4, 1.0]))
    assert json.loads((tmp_path / "student" / "config.json").read_text())["objective"] == {
        "name": "integral"
    }


def test_half_precision_folders_load(tmp_path):
    student = small_student().eval()
    save_folder(
        tmp_path, {key: value.half() for key, value in student.state_dict().items()}, student.config
    )
    for a, b in zip(load_student(tmp_path).parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_bad_student_folders_give_one_clear_line(tmp_path):
    student = small_student()
    save_student(student, tmp_path)
    with pytest.raises(UserError, match="interval"):
        load_student(tmp_path, kind="nonsense")
    with pytest.raises(UserError, match="no such file"):
        load_student(tmp_path / "missing" / "x" / "y")
    write_tensors(tmp_path / "other.safetensors", {"a": torch.zeros(1)})
    with pytest.raises(UserError, match="not recognised as a student.*interval"):
        load_student(tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="leave config out"):
        load_student(tmp_path, config={"channels": 3})
    with pytest.raises(UserError, match="streaming"):
        load_student(tmp_path, streaming=True)

    config = load_config(tmp_path)
    for change, message in (
        ({"role": "teacher"}, "holds a teacher, not a student; it belongs to --teacher"),
        ({"schedule": [1.0, 0.0]}, "schedule"),
        (
            {
                "network": {
                    "name": "compact",
                    "config": {**config["network"]["config"], "channels": 12},
                }
            },
            "do not fit",
        ),
        ({"network": {"name": "nonsense", "config": {}}}, "unknown"),
        ({"network": None}, "sections"),
        ({"task": {**config["task"], "name": "juggle"}}, "juggle"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(UserError, match=message):
            load_student(tmp_path)


def test_a_student_that_nobody_could_load_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="cannot be saved"):
        save_student(Student.from_teacher(toy()[0]), tmp_path)


def test_a_network_with_its_own_interval_branch_keeps_it():
    class Delta(nn.Module):
        time_embedding_name = "time"

        def __init__(self):
            super().__init__()
            self.time = DeltaEmbedding(NoisinessEmbedding(4), 16)
            nn.init.normal_(self.time.linear_2.weight)

        def forward(self, z_t, t, cond):
            return z_t + self.time(t).mean()

    network, z = Delta(), torch.zeros(1, 1)
    student = Student.from_network(network)
    assert student.interval == "delta"
    assert not torch.equal(
        student(z, torch.tensor(0.25), torch.tensor(1.0), {}),
        student(z, torch.tensor(0.25), torch.tensor(0.25), {}),
    )


@pytest.mark.parametrize("method", ["forward", "double-backward"])
def test_the_embedding_of_the_gap_is_differentiated_at_no_gap(method):
    """MeanFlow's targets need it at r = t, the edge of what is embedded; a clamp's derivative there
    is 1 or 0 by the version of torch.
    """
    torch.manual_seed(0)
    embedding = DeltaEmbedding(NoisinessEmbedding(4), 16).double()
    nn.init.normal_(embedding.linear_2.weight)

    def gap(z, t, r):
        return embedding(torch.stack([t, r], -1)) - embedding.embedding(t) + 0 * z

    t, zero, h = torch.tensor([0.0, 0.25, 0.75]).double(), torch.zeros(3, 16).double(), 1e-5
    _, slope = total_derivative(gap, zero, t, t, zero, method=method)
    # from the side of r > t, to the second order
    u = [gap(zero, t, t + steps * h) for steps in range(3)]
    expected = (3 * u[0] - 4 * u[1] + u[2]) / (2 * h)
    error = (slope - expected).norm() / expected.norm()
    assert float(error.detach()) < 1e-4
