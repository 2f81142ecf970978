"""CosyVoice 2's token encoder: look-ahead convolutions and transformer blocks with relative
positions, at the tokens' rate, then the Mels'.

State-dict names are the original's ``UpsampleConformerEncoder``'s (without convolution modules and
second feed-forwards, as published).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mfdistill.networks.mel_unet import visible


@dataclass(frozen=True)
class TokenEncoderConfig:
    """A ``TokenEncoder``; the defaults are the published one."""

    width: int = 512
    heads: int = 8
    inner: int = 2048
    """Of the feed-forwards."""
    blocks: int = 6
    """At the rate of tokens."""
    up_blocks: int = 4
    """At the rate of Mel frames."""
    lookahead: int = 3
    """Tokens."""
    stride: int = 2
    """Mel frames per token."""
    chunk: int = 25
    """Tokens that a chunk has in streaming form."""


class PreLookahead(nn.Module):
    """A convolution over some following tokens and one over the two before, with a residual; ``(b,
    n, c)``.
    """

    def __init__(self, inputs: int, channels: int, lookahead: int):
        super().__init__()
        self.lookahead = lookahead
        self.conv1, self.conv2 = (
            nn.Conv1d(inputs, channels, lookahead + 1),
            nn.Conv1d(channels, inputs, 3),
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """context: the ``lookahead`` tokens (b, lookahead, c) that follow, where they are known;
        else zeros.
        """
        following = (
            x.new_zeros(x.shape[0], self.lookahead, x.shape[2]) if context is None else context
        )
        h = F.leaky_relu(self.conv1(torch.cat([x, following], 1).transpose(1, 2)))
        return self.conv2(F.pad(h, (2, 0))).transpose(1, 2) + x


def relative_positions(n: int, width: int, like: Tensor) -> Tensor:
    """(1, 2 n - 1, width): interleaved sines and cosines of the distances n - 1, ..., -(n - 1) from
    key to query.
    """
    distance = torch.arange(n - 1, -n, -1, dtype=torch.float32, device=like.device)[:, None]
    rates = torch.exp(
        torch.arange(0, width, 2, dtype=torch.float32, device=like.device)
        * -(math.log(10000.0) / width)
    )
    return (
        torch.stack([(distance * rates).sin(), (distance * rates).cos()], -1)
        .flatten(1)[None]
        .to(like.dtype)
    )


class RelativeAttention(nn.Module):
    """Self-attention with relative positions (Transformer-XL, arXiv 1901.02860, section 3.3)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.linear_q, self.linear_k, self.linear_v, self.linear_out = (
            nn.Linear(width, width) for _ in range(4)
        )
        self.linear_pos = nn.Linear(width, width, bias=False)
        self.pos_bias_u, self.pos_bias_v = (
            nn.Parameter(torch.zeros(heads, width // heads)) for _ in range(2)
        )

    def forward(self, x: Tensor, seen: Tensor, positions: Tensor) -> Tensor:
        """x (b, n, c); seen (b, 1 or n, n), True is attended to; positions (1, 2 n - 1, c)."""
        n = x.shape[1]
        q, k, v, p = (
            project(value).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project, value in (
                (self.linear_q, x),
                (self.linear_k, x),
                (self.linear_v, x),
                (self.linear_pos, positions),
            )
        )
        content = (q + self.pos_bias_u[:, None]) @ k.transpose(-2, -1)
        by_distance = (q + self.pos_bias_v[:, None]) @ p.transpose(-2, -1)
        # of the distance i - j
        column = (
            torch.arange(n, device=x.device)[None]
            - torch.arange(n, device=x.device)[:, None]
            + n
            - 1
        )
        scores = (content + by_distance.gather(-1, column.expand_as(content))) / math.sqrt(
            q.shape[-1]
        )
        weights = scores.masked_fill(~seen[:, None], -math.inf).softmax(-1)
        return self.linear_out((weights @ v).transpose(1, 2).flatten(2))


class _FeedForward(nn.Module):
    def __init__(self, width: int, inner: int):
        super().__init__()
        self.w_1, self.w_2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.w_2(F.silu(self.w_1(x)))


class EncoderBlock(nn.Module):
    """Attention and feed-forward, each after a norm and with a residual."""

    def __init__(self, config: TokenEncoderConfig):
        super().__init__()
        self.self_attn = RelativeAttention(config.width, config.heads)
        self.feed_forward = _FeedForward(config.width, config.inner)
        self.norm_ff, self.norm_mha = (
            nn.LayerNorm(config.width, eps=1e-12),
            nn.LayerNorm(config.width, eps=1e-12),
        )

    def forward(self, x: Tensor, seen: Tensor, positions: Tensor) -> Tensor:
        x = x + self.self_attn(self.norm_mha(x), seen, positions)
        return x + self.feed_forward(self.norm_ff(x))


class _Embed(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.out = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x) * math.sqrt(x.shape[-1])


class _Upsample(nn.Module):
    def __init__(self, width: int, stride: int):
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv1d(width, width, 2 * stride + 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.repeat_interleave(self.stride, 1).transpose(1, 2)
        return self.conv(F.pad(x, (2 * self.stride, 0))).transpose(1, 2)


class TokenEncoder(nn.Module):
    """Embedded tokens (b, n, width) -> (b, stride n, width)."""

    def __init__(self, config: TokenEncoderConfig):
        super().__init__()
        self.config = config
        self.embed, self.up_embed = _Embed(config.width), _Embed(config.width)
        self.pre_lookahead_layer = PreLookahead(config.width, config.width, config.lookahead)
        self.encoders = nn.ModuleList(EncoderBlock(config) for _ in range(config.blocks))
        self.up_layer = _Upsample(config.width, config.stride)
        self.up_encoders = nn.ModuleList(EncoderBlock(config) for _ in range(config.up_blocks))
        self.after_norm = nn.LayerNorm(config.width)

    def forward(
        self,
        x: Tensor,
        valid: Tensor,
        context: Tensor | None = None,
        streaming: bool | Tensor = False,
    ) -> Tensor:
        """valid (b, n), False on padding; context: the embedded tokens that follow (b, lookahead,
        width); streaming: attend by chunks.
        """
        x = self.pre_lookahead_layer(
            self.embed(x), None if context is None else self.embed(context)
        )
        x = self._blocks(x, self.encoders, valid, self.config.chunk, streaming)
        x, valid = self.up_embed(self.up_layer(x)), valid.repeat_interleave(self.config.stride, 1)
        return self.after_norm(
            self._blocks(
                x, self.up_encoders, valid, self.config.chunk * self.config.stride, streaming
            )
        )

    def _blocks(
        self, x: Tensor, blocks: nn.ModuleList, valid: Tensor, chunk: int, streaming: bool | Tensor
    ) -> Tensor:
        seen, positions = (
            visible(valid, chunk, streaming),
            relative_positions(x.shape[1], x.shape[2], x),
        )
        for block in blocks:
            x = block(x, seen, positions)
        return x
