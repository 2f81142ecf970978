"""Objectives against a Gaussian flow that is known in closed form (``gaussian.py``)."""

import math

import pytest
import torch
from gaussian import GaussianFlow
from test_students import compact, toy
from torch import nn

from mfdistill.audio.spectral_loss import spectral_loss
from mfdistill.distill.objectives import (
    OBJECTIVES,
    CFMObjective,
    IntegralConfig,
    IntegralObjective,
    MeanFlowConfig,
    MeanFlowObjective,
    RegressionObjective,
    average_velocity,
    estimate,
)
from mfdistill.distill.objectives.base import squared_error
from mfdistill.distill.objectives.meanflow import meanflow_weight
from mfdistill.errors import UserError
from mfdistill.flow import GaussianPath, IntervalConfig, expand_time, noise
from mfdistill.students import Student
from mfdistill.tasks import default_task, get_task
from mfdistill.teachers import own_facts

PATH = GaussianPath(sigma_0=1.0, sigma_1=0.1, mean="zero")
FIELD = GaussianFlow.of_path(PATH, mu=-0.7, s=0.25)
ORDER = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}


class FieldTeacher:
    """The exact marginal velocity; counts its calls and the rows in them."""

    time_embedding = ""
    network = nn.Identity()
    facts = own_facts(network)
    branches = 1

    def __init__(self, field: GaussianFlow = FIELD):
        self.field, self.calls, self.rows = field, 0, 0

    def velocity(self, z_t, t, cond):
        assert not torch.is_grad_enabled() and all(
            len(value) == len(z_t) for value in cond.values()
        )
        self.calls, self.rows = self.calls + 1, self.rows + len(z_t)
        return self.field.marginal_velocity(z_t, t)

    def prior(self, cond, generator=None):
        raise NotImplementedError

    def to(self, device=None, dtype=None):
        return self


class FieldStudent(nn.Module):
    """``u(z, t, r) + theta . features``, linear in theta; at theta = 0 the u that it was made
    with.
    """

    def __init__(self, u):
        super().__init__()
        self.u = u
        self.theta = nn.Parameter(torch.zeros(4, dtype=torch.float64))

    def forward(self, z, t, r, cond):
        wide = [time.reshape(-1, 1, 1, 1).to(z.dtype).expand_as(z) for time in (t, r)]
        features = torch.stack([torch.ones_like(z), z, wide[0] * z, wide[1]], -1)
        return self.u(z, t, r) + features @ self.theta.to(z.dtype)


def data(b: int = 32, f: int = 6, n: int = 5, start: int = 0, **more):
    """x with every real channel N(mu, s^2), as the field has it."""
    x = FIELD.mu + FIELD.s * torch.randn(
        b, 2, f, n, dtype=torch.float64, generator=torch.Generator().manual_seed(start)
    )
    index = torch.arange(start, start + b)
    return {
        "z_1": x,
        "cond": {"y": torch.zeros_like(x)},
        "loss_mask": None,
        "index": index,
        "progress": 1.0,
        **more,
    }


# ---- meanflow


@pytest.mark.parametrize("method", ["forward", "forward-graph", "double-backward"])
@pytest.mark.parametrize("c", [1.0, 0.5, 2.0])
def test_meanflow_has_zero_loss_at_its_own_fixed_point_only(c, method):
    config = MeanFlowConfig(mf_first_order_coef=c, mf_jvp_impl=method)
    fixed = FieldStudent(lambda z, t, r: FIELD.fixed_point(z, t, r, c))
    loss, _ = MeanFlowObjective(fixed, FieldTeacher(), PATH, config)(data(b=8))
    assert loss < 1e-12
    true, _ = MeanFlowObjective(FieldStudent(FIELD.average_velocity), FieldTeacher(), PATH, config)(
        data(b=8)
    )
    assert true < 1e-12 if c == 1 else true > 1e-3, (
        "only c = 1 has the average velocity as its fixed point"
    )


