"""Objectives with their options away from where they do nothing, alone and together, against the
same sums written out for a student that is linear on paper.
"""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from gaussian import GaussianFlow
from test_objectives import FIELD, PATH, FieldTeacher, data
from torch import nn

from mfdistill.audio.spectral_loss import spectral_loss
from mfdistill.distill.objectives import (
    CFMObjective,
    IntegralConfig,
    IntegralObjective,
    MeanFlowConfig,
    MeanFlowObjective,
    RegressionObjective,
    average_velocity,
)
from mfdistill.distill.objectives.base import (
    absolute_error,
    end_points,
    norm,
    reduce,
    squared_error,
    teacher_velocity,
    within_reach,
)
from mfdistill.distill.objectives.cfm import data_estimate, quiet_weights
from mfdistill.distill.objectives.config import MOST_SUBSTEPS
from mfdistill.distill.objectives.derivative import derivative, finite_difference
from mfdistill.distill.objectives.imitation import ImitationObjective
from mfdistill.errors import UserError
from mfdistill.flow import (
    GaussianPath,
    IntervalConfig,
    TimeConfig,
    interpolate,
    noise,
    sample_interval,
    sample_time,
    uniform,
)
from mfdistill.tasks import default_task, get_task

COEFFICIENTS = (0.7, -0.4, 0.3, 0.9)


class Linear(nn.Module):
    """``u = a z + b t z + c r + d t + y``, whose derivative along (v, 1) is ``(a + b t) v + b z +
    d``.
    """

    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(COEFFICIENTS, dtype=torch.float64))

    def forward(self, z, t, r, cond):
        t, r = (x.reshape(-1, *[1] * (z.ndim - 1)).to(z.dtype) for x in (t, r))
        a, b, c, d = self.theta.to(z.dtype)
        return a * z + b * t * z + c * r + d * t + cond["y"]

    def derivative(self, z, t, v):
        t = t.reshape(-1, *[1] * (z.ndim - 1)).to(z.dtype)
        a, b, _, d = self.theta.detach()
        return (a + b * t) * v + b * z + d


class Network(Linear):
    """The same at r = t, of one time."""

    def forward(self, z, t, cond):
        return super().forward(z, t, t, cond)


class CondTeacher(FieldTeacher):
    """Velocity ``y`` of each sample: so is every average of it, where the rows are the right
    ones.
    """

    def velocity(self, z_t, t, cond):
        super().velocity(z_t, t, cond)
        return cond["y"]


def batch_of(b=6, masked=False, **more):
    """Samples with conditions of their own, and as many frames that count as they are long."""
    batch = data(b, **more)
    batch["cond"] = {"y": torch.randn(batch["z_1"].shape, dtype=torch.float64)}
    if masked:
        count = torch.tensor([5, 1, 3, 2, 4, 5, 1, 2])[:b]
        batch["loss_mask"] = (torch.arange(5) < count[:, None]).double()[:, None, None]
    return batch


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def counted(x, mask, i):
    """The values of sample i that count, complex bins on the last axis: (2, n)."""
    frames = x.shape[-1] if mask is None else int(mask[i].sum())
    return x[i, ..., :frames].reshape(2, -1)


def mean_error(a, b, mask, kind):
    """(b,) by a loop over the samples."""
    rows = []
    for i in range(len(a)):
        square = counted(a - b, mask, i).square().sum(0)
        rows.append((square if kind == "mse" else square.sqrt()).mean())
    return torch.stack(rows)


def weighted_mean(rows, mask):
    weights = torch.ones_like(rows) if mask is None else mask.flatten(1).sum(1)
    return (rows * weights).sum() / weights.sum()


def drawn(config, batch, seed, path=PATH):
    """t, r, z_t and the conditional velocity of a batch."""
    u = uniform(seed, batch["index"], "times", 4)
    t, r = sample_interval(config.interval, u, batch["progress"])
    eps = noise(seed, batch["index"], "noise", batch["z_1"].shape[1:], dtype=torch.float64)
    z_0, z_1 = path.end_points(batch["z_1"], batch["cond"], eps)
    return t, r, interpolate(z_0, z_1, t), z_1 - z_0


def gradient_of(loss, student):
    return torch.autograd.grad(loss, student.theta, retain_graph=True)[0]


# ---- meanflow

OPTIONS = {
    "plain": {},
    "c": {"mf_first_order_coef": 0.5},
    "clip": {"mf_jvp_clip": 6.0},
    "mae": {"loss_type": "mae"},
    "adaptive": {"adaptive_power": 0.75, "adaptive_eps": 0.2},
    "tangent": {"tangent_normalise": True, "tangent_normalise_eps": 0.3},
    "half": {"mf_weight_final": 0.25},
    "ramped": {"tangent_warmup_frac": 0.6, "mf_warmup_frac": 0.5, "mf_weight_final": 0.8},
}


