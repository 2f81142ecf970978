"""The total derivative against closed forms, and the gradients that training takes from it."""

import pytest
import torch
import torch.nn.functional as F
from gaussian import average_velocity, fixed_point, flow_map, marginal_velocity
from torch import nn

from mfdistill.errors import UserError
from mfdistill.flow import METHODS, total_derivative

Z = torch.linspace(-2, 2, 15, dtype=torch.float64).reshape(5, 3)
T = torch.tensor([0.0, 0.1, 0.5, 0.75, 0.25], dtype=torch.float64)
R = torch.tensor([1.0, 0.4, 0.500001, 1.0, 0.9], dtype=torch.float64)
V = marginal_velocity(Z, T)
TOLERANCE = {"forward": 1e-12, "forward-graph": 1e-12, "double-backward": 1e-12, "central": 1e-6}


class Network(nn.Module):
    """u(z, t, r) with attention, a GRU and dropout: what a student may be made of."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 8)
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.out = nn.Linear(8, 1)
        self.dropout = dropout

    def forward(self, z, t, r):
        time = torch.stack([t, r], -1)[:, None].expand(-1, z.shape[1], -1)
        h = F.silu(self.embed(torch.cat([z[..., None], time], -1)))
        h = F.scaled_dot_product_attention(h[:, None], h[:, None], h[:, None])[:, 0]
        h = F.dropout(self.gru(h)[0].contiguous(), self.dropout, self.training)
        return self.out(h)[..., 0]


def network(dropout: float = 0.0, dtype=torch.float64) -> Network:
    torch.manual_seed(0)
    return Network(dropout).to(dtype)


@pytest.mark.parametrize("method", METHODS)
def test_closed_form_of_the_average_velocity(method):
    """The identity solved for the derivative: du/dt = (u - v) / (r - t)."""
    keep = torch.tensor([0, 1, 3, 4])  # without r - t = 1e-6, where that quotient loses its digits
    u, du_dt = total_derivative(average_velocity, Z[keep], T[keep], R[keep], V[keep], method)
    torch.testing.assert_close(u, average_velocity(Z, T, R)[keep])
    expected = (u - V[keep]) / (R - T)[keep, None]
    assert ((du_dt - expected).norm() / expected.norm()) < TOLERANCE[method]


@pytest.mark.parametrize("method", METHODS)
def test_anchor_is_half_the_acceleration(method):
    t = torch.tensor([0.0, 1e-5, 0.5, 1.0, 0.3], dtype=torch.float64)
    h = 1e-5
    v = marginal_velocity(Z, t)
    _, du_dt = total_derivative(average_velocity, Z, t, t, v, method)
    ahead, behind = (marginal_velocity(flow_map(Z, t, t + s), t + s) for s in (h, -h))
    expected = (ahead - behind) / (4 * h)
    assert ((du_dt - expected).norm() / expected.norm()) < 1e-6


@pytest.mark.parametrize("c", [0.25, 0.5, 0.75, 1.0, 2.0])
def test_fixed_point_of_the_identity(c):
    def u_fn(z, t, r):
        return fixed_point(z, t, r, c)

    u, du_dt = total_derivative(u_fn, Z, T, R, V, "forward")
    torch.testing.assert_close(u, V + c * (R - T)[:, None] * du_dt, rtol=1e-9, atol=1e-9)
    away = (u - average_velocity(Z, T, R)).norm()
    # only c = 1 has the average velocity as its fixed point
    assert away < 1e-9 if c == 1 else away > 0.05
    wrong_sign = u - (V - c * (R - T)[:, None] * du_dt)
    assert wrong_sign.norm() > 0.1


@pytest.mark.parametrize("method", METHODS)
def test_methods_agree_on_a_network(method):
    net = network()
    h = 1e-5
    ahead, behind = (net(Z + s * V, T + s, R) for s in (h, -h))
    expected = ((ahead - behind) / (2 * h)).detach()
    u, du_dt = total_derivative(net, Z, T, R, V, method)
    torch.testing.assert_close(u, net(Z, T, R))
    assert ((du_dt - expected).norm() / expected.norm()) < 1e-7
    exact = total_derivative(net, Z, T, R, V, "forward")[1]
    assert ((du_dt - exact).norm() / exact.norm()) < TOLERANCE[method]
    assert u.requires_grad
    assert du_dt.requires_grad == (method == "forward-graph")


def gradients(method: str, net: Network, dropout_seed: int = 1) -> torch.Tensor:
    dtype = next(net.parameters()).dtype
    z, t, r, v = (x.to(dtype) for x in (Z, T, R, V))
    torch.manual_seed(dropout_seed)
    u, du_dt = total_derivative(net, z, t, r, v, method)
    target = (v + (r - t)[:, None] * du_dt).detach()
    return torch.cat(
        [
            g.flatten()
            for g in torch.autograd.grad((u - target).square().mean(), list(net.parameters()))
        ]
    )


@pytest.mark.parametrize("method", ["forward", "double-backward", "central"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_two_passes_and_one_pass_give_the_same_gradients(method, dropout):
    net = network(dropout, torch.float32)
    expected = gradients("forward-graph", net)
    tolerance = 1e-5 if method != "central" else 2e-3
    assert ((gradients(method, net) - expected).norm() / expected.norm()) < tolerance
    if dropout:
        # dropout was there to be shared
        assert (gradients("forward-graph", net, dropout_seed=2) - expected).norm() > 1e-3


def test_the_random_state_moves_on_as_after_one_call():
    net = network(0.5)
    states = []
    for method in METHODS:
        torch.manual_seed(3)
        total_derivative(net, Z, T, R, V, method)
        states.append(torch.get_rng_state())
    assert all(torch.equal(state, states[0]) for state in states)


def test_gradients_reach_what_made_the_state():
    for method in METHODS:
        z = Z.clone().requires_grad_()
        u, _ = total_derivative(network(), z * 1.0, T, R, V, method)
        u.sum().backward()
        assert z.grad is not None and z.grad.abs().sum() > 0


@pytest.mark.parametrize("method", METHODS)
def test_without_grad_and_with_scalar_times(method):
    with torch.no_grad():
        u, du_dt = total_derivative(network(), Z, 0.25, torch.tensor(0.75), V, method)
    assert not u.requires_grad and not du_dt.requires_grad
    expected = total_derivative(network(), Z, torch.full((5,), 0.25), torch.full((5,), 0.75), V)[1]
    assert ((du_dt - expected).norm() / expected.norm()) < TOLERANCE[method]


@pytest.mark.parametrize("method", METHODS)
def test_a_field_that_ignores_time_or_state(method):
    torch.testing.assert_close(
        total_derivative(lambda z, t, r: z**2, Z, T, R, V, method)[1],
        2 * Z * V,
        rtol=1e-6,
        atol=1e-6,
    )
    rising = total_derivative(lambda z, t, r: (t**2)[:, None].expand_as(z), Z, T, R, V, method)[1]
    torch.testing.assert_close(rising, (2 * T)[:, None].expand_as(Z), rtol=1e-6, atol=1e-6)
    assert torch.equal(
        total_derivative(lambda z, t, r: torch.ones_like(z), Z, T, R, V, method)[1],
        torch.zeros_like(Z),
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_field_of_parameters_alone(method):
    bias = nn.Parameter(torch.ones(3, dtype=torch.float64))
    u, du_dt = total_derivative(lambda z, t, r: bias.expand_as(z) * 1.0, Z, T, R, V, method)
    assert u.requires_grad and torch.equal(du_dt, torch.zeros_like(Z))


def test_a_rule_of_the_fields_own_sees_a_velocity_without_a_graph():
    class Own:
        def __call__(self, z, t, r):
            raise AssertionError("one pass is enough")

        def with_tangent(self, z, t, r, v):
            assert not v.requires_grad
            return z, 2 * v

    u, du_dt = total_derivative(Own(), Z, T, R, V.clone().requires_grad_(), "forward")
    assert torch.equal(u, Z) and torch.equal(du_dt, 2 * V)


@pytest.mark.parametrize("method", ["forward", "central"])
def test_autocast_does_not_blur_the_derivative(method):
    net = network(dtype=torch.float32)
    z, t, r, v = (x.float() for x in (Z, T, R, V))
    expected = total_derivative(net, z, t, r, v)[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        u, du_dt = total_derivative(net, z, t, r, v, method)
    assert u.dtype == torch.bfloat16 and du_dt.dtype == torch.float32
    assert ((du_dt - expected).norm() / expected.norm()) < 5e-3


def test_central_keeps_the_times_in_order():
    seen = []

    def u_fn(z, t, r):
        seen.append((t, r))
        return average_velocity(z, t, r)

    t = torch.tensor([0.0, 5e-5, 0.3, 0.5, 1.0], dtype=torch.float64)
    r = torch.tensor([1.0, 0.9, 0.30001, 0.5, 1.0], dtype=torch.float64)
    total_derivative(u_fn, Z, t, r, V, "central")
    assert len(seen) == 3
    assert all((t >= 0).all() and (t <= r).all() for t, r in seen)


def test_refusals():
    with pytest.raises(UserError, match="forward, forward-graph, double-backward, central"):
        total_derivative(average_velocity, Z, T, R, V, "backward")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="noise"):
        total_derivative(average_velocity, Z.bfloat16(), T, R, V, "central")


def test_an_operation_without_a_forward_rule_is_named_and_central_takes_it():
    torch.manual_seed(0)
    lstm = nn.LSTM(3, 3, batch_first=True)
    z, t, r, v = (x.float() for x in (Z, T, R, V))

    def u_fn(z, t, r):
        return lstm(z[:, None] * (1 + t * r)[:, None, None])[0][:, 0]

    for method in ("forward", "forward-graph"):
        with pytest.raises(UserError, match="rnn.*'central'"):
            total_derivative(u_fn, z, t, r, v, method)
    u, du_dt = total_derivative(u_fn, z, t, r, v, "central")
    lstm.double()
    h = 1e-5
    ahead, behind = (u_fn(Z + s * V, T + s, R) for s in (h, -h))
    expected = (ahead - behind) / (2 * h)
    assert ((du_dt - expected).norm() / expected.norm()) < 2e-3 and u.requires_grad