def test_meanflow_by_central_differences_and_with_normalised_tangent():
    student = FieldStudent(FIELD.average_velocity)
    for config in (
        MeanFlowConfig(mf_jvp_impl="central"),
        MeanFlowConfig(tangent_normalise=True),
        MeanFlowConfig(adaptive_power=1.0),
        MeanFlowConfig(mf_weight_final=0.25),
    ):
        loss, logs = MeanFlowObjective(student, FieldTeacher(), PATH, config)(data())
        assert loss < 1e-9 and all(math.isfinite(float(value)) for value in logs.values())


def gradients(make, batches: int = 40, b: int = 128):
    """Mean gradient of theta over independent batches, and its standard error, each (4,)."""
    rows = []
    for k in range(batches):
        objective = make()
        objective(data(b, 8, 8, start=k * b))[0].backward()
        rows.append(objective.model.theta.grad)
    grads = torch.stack(rows)
    return grads.mean(0), grads.std(0) / math.sqrt(batches)


def test_meanflow_with_the_conditional_velocity_has_zero_expected_gradient_at_the_true_u():
    def make(c):
        config = MeanFlowConfig(teacher_free=True, mf_first_order_coef=c)
        return lambda: MeanFlowObjective(FieldStudent(FIELD.average_velocity), None, PATH, config)

    mean, error = gradients(make(1.0))
    # tolerance: four standard errors of 655,360 draws
    assert (mean.abs() < 4 * error).all(), (mean, error)
    wrong, _ = gradients(make(0.5), batches=10)
    assert (error < wrong.abs().max() / 30).all() and wrong.abs().max() > 4 * error.max(), (
        "the test could not tell a wrong c"
    )


class FieldNetwork(FieldStudent):
    def forward(self, z, t, cond):
        return super().forward(z, t, t, cond)


def test_cfm_has_zero_expected_gradient_at_the_marginal_velocity():
    mean, error = gradients(lambda: CFMObjective(FieldNetwork(FIELD.average_velocity), PATH))
    assert (mean.abs() < 4 * error).all(), (mean, error)
    wrong, _ = gradients(
        lambda: CFMObjective(
            FieldNetwork(lambda z, t, r: 0.9 * FIELD.average_velocity(z, t, r)), PATH
        ),
        batches=5,
    )
    assert wrong.abs().max() > 20 * error.max()


@pytest.mark.parametrize("make", [toy, compact])
def test_two_pass_and_one_pass_derivatives_give_the_same_gradient(make):
    teacher, shape = make()
    results = []
    for method in ("forward", "forward-graph", "double-backward"):
        student = Student.from_teacher(teacher)
        for p in student.parameters():
            p.data += 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(4))
        x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(5))
        batch = {"z_1": x, "cond": {"y": x + 0.1}, "index": torch.arange(3)}
        loss, _ = MeanFlowObjective(
            student,
            teacher,
            GaussianPath(0.3),
            MeanFlowConfig(mf_jvp_impl=method, mf_r_equals_t_prob=0),
        )(batch)
        loss.backward()
        results.append(
            torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])
        )
    for other in results[1:]:
        assert (other - results[0]).norm() / results[0].norm() < 1e-5


def test_the_clip_bounds_each_samples_derivative_and_says_so():
    student = FieldStudent(FIELD.average_velocity)

    def run(**options):
        return MeanFlowObjective(
            student, FieldTeacher(), PATH, MeanFlowConfig(mf_r_equals_t_prob=0.0, **options)
        )(data())

    free, logs = run()
    assert logs["jvp_clip_fraction"] == 0 and logs["jvp_over_v"] > 0.1
    wide, logs_wide = run(mf_jvp_clip=1e6)
    assert torch.equal(free, wide) and logs_wide["jvp_clip_fraction"] == 0
    tight, logs_tight = run(mf_jvp_clip=1e-6)
    assert logs_tight["jvp_clip_fraction"] == 1 and logs_tight["jvp_over_v"] == logs["jvp_over_v"]
    assert logs_tight["correction_over_v"] < 1e-6 < 0.01 < logs["correction_over_v"]
    uncorrected, _ = run(mf_first_order_coef=0.0)
    torch.testing.assert_close(tight, uncorrected, rtol=1e-4, atol=1e-6)


