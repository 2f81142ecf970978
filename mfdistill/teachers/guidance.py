"""Guidance of text-to-speech teachers: how the velocities with and without a condition are
combined.

The strength s is that of ``v_cond + s (v_cond - v_null)``: F5-TTS's ``cfg_strength`` (2),
CosyVoice's ``inference_cfg_rate`` (0.7). Others write ``v_null + w (v_cond - v_null)`` with a
*scale* ``w = 1 + s`` (3 and 1.7); no guidance is s = 0 or w = 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

Rule = Literal["cfg", "zero-star"]


def guide(
    v_cond: Tensor,
    v_null: Tensor,
    strength: float | Tensor,
    rule: Rule = "cfg",
    valid: Tensor | None = None,
    unit: int | None = None,
) -> Tensor:
    """The guided velocity, in the shape of ``v_cond`` (b, ...).

    Args:
        strength: s, a number or one per sample (b,).
        rule: "cfg" is ``v_cond + s (v_cond - v_null)`` (arXiv 2207.12598); "zero-star" first scales
            ``v_null`` to its projection on ``v_cond``, sample by sample (CFG-Zero*, arXiv
            2503.18886; without its zeroed first steps, which are the sampler's).
        valid: what counts in that projection, broadcastable to ``v_cond``; None: everything.
        unit: project every so many frames, along the last dimension, by themselves.
    """
    if rule == "zero-star":
        counted = v_null if valid is None else v_null * valid
        size = v_null.shape[-1] if unit is None else unit

        def sums(v: Tensor) -> Tensor:
            parts = (v * counted).unflatten(-1, (-1, size))
            return parts.sum((*range(1, v.ndim - 1), -1), keepdim=True)

        share = (sums(v_cond) / sums(v_null).clamp(min=1e-8)).expand(*[-1] * v_null.ndim, size)
        v_null = v_null * share.flatten(-2)
    if isinstance(strength, Tensor):
        strength = strength.to(v_cond).reshape(-1, *[1] * (v_cond.ndim - 1))
    return v_cond + (v_cond - v_null) * strength


def strength_of(cond: Mapping[str, Tensor], default: float) -> float | Tensor:
    """The strength of guidance: ``cond["guidance"]`` (b,) where the condition has it, else the
    teacher's own.
    """
    return cond.get("guidance", default)
