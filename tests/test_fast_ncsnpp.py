"""NCSN++ in one pass with its tangent, its fused operations and Winograd's convolution: all exact
against torch's own.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mfdistill.distill.objectives import MeanFlowConfig, MeanFlowObjective
from mfdistill.flow import GaussianPath, total_derivative
from mfdistill.networks import build_network, winograd
from mfdistill.networks.fused import fused
from mfdistill.networks.ncsnpp import GroupNorm
from mfdistill.students import Student, given

SIZES = dict(
    nf=16,
    ch_mult=(1, 2, 2),
    num_res_blocks=1,
    image_size=16,
    attn_resolutions=(8,),
    fourier_scale=1.0,
)


def student(dtype: torch.dtype = torch.float64, **options: Any) -> Student:
    torch.manual_seed(0)
    network = build_network("ncsnpp", {**SIZES, "delta": True, **options})
    with torch.no_grad():
        for p in network.parameters():
            p += 0.05 * torch.randn_like(p)
    return Student.from_network(network).to(dtype)


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    z, y, v = (
        torch.randn(2, 2, 16, 11, generator=generator, dtype=torch.float64).to(dtype)
        for _ in range(3)
    )
    return z, torch.tensor([0.3, 0.5], dtype=dtype), torch.tensor([0.9, 0.5], dtype=dtype), v, y


def error(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().norm() / b.detach().norm())


@pytest.fixture(params=["chosen by size", "everywhere"])
def convolution(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "everywhere":
        monkeypatch.setattr(
            winograd, "worthwhile", lambda pixels, h, w, inputs, outputs: h % 4 == 0 and w % 4 == 0
        )


@pytest.mark.parametrize("options", [{}, {"divide_by_t": True}, {"output": "score"}])
@pytest.mark.parametrize("fuse", [True, False])
def test_one_pass_is_torchs_forward_mode(
    options: dict[str, Any], fuse: bool, convolution: None
) -> None:
    model, (z, t, r, v, y) = student(**options), inputs()
    model.network.fuse = fuse
    u, du = total_derivative(given(model, {"y": y}), z, t, r, v)
    assert u.requires_grad and not du.requires_grad
    expected, d_expected = torch.func.jvp(
        lambda z, t: model(z, t, r, {"y": y}), (z, t), (v, torch.ones_like(t))
    )
    assert error(u, expected) < 1e-12 and error(du, d_expected) < 1e-12
    assert (
        error(
            total_derivative(given(model, {"y": y}), z, t, r, v, "double-backward")[1], d_expected
        )
        < 1e-12
    )
    if not options:
        single = student(torch.float32)
        z, t, r, v, y = (x.float() for x in (z, t, r, v, y))
        assert (
            error(total_derivative(given(single, {"y": y}), z, t, r, v)[1].double(), d_expected)
            < 1e-5
        )


def test_gradients_are_those_of_the_plain_network(convolution: None) -> None:
    """Of the weights and of what made the state, by a plain call and by the pass that takes the
    tangent along.
    """
    model, (z, t, r, v, y) = student(), inputs()
    found = []
    for fuse, tangent in ((False, False), (True, False), (True, True), (False, True)):
        model.network.fuse = fuse
        model.zero_grad()
        z = z.detach().requires_grad_()
        u = (
            total_derivative(given(model, {"y": y}), z, t, r, v)[0]
            if tangent
            else model(z, t, r, {"y": y})
        )
        (u * v).sum().backward()
        # an attention's key bias shifts all its logits alike: its gradient is rounding
        names = [
            name
            for name, p in model.named_parameters()
            if p.grad is not None and not name.endswith("NIN_1.b")
        ]
        found.append([z.grad, *(model.get_parameter(name).grad for name in names)])
    for other in found[1:]:
        assert len(other) == len(found[0]) > 60
        for a, b in zip(other, found[0], strict=True):
            assert error(a, b) < 1e-10


def test_the_objective_uses_it_and_its_loss_and_gradient_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    z, _, _, x, y = inputs(torch.float32)
    batch = {"z_1": x, "cond": {"y": y}, "index": torch.arange(2)}
    results, calls = [], []
    for impl in ("forward", "forward-graph"):
        model = student(torch.float32)
        inner = model.network.with_tangent
        monkeypatch.setattr(
            model.network,
            "with_tangent",
            lambda *args, f=inner, i=impl: calls.append(i) or f(*args),
        )
        objective = MeanFlowObjective(
            model, None, GaussianPath(0.5), MeanFlowConfig(teacher_free=True, mf_jvp_impl=impl)
        )
        loss, _ = objective(batch)
        loss.backward()
        results.append(
            (
                loss.detach(),
                torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]),
            )
        )
    assert calls == ["forward"]
    assert error(results[0][0], results[1][0]) < 1e-5 and error(results[0][1], results[1][1]) < 1e-4


def test_other_networks_and_autocast_keep_torchs_forward_mode(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    z, t, r, v, y = inputs(torch.float32)
    other = Student.from_network(build_network("compact", dict(channels=8, blocks=1, freqs=16)))
    assert not hasattr(given(other, {"y": y}), "with_tangent")
    model = student(torch.float32)
    exact = total_derivative(given(model, {"y": y}), z, t, r, v)[1]
    monkeypatch.setattr(
        model.network,
        "with_tangent",
        lambda *args: pytest.fail("one pass under autocast would be coarse"),
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        u, du = total_derivative(given(model, {"y": y}), z, t, r, v)
    assert error(du, exact) < 1e-5


def test_dropout_drops_the_same_of_value_and_tangent() -> None:
    model, (z, t, _, v, y) = student(dropout=0.3), inputs()
    # beyond both sides of every difference: no interval is negative
    r = torch.tensor([0.9, 0.8], dtype=torch.float64)
    torch.manual_seed(3)
    u, du = total_derivative(given(model, {"y": y}), z, t, r, v)
    step = 1e-5
    around = []
    for sign in (1, -1):
        torch.manual_seed(3)
        moved = z + sign * step * v, t + sign * step
        around.append(total_derivative(given(model, {"y": y}), *moved, r, v)[0])
    assert error((around[0] - around[1]) / (2 * step), du) < 1e-6


def test_fused_operations_have_all_their_gradients(convolution: None) -> None:
    torch.manual_seed(0)
    norm = GroupNorm(8).double()
    x = torch.randn(2, 8, 4, 4, dtype=torch.float64, requires_grad=True)
    skip = torch.randn(2, 6, 4, 4, dtype=torch.float64, requires_grad=True)
    weight, shift = (
        torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((6, 8, 3, 3), (2, 6))
    )
    gamma, beta = norm.weight, norm.bias

    def whole(x: Tensor, weight: Tensor, shift: Tensor, skip: Tensor, *_: Tensor) -> Tensor:
        return fused(x, None, norm, weight, shift, None, skip, None, 0.5)[0]

    arguments = (x, weight, shift, skip, gamma, beta)
    plain = 0.5 * (skip + shift[:, :, None, None] + F.conv2d(F.silu(norm(x)), weight, padding=1))
    assert error(whole(*arguments), plain) < 1e-12
    assert torch.autograd.gradcheck(
        whole, arguments, fast_mode=True
    ) and torch.autograd.gradgradcheck(whole, arguments, fast_mode=True)
    assert torch.autograd.gradcheck(
        lambda x, *_: fused(x, None, norm)[0], (x, gamma, beta), fast_mode=True
    )
    assert torch.autograd.gradcheck(
        lambda x, w: fused(x, None, None, w)[0], (x, weight), fast_mode=True
    )


def test_norm_of_large_means_and_of_many_chunks() -> None:
    torch.manual_seed(0)
    norm = GroupNorm(64)
    x = 1000 + torch.randn(2, 64, 64, 40)
    expected = F.silu(F.group_norm(x.double(), norm.num_groups, eps=norm.eps))
    assert error(fused(x, None, norm)[0].double(), expected) < 1e-4


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 3e-6), (torch.float64, 1e-13)])
@pytest.mark.parametrize("shape", [(1, 96, 96, 4, 512), (3, 16, 24, 8, 12), (2, 8, 8, 128, 64)])
def test_winograd_is_the_convolution(
    shape: tuple[int, ...], dtype: torch.dtype, tolerance: float
) -> None:
    n, c, o, h, w = shape
    torch.manual_seed(0)
    x, g = (
        torch.randn(n, c, h, w, dtype=torch.float64),
        torch.randn(n, o, h, w, dtype=torch.float64),
    )
    weight = torch.randn(o, c, 3, 3, dtype=torch.float64, requires_grad=True)
    expected = F.conv2d(x, weight, padding=1)
    expected.backward(g)
    padded = F.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1).contiguous().to(dtype)
    out = torch.empty(n, h, w, o, dtype=dtype)
    winograd.convolve(padded, winograd.transform_kernel(weight.detach().to(dtype)), out)
    assert error(out.permute(0, 3, 1, 2).double(), expected) < tolerance
    found = winograd.weight_gradient(padded, g.permute(0, 2, 3, 1).contiguous().to(dtype))
    assert weight.grad is not None and error(found.double(), weight.grad) < 3 * tolerance
    assert winograd.worthwhile(n * h * w, h, w, c, o) is (c >= 96)