def expected_meanflow(config, batch, seed, student, teacher):
    """Loss, MeanFlow and CFM parts, the fraction that was clipped and the size of what was applied,
    sample by sample.
    """
    mask, progress = batch["loss_mask"], batch["progress"]
    t, r, z, v = drawn(config, batch, seed)
    if teacher is not None:
        v = teacher.field.marginal_velocity(z, t)
    du_dt, u = student.derivative(z, t, v), student(z, t, r, batch["cond"])
    frac = config.tangent_warmup_frac
    c = config.mf_first_order_coef * (min(1, progress / frac) if frac else 1)
    target, clipped, sizes, before = torch.empty_like(z), [], [], []
    for i in range(len(z)):
        size, of_v = counted(du_dt, mask, i).norm(), counted(v, mask, i).norm()
        shrink = min(1.0, config.mf_jvp_clip / float(size)) if config.mf_jvp_clip else 1.0
        clipped.append(float(shrink < 1))
        correction = c * (r - t)[i].double() * shrink * du_dt[i]
        target[i] = v[i] + correction
        sizes.append(
            counted(correction[None], None if mask is None else mask[i : i + 1], 0).norm() / of_v
        )
        before.append(size / of_v)
        if config.tangent_normalise:
            residual = u[i].detach() - target[i]
            own = counted(residual[None], None if mask is None else mask[i : i + 1], 0)
            rms = own.square().sum(0).mean().sqrt()
            target[i] = u[i].detach() - residual / (rms + config.tangent_normalise_eps)

    def weigh(error):
        if not config.adaptive_power:
            return error
        weights = [1 / (float(e) + config.adaptive_eps) ** config.adaptive_power for e in error]
        return error * torch.tensor(weights, dtype=torch.float64)

    mf = mean_error(u, target, mask, config.loss_type)
    cfm = mean_error(student(z, t, t, batch["cond"]), v, mask, config.loss_type)
    w = config.mf_weight_final
    w *= min(1, progress / config.mf_warmup_frac) if config.mf_warmup_frac else 1
    rows = (1 - w) * weigh(cfm) + w * weigh(mf)
    logs = {
        "mf": mf.mean(),
        "mf_weight": torch.tensor(w),
        "jvp_clip_fraction": torch.tensor(clipped).mean(),
        "correction_over_v": torch.stack(sizes).mean(),
        "jvp_over_v": torch.stack(before).mean(),
        **({"cfm": cfm.mean()} if w < 1 else {}),
    }
    return weighted_mean(rows, mask), logs


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("teacher", [FieldTeacher(), None], ids=["teacher", "free"])
@pytest.mark.parametrize("pair", itertools.combinations(OPTIONS, 2), ids="-".join)
def test_meanflow_is_its_sums_for_every_two_options(pair, teacher, masked):
    options = {**OPTIONS[pair[0]], **OPTIONS[pair[1]]}
    config = MeanFlowConfig(teacher_free=teacher is None, mf_r_equals_t_prob=0.3, **options)
    student, batch = Linear(), batch_of(masked=masked, progress=0.3)
    objective = MeanFlowObjective(student, teacher, PATH, config, seed=4)
    loss, logs = objective(batch)
    wanted, parts = expected_meanflow(config, batch, 4, student, teacher)
    torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        gradient_of(loss, student), gradient_of(wanted, student), rtol=1e-5, atol=1e-8
    )
    assert set(logs) == {"loss", *parts}
    assert not any(value.requires_grad for value in logs.values())
    for name, value in parts.items():
        assert float(logs[name]) == pytest.approx(float(value), rel=1e-6), name
    if "clip" in pair:
        assert logs["jvp_clip_fraction"] > 0, "the clip must bind"
        assert not masked or logs["jvp_clip_fraction"] < 1, "and not where little counts"


def test_the_meanflow_term_is_skipped_below_its_threshold():
    options = {"mf_weight_final": 0.8, "mf_warmup_frac": 0.5, "mf_skip_weight_thresh": 0.4}
    student = Linear()
    for progress, w in ((0.2, 0.0), (0.25, 0.4), (0.5, 0.8), (1.0, 0.8)):
        objective = MeanFlowObjective(student, FieldTeacher(), PATH, MeanFlowConfig(**options), 1)
        loss, logs = objective(batch_of(progress=progress))
        assert float(logs["mf_weight"]) == pytest.approx(w) and ("mf" in logs) == (w > 0)
        total = (1 - w) * logs["cfm"] + w * logs.get("mf", 0.0)
        torch.testing.assert_close(loss.detach(), total)
        assert torch.equal(loss.detach(), logs["loss"]) and not logs["loss"].requires_grad


def test_a_field_that_stands_still_divides_by_nothing():
    """v = 0 and du/dt = 0: ratios of sizes and clips stay finite."""
    student, teacher = Linear(), CondTeacher()
    with torch.no_grad():
        student.theta.zero_()
    batch = batch_of()
    batch["cond"]["y"].zero_()
    config = MeanFlowConfig(mf_jvp_clip=1.0, tangent_normalise=True)
    loss, logs = MeanFlowObjective(student, teacher, PATH, config)(batch)
    loss.backward()
    assert loss == 0 and all(float(logs[name]) == 0 for name in ("jvp_over_v", "correction_over_v"))
    assert student.theta.grad.isfinite().all() and logs["jvp_clip_fraction"] == 0


