"""The finishing stage: exact answers of its sampler, losses and objective."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from test_objectives import FieldTeacher
from torch import Tensor, nn

from mfdistill.audio.mel_loss import WINDOWS_S, filterbank, log_mel_loss
from mfdistill.distill.finishing.config import (
    CriticConfig,
    DmdConfig,
    FinishConfig,
    completed,
    schedules,
)
from mfdistill.distill.finishing.sampler import drawn, reached, start
from mfdistill.distill.finishing.signals import negative_si_sdr, time_l1
from mfdistill.distill.objectives import FinishObjective, IntegralObjective
from mfdistill.distill.objectives.base import reduce, squared_error
from mfdistill.distill.objectives.finish import ANCHOR
from mfdistill.errors import UserError
from mfdistill.flow import GaussianPath, noise
from mfdistill.students import sample
from mfdistill.tasks import TASKS


class Linear(nn.Module):
    """``u = a z + b y + c r``, whose maps are known on paper."""

    def __init__(self, a: float = 0.0, b: float = 0.5, c: float = 0.0):
        super().__init__()
        self.a, self.b, self.c = (
            nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (a, b, c)
        )
        self.schedule = [0.0, 1.0]

    def forward(self, z: Tensor, t: Tensor, r: Tensor, cond: dict[str, Tensor]) -> Tensor:
        return self.a * z + self.b * cond["y"] + self.c * r.reshape(-1, 1, 1, 1)


class Plain:
    """A task without signals."""

    def __init__(self, temperature: float = 0.0, mean: Any = "zero"):
        self.path = GaussianPath(sigma_0=1.0, mean=mean, temperature=temperature)


def make_batch(b: int = 6, seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randn(b, 2, 3, 4, generator=generator, dtype=torch.float64)
    x = 2 * y + torch.randn(b, 2, 3, 4, generator=generator, dtype=torch.float64)
    return {"z_1": x, "cond": {"y": y}, "index": torch.arange(b)}


def objective(student: nn.Module, task: Any, **changes: Any) -> FinishObjective:
    config = FinishConfig(**{"nfe": (1,), "features": 1.0, **changes})
    return FinishObjective(student, task, schedules(config, {}), config)  # type: ignore[arg-type]


def test_gradient_is_that_of_the_unrolled_map() -> None:
    """Two steps 0, 0.25, 1 of ``u = a z + b y + c r``, written out."""
    student, batch = Linear(0.3, -0.7, 0.2), make_batch()
    y, x, times = batch["cond"]["y"], batch["z_1"], [0.0, 0.25, 1.0]
    z_0 = torch.full_like(y, 0.4)
    loss = (reached(student, z_0, batch["cond"], times) - x).square().mean()
    found = torch.autograd.grad(loss, list(student.parameters()))
    a, b, c = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.3, -0.7, 0.2))
    middle = z_0 + 0.25 * (a * z_0 + b * y + c * 0.25)
    end = middle + 0.75 * (a * middle + b * y + c * 1.0)
    wanted = torch.autograd.grad((end - x).square().mean(), [a, b, c])
    torch.testing.assert_close(found, wanted)
    # and the value is the sampler's own
    torch.testing.assert_close(
        reached(student, z_0, batch["cond"], times), sample(student, z_0, batch["cond"], times)
    )


def test_finishing_at_temperature_0_is_least_squares() -> None:
    """``u = b y`` goes from 0 to ``b y`` in any number of steps; best is b = <x, y> / <y, y>."""
    batch = make_batch()
    x, y = batch["z_1"], batch["cond"]["y"]
    best = float((x * y).sum() / (y * y).sum())
    for k in (1, 2, 3):
        student = Linear(0.0, best)
        student.a.requires_grad_(False)
        student.c.requires_grad_(False)
        whole = objective(student, Plain(), nfe=(k,))
        loss, _ = whole(batch)
        (gradient,) = torch.autograd.grad(loss, [student.b])
        assert abs(gradient.item()) < 1e-12
        # mean over complex bins of both channels' squares
        assert loss.item() == pytest.approx(float((best * y - x).square().sum(1).mean()))
        student.b.data += 0.1
        (gradient,) = torch.autograd.grad(whole(batch)[0], [student.b])
        # d/db of mean |b y - x|^2 is 2 (b - best) mean |y|^2
        assert gradient.item() == pytest.approx(0.2 * float(y.square().sum(1).mean()))


def test_temperature_scales_the_prior_and_0_is_its_mean() -> None:
    batch = make_batch()
    y, eps = batch["cond"]["y"], noise(0, batch["index"], "noise", (2, 3, 4), dtype=torch.float64)
    for mean, m in (("zero", torch.zeros_like(y)), ("y", y)):
        assert torch.equal(start(Plain(0.0, mean).path, batch, 0), m)
        torch.testing.assert_close(start(Plain(0.3, mean).path, batch, 0), m + 0.3 * eps)
    # in halves as in the whole batch
    part = {"z_1": batch["z_1"][3:], "cond": {"y": y[3:]}, "index": batch["index"][3:]}
    path = Plain(1.0).path
    assert torch.equal(start(path, part, 5), start(path, batch, 5)[3:])
    assert not torch.equal(start(path, part, 6), start(path, batch, 5)[3:])


def test_number_of_steps_is_drawn_per_step() -> None:
    found = [drawn((1, 2, 4), {"step": step}, 0)[0] for step in range(300)]
    assert {k: found.count(k) for k in (1, 2, 4)} == pytest.approx(
        dict.fromkeys((1, 2, 4), 100), abs=25
    )
    assert found == [drawn((1, 2, 4), {"step": step}, 0)[0] for step in range(300)]
    assert found != [drawn((1, 2, 4), {"step": step}, 1)[0] for step in range(300)]
    assert drawn((1, 2), {}, 0) == (1, 2)
    # validation: the mean over all of them
    student, batch = Linear(0.3, 0.7, 0.2), make_batch()
    both = objective(student, Plain(), nfe=(1, 2))(batch)
    each = [objective(student, Plain(), nfe=(k,))(batch)[0].item() for k in (1, 2)]
    assert both[0].item() == pytest.approx(sum(each) / 2)
    assert [float(both[1][f"loss_{k}"]) for k in (1, 2)] == pytest.approx(each)


def test_log_mel_loss() -> None:
    wave = torch.randn(2, 4000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(log_mel_loss(wave, wave, 8000), torch.zeros(2, dtype=torch.float64))
    # a gain of e is 1 in every band, but for the floor; a sign is nothing
    torch.testing.assert_close(
        log_mel_loss(-torch.e * wave, wave, 8000), torch.ones(2).double(), atol=1e-5, rtol=0
    )
    silence = torch.zeros(1, 4000, requires_grad=True)
    log_mel_loss(silence, wave[:1].float(), 8000).sum().backward()
    assert torch.isfinite(silence.grad).all()  # type: ignore[arg-type]
    for rate in (8000, 16000):
        for seconds in WINDOWS_S:
            bands = filterbank(round(rate * seconds), rate)
            torch.testing.assert_close(bands.sum(1), torch.ones(len(bands)))


def test_signal_losses() -> None:
    wave = torch.randn(2, 4000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wave = wave - wave.mean(1, keepdim=True)
    torch.testing.assert_close(time_l1(1.5 * wave, wave, 8000), torch.full((2,), 0.5).double())
    other = torch.randn(2, 4000, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    other = other - other.mean(1, keepdim=True)
    other = other - (other * wave).sum(1, keepdim=True) / wave.square().sum(1, keepdim=True) * wave
    other = other * (wave.norm(dim=1) / other.norm(dim=1))[:, None]
    # noise at right angles 10 dB below, at any gain: minus 1 bel, but for the limit of 3
    found = negative_si_sdr(3 * (wave + 0.1**0.5 * other), wave, 8000)
    limited = torch.log10(torch.tensor((1 + 1e-4) / (0.1 + 1e-3)))
    torch.testing.assert_close(found, -limited.expand(2).double(), atol=1e-4, rtol=0)
    assert negative_si_sdr(wave, wave, 8000).tolist() == pytest.approx([-3, -3], abs=1e-3)


def test_weights_are_the_tasks_where_none_is_given() -> None:
    def whole(config: FinishConfig, task: str) -> FinishConfig:
        return completed(config, TASKS[task][0].finishing, task)

    assert whole(FinishConfig(), "vocode").weights == {"log_mel": 1.0}
    assert whole(FinishConfig(), "enhance").weights == {"log_mel": 1.0, "time_l1": 1.0}
    assert whole(FinishConfig(), "token2mel").weights == {"mel": 1.0}
    assert whole(FinishConfig(si_sdr=2.0), "enhance").weights == {"si_sdr": 2.0}
    once = whole(FinishConfig(), "enhance")
    assert whole(once, "enhance") == once
    for config, task in (
        (FinishConfig(mel=1.0), "vocode"),
        (FinishConfig(log_mel=1.0), "token2mel"),
    ):
        with pytest.raises(UserError):
            whole(config, task)
    with pytest.raises(UserError):
        objective(Linear(), Plain(), features=0.0)
    with pytest.raises(UserError):
        replace(once, nfe=(1, 1))
    with pytest.raises(UserError):
        replace(once, temperature=-1.0)


def test_schedules_are_the_searched_ones() -> None:
    saved = {"schedules": {"2": [0, 0.7, 1.0], "3": [0, 0.4, 0.8, 1.0]}}
    assert schedules(FinishConfig(nfe=(1, 2)), saved) == {1: [0.0, 1.0], 2: [0.0, 0.7, 1.0]}
    assert schedules(FinishConfig(nfe=(4,)), saved) == {4: [0.0, 0.25, 0.5, 0.75, 1.0]}


# ---- the objective as a sum


def masked_batch(**more: Any) -> dict[str, Any]:
    mask = (torch.arange(4) < torch.tensor([4, 1, 3, 2, 4, 2])[:, None]).double()
    return {**make_batch(), "loss_mask": mask[:, None, None], **more}


def ends(student: nn.Module, task: Any, batch: dict[str, Any], times: list[float]) -> Tensor:
    return reached(student, start(task.path, batch, 0, times[0]), batch["cond"], times)


@pytest.mark.parametrize("straight", [True, False])
def test_the_anchor_is_the_integral_objective_of_the_same_batch(straight: bool) -> None:
    teacher, task, batch = FieldTeacher(), Plain(0.7), masked_batch()
    teacher.facts = replace(teacher.facts, straight=straight)
    config = FinishConfig(nfe=(1, 2), features=0.7, anchor=0.4)
    student = Linear(0.3, -0.7, 0.2)
    whole = FinishObjective(student, task, schedules(config, {}), config, teacher, 0)  # type: ignore[arg-type]
    loss, logs = whole(batch)
    settings = ANCHOR if straight else replace(ANCHOR, state="rollout")
    anchor = IntegralObjective(student, teacher, task.path, settings, 0)(batch)[0]  # type: ignore[arg-type]
    each = [
        0.7
        * reduce(
            squared_error(ends(student, task, batch, times), batch["z_1"], batch["loss_mask"]),
            batch,
        )
        for times in ([0.0, 1.0], [0.0, 0.5, 1.0])
    ]
    wanted = sum(each) / 2 + 0.4 * anchor
    torch.testing.assert_close(loss, wanted)
    found, right = (torch.autograd.grad(x, list(student.parameters())) for x in (loss, wanted))
    torch.testing.assert_close(found, right)
    assert set(logs) == {"loss", "features", "loss_1", "loss_2", "anchor"}
    values = [logs[name].item() for name in ("loss", "loss_1", "loss_2", "anchor")]
    assert values == pytest.approx([x.item() for x in (wanted, *each, anchor)])
    assert logs["features"].item() == pytest.approx(sum(each).item() / 2 / 0.7)
    # the student has one name
    assert [name for name, _ in whole.named_parameters()] == ["model.a", "model.b", "model.c"]
    assert whole.teacher is teacher
    plain = replace(config, anchor=0.0)
    free = FinishObjective(student, task, schedules(plain, {}), plain, teacher)  # type: ignore[arg-type]
    assert free.teacher is None and free.anchor is None


def test_an_update_takes_one_number_of_steps() -> None:
    student, task = Linear(0.3, 0.7, 0.2), Plain()
    whole = objective(student, task, nfe=(1, 3))
    for step in range(6):
        batch = masked_batch(step=step)
        (k,) = drawn((1, 3), batch, 0)
        loss, logs = whole(batch)
        assert set(logs) == {"loss", "features", f"loss_{k}"}
        z_1 = ends(student, task, batch, whole.schedules[k])
        wanted = reduce(squared_error(z_1, batch["z_1"], batch["loss_mask"]), batch)
        torch.testing.assert_close(loss, wanted)


class Beside(nn.Module):
    """A player that says what it was given: ``own`` in its weight, ``pull`` in the student's."""

    def __init__(self, name: str):
        super().__init__()
        self.name, self.w = name, nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
        self.moves: list[bool] = []
        self.config = DmdConfig(0.3)
        self.player = name

    def forward(self, z_1: Tensor, batch: Any, move: bool) -> tuple[Tensor, Tensor, Any]:
        self.moves.append(move)
        pull = z_1.square().mean() if move else torch.zeros(())
        return self.w * 5, pull, {self.name: pull.detach()}

    def weight(self, step: int) -> float:
        return 0.1 * step


