"""The embeddings of a pair of times, by their formulas, and students that have them saved and
loaded.
"""

import math

import pytest
import torch
from test_students import randomised, small_student, toy
from torch import nn
from torch.nn import functional as F

from mfdistill.errors import UserError
from mfdistill.networks import build_network
from mfdistill.networks.compact import CompactConfig
from mfdistill.networks.delta import DeltaEmbedding, NoisinessEmbedding
from mfdistill.students import IntervalEmbedding, Student, load_student, save_student
from mfdistill.students.interval import UnitIntervalEmbedding, replace_module, two_times
from mfdistill.teachers import Field

T = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
R = torch.tensor([1.0, 0.5, 0.5, 1.0], dtype=torch.float64)
PAIR = torch.stack([T, R], -1)


class Embedding(nn.Module):
    """Of one time, nonlinear, with dropout that an evaluation must not see."""

    def __init__(self, d: int = 6):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.drop = nn.Linear(3, d), nn.Dropout(0.5)

    def forward(self, t):
        assert t.ndim == 1
        powers = torch.stack([t, (3 * t).sin(), t.square()], -1)
        return self.drop(self.linear(powers).tanh())


def embedding(d: int = 6) -> Embedding:
    return Embedding(d).double().eval()


def test_mixed_is_the_two_times_times_a_matrix():
    """e = W [E(t); E(r)] (IntMeanFlow, eqs. 9-10), W = [I 0] at the start."""
    inner = embedding()
    mixed = two_times(inner, "mixed")
    assert isinstance(mixed, IntervalEmbedding) and mixed.weight.dtype == torch.float64
    assert torch.equal(mixed.weight, torch.cat([torch.eye(6), torch.zeros(6, 6)], 1).double())
    assert torch.equal(mixed(PAIR), inner(T))
    with torch.no_grad():
        mixed.weight.normal_(generator=torch.Generator().manual_seed(1))
    wanted = torch.cat([inner(T), inner(R)], -1) @ mixed.weight.T
    torch.testing.assert_close(mixed(PAIR), wanted)
    # one time is r = t
    torch.testing.assert_close(mixed(T), torch.cat([inner(T)] * 2, -1) @ mixed.weight.T)
    # the start is known to the code, not to the file
    assert set(mixed.state_dict()) == {"weight", "embedding.linear.weight", "embedding.linear.bias"}


def features(t, harmonics=4):
    return torch.stack(
        [
            torch.ones_like(t),
            t,
            *((math.pi * k * t).sin() for k in range(1, harmonics + 1)),
            *((math.pi * k * t).cos() for k in range(1, harmonics + 1)),
        ],
        -1,
    )


@pytest.mark.parametrize("harmonics", [2, 4])
def test_unit_is_the_least_squares_fit_and_a_small_network(harmonics):
    inner = embedding()
    unit = UnitIntervalEmbedding(inner, harmonics)
    grid = torch.linspace(0, 1, 513, dtype=torch.float64)
    fit = torch.linalg.lstsq(features(grid, harmonics), inner(grid)).solution
    torch.testing.assert_close(unit.fit, fit.T, rtol=1e-6, atol=1e-8)
    assert unit.fit.dtype == unit.hidden.weight.dtype == unit.out.weight.dtype == torch.float64
    assert torch.equal(unit.out.weight, torch.zeros(6, 6)) and unit.out.bias is None
    # at the start it does not know r
    torch.testing.assert_close(unit(PAIR), features(T, harmonics) @ fit)
    randomised(unit)
    pair = torch.cat([features(T, harmonics), features(R - T, harmonics)], -1)
    hidden = F.silu(pair @ unit.hidden.weight.T + unit.hidden.bias)
    wanted = features(T, harmonics) @ unit.fit.T + hidden @ unit.out.weight.T
    torch.testing.assert_close(unit(PAIR), wanted)
    torch.testing.assert_close(unit(T), unit(torch.stack([T, T], -1)))
    assert (unit(PAIR)[0] - unit(T)[0]).norm() > 0.01  # r matters now


def test_unit_reproduces_what_its_features_span():
    class Span(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(10, 3, dtype=torch.float64))

        def forward(self, t):
            return features(t) @ self.weight

    inner = Span()
    unit = two_times(inner, "unit")
    assert isinstance(unit, UnitIntervalEmbedding)
    t = torch.rand(50, dtype=torch.float64)
    torch.testing.assert_close(unit(torch.stack([t, t + 0.1], -1)), inner(t), rtol=1e-9, atol=1e-9)
    single = UnitIntervalEmbedding(inner.float())
    assert single(t).dtype == torch.float32  # of its weights, whatever the times are
    torch.testing.assert_close(single(t), inner(t.float()), rtol=1e-4, atol=1e-4)


