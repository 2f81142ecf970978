"""Waveforms one after another without a click."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def crossfade(waves: Sequence[Tensor], overlap: int) -> Tensor:
    """Waveforms (s_i,) joined (s,); neighbours overlap by ``overlap`` samples (fewer where one is
    shorter) and are faded linearly.
    """
    joined = waves[0]
    for wave in waves[1:]:
        shared = min(overlap, len(joined), len(wave))
        up = torch.linspace(0, 1, shared, dtype=wave.dtype, device=wave.device)
        middle = joined[len(joined) - shared :] * up.flip(0) + wave[:shared] * up
        joined = torch.cat([joined[: len(joined) - shared], middle, wave[shared:]])
    return joined