@pytest.fixture
def players(monkeypatch: pytest.MonkeyPatch) -> dict[str, Beside]:
    made = {"critic": Beside("critic"), "dmd": Beside("dmd")}
    place = "mfdistill.distill.objectives.finish"
    monkeypatch.setattr(f"{place}.Adversary", lambda task, config, seed: made["critic"])
    monkeypatch.setattr(
        f"{place}.DistributionMatching", lambda task, teacher, config, seed: made["dmd"]
    )
    return made


@pytest.mark.parametrize("which", [("critic",), ("dmd",), ("critic", "dmd")])
def test_players_beside_the_student(players: dict[str, Beside], which: tuple[str, ...]) -> None:
    """Their own losses at every update, what the student minimises of theirs after the longest
    warm-up; in a validation nothing of theirs.
    """
    config = FinishConfig(nfe=(1,), features=0.5)
    given: dict[str, Any] = {
        "critic": CriticConfig(0.2, warmup=2) if "critic" in which else CriticConfig(0.0),
        "dmd": DmdConfig(0.3, warmup=4) if "dmd" in which else None,
    }
    student, task, teacher = Linear(0.3, 0.7, 0.2), Plain(), FieldTeacher()
    whole = FinishObjective(
        student,
        task,
        schedules(config, {}),
        config,
        teacher,
        0,
        **given,  # type: ignore[arg-type]
    )
    alone = 4 if "dmd" in which else 2
    assert whole.alone == alone and (whole.teacher is teacher) == ("dmd" in which)
    assert set(whole.players.values()) == set(which)
    for step in (0, alone - 1, alone, alone + 1):
        batch = masked_batch(step=step)
        loss, logs = whole(batch)
        own = sum(5 * players[name].w for name in which)
        found = torch.autograd.grad(
            loss, [*student.parameters(), *(players[name].w for name in which)]
        )
        assert all(slope == 5 for slope in found[3:])
        assert all(players[name].moves[-1] is (step >= alone) for name in which)
        if step < alone:
            assert loss.item() == pytest.approx(own.item()) and set(logs) == {"loss", *which}
            # several processes exchange them all
            assert all(slope == 0 for slope in found[:3])
            continue
        z_1 = ends(student, task, batch, [0.0, 1.0])
        pull = z_1.square().mean()
        weights = {"critic": 0.1 * step, "dmd": 0.3}
        right = 0.5 * reduce(squared_error(z_1, batch["z_1"], batch["loss_mask"]), batch)
        wanted = right + sum(weights[name] * pull for name in which) + own
        torch.testing.assert_close(loss, wanted)
        torch.testing.assert_close(
            found[:3], torch.autograd.grad(wanted, list(student.parameters()))
        )
        assert set(logs) == {"loss", "features", "loss_1", *which}
        assert logs["loss_1"].item() == pytest.approx(right.item())
        assert logs["loss"].item() == pytest.approx(wanted.item())
    loss, logs = whole(masked_batch())
    assert set(logs) == {"loss", "features", "loss_1"} and not loss.isnan()


