"""Critics: their losses, what gradient reaches whom, and what they leave alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finish_toy import TASK, Waves, finish
from loop_toy import MODEL_CONFIG
from test_loop import assert_same, log, one_thread, settings, state_tensors  # noqa: F401
from torch import Tensor

from mfdistill.checkpoint import load_tensors
from mfdistill.distill.finishing.config import CriticConfig
from mfdistill.distill.finishing.critics import Adversary
from mfdistill.distill.objectives import FinishObjective
from mfdistill.distill.train import train
from mfdistill.networks.critics import (
    SIZES,
    MelCritic,
    WaveCritics,
    critic_loss,
    deceit_loss,
    matching_loss,
)
from mfdistill.tasks import default_task
from mfdistill.tasks.mel import MelTask


def run(out: Path, objective: FinishObjective, **changes: Any) -> FinishObjective:
    train(objective, Waves(), TASK, settings(out, lr=1e-3, **changes), model_config=MODEL_CONFIG)
    return objective


def test_losses_on_paper() -> None:
    score = lambda *values: [(torch.tensor([values]), [torch.tensor([values])])]  # noqa: E731
    real, fake = score(2.0, 0.5), score(-2.0, 0.0)
    # hinge: (0 + 0.5) / 2 + (0 + 1) / 2; least squares: (1 + 0.25) / 2 + (4 + 0) / 2
    assert critic_loss("hinge", real, fake).item() == pytest.approx(0.75)
    assert critic_loss("least-squares", real, fake).item() == pytest.approx(2.625)
    assert deceit_loss("hinge", fake).item() == pytest.approx(1.0)
    assert deceit_loss("least-squares", fake).item() == pytest.approx(5.0)
    # (4 + 0.5) / (2 + 0.5)
    assert matching_loss(real, fake).item() == pytest.approx(1.8)


def test_sizes() -> None:
    for name, most in (("slim", 0.2e6), ("published", 60e6)):
        waves = WaveCritics(SIZES[name], 8000)
        count = sum(p.numel() for p in waves.parameters())
        assert 0.05 * most < count <= most
        assert len(waves(torch.randn(2, 3000))) == len(SIZES[name].windows_s) + 5
        mel = MelCritic(SIZES[name], ["y", "mask"])
        z, mask = torch.randn(2, 1, 20, 9), torch.ones(2, 1, 1, 9)
        ((score, features),) = mel(z, torch.tensor([0.1, 0.9]), {"y": z, "mask": mask})
        assert score.shape[0] == 2 and len(features) == SIZES[name].mel_layers
        assert sum(p.numel() for p in mel.parameters()) <= most


def batch_of(b: int = 3) -> dict[str, Any]:
    clean = torch.stack([job()["clean"] for job in Waves().jobs(range(b))])
    return {
        "z_1": TASK.target(clean),
        "cond": TASK.condition(clean),
        "index": torch.arange(b),
    }


@pytest.mark.parametrize("kind", ["hinge", "least-squares"])
def test_each_gradient_reaches_its_own(kind: Any) -> None:
    adversary = Adversary(TASK, CriticConfig(1.0, loss=kind, noise=0.1), seed=0)
    batch = batch_of()
    z = (batch["z_1"] + 0.1 * torch.randn_like(batch["z_1"])).requires_grad_()
    critic, deceit, _ = adversary(z, batch, True)
    weights = list(adversary.critics.parameters())
    assert torch.autograd.grad(critic, [z], retain_graph=True, allow_unused=True) == (None,)
    found = torch.autograd.grad(critic, weights, retain_graph=True)
    # those of the last biases cancel where no score is beyond the margin
    assert all(g.abs().sum() > 0 for g in found if g.ndim > 1)
    assert set(torch.autograd.grad(deceit, weights, retain_graph=True, allow_unused=True)) == {None}
    assert torch.autograd.grad(deceit, [z])[0].abs().sum() > 0


def test_matching_is_0_where_the_student_is_right() -> None:
    adversary, batch = Adversary(TASK, CriticConfig(1.0, noise=0.2), seed=0), batch_of()
    critic, _, logs = adversary(batch["z_1"], batch, True)
    assert logs["matching"].item() == 0.0
    # real and generated cannot be told apart: hinge of s and of -s is 2 or more
    assert critic.item() >= 2.0 - 1e-5


def test_r1_is_the_squared_slope() -> None:
    """Of a critic that is linear: ``score = w . x``, slope w for every sample."""

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.linspace(-1, 1, 2432))

        def forward(self, wave: Tensor) -> Any:
            return [((wave * self.w).sum(1, keepdim=True), [])]

    adversary = Adversary(TASK, CriticConfig(1.0, r1=2.0), seed=0)
    adversary.critics = Flat()
    batch = batch_of()
    loss, _, logs = adversary(batch["z_1"], batch, False)
    w = adversary.critics.w
    assert logs["r1"].item() == pytest.approx(w.square().sum().item(), rel=1e-4)
    assert loss.item() == pytest.approx(logs["critic"].item() + logs["r1"].item(), rel=1e-5)


def test_a_mel_critic_judges_what_counts() -> None:
    config = default_task("token2mel", 8000)
    task = MelTask(replace(config, mel_mean=(0.0,) * 80, mel_std=(1.0,) * 80))  # type: ignore[call-arg]
    adversary = Adversary(task, CriticConfig(1.0), seed=0)
    x = torch.randn(2, 1, 80, 12)
    prompt = torch.zeros(2, 1, 1, 12)
    prompt[..., :4] = 1
    batch = {
        "z_1": x,
        "cond": {"y": x * prompt, "prompt": prompt, "mask": torch.ones_like(prompt)},
        "index": torch.arange(2),
        "loss_mask": 1 - prompt,
    }
    z = torch.randn_like(x).requires_grad_()
    _, deceit, _ = adversary(z, batch, True)
    (slope,) = torch.autograd.grad(deceit, [z])
    assert slope[..., :4].abs().sum() == 0 and slope[..., 4:].abs().sum() > 0


def test_critics_learn_alone_first(tmp_path: Path) -> None:
    critic = CriticConfig(0.1, warmup=5, ramp=4)
    objective = run(tmp_path, finish(critic), steps=5, log_every=1)
    start = finish(critic)
    for name, value in objective.model.state_dict().items():
        assert torch.equal(value, start.model.state_dict()[name]), name
    assert not any(
        torch.equal(a, b) and a.ndim > 1
        for a, b in zip(
            objective.adversary.parameters(),  # type: ignore[union-attr]
            start.adversary.parameters(),  # type: ignore[union-attr]
            strict=True,
        )
    )
    assert "deceit" not in log(tmp_path)[-1]
    weights = [objective.adversary.weight(step) for step in (4, 5, 6, 8, 9)]  # type: ignore[union-attr]
    assert weights == pytest.approx([0, 0.025, 0.05, 0.1, 0.1])


def test_critics_change_no_run_without_their_gradient(tmp_path: Path) -> None:
    """Critics of no weight, beside a student, leave its training as it is, bit for bit."""
    alone = run(tmp_path / "without", finish())
    tiny = finish(CriticConfig(1e-60, warmup=0, ramp=0))
    run(tmp_path / "beside", tiny)
    one, two = load_tensors(tmp_path / "without"), load_tensors(tmp_path / "beside")
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    one, two = state_tensors(tmp_path / "without"), state_tensors(tmp_path / "beside")
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert any("critics" in key for key in two) and not any("critics" in key for key in one)
    assert not alone.players


def test_a_stopped_run_with_critics_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    critic = CriticConfig(0.1, warmup=3, ramp=4, noise=0.05)
    run(tmp_path / "whole", finish(critic), steps=8)
    again = settings(tmp_path / "again", lr=1e-3, steps=8)
    for limit, resume in ((1e-9, False), (1e-9, True), (None, True)):
        config = replace(again, time_limit_hours=limit, resume=resume)
        train(finish(critic), Waves(), TASK, config, model_config=MODEL_CONFIG)
    assert_same(tmp_path / "whole", tmp_path / "again")
    assert {"critic", "deceit", "matching", "grad_norm_critics"} <= log(tmp_path / "whole")[
        -1
    ].keys()