def test_curricula_are_meanflowses():
    config = MeanFlowConfig(
        teacher_free=True,
        mf_weight_final=0.25,
        mf_warmup_frac=0.5,
        mf_skip_weight_thresh=0.05,
        mf_delta_gamma_start=8.0,
    )
    assert meanflow_weight(config, 14 / 150) == 0 and meanflow_weight(
        config, 15 / 150
    ) == pytest.approx(0.05)
    assert meanflow_weight(config, 75 / 150) == 0.25 == meanflow_weight(config, 1.0)
    assert (
        config.interval.anneal_start,
        config.interval.anneal_end,
        config.interval.anneal_fraction,
    ) == (8.0, 1.0, 0.7)
    student = FieldStudent(FIELD.average_velocity)
    early, logs = MeanFlowObjective(student, None, PATH, config)(data(progress=0.0))
    assert "mf" not in logs and early == logs["cfm"], (
        "below the threshold the flow-matching term has full weight"
    )
    late, logs = MeanFlowObjective(student, None, PATH, config)(data(progress=1.0))
    torch.testing.assert_close(late.detach(), 0.75 * logs["cfm"] + 0.25 * logs["mf"])
    ramped = MeanFlowConfig(tangent_warmup_frac=0.5)
    _, logs = MeanFlowObjective(student, FieldTeacher(), PATH, ramped)(data(progress=1e-9))
    assert logs["correction_over_v"] < 1e-6


def test_meanflow_needs_a_teacher_or_to_be_told_otherwise():
    with pytest.raises(UserError, match="teacher_free"):
        MeanFlowObjective(FieldStudent(FIELD.average_velocity), None, PATH)
    with pytest.raises(UserError, match="mf_weight_final"):
        MeanFlowConfig(mf_weight_final=1.5)


# ---- integral


