"""The compact network: closed-form preconditioning, the state filter, causality, derivatives,
size.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mfdistill.errors import UserError
from mfdistill.flow import GaussianPath, interpolate, noise_like, total_derivative
from mfdistill.networks import CompactConfig, build_network
from mfdistill.networks.compact import CompactNet, FrameNorm, StateFilter
from mfdistill.networks.preconditioning import Preconditioning
from mfdistill.networks.time import TimeEmbedding, current_time
from mfdistill.students import Student

TINY = CompactConfig(channels=8, blocks=2, band_stride=8, freqs=32, embedding=8)


def perturbed(config: CompactConfig) -> CompactNet:
    """A network whose zero-initialised layers are not zero any more."""
    torch.manual_seed(0)
    net = CompactNet(config)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return net


def inputs(
    config: CompactConfig, b: int = 2, n: int = 9, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    z, y = (torch.randn(b, 2, config.freqs, n, generator=generator, dtype=dtype) for _ in range(2))
    return z, torch.rand(b, generator=generator, dtype=dtype), y


@pytest.mark.parametrize("shape,mean", [("flat", "y"), ("magnitude", "zero"), ("magnitude", "y")])
@pytest.mark.parametrize("t", [0.0, 0.25, 0.75, 1.0])
def test_preconditioning_is_the_linear_gaussian_optimum(shape: str, mean: str, t: float) -> None:
    """On data drawn from the model, regressing v on w finds the answer, what remains has the stated
    scale, and both are of unit size.
    """
    config = CompactConfig(
        sigma_0=0.4, sigma_1=0.05, mean=mean, shape=shape, floor=0.1, residual_std=0.7
    )
    path = GaussianPath(config.sigma_0, config.sigma_1, mean, shape, config.floor)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    b = 200_000
    y = torch.tensor([0.3, -0.2]).reshape(1, 2, 1, 1).expand(b, 2, 1, 1)
    c = config.residual_std * (y[:1].square().sum() + config.floor**2).sqrt()
    m = y if mean == "y" else torch.zeros_like(y)
    x = m + c * noise_like(y.shape, generator)
    z_0, z_1 = path.end_points(x, {"y": y}, noise_like(y.shape, generator))
    z_t, v = interpolate(z_0, z_1, t), z_1 - z_0

    def inside(value: torch.Tensor) -> torch.Tensor:
        return value.permute(0, 3, 2, 1)

    state, answer, scale = Preconditioning(config)(inside(z_t), torch.full((b,), t), inside(y))
    w, residual = inside(z_t - m), inside(v) - answer
    # nothing linear is left
    assert (
        abs(float((w * residual).mean() / (w.square().mean() * residual.square().mean()).sqrt()))
        < 0.01
    )
    assert float((residual / scale).square().mean()) == pytest.approx(1.0, abs=0.01)
    assert float(state.square().mean()) == pytest.approx(1.0, abs=0.01)


def test_state_filter_taps_reach_the_neighbours_they_are_named_after() -> None:
    filter = StateFilter(replace(TINY, filter_frames=3, filter_bins=3))
    state = torch.randn(1, 6, 5, 2)
    neighbours = filter.neighbours(state)
    for tap, (frame, bin) in enumerate((frame, bin) for frame in (-1, 0, 1) for bin in (-1, 0, 1)):
        taps = torch.zeros(1, 6, 5, 2 * filter.taps)
        taps[..., filter.taps + tap] = 1.0  # multiply by i
        got = filter(taps, neighbours)[:, 2, 2]
        x = state[:, 2 + frame, 2 + bin]
        assert torch.equal(got, torch.stack([-x[:, 1], x[:, 0]], -1))


@pytest.mark.parametrize("recurrent", [0, 4])
def test_causal_network_never_looks_ahead(recurrent: int) -> None:
    net = perturbed(replace(TINY, causal=True, recurrent=recurrent))
    z, t, y = inputs(TINY)
    before = net(z, t, {"y": y})
    z[..., 6:], y[..., 6:] = 7.0, -3.0
    after = net(z, t, {"y": y})
    assert torch.equal(before[..., :6], after[..., :6])
    assert not torch.allclose(before[..., 6], after[..., 6])


def test_non_causal_network_does_look_ahead() -> None:
    net = perturbed(TINY)
    z, t, y = inputs(TINY)
    before = net(z, t, {"y": y})
    z[..., 6] += 1.0
    assert not torch.allclose(before[..., 5], net(z, t, {"y": y})[..., 5])


def test_samples_of_a_batch_do_not_mix() -> None:
    net = perturbed(replace(TINY, recurrent=4))
    z, t, y = inputs(TINY)
    both = net(z, t, {"y": y})
    torch.testing.assert_close(both[1:], net(z[1:], t[1:], {"y": y[1:]}), rtol=1e-5, atol=1e-5)


def test_frame_norm_sees_one_band_of_one_frame() -> None:
    norm = FrameNorm(4)
    x = torch.randn(1, 3, 2, 4)
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(norm(x), expected)


@pytest.mark.parametrize(
    "config",
    [TINY, replace(TINY, recurrent=4), replace(TINY, shape="magnitude", mean="zero", sigma_0=1.0)],
)
def test_forward_mode_derivative_equals_central_differences(config: CompactConfig) -> None:
    net = perturbed(config).double()
    z, t, y = inputs(config, dtype=torch.float64)
    t = 0.2 + 0.6 * t
    v = torch.randn_like(z)
    results = [
        total_derivative(lambda z, t, r: net(z, t, {"y": y}), z, t, t * 0 + 1, v, method=m)[1]
        for m in ("forward", "central")
    ]
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-5)


def test_untrained_network_answers_with_the_linear_optimum() -> None:
    net = CompactNet(TINY)
    z, t, y = inputs(TINY)
    _, answer, _ = net.preconditioning(z.permute(0, 3, 2, 1), t, y.permute(0, 3, 2, 1))
    assert torch.equal(net(z, t, {"y": y}), answer.permute(0, 3, 2, 1))


def test_silence_is_finite_at_both_ends() -> None:
    net = perturbed(TINY)
    zero = torch.zeros(2, 2, 32, 4)
    assert net(zero, torch.tensor([0.0, 1.0]), {"y": zero}).isfinite().all()


def test_default_network_stays_small() -> None:
    """0.3 to 3 M parameters and under 1 GMAC per second of speech."""
    net = CompactNet(CompactConfig())
    z, t, y = inputs(CompactConfig(), b=1, n=63)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(z, t, {"y": y})
    assert 0.3e6 < sum(p.numel() for p in net.parameters()) < 3e6
    assert counter.get_total_flops() / 2 < 1e9


def test_time_is_embedded_at_unit_scale() -> None:
    torch.manual_seed(0)
    embed = TimeEmbedding(32).double()
    t = torch.linspace(0, 1, 50, dtype=torch.float64)
    value, slope = torch.func.jvp(embed, (t,), (torch.ones_like(t),))
    assert slope.norm() / value.norm() < 10


def test_current_time_of_a_pair_is_its_first() -> None:
    t, r = torch.tensor([0.1, 0.2]), torch.tensor([0.5, 0.9])
    assert torch.equal(current_time(torch.stack([t, r], -1)), t)
    assert torch.equal(current_time(t), t)


def test_unknown_network_and_size_are_named() -> None:
    with pytest.raises(UserError, match="network 'compactt' is unknown.*compact"):
        build_network("compactt", {})
    with pytest.raises(UserError, match="unknown key 'chanels'; did you mean 'channels'"):
        build_network("compact", {"chanels": 4})


def test_times_of_another_precision_than_the_weights() -> None:
    """Times that are exact in binary: embedded in the finer precision, answered in that of the
    states.
    """
    net = perturbed(TINY).double()
    z, _, y = inputs(TINY, dtype=torch.float64)
    t = torch.tensor([0.25, 0.625])
    for time in (t, torch.stack([t, t], -1)):
        module = net if time.ndim == 1 else Student(net, net.time_embedding_name).network
        assert torch.equal(module(z, time, {"y": y}), module(z, time.double(), {"y": y}))
    embedding = TimeEmbedding(8)
    assert (
        embedding(t.double()).dtype == torch.float32
        and embedding.to(torch.bfloat16)(t).dtype == torch.bfloat16
    )
