"""The total derivative ``du/dt = (d_z u) v + d_t u`` of an average velocity along the flow, four
ways.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Literal, Protocol, cast

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from mfdistill.errors import UserError
from mfdistill.flow.paths import batch_time, expand_time

AverageVelocity = Callable[[Tensor, Tensor, Tensor], Tensor]


class WithTangent(Protocol):
    """An average velocity with a forward-mode rule of its own."""

    def __call__(self, z: Tensor, t: Tensor, r: Tensor, /) -> Tensor: ...

    def with_tangent(self, z: Tensor, t: Tensor, r: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """``(u, du_dt)`` along (v, 1, 0) in one pass; u has a graph where grad is enabled, du_dt
        has none.
        """
        ...


Method = Literal["forward", "forward-graph", "double-backward", "central"]
METHODS = ("forward", "forward-graph", "double-backward", "central")


def total_derivative(
    u_fn: AverageVelocity,
    z: Tensor,
    t: Tensor | float,
    r: Tensor | float,
    v: Tensor,
    method: Method = "forward",
    eps: float = 1e-4,
) -> tuple[Tensor, Tensor]:
    """``(u, du_dt)`` of ``u_fn(z, t, r)`` along the tangent (v, 1, 0): z moves with v, t with 1,
    and r stands still.

    Call it on the bare module (never on a DDP wrapper), and let the objective around it be what is
    wrapped or compiled.

    Args:
        u_fn: (z (b, ...), t (b,), r (b,)) -> u, shaped like z. Its parameters may require grad.
            Where it is called more than once, every call starts from the same random state, so
            dropout is the same in all of them (not inside fused attention or on tensors
            that are not contiguous: in forward mode torch draws those masks in another order).
        v: shaped like z.
        method:
            "forward": forward mode without a graph, in full precision (autocast off), then a plain
            call: u has a graph, du_dt has none.
                The cheapest in memory, right for a stop-gradient target. A u_fn with a rule of its
                own (``WithTangent``, as ``students.given`` returns for networks that have one)
                gives both in one pass instead, unless autocast would blur it.
            "forward-graph": one call in forward mode; u and du_dt both have graphs: detach du_dt
            where the target is stop-gradient. "double-backward": one plain call and two reverse
            passes; du_dt has no graph. For operations without a forward-mode rule. "central": two
            calls without a graph, in full precision, and a plain one; du_dt has no graph. For
            operations that can do
                neither; error O(eps^2). Where t - eps < 0 or t + eps > r both points lie on one
                side (still second order), so that u_fn sees 0 <= t <= r; only an r below 3 eps may
                be passed.
        eps: step of "central" in time; about 1e-4 for float32 states and networks of unit time
            scale.

    Returns: u, du_dt, shaped like z.

    Raises:
        UserError: an unknown method, or an operation in u_fn that forward mode cannot do on this
            device (LSTM; GRU on CUDA).
        ValueError: "central" on half precision, where differences are noise.
    """
    t, r = (batch_time(time, z).contiguous() for time in (t, r))
    # forward mode refuses tensors whose elements share memory
    z, v = z.contiguous(), v.to(z.dtype).contiguous()
    if method == "forward":
        if hasattr(u_fn, "with_tangent") and not torch.is_autocast_enabled(z.device.type):
            return cast(WithTangent, u_fn).with_tangent(z, t, r, v.detach())
        with _same_random_numbers(z.device), _full_precision(z.device), torch.no_grad():
            du_dt = _forward_mode(u_fn, z.detach(), t, r, v.detach())[1]
        return u_fn(z, t, r), du_dt.detach()
    if method == "forward-graph":
        return _forward_mode(u_fn, z, t, r, v)
    if method == "double-backward":
        return _double_backward(u_fn, z, t, r, v)
    if method == "central":
        return _central(u_fn, z, t, r, v, eps)
    raise UserError(f"derivative method: {method!r} is not one of {', '.join(METHODS)}")


def _forward_mode(
    u_fn: AverageVelocity, z: Tensor, t: Tensor, r: Tensor, v: Tensor
) -> tuple[Tensor, Tensor]:
    try:
        with _differentiable_attention():
            u, du_dt = torch.func.jvp(lambda z, t: u_fn(z, t, r), (z, t), (v, torch.ones_like(t)))[
                :2
            ]
    except NotImplementedError as error:
        if "forward AD" not in str(error):
            raise
        what = str(error).split(" that does not support it")[0].split("forward AD with ")[-1]
        raise UserError(
            f"derivative method: torch cannot take {what} in forward mode on {z.device.type}; use 'central'"
        ) from error
    return u, du_dt


def _double_backward(
    u_fn: AverageVelocity, z: Tensor, t: Tensor, r: Tensor, v: Tensor
) -> tuple[Tensor, Tensor]:
    """Reverse over reverse: the vector-Jacobian product is linear in its cotangent w, and its
    derivative by w is the product wanted.
    """
    with torch.enable_grad(), _differentiable_attention():
        z = z if z.requires_grad else z.detach().requires_grad_()
        t = t.detach().requires_grad_()
        u = u_fn(z, t, r)
        if not u.requires_grad:  # depends on neither z nor t nor any parameter
            return u, torch.zeros_like(u)
        w = torch.zeros_like(u, requires_grad=True)
        pulled = torch.autograd.grad(u, (z, t), w, create_graph=True, allow_unused=True)
        pairs = zip(pulled, (v.detach(), torch.ones_like(t)), strict=True)
        # a field may ignore z, t or both
        used = [(g, tangent) for g, tangent in pairs if g is not None and g.requires_grad]
        du_dt = torch.zeros_like(u)
        if used:
            du_dt = torch.autograd.grad(
                [g for g, _ in used], w, [tangent for _, tangent in used], retain_graph=True
            )[0]
    return (u if torch.is_grad_enabled() else u.detach()), du_dt.detach()


def _central(
    u_fn: AverageVelocity, z: Tensor, t: Tensor, r: Tensor, v: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    if z.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"finite differences of {z.dtype} states are noise; use float32, or another method"
        )
    inside = (t - eps >= 0) & (t + eps <= r)
    side = torch.where(t - 2 * eps >= 0, -1.0, 1.0).to(t.dtype)
    # the offsets that the rounded times really have: at t near 1 a step of 1e-4 is off by 3e-4 of
    # itself in float32
    a = (t + torch.where(inside, -eps, side * eps)) - t
    b = (t + torch.where(inside, eps, 2 * side * eps)) - t
    # then the plain call's u is too coarse to be the middle point
    repeat = torch.is_autocast_enabled(z.device.type)
    with torch.no_grad(), _full_precision(z.device):
        offsets = [a, b, torch.zeros_like(t)] if repeat else [a, b]
        values = []
        for offset in offsets:
            with _same_random_numbers(z.device):
                values.append(u_fn(z + expand_time(offset, z) * v, t + offset, r))
    u = u_fn(z, t, r)
    u_a, u_b, u_0 = values if repeat else (*values, u.detach())
    # the derivative at 0 of the parabola through (a, u_a), (0, u_0), (b, u_b)
    a, b = expand_time(a, z), expand_time(b, z)
    return u, ((u_a - u_0) * b / a - (u_b - u_0) * a / b) / (b - a)


@contextlib.contextmanager
def _differentiable_attention() -> Iterator[None]:
    """The fused attention kernels have no forward-mode rule and no double backward; the MATH
    backend has both.
    """
    with sdpa_kernel(SDPBackend.MATH):
        yield


def _full_precision(device: torch.device) -> torch.autocast:
    """Under bf16 autocast the derivative would be off by about 1 %, finite differences by 98 %."""
    return torch.autocast(device.type, enabled=False)


@contextlib.contextmanager
def _same_random_numbers(device: torch.device) -> Iterator[None]:
    """Put the random state back afterwards, so that the next call repeats this one's dropout."""
    with torch.random.fork_rng([device] if device.type == "cuda" else [], device_type="cuda"):
        yield