def test_delta_wraps_any_embedding_once():
    inner = embedding(8)
    delta = two_times(inner, "delta")
    assert isinstance(delta, DeltaEmbedding) and two_times(delta, "delta") is delta
    assert torch.equal(delta(PAIR), inner(T))
    assert all(value.dtype == torch.float64 for value in delta.parameters())


def test_probing_leaves_the_embedding_as_it_was():
    for training in (True, False):
        inner = Embedding().train(training)
        state = torch.get_rng_state()
        for kind in ("mixed", "delta", "unit"):
            two_times(inner, kind)
            assert inner.training is training and inner.drop.training is training
        assert training or not torch.equal(torch.get_rng_state(), state)  # new weights were drawn
        a, b = (UnitIntervalEmbedding(inner).fit for _ in range(2))
        assert torch.equal(a, b)  # without dropout
    frozen = embedding()
    with torch.enable_grad():
        mixed = IntervalEmbedding(frozen)
    assert mixed.start.grad_fn is None and not mixed.start.requires_grad


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (lambda t: t @ torch.ones(2, 2), "it failed"),
        (lambda t: t[:, None, None], r"made \(1, 1, 1\)"),
        (lambda t: torch.ones(3, 4), r"made \(3, 4\)"),
        (lambda t: "text", "made str"),
    ],
)
def test_what_is_no_embedding_is_named(forward, reason):
    class Odd(nn.Module):
        def forward(self, t):
            return forward(t)

    for training in (True, False):
        odd = Odd().train(training)
        with pytest.raises(UserError, match=f"time embedding Odd: must map times.*{reason}"):
            two_times(odd, "mixed")
        assert odd.training is training
    with pytest.raises(UserError, match="'other' is not one of mixed, delta, unit"):
        two_times(embedding(), "other")  # type: ignore[arg-type]


def test_a_module_is_replaced_at_any_depth():
    network = nn.Sequential(nn.Linear(2, 2), nn.ModuleDict({"a": nn.Sequential(nn.ReLU())}))
    replace_module(network, "1.a.0", nn.Tanh())
    replace_module(network, "0", nn.Identity())
    assert [type(m).__name__ for m in network.modules()][1::3] == ["Identity", "Tanh"]
    with pytest.raises(AttributeError):
        replace_module(network, "1.b", nn.Tanh())
    assert not hasattr(network[1], "b")


@pytest.mark.parametrize("interval", ["mixed", "delta", "unit"])
def test_a_saved_student_has_its_kind_of_interval(interval, tmp_path):
    """Loaded with the trained numbers, not with those of a new fit or the start."""
    plain = small_student()
    sizes, task = CompactConfig(**plain.description["config"]), plain.task
    torch.manual_seed(0)
    teacher = Field(
        randomised(build_network("compact", sizes)), task, {"network": plain.description}
    )
    student = randomised(Student.from_teacher(teacher, interval=interval)).eval()
    save_student(student, tmp_path)
    loaded = load_student(tmp_path)
    assert loaded.interval == interval
    name = teacher.time_embedding
    assert type(loaded.network.get_submodule(name)) is type(student.network.get_submodule(name))
    saved = student.state_dict()
    assert saved.keys() == loaded.state_dict().keys()
    assert all(torch.equal(value, saved[key]) for key, value in loaded.state_dict().items())
    z, y = torch.randn(3, 2, 256, 4), torch.randn(3, 2, 256, 4)
    t, r = torch.tensor([0.0, 0.3, 1.0]), torch.tensor([1.0, 0.4, 1.0])
    u = student(z, t, r, {"y": y})
    assert torch.equal(loaded(z, t, r, {"y": y}), u)
    # the end of the interval is in it
    assert (loaded(z, t, t, {"y": y})[0] - u[0]).norm() > 1e-5 * u[0].norm()


def test_the_toy_teacher_too():
    teacher, shape = toy()
    student = Student.from_teacher(teacher, interval="unit")
    z, cond = torch.randn(3, *shape), {"y": torch.randn(3, *shape)}
    t = torch.tensor([0.1, 0.5, 0.9])
    # sin and cos of t lie nearly in the span of its features, tanh of them still
    v = teacher.velocity(z, t, cond)
    assert (student(z, t, torch.ones(3), cond) - v).norm() < 1e-3 * v.norm()
    assert isinstance(two_times(NoisinessEmbedding(2), "unit"), UnitIntervalEmbedding)
