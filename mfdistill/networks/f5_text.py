"""F5-TTS's text embedding: characters laid on the first frames, a filler on the others, refined by
ConvNeXt-V2 blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class GlobalResponseNorm(nn.Module):
    """ConvNeXt V2's (arXiv 2301.00808), with the norm over the *sequence*: what one frame gets
    depends on the length and on padding.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, dim))
        self.beta = nn.Parameter(torch.zeros(1, 1, dim))

    def forward(self, x: Tensor) -> Tensor:
        response = x.norm(dim=1, keepdim=True)
        return (
            self.gamma * (x * (response / (response.mean(-1, keepdim=True) + 1e-6))) + self.beta + x
        )


class ConvNeXtBlock(nn.Module):
    """(b, n, d) -> (b, n, d)."""

    def __init__(self, dim: int, inner: int):
        super().__init__()
        self.dwconv = nn.Conv1d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, inner)
        self.grn = GlobalResponseNorm(inner)
        self.pwconv2 = nn.Linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.dwconv(x.transpose(1, 2)).transpose(1, 2))
        return x + self.pwconv2(self.grn(F.gelu(self.pwconv1(h))))


def position_table(n: int, dim: int, like: Tensor, last: int | None = None) -> Tensor:
    """Cosines, then sines (n, dim) of positions 0 to n - 1, those beyond ``last`` being
    ``last``.
    """
    rates = 1.0 / 10000.0 ** (torch.arange(0, dim, 2, device=like.device).float() / dim)
    position = torch.arange(n, device=like.device).clamp(max=n if last is None else last)
    angle = position[:, None] * rates
    return torch.cat([angle.cos(), angle.sin()], -1).to(like.dtype)


class TextEmbedding(nn.Module):
    """Text (b, nt), -1 where it has ended, -> (b, n, dim).

    Args:
        vocabulary: number of symbols; the table's row 0 is the filler.
        mask_padding: fillers are zeroed around every block. They are found *before* the text is
            dropped, so a null branch still knows the length of the text.
        upsample: spread the symbols evenly over the valid frames at the end.
        last_position: positions beyond it count as it (None: none does).
    """

    def __init__(
        self,
        vocabulary: int,
        dim: int,
        blocks: int,
        mask_padding: bool,
        upsample: bool = False,
        last_position: int | None = None,
    ):
        super().__init__()
        self.mask_padding, self.upsample, self.last_position = mask_padding, upsample, last_position
        self.text_embed = nn.Embedding(vocabulary + 1, dim)
        if blocks:
            self.text_blocks = nn.Sequential(*(ConvNeXtBlock(dim, 2 * dim) for _ in range(blocks)))

    def forward(
        self, text: Tensor, n: int, valid: Tensor | None = None, drop: Tensor | None = None
    ) -> Tensor:
        """``valid`` (b, n): frames that are not padding; ``drop`` (b,): samples without their text.
        Text beyond n frames is cut.
        """
        text = F.pad((text + 1)[:, :n], (0, max(n - text.shape[1], 0)))
        if valid is not None:
            text = text.masked_fill(~valid, 0)
        filler = (text == 0) if self.mask_padding else None
        if drop is not None:
            text = text.masked_fill(drop[:, None], 0)
        x = self.text_embed(text)
        if valid is not None:
            x = x.masked_fill(~valid[..., None], 0.0)
        if hasattr(self, "text_blocks"):
            table = position_table(n, x.shape[-1], x, self.last_position)
            x = _without(
                filler, x + (table if valid is None else table * valid[..., None].to(x.dtype))
            )
            for block in self.text_blocks:
                x = _without(filler, block(x))
        return _spread(x, filler, valid) if self.upsample and filler is not None else x


def _without(filler: Tensor | None, x: Tensor) -> Tensor:
    return x if filler is None else x.masked_fill(filler[..., None], 0.0)


def _spread(x: Tensor, filler: Tensor, valid: Tensor | None) -> Tensor:
    """Each symbol repeated ``frames // symbols`` times, the last ``frames % symbols`` of them once
    more.
    """
    n = x.shape[1]
    symbols = (~filler).sum(1, keepdim=True)
    frames = torch.full_like(symbols, n) if valid is None else valid.sum(1, keepdim=True)
    base, more = frames // symbols.clamp(min=1), frames % symbols.clamp(min=1)
    frame = torch.arange(n, device=x.device)[None]
    short = (symbols - more) * base  # frames of the symbols that are not repeated once more
    which = torch.where(
        frame < short, frame // base.clamp(min=1), symbols - more + (frame - short) // (base + 1)
    )
    order = filler.to(torch.uint8).argsort(dim=1, stable=True)  # the symbols first, as they stand
    source = order.gather(1, which.clamp(0, n - 1))
    spread = x.gather(1, source[..., None].expand_as(x))
    return spread.masked_fill(((frame >= frames) | (symbols == 0))[..., None], 0.0)