def test_the_derivative_is_chosen_once_and_the_reason_is_said(monkeypatch):
    said = []
    monkeypatch.setattr("mfdistill.distill.objectives.meanflow.say", said.append)

    class Refused(Linear):
        calls = 0

        def forward(self, z, t, r, cond):
            if torch.autograd.forward_ad._current_level >= 0:
                Refused.calls += 1
                raise UserError("derivative method: torch cannot; use 'central'")
            return super().forward(z, t, r, cond)

    batch, config = batch_of(), MeanFlowConfig(mf_jvp_impl="auto", mf_jvp_eps=1e-3)
    for make, name in ((Linear, "forward"), (Refused, "fd")):
        objective = MeanFlowObjective(make(), FieldTeacher(), PATH, config)
        first = objective(batch)[0]
        assert torch.equal(objective(batch)[0], first)
        alone = replace(config, mf_jvp_impl=name)
        torch.testing.assert_close(
            first,
            MeanFlowObjective(Linear(), FieldTeacher(), PATH, alone)(batch)[0],
            rtol=1e-6,
            atol=0,
        )
        assert len(said) == 1 and said.pop().startswith(f"mf_jvp_impl auto: {name} (")
    assert Refused.calls == 1


def test_meanflow_takes_straight_teachers_only():
    bent = FieldTeacher()
    bent.facts = replace(bent.facts, straight=False)
    with pytest.raises(UserError, match="needs a teacher trained on straight paths"):
        MeanFlowObjective(Linear(), bent, PATH)
    free = MeanFlowObjective(Linear(), bent, PATH, MeanFlowConfig(teacher_free=True))
    assert free.teacher is None
    with pytest.raises(UserError, match="'data' needs a teacher trained on straight paths"):
        IntegralObjective(Linear(), bent, PATH)
    IntegralObjective(Linear(), bent, PATH, IntegralConfig(state="rollout"))


# ---- its derivative


@pytest.mark.parametrize("chunk", [0, 1, 4, 6, 7])
@pytest.mark.parametrize(
    "impl", ["forward", "forward-graph", "double-backward", "autograd", "central", "fd"]
)
def test_chunks_change_nothing(impl, chunk):
    student, batch = Linear(), batch_of()
    t, r, z, v = drawn(MeanFlowConfig(), batch, 0)
    t, r = 0.2 + 0.3 * t, 0.6 + 0.3 * r
    u, du_dt = derivative(student, impl, z, t, r, v, batch["cond"], 1e-3, chunk)
    torch.testing.assert_close(u, student(z, t, r, batch["cond"]))
    torch.testing.assert_close(
        du_dt,
        student.derivative(z, t, v),
        rtol=1e-4,
        atol=1e-4 if impl in ("central", "fd") else 1e-8,
    )
    assert du_dt.requires_grad == (impl == "forward-graph") and u.requires_grad


def test_calls_are_as_large_as_a_chunk():
    seen = []

    class Noted(Linear):
        def forward(self, z, t, r, cond):
            seen.append(len(z))
            assert len(cond["y"]) == len(z)
            return super().forward(z, t, r, cond)

    batch = batch_of()
    t, r, z, v = drawn(MeanFlowConfig(), batch, 0)
    # a plain call beside each derivative, whose u is not kept, and one of all
    single = [1] * 12 + [6]
    for chunk, wanted in ((4, [4, 4, 2, 2, 6]), (6, [6, 6]), (5, [5, 5, 1, 1, 6]), (1, single)):
        seen.clear()
        derivative(Noted(), "forward", z, t, r, v, batch["cond"], 1e-3, chunk)
        assert seen == wanted


