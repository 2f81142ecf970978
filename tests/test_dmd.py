"""Distribution matching on Gaussians, where everything is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finish_toy import TASK, Waves, matched
from gaussian import GaussianFlow
from loop_toy import MODEL_CONFIG
from test_loop import assert_same, log, one_thread, settings  # noqa: F401

from mfdistill.distill.finishing.dmd import DistributionMatching, matching_slope
from mfdistill.distill.train import train
from mfdistill.flow import interpolate

REAL = GaussianFlow(m0=0.0, s0=1.0, mu=-0.7, s=0.25)


def slope(fake: GaussianFlow, z_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return matching_slope(REAL.marginal_velocity, fake.marginal_velocity, z_t, t)


def test_nothing_pulls_at_the_right_distribution() -> None:
    z, t = torch.randn(50, 3, dtype=torch.float64), torch.rand(50, dtype=torch.float64)
    assert slope(replace(REAL), z, t).abs().max() == 0


def test_a_shifted_distribution_is_pulled_back_by_what_the_posterior_says() -> None:
    """E[x | z_t] = mu + k (z_t - t mu), k = t s^2 / (t^2 s^2 + (1 - t)^2)."""
    z, t = torch.randn(50, 3, dtype=torch.float64), torch.rand(50, dtype=torch.float64)
    k = t * 0.25**2 / (t**2 * 0.25**2 + (1 - t) ** 2)
    found = slope(replace(REAL, mu=-0.2), z, t)
    torch.testing.assert_close(found, (0.5 * (1 - k * t))[:, None].expand_as(found))


def test_descent_ends_at_the_teachers_distribution() -> None:
    """Outputs ``a + b e``, beside the exact flow of such outputs."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda: torch.randn(4000, 1, generator=generator, dtype=torch.float64)  # noqa: E731
    a, b = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (1.0, 0.8))
    optimizer = torch.optim.Adam([a, b], lr=0.02)
    for _ in range(300):
        x = a + b * draw()
        t = torch.rand(4000, generator=generator, dtype=torch.float64) * 0.96 + 0.02
        z_t = interpolate(draw(), x.detach(), t)
        fake = GaussianFlow(0.0, 1.0, a.item(), b.item())
        optimizer.zero_grad()
        (x * slope(fake, z_t, t)).mean().backward()
        optimizer.step()
    assert a.item() == pytest.approx(-0.7, abs=0.02) and b.item() == pytest.approx(0.25, abs=0.02)


def test_at_the_start_the_copy_pulls_nowhere_and_the_right_ones_learn() -> None:
    whole = matched(0.1, 2)
    clean = torch.stack([job()["clean"] for job in Waves().jobs(range(3))])
    batch: dict[str, Any] = {
        "z_1": TASK.target(clean),
        "cond": TASK.condition(clean),
        "index": torch.arange(3),
    }
    part: DistributionMatching = whole.matching  # type: ignore[assignment]
    z = torch.randn_like(batch["z_1"]).requires_grad_()
    fake, moved, logs = part(z, batch, True)
    assert (
        logs["dmd"].item() == 0
        and torch.autograd.grad(moved, z, retain_graph=True)[0].abs().max() == 0
    )
    weights = list(part.fake.parameters())
    assert torch.autograd.grad(fake, [z], retain_graph=True, allow_unused=True) == (None,)
    assert any(
        g.abs().sum() > 0
        for g in torch.autograd.grad(fake, weights, allow_unused=True)
        if g is not None
    )


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole = settings(tmp_path / "whole", lr=1e-3, steps=6, log_every=1)
    train(matched(0.1, 2), Waves(), TASK, whole, model_config=MODEL_CONFIG)
    again = replace(whole, out=str(tmp_path / "again"))
    for limit, resume in ((1e-9, False), (None, True)):
        config = replace(again, time_limit_hours=limit, resume=resume)
        train(matched(0.1, 2), Waves(), TASK, config, model_config=MODEL_CONFIG)
    assert_same(tmp_path / "whole", tmp_path / "again")
    lines = log(tmp_path / "whole")
    assert "dmd" not in lines[1] and {"dmd", "fake", "grad_norm_fake"} <= lines[-1].keys()