def slopes(velocity, exact, solver):
    """Observed order of the target's error when the substeps double, twice."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(256, 2, 2, 2, dtype=torch.float64, generator=generator)
    t, r = torch.rand(2, 256, dtype=torch.float64, generator=generator).sort(0).values
    u = exact(z, t, r)
    errors = [
        (average_velocity(velocity, z, t, r, n, solver) - u).square().mean().sqrt().item()
        for n in (16, 32, 64)
    ]
    return [math.log2(coarse / fine) for coarse, fine in zip(errors, errors[1:], strict=False)]


@pytest.mark.parametrize("solver", ORDER)
def test_integral_targets_converge_at_the_solvers_order(solver):
    # the Gaussian flow with its clock warped to t^2: on the straight path itself S^2 is quadratic
    # in t and midpoint gains an order
    def velocity(z, t):
        return 2 * expand_time(t, z) * FIELD.marginal_velocity(z, t**2)

    def exact(z, t, r):
        return (FIELD.flow_map(z, t**2, r**2) - z) / expand_time(r - t, z)

    assert slopes(velocity, exact, solver) == pytest.approx([ORDER[solver]] * 2, abs=0.3)
    straight = slopes(FIELD.marginal_velocity, FIELD.average_velocity, solver)
    assert straight == pytest.approx([3 if solver == "midpoint" else ORDER[solver]] * 2, abs=0.3)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("state", ["data", "rollout"])
@pytest.mark.parametrize("solver", ["midpoint", "rk4"])
def test_every_target_of_a_rollout_is_an_average_velocity(solver, state, k):
    teacher = FieldTeacher()
    config = IntegralConfig(
        substeps=8,
        solver=solver,
        state=state,
        targets_per_rollout=k,
        interval=IntervalConfig(p_full=0.25),
    )
    objective = IntegralObjective(FieldStudent(FIELD.average_velocity), teacher, PATH, config)
    z, t, r, target, nfe = objective.targets(data(b=16))
    assert z.shape == (16 * k, 2, 6, 5) and (r > t).all()
    torch.testing.assert_close(
        target, FIELD.average_velocity(z, t, r), rtol=0, atol=2e-2 if solver == "midpoint" else 2e-4
    )
    assert nfe == teacher.calls == 8 * ORDER[solver] * (2 if state == "rollout" else 1), (
        "reusing a rollout costs the teacher nothing"
    )
    loss, logs = objective(data(b=16))
    assert loss < 1e-3 and logs["teacher_nfe"] == nfe


def test_the_teacher_computes_in_the_runs_precision_only_where_asked():
    class Linear(FieldTeacher):  # a matrix, which autocast rounds to 8 bits
        def velocity(self, z, t, cond):
            return super().velocity(z, t, cond) + z.float() @ torch.full((5, 5), 0.1)

    def target(precision, autocast):
        config = IntegralConfig(teacher_precision=precision)
        objective = IntegralObjective(FieldStudent(FIELD.average_velocity), Linear(), PATH, config)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return objective.targets(data(b=16))[3]

    exact = target("weights", False)
    assert torch.equal(target("weights", True), exact) and torch.equal(target("run", False), exact)
    rounded = target("run", True)
    assert rounded.dtype == exact.dtype
    assert 1e-4 < (rounded - exact).norm() / exact.norm() < 2**-7


def test_rollout_states_come_from_fresh_noise_alone():
    config = IntegralConfig(substeps=16, solver="rk4", state="rollout")
    objective = IntegralObjective(
        FieldStudent(FIELD.average_velocity), FieldTeacher(), PATH, config
    )
    batch = data(b=16)
    z, t, _, _, _ = objective.targets(batch)
    z_0 = PATH.prior(
        batch["cond"], noise(0, batch["index"], "noise", z.shape[1:], dtype=torch.float64)
    )
    torch.testing.assert_close(z, FIELD.flow_map(z_0, 0.0, t), rtol=0, atol=1e-5)


@pytest.mark.parametrize("k", [1, 2])
def test_anchors_are_the_teachers_velocity_and_are_never_divided(k):
    teacher = FieldTeacher()
    config = IntegralConfig(interval=IntervalConfig(p_equal=1.0), targets_per_rollout=k)
    objective = IntegralObjective(FieldStudent(FIELD.average_velocity), teacher, PATH, config)
    z, t, r, target, nfe = objective.targets(data())
    assert torch.equal(t, r) and nfe == 1 and teacher.calls == 1
    assert torch.equal(target, FIELD.marginal_velocity(z, t))

    teacher = FieldTeacher()
    config = IntegralConfig(interval=IntervalConfig(p_equal=0.5), targets_per_rollout=k)
    objective = IntegralObjective(FieldStudent(FIELD.average_velocity), teacher, PATH, config)
    z, t, r, target, nfe = objective.targets(data())
    anchors = t == r
    assert 0 < anchors.sum() < len(t) and torch.isfinite(target).all()
    torch.testing.assert_close(target[anchors], FIELD.marginal_velocity(z, t)[anchors])
    assert teacher.rows == round(float(nfe) * 32), "anchor rows do not pay for a rollout"


def test_guided_teachers_are_counted_with_their_branches():
    teacher = FieldTeacher()
    teacher.branches = 2
    objective = IntegralObjective(FieldStudent(FIELD.average_velocity), teacher, PATH)
    assert objective(data(b=4))[1]["teacher_nfe"] == 4 * 2 * 2


# ---- all of them


def objectives(teacher, path):
    for name, (config, objective) in OBJECTIVES.items():
        yield name, objective(Student.from_teacher(teacher), teacher, path, config())


def test_the_teacher_is_neither_saved_nor_trained_and_stays_in_evaluation_mode():
    teacher, shape = compact()
    for _, objective in objectives(teacher, GaussianPath(0.3)):
        student = len(objective.model.state_dict())
        assert len(objective.state_dict()) == student and all(
            key.startswith("model.") for key in objective.state_dict()
        )
        own = {id(p) for p in teacher.network.parameters()}
        assert not own & {id(p) for p in objective.parameters()}
        objective.train()
        assert objective.model.training and not teacher.network.training
        x = torch.randn(2, *shape)
        loss, logs = objective({"z_1": x, "cond": {"y": x + 0.1}, "index": torch.arange(2)})
        loss.backward()
        assert (
            all(p.grad is None for p in teacher.network.parameters())
            and not teacher.network.training
        )
        assert all(not value.requires_grad and value.ndim == 0 for value in logs.values())


def test_a_teacher_that_is_a_module_is_not_registered_either():
    class ModuleTeacher(nn.Module):
        def __init__(self):
            super().__init__()
            self.network, self.time_embedding = nn.Linear(2, 2), ""
            self.facts = own_facts(self.network)

    objective = IntegralObjective(
        FieldStudent(FIELD.average_velocity), ModuleTeacher().eval(), PATH
    )
    objective.train()
    assert set(objective.state_dict()) == {"model.theta"} and len(list(objective.parameters())) == 1
    assert not objective.teacher.training


def test_the_loss_is_the_mean_over_all_frames_that_count():
    x = data(b=4)["z_1"]
    mask = torch.ones(4, 1, 1, 5, dtype=torch.float64)
    mask[1:, ..., 1:] = 0
    objective = RegressionObjective(FieldNetwork(lambda z, t, r: z), PATH)
    batch = {"z_1": x, "cond": {"y": torch.zeros_like(x)}, "index": torch.arange(4)}
    square = x.square().sum(1, keepdim=True)
    for m in (None, mask):
        expected = square.mean() if m is None else (square * m).sum() / (m.sum() * 6)
        torch.testing.assert_close(objective({**batch, "loss_mask": m})[0], expected)


def test_losses_and_gradients_do_not_depend_on_how_the_batch_is_split():
    mask = (torch.rand(8, 1, 1, 5, generator=torch.Generator().manual_seed(0)) < 0.7).double()
    whole = data(b=8, loss_mask=mask)

    def part(a, b):
        count = mask.sum() / 2
        cut = {
            key: value[a:b] for key, value in whole.items() if key in ("z_1", "loss_mask", "index")
        }
        return {**cut, "cond": {"y": whole["cond"]["y"][a:b]}, "progress": 1.0, "loss_count": count}

    makes = [
        lambda: IntegralObjective(
            FieldStudent(lambda z, t, r: z),
            FieldTeacher(),
            PATH,
            IntegralConfig(targets_per_rollout=2),
        ),
        lambda: MeanFlowObjective(
            FieldStudent(lambda z, t, r: z),
            FieldTeacher(),
            PATH,
            MeanFlowConfig(adaptive_power=0.5),
        ),
        lambda: MeanFlowObjective(
            FieldStudent(lambda z, t, r: z),
            None,
            PATH,
            MeanFlowConfig(teacher_free=True, mf_weight_final=0.25),
        ),
        lambda: CFMObjective(FieldNetwork(lambda z, t, r: z), PATH),
    ]
    for make in makes:
        one, two = make(), make()
        loss, _ = one(whole)
        loss.backward()
        losses = []
        for a, b in ((0, 3), (3, 8)):
            half, _ = two(part(a, b))
            (half / 2).backward()
            losses.append(half.detach() / 2)
        torch.testing.assert_close(sum(losses), loss.detach(), rtol=1e-5, atol=0)
        torch.testing.assert_close(two.model.theta.grad, one.model.theta.grad, rtol=1e-5, atol=1e-6)


def test_frames_that_do_not_count_change_nothing():
    a, b = torch.randn(3, 2, 4, 6), torch.randn(3, 2, 4, 6)
    mask = torch.ones(3, 1, 1, 6)
    mask[1, ..., 4:] = 0
    mask[2] = 0
    error = squared_error(a, b, mask)
    assert error[2] == 0
    torch.testing.assert_close(error[1], (a - b)[1, :, :, :4].square().sum(0).mean())
    b[1, ..., 4:] = 99
    assert torch.equal(squared_error(a, b, mask), error)
    torch.testing.assert_close(squared_error(a, b, None), (a - b).square().sum(1).mean((1, 2)))


def test_regression_starts_at_the_mean_of_the_prior():
    class Constant(nn.Module):
        def forward(self, z, t, cond):
            assert (t == 0).all()
            return torch.ones_like(z)

    y, x = torch.randn(2, 2, 4, 3), torch.randn(2, 2, 4, 3)
    assert torch.equal(estimate(Constant(), GaussianPath(0.3), {"y": y}), y + 1)
    assert torch.equal(
        estimate(Constant(), GaussianPath(0.3, mean="zero"), {"y": y}), torch.ones_like(y)
    )
    loss, _ = RegressionObjective(Constant(), GaussianPath(0.3))(
        {"z_1": x, "cond": {"y": y}, "index": torch.arange(2)}
    )
    torch.testing.assert_close(loss, (y + 1 - x).square().sum(1).mean())


# ---- magnitudes


def test_spectral_loss_knows_magnitudes_and_no_phase():
    x = torch.randn(3, 8000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gain = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)
    loss = spectral_loss(gain[:, None] * x, x, 16000)
    assert loss[:2].abs().max() == 0
    # the floor of the log takes the rest
    assert loss[2].item() == pytest.approx(0.5 + math.log(2), rel=2e-3)


@pytest.mark.parametrize("target", ["data", "teacher"])
def test_the_magnitude_loss_is_that_of_the_reached_ends(target):
    task = get_task(default_task("vocode", 8000))
    clean = 0.3 * torch.randn(4, 4000, generator=torch.Generator().manual_seed(1))
    batch = {
        "z_1": task.target(clean),
        "cond": task.condition(clean),
        "loss_mask": None,
        "index": torch.arange(4),
        "progress": 1.0,
    }

    class Fixed(nn.Module):
        """Reaches ``scale`` times the data (a state at r < 1 is never compared)."""

        def __init__(self, scale):
            super().__init__()
            self.scale, self.task = scale, task

        def forward(self, z, t, r, cond):
            return (self.scale * batch["z_1"] - z) / expand_time(1 - t, z)

    class Straight(FieldTeacher):
        """Whose every rollout ends in the data."""

        def velocity(self, z_t, t, cond):
            return (batch["z_1"][: len(z_t)] - z_t) / expand_time(1 - t, z_t)

    config = IntegralConfig(
        substeps=2,
        solver="euler",
        interval=IntervalConfig(p_full=1.0),
        spectral=0.5,
        spectral_target=target,
    )
    plain = IntegralConfig(substeps=2, solver="euler", interval=IntervalConfig(p_full=1.0))
    # features carry the square root of the magnitude
    for scale, expected in ((1.0, 0.0), (0.5, 0.75 + math.log(4))):
        loss, logs = IntegralObjective(Fixed(scale), Straight(), task.path, config, 3)(batch)
        assert logs["spectral"].item() == pytest.approx(expected, rel=0.02, abs=1e-3)
        without, _ = IntegralObjective(Fixed(scale), Straight(), task.path, plain, 3)(batch)
        assert loss.item() == pytest.approx(
            without.item() + 0.5 * logs["spectral"].item(), rel=1e-5
        )
    regression = RegressionObjective(Constant(batch["z_1"]), task.path, task, 0.5)
    assert regression(batch)[1]["spectral"].item() == pytest.approx(0, abs=1e-3)


class Constant(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, z, t, cond):
        return self.value - z


def test_the_magnitude_loss_needs_stft_features():
    student = Student.from_teacher(toy()[0])
    with pytest.raises(
        UserError, match="--integral.spectral: needs a task whose states are STFT features"
    ):
        IntegralObjective(student, FieldTeacher(), PATH, IntegralConfig(spectral=0.1), 0)
