"""The total derivative of a student as the objective ``meanflow`` takes it: by MeanFlowSE's names,
in chunks of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mfdistill.distill.objectives.base import in_parts
from mfdistill.flow import expand_time, total_derivative
from mfdistill.students.student import Student, given

_SAME = {"autograd": "double-backward"}


def derivative(
    student: Student,
    impl: str,
    z: Tensor,
    t: Tensor,
    r: Tensor,
    v: Tensor,
    cond: Mapping[str, Tensor],
    eps: float,
    chunk: int = 0,
) -> tuple[Tensor, Tensor]:
    """``(u, du_dt)`` of ``student`` along (v, 1, 0); u has a graph.

    Args:
        impl: a method of ``flow.total_derivative``, or "autograd" ("double-backward"), or "fd"
            (``finite_difference``).
        eps: step of "central", relative step of "fd". chunk: samples at once (0 all); not for
            "forward-graph", where u comes with it.

    Raises:
        UserError: an unknown method, or an operation that forward mode cannot do.
    """
    if chunk <= 0 or chunk >= len(z) or impl == "forward-graph":
        return _whole(student, impl, z, t, r, v, cond, eps)
    parts = []
    for rows in in_parts(len(z), chunk):
        piece = {key: value[rows] for key, value in cond.items()}
        with torch.set_grad_enabled(impl in ("autograd", "double-backward")):
            parts.append(
                _whole(student, impl, z[rows], t[rows], r[rows], v[rows], piece, eps)[1].detach()
            )
    return student(z, t, r, cond), torch.cat(parts)


def finite_difference(
    student: Student,
    z: Tensor,
    t: Tensor,
    r: Tensor,
    v: Tensor,
    cond: Mapping[str, Tensor],
    eps: float = 1e-3,
) -> Tensor:
    """MeanFlowSE's difference ``[u(z + e v, t + e, r) - u(z - e v, t - e, r)] / (2 e)``, no graph,
    e per sample ``eps max(mean |z| + mean |v|, 1e-6)`` (moduli of complex numbers).

    Its step is so long beside the log-time embedding that the result misses the exact derivative by
    1 to 70 %; kept for comparison.
    """
    with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
        size = sum(x.square().sum(1).sqrt().flatten(1).mean(1) for x in (z, v))
        e = eps * torch.as_tensor(size).clamp(min=1e-6).to(t.dtype)
        step = expand_time(e, z) * v
        after, before = student(z + step, t + e, r, cond), student(z - step, t - e, r, cond)
        return (after - before) / expand_time(2 * e, z)


def _whole(
    student: Student,
    impl: str,
    z: Tensor,
    t: Tensor,
    r: Tensor,
    v: Tensor,
    cond: Mapping[str, Tensor],
    eps: float,
) -> tuple[Tensor, Tensor]:
    if impl == "fd":
        du_dt = finite_difference(student, z, t, r, v, cond, eps)
        return student(z, t, r, cond), du_dt
    method = _SAME.get(impl, impl)
    return total_derivative(given(student, cond), z, t, r, v, method=method, eps=eps)  # type: ignore[arg-type]