def test_the_finite_difference_has_meanflowses_step():
    """u = t^3: (f(t + e) - f(t - e)) / 2e = 3 t^2 + e^2 with e = eps (mean |z| + mean |v|)."""

    def cube(z, t, r, cond):
        assert not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
        return (t**3).reshape(-1, 1, 1, 1).expand_as(z)

    z, v = torch.randn(2, 3, 2, 4, 5, dtype=torch.float64)
    t = torch.full((3,), 0.5, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        found = finite_difference(cube, z, t, t, v, {}, eps=0.1)  # type: ignore[arg-type]
    for i in range(3):
        sizes = [torch.hypot(x[i, 0], x[i, 1]).mean() for x in (z, v)]
        e = 0.1 * float(sum(sizes))
        torch.testing.assert_close(found[i], torch.full_like(found[i], 0.75 + e**2))
    still = finite_difference(cube, 0 * z, t, t, 0 * v, {}, eps=1.0)  # type: ignore[arg-type]
    torch.testing.assert_close(still, torch.full_like(z, 0.75), rtol=1e-6, atol=0)
    assert finite_difference(Linear(), z, t, t, v, {"y": z}).requires_grad is False


# ---- integral


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("state", ["data", "rollout"])
@pytest.mark.parametrize("masked", [False, True])
def test_integral_is_its_sums(k, state, masked):
    """Rows j b + i belong to sample i, in condition, mask and target; anchors and whole intervals
    among them.
    """
    interval = IntervalConfig(p_equal=0.3, p_full=0.3)
    config = IntegralConfig(substeps=3, state=state, targets_per_rollout=k, interval=interval)
    student, teacher, batch = Linear(), CondTeacher(), batch_of(8, masked)
    objective = IntegralObjective(student, teacher, PATH, config, seed=2)
    z, t, r, target, nfe = objective.targets(batch)
    y, mask = batch["cond"]["y"], batch["loss_mask"]
    torch.testing.assert_close(
        target.unflatten(0, (k, 8)), y.expand(k, 8, 2, 6, 5), rtol=1e-9, atol=1e-9
    )
    assert not target.requires_grad and teacher.rows == round(8 * float(nfe))
    first, last, z_t, _ = drawn(config, batch, 2)
    if state == "data":
        torch.testing.assert_close(z[:8], z_t)
    else:
        z_0 = PATH.prior(
            batch["cond"], noise(2, batch["index"], "noise", (2, 6, 5), dtype=torch.float64)
        )
        torch.testing.assert_close(
            z[:8], z_0 + first[:, None, None, None] * y, rtol=1e-6, atol=1e-6
        )
    assert torch.equal(t[:8], first) and torch.equal(r[:8], last)
    anchors = first == last
    cost = torch.where(anchors, 1, 6) + (6 if state == "rollout" else 0)
    assert float(nfe) == pytest.approx(float(cost.double().mean()))
    for j in range(k):
        own = slice(8 * j, 8 * j + 8)
        # on the grid of the rollout, where its state has come to
        share = torch.stack([(x[own] - first) / (last - first).clamp(min=1e-9) for x in (t, r)])
        assert ((share * 3 - (share * 3).round()).abs() < 1e-3).all()
        assert torch.equal(t[own][anchors], first[anchors]) and (r[own] >= t[own]).all()
        assert (r[own] > t[own])[~anchors].all()
        moved = z[:8] + (t[own] - first)[:, None, None, None] * y
        torch.testing.assert_close(z[own], moved, rtol=1e-6, atol=1e-6)
    loss, logs = objective(batch)
    rows = mean_error(
        student(z, t, r, {"y": y.repeat(k, 1, 1, 1)}),
        target,
        None if mask is None else mask.repeat(k, 1, 1, 1),
        "mse",
    )
    wanted = weighted_mean(rows.unflatten(0, (k, 8)).mean(0), mask)
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(gradient_of(loss, student), gradient_of(wanted, student))
    assert torch.equal(logs["loss"], loss.detach())
    assert not any(value.requires_grad for value in logs.values())


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_the_teacher_sees_few_rows_at_once(rows):
    class Counted(CondTeacher):
        most = 0

        def velocity(self, z_t, t, cond):
            self.most = max(self.most, len(z_t))
            return super().velocity(z_t, t, cond)

    few, batch = Counted(), batch_of(8, True)
    whole, part = (
        IntegralObjective(Linear(), teacher, PATH, IntegralConfig(teacher_rows=n), seed=2)
        for teacher, n in ((CondTeacher(), 0), (few, rows))
    )
    for one, other in zip(whole.targets(batch), part.targets(batch), strict=True):
        assert torch.equal(one, other)
    assert few.most == min(rows, 8)


def test_guidance_costs_the_teacher_twice():
    class Guided(CondTeacher):
        branches = 2

    config = IntegralConfig(substeps=3, interval=IntervalConfig(p_equal=0.0))
    objective = IntegralObjective(Linear(), Guided(), PATH, config)
    assert float(objective(batch_of())[1]["teacher_nfe"]) == 3 * 2 * 2


def test_random_pairs_are_uniform_over_the_grid():
    config = IntegralConfig(substeps=3, targets_per_rollout=3)
    objective = IntegralObjective(Linear(), FieldTeacher(), PATH, config, seed=2)
    pairs = objective._pairs(torch.arange(4000))
    assert pairs.shape == (3, 4000, 2) and (pairs[0] == torch.tensor([0, 3])).all()
    assert not torch.equal(pairs[1], pairs[2]) and torch.equal(
        pairs, objective._pairs(torch.arange(4000))
    )
    found, counts = pairs[1:].flatten(0, 1).unique(dim=0, return_counts=True)
    assert found.tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    assert (counts - 8000 / 6).abs().max() < 4.5 * (8000 / 6) ** 0.5


def test_an_average_velocity_by_default_steps():
    z = torch.randn(3, 2, 4, dtype=torch.float64)
    field = GaussianFlow()
    t, r = torch.tensor([0.0, 0.2, 0.5]).double(), torch.tensor([1.0, 0.6, 0.9]).double()
    seen = []

    def velocity(z, t):
        seen.append(t)
        return field.marginal_velocity(z, t)

    found = average_velocity(velocity, z, t, r)
    assert len(seen) == 8
    torch.testing.assert_close(seen[2], t + (r - t) / 4)
    torch.testing.assert_close(found, field.average_velocity(z, t, r), rtol=0, atol=0.05)


# ---- beyond the teacher's last time


def late_teacher(t_last=0.5):
    teacher = FieldTeacher()
    teacher.facts = replace(teacher.facts, t_last=t_last)
    return teacher


def test_intervals_start_within_reach():
    t, r = torch.tensor([0.2, 0.7, 0.7, 0.5]), torch.tensor([0.9, 0.9, 0.7, 0.5])
    found = within_reach(late_teacher(), t, r)
    assert torch.equal(found[0], torch.tensor([0.2, 0.5, 0.5, 0.5]))
    # anchors stay anchors, ends stay where they were
    assert torch.equal(found[1], torch.tensor([0.9, 0.9, 0.5, 0.5]))
    assert all(a is b for a, b in zip(within_reach(None, t, r), (t, r), strict=True))


def test_a_late_velocity_is_that_of_the_last_time():
    z, times = torch.randn(3, 2, 4, 5), torch.tensor([0.25, 0.5, 0.9])
    found = teacher_velocity(late_teacher(), z, times, {})
    torch.testing.assert_close(found, FIELD.marginal_velocity(z, torch.tensor([0.25, 0.5, 0.5])))


@pytest.mark.parametrize("k", [1, 4])
def test_targets_beyond_the_last_time(k):
    """Anchors lie at the last time at most, and no target starts after it."""
    config = IntegralConfig(
        substeps=2, solver="euler", targets_per_rollout=k, interval=IntervalConfig(p_equal=0.4)
    )
    batch = batch_of(8, start=3)
    z, t, r, target, _ = IntegralObjective(Linear(), late_teacher(), PATH, config, seed=1).targets(
        batch
    )
    free = drawn(config, batch, 1)
    assert 0 < ((free[0] > 0.5) & (free[0] == free[1])).sum() < 8, "late anchors are needed"
    assert 0 < ((free[0] > 0.5) & (free[0] < free[1])).sum() < 8, "late spans are needed"
    assert t.max() == 0.5 and (t == r).sum() == k * (free[0] == free[1]).sum()
    anchors = t == r
    torch.testing.assert_close(
        target[anchors], FIELD.marginal_velocity(z, t.clamp(max=0.5))[anchors]
    )
    v = FIELD.marginal_velocity(z, t.clamp(max=0.5))
    # a rollout's own times are 0.5, a middle beyond it, and its end
    late = ~anchors & (t == 0.5)
    whole = late & (r == free[1].repeat(k))
    assert whole.any() and (late & ~whole).any() == (k > 1)
    torch.testing.assert_close(target[late & ~whole], v[late & ~whole], rtol=1e-5, atol=1e-6)
    h = ((r - t) / 2)[:, None, None, None]
    second = FIELD.marginal_velocity(z + h * v, torch.full_like(t, 0.5))
    torch.testing.assert_close(target[whole], ((v + second) / 2)[whole], rtol=1e-5, atol=1e-6)


def test_meanflow_too_keeps_within_reach():
    seen = []

    class Seen(FieldTeacher):
        facts = replace(FieldTeacher.facts, t_last=0.5)

        def velocity(self, z_t, t, cond):
            seen.append(t)
            return super().velocity(z_t, t, cond)

    class Watched(Linear):
        def forward(self, z, t, r, cond):
            seen.append(t.detach())
            return super().forward(z, t, r, cond)

    config = MeanFlowConfig(mf_r_equals_t_prob=0.5, mf_weight_final=0.5)
    MeanFlowObjective(Watched(), Seen(), PATH, config)(batch_of(8))
    assert len(seen) >= 3 and all(float(t.max()) <= 0.5 for t in seen)
    assert any(float(t.max()) == 0.5 for t in seen)


# ---- magnitudes

TASK = get_task(default_task("vocode", 8000))


def spectral_batch(b=3, n=1500):
    clean = 0.3 * torch.randn(b, n, generator=torch.Generator().manual_seed(1))
    clean = clean * torch.tensor([1.0, 0.5, 2.0])[:b, None]
    batch = {"z_1": TASK.target(clean), "cond": TASK.condition(clean)}
    return {**batch, "loss_mask": None, "index": torch.arange(b), "progress": 1.0}


class Shrinking(nn.Module):
    """Its ends depend on where a row starts, and on its sample."""

    def __init__(self):
        super().__init__()
        self.theta, self.task = nn.Parameter(torch.tensor(0.8)), TASK

    def forward(self, z, t, r, cond):
        return self.theta * cond["y"] - z * t.reshape(-1, 1, 1, 1)


class Drift(FieldTeacher):
    def velocity(self, z_t, t, cond):
        return 0.5 * cond["y"] - 0.1 * z_t


@pytest.mark.parametrize("target", ["data", "teacher"])
@pytest.mark.parametrize(("k", "p_full"), [(1, 0.0), (1, 0.5), (4, 0.5), (4, 1.0)])
def test_the_magnitude_loss_of_the_rows_that_end_at_1(k, p_full, target):
    """Row by row: those with r = 1, each with the clean speech of its own sample, over the number
    of all rows.
    """
    interval = IntervalConfig(p_full=p_full, p_equal=0.0)
    config = IntegralConfig(
        substeps=3, targets_per_rollout=k, interval=interval, spectral=0.7, spectral_target=target
    )
    student, batch = Shrinking(), spectral_batch()
    objective = IntegralObjective(student, Drift(), TASK.path, config, seed=5)
    z, t, r, wanted_u, _ = objective.targets(batch)
    cond = {key: value.repeat(k, *[1] * (value.ndim - 1)) for key, value in batch["cond"].items()}
    u = student(z, t, r, cond)
    ends = [row for row in range(3 * k) if r[row] >= 1]
    assert (p_full == 0) == (not ends) and (p_full == 1 and k == 1) == (len(ends) == 3 * k)
    length, total = (z.shape[-1] - 1) * TASK.config.stft.hop, torch.zeros(())
    for row in ends:
        left = 1 - t[row]
        reached = z[row] + left * u[row]
        truth = batch["z_1"][row % 3] if target == "data" else z[row] + left * wanted_u[row]
        waves = [TASK.waveform(x[None], length) for x in (reached, truth)]
        total = total + spectral_loss(*waves, 8000)[0]
    loss, logs = objective(batch)
    assert float(logs["spectral"]) == pytest.approx(float(total / (3 * k)), rel=1e-4, abs=1e-7)
    assert bool(total > 0.1) == bool(ends)
    plain = squared_error(u, wanted_u, None).mean()
    torch.testing.assert_close(loss, plain + 0.7 * total / (3 * k), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(logs["loss"], plain.detach())
    found = torch.autograd.grad(loss, student.theta, retain_graph=True)
    torch.testing.assert_close(
        found,
        torch.autograd.grad(plain + 0.7 * total / (3 * k), student.theta),
        rtol=1e-3,
        atol=1e-5,
    )


def test_regression_with_its_magnitude_loss():
    batch = spectral_batch()

    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(0.5))

        def forward(self, z, t, cond):
            assert (t == 0).all()
            return self.scale * batch["z_1"] - z

    m = TASK.path.end_means(batch["z_1"], batch["cond"])[0]
    for weight in (0.0, 0.3):
        loss, logs = RegressionObjective(Half(), TASK.path, TASK, weight)(batch)
        x_hat = 0.5 * batch["z_1"]
        torch.testing.assert_close(logs["loss"], squared_error(x_hat, batch["z_1"], None).mean())
        length = (m.shape[-1] - 1) * TASK.config.stft.hop
        waves = [TASK.waveform(x, length) for x in (x_hat, batch["z_1"])]
        extra = spectral_loss(*waves, 8000).mean()
        torch.testing.assert_close(loss, logs["loss"] + weight * extra, rtol=1e-4, atol=1e-5)
        assert ("spectral" in logs) == (weight > 0)
        assert not any(value.requires_grad for value in logs.values())
    assert "spectral" not in RegressionObjective(Half(), TASK.path, TASK)(batch)[1]
    assert "spectral" not in RegressionObjective(Half(), TASK.path, None, 0.3)(batch)[1]


# ---- flow matching, imitation


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("quiet", [0.0, 0.5])
@pytest.mark.parametrize("predict", ["velocity", "data"])
def test_flow_matching_is_its_sums(predict, quiet, masked):
    times, network, batch = (
        TimeConfig("logit-normal", -0.5, 0.8),
        Network(),
        batch_of(masked=masked),
    )
    path = GaussianPath(sigma_0=0.8, sigma_1=0.2, mean="y", floor=0.3)
    objective = CFMObjective(network, path, times, 6, predict, quiet)
    t = sample_time(times, uniform(6, batch["index"], "times"))
    eps = noise(6, batch["index"], "noise", (2, 6, 5), dtype=torch.float64)
    z_0, z_1 = path.end_points(batch["z_1"], batch["cond"], eps)
    z_t = interpolate(z_0, z_1, t)
    v, target = network(z_t, t, batch["cond"]), z_1 - z_0
    if quiet:
        root = quiet_weights(batch["z_1"], 0.5, 0.3).sqrt()
        v, target = root * v, root * target
    rows = mean_error(v, target, batch["loss_mask"], "mse")
    if predict == "data":
        rows = rows * (1 - t + t * 0.2 / 0.8).double() ** 2
        # that is the error of the data estimate
        if not quiet and not masked:
            m = path.end_means(batch["z_1"], batch["cond"])[0]
            x_hat = data_estimate(path, z_t, t, v, m)
            torch.testing.assert_close(
                rows, mean_error(x_hat, batch["z_1"], None, "mse"), rtol=1e-6, atol=1e-9
            )
    wanted = weighted_mean(rows, batch["loss_mask"])
    loss, logs = objective(batch)
    torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        gradient_of(loss, network), gradient_of(wanted, network), rtol=1e-5, atol=1e-8
    )
    assert torch.equal(logs["loss"], loss.detach()) and not logs["loss"].requires_grad