def test_what_a_finish_needs(players: dict[str, Beside]) -> None:
    bent = FieldTeacher()
    bent.facts = replace(bent.facts, straight=False)
    for config, teacher, more, message in (
        (FinishConfig(nfe=(1,), anchor=0.1), None, {}, "--anchor: needs the teacher"),
        (FinishConfig(nfe=(1,)), None, {"dmd": DmdConfig(0.1)}, "--dmd.weight: needs the teacher"),
        (FinishConfig(nfe=(1,)), bent, {"dmd": DmdConfig(0.1)}, "straight paths"),
        (FinishConfig(nfe=(1,)), bent, {"critic": CriticConfig(0.0)}, "every loss has weight 0"),
    ):
        with pytest.raises(UserError, match=message):
            FinishObjective(Linear(), Plain(), schedules(config, {}), config, teacher, 0, **more)  # type: ignore[arg-type]
    # one of them is enough
    for config, more in (
        (FinishConfig(nfe=(1,), anchor=0.1), {}),
        (FinishConfig(nfe=(1,)), {"critic": CriticConfig(0.1)}),
    ):
        whole = FinishObjective(
            Linear(),
            Plain(),
            schedules(config, {}),
            config,
            FieldTeacher(),
            0,
            **more,  # type: ignore[arg-type]
        )
        assert whole.alone == (300 if more else 0)