def test_weights_of_quiet_bins():
    x = torch.randn(2, 2, 3, 4) * torch.tensor([1.0, 1e-6, 1e3])[:, None]
    for power, floor in ((0.5, 0.1), (1.0, 1e-4)):
        found = quiet_weights(x, power, floor)
        assert found.shape == (2, 1, 3, 4)
        for i in range(2):
            raw = (x[i, 0] ** 2 + x[i, 1] ** 2 + floor**2) ** -power
            torch.testing.assert_close(found[i, 0], (raw / raw.mean()).clamp(0.01, 100))
    assert found.min() == pytest.approx(0.01) and quiet_weights(x[:, :, 1:], 1.0, 1.0).max() < 2.5
    # squares of quiet bins vanish in half precision
    half = x.mul(3e-4).half()
    assert torch.equal(quiet_weights(half, 0.5, 1e-4), quiet_weights(half.float(), 0.5, 1e-4))
    lone = torch.ones(1, 2, 100, 100)
    lone[..., 0, 0] = 0
    assert quiet_weights(lone, 1.0, 1e-6).max() == 100
    for bad, message in (
        ({"quiet": -0.1}, "--quiet-bins -0.1"),
        ({"predict": "data"}, "--predict data"),
    ):
        with pytest.raises(UserError, match=message):
            CFMObjective(Network(), GaussianPath(0.0, mean="y"), **bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("role", ["student", "teacher", "regression"])
def test_imitation_is_the_difference_of_two_networks(role, masked):
    batch, path = batch_of(8, masked), GaussianPath(0.8, 0.1, mean="y")
    make = Linear if role == "student" else Network
    model, whole = make(), make()
    with torch.no_grad():
        whole.theta += torch.tensor([0.3, 0.2, -0.5, 0.1])
    whole.train()
    objective = ImitationObjective(model, whole, path, role, seed=3)
    assert not whole.training and not whole.theta.requires_grad
    assert [name for name, _ in objective.named_parameters()] == ["model.theta"]
    u = uniform(3, batch["index"], "times", n=3)
    t, r = sample_interval(IntervalConfig(p_full=0.5), u)
    eps = noise(3, batch["index"], "noise", (2, 6, 5), dtype=torch.float64)
    z_0, z_1 = path.end_points(batch["z_1"], batch["cond"], eps)
    if role == "student":
        assert 0 < ((t == 0) & (r == 1)).sum() < 8
        given = (interpolate(z_0, z_1, t), t, r)
    elif role == "teacher":
        given = (interpolate(z_0, z_1, u[:, 0]), u[:, 0])
    else:
        m = path.end_means(batch["z_1"], batch["cond"])[0]
        given = (m, torch.zeros(8))
    a, b = (f(*given, batch["cond"]) for f in (model, whole))
    wanted = weighted_mean(mean_error(a, b.detach(), batch["loss_mask"], "mse"), batch["loss_mask"])
    loss, logs = objective(batch)
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(gradient_of(loss, model), gradient_of(wanted, model))
    assert loss > 1e-3 and torch.equal(logs["loss"], loss.detach())
    assert not logs["loss"].requires_grad
    assert objective.teacher.to("cpu") is objective.teacher


# ---- what they share


@pytest.mark.parametrize("shape", [(3, 2, 4, 6), (3, 6, 4), (3, 4, 6)])
def test_errors_of_complex_bins_and_of_mel_values(shape):
    a, b = torch.randn(2, *shape, dtype=torch.float64)
    counts = [6, 4, 1]
    frames = 1 if shape == (3, 6, 4) else len(shape) - 2  # the axis of a sample that time is on
    frames = {(3, 2, 4, 6): 2, (3, 6, 4): 0, (3, 4, 6): 1}[shape]
    mask = torch.zeros(3, *[6 if axis == frames else 1 for axis in range(len(shape) - 1)])
    mask = mask.double()
    for i, n in enumerate(counts):
        mask[i].narrow(frames, 0, n).fill_(1)
    for given in (None, mask):
        for i, n in enumerate(counts if given is not None else [6, 6, 6]):
            d = (a - b)[i].narrow(frames, 0, n)
            square = d.square() if len(shape) == 3 else d.square().sum(0)
            torch.testing.assert_close(squared_error(a, b, given)[i], square.mean())
            torch.testing.assert_close(absolute_error(a, b, given)[i], square.sqrt().mean())
            torch.testing.assert_close(norm(a, given)[i], a[i].narrow(frames, 0, n).norm())


def test_errors_are_taken_in_single_precision_at_least():
    a = torch.full((2, 2, 3, 4), 100.0)
    b = a + 0.25
    low = a.bfloat16()
    assert squared_error(low, b, None).dtype == torch.float32
    torch.testing.assert_close(squared_error(low, b, None), torch.full((2,), 0.125))
    assert squared_error(low, low, None).dtype == torch.float32
    assert absolute_error(a, b.double(), None).dtype == torch.float64
    same = a.clone().requires_grad_()
    error = absolute_error(same, a, None)
    error.sum().backward()
    assert (error < 1e-15).all() and same.grad.isfinite().all()
    x = {"z_1": low, "index": torch.arange(2), "cond": {"y": low}}
    for z in end_points(GaussianPath(0.5), x, 0):
        assert z.dtype == torch.float32


def test_samples_weigh_as_many_frames_as_they_have():
    rows, mask = torch.tensor([1.0, 5.0]), torch.tensor([[1.0, 1, 1], [1, 0, 0]])[:, None, None]
    assert reduce(rows, {}) == 3 and reduce(rows, {"loss_mask": None, "loss_count": 7}) == 3
    assert reduce(rows, {"loss_mask": mask}) == 2
    assert reduce(rows, {"loss_mask": mask, "loss_count": torch.tensor(16.0)}) == 0.5
    assert reduce(rows, {"loss_mask": 0 * mask}) == 0  # nothing counts: no division by 0


def test_a_teacher_answers_in_its_own_precision_and_where_the_state_is():
    moved, seen = [], []

    class Placed(FieldTeacher):
        network = nn.Linear(2, 2)

        def velocity(self, z_t, t, cond):
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().velocity(z_t, t, cond).double()

        def to(self, device=None, dtype=None):
            moved.append(device)
            return self

    z, t = torch.randn(2, 2, 3, 4), torch.tensor([0.1, 0.9])
    with torch.autocast("cpu", torch.bfloat16):
        plain = teacher_velocity(Placed(), z, t, {})
        fast = teacher_velocity(Placed(), z, t, {}, autocast=True)
    assert seen == [False, True] and moved == []
    assert plain.dtype == torch.float64 and fast.dtype == torch.float32
    Placed.network = nn.Linear(2, 2, device="meta")
    teacher_velocity(Placed(), z, t, {})
    assert moved == [z.device]


# ---- settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spectral": -0.1}, "--integral.spectral -0.1"),
        ({"spectral_target": "noise"}, "--integral.spectral-target noise"),
        ({"teacher_precision": "half"}, "--integral.teacher-precision half"),
        ({"teacher_rows": -1}, "--integral.teacher-rows -1"),
        ({"substeps": 0}, "--integral.substeps 0"),
        ({"targets_per_rollout": 0}, "--integral.targets-per-rollout 0"),
        ({"solver": "euler@0.5"}, "is not one of"),
        ({"solver": "euler@0.5+heun@0.4"}, "stops before the end of its step"),
        ({"solver": "euler@0.5+heun@0.49"}, "stops before the end of its step"),
        ({"substeps": MOST_SUBSTEPS + 1}, "--integral.substeps 1001"),
    ],
)
def test_settings_of_integral_that_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        IntegralConfig(**changes)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mf_weight_final", 1.01),
        ("mf_weight_final", -0.01),
        *((name, -1) for name in ("mf_jvp_clip", "mf_jvp_chunk", "mf_warmup_frac")),
        *((name, -1) for name in ("tangent_warmup_frac", "adaptive_power")),
    ],
)
def test_settings_of_meanflow_that_are_refused(name, value):
    with pytest.raises(UserError, match=f"meanflow {name}: {value}"):
        MeanFlowConfig(**{name: value})


def test_an_adapter_does_without_a_rounded_teacher():
    IntegralConfig(teacher_precision="bf16").check_adapter(False)
    IntegralConfig(teacher_precision="run").check_adapter(True)
    with pytest.raises(UserError, match="--lora.rank"):
        IntegralConfig(teacher_precision="bf16").check_adapter(True)


def test_settings_that_are_allowed():
    for w in (0.0, 1.0):
        assert MeanFlowConfig(mf_weight_final=w).mf_weight_final == w
    assert IntegralConfig(solver="2xmidpoint+1xeuler@0.2", substeps=1).substeps == 1
    assert IntegralConfig(substeps=MOST_SUBSTEPS).substeps == MOST_SUBSTEPS
    config = MeanFlowConfig(
        time_kind="logit-normal", time_mean=0.3, time_std=0.7, mf_r_equals_t_prob=0.2, p_full=0.3,
        mf_delta_gamma_start=8, mf_delta_gamma_end=2, mf_delta_warmup_frac=0.5, min_gap=0.01, t_eps=0.25, T_rev=0.75,
    )  # fmt: skip
    assert config.interval == IntervalConfig(
        "logit-normal", 0.3, 0.7, 0.2, 0.3, 8, 2, 0.5, 0.01, 0.75, 0.25
    )


def test_progress_is_the_end_where_a_batch_does_not_say():
    config = MeanFlowConfig(mf_warmup_frac=1.0, mf_weight_final=0.5)
    batch = {key: value for key, value in batch_of().items() if key != "progress"}
    _, logs = MeanFlowObjective(Linear(), FieldTeacher(), PATH, config)(batch)
    assert float(logs["mf_weight"]) == 0.5 and math.isfinite(float(logs["loss"]))
