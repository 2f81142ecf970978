"""CosyVoice 3's token-to-Mel velocity network, a causal DiT, by its own names of weights, and the
adapter to ``network(z_t, t, cond)``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mfdistill.networks.dit import CausalConvPosition, DiTBlock, FinalNorm, Rotary, SinusoidTime
from mfdistill.networks.dit_config import CausalDiTConfig


class InputEmbedding(nn.Module):
    """State, prompt, ``mu`` and speaker in one layer, in this order, plus positions by causal
    convolution.
    """

    def __init__(self, inputs: int, dim: int):
        super().__init__()
        self.proj = nn.Linear(inputs, dim)
        self.conv_pos_embed = CausalConvPosition(dim)

    def forward(self, parts: list[Tensor]) -> Tensor:
        x = self.proj(torch.cat(parts, -1))
        return self.conv_pos_embed(x) + x


def chunk_attention(valid: Tensor, chunk: int, streaming: bool | Tensor) -> Tensor:
    """Which keys each query sees, (b, n or 1, n): the valid ones; when streaming, of its own chunk
    of ``chunk`` frames and of all before.

    Args:
        valid: (b, n) boolean.
        streaming: for all, or (b,) boolean for each sample.

    A query that would see nothing sees everything (what comes of it is masked).
    """
    n, attend = valid.shape[1], valid[:, None]
    if chunk > 0 and streaming is not False:
        frame = torch.arange(n, device=valid.device)
        past = frame < (frame[:, None] // chunk + 1) * chunk
        if isinstance(streaming, Tensor):
            past = past | ~streaming.bool().reshape(-1, 1, 1)
        attend = attend & past
    return attend | ~attend.any(-1, keepdim=True)


class CausalDiT(nn.Module):
    """State, prompt (b, mel_dim, n), mu (b, mu_dim, n), spks (b, spk_dim) -> velocity (b, mel_dim,
    n); not masked at the end.
    """

    def __init__(self, config: CausalDiTConfig):
        super().__init__()
        c = self.config = config
        self.time_embed = SinusoidTime(c.dim)
        self.input_embed = InputEmbedding(
            2 * c.mel_dim + (c.mel_dim if c.mu_dim is None else c.mu_dim) + (c.spk_dim or 0), c.dim
        )
        self.rotary_embed = Rotary(c.dim_head)
        # the original rotates the first dim_head channels before it splits heads: the first head
        self.transformer_blocks = nn.ModuleList(
            DiTBlock(c.dim, c.heads, c.dim_head, c.ff_mult, 1, dropout=c.dropout)
            for _ in range(c.depth)
        )
        self.long_skip_connection = (
            nn.Linear(2 * c.dim, c.dim, bias=False) if c.long_skip_connection else None
        )
        self.norm_out = FinalNorm(c.dim)
        self.proj_out = nn.Linear(c.dim, c.mel_dim)
        self.bands = c.mel_dim

    def forward(
        self,
        z: Tensor,
        mask: Tensor,
        mu: Tensor,
        t: Tensor,
        spks: Tensor | None,
        cond: Tensor,
        streaming: bool | Tensor = False,
    ) -> Tensor:
        n, time = z.shape[-1], self.time_embed(t)
        parts = [part.transpose(1, 2) for part in (z, cond, mu)]
        if self.config.spk_dim:
            assert spks is not None
            parts.append(spks[:, None].expand(-1, n, -1))
        x = self.input_embed(parts)
        attend = chunk_attention(mask[:, 0].bool(), self.config.static_chunk_size, streaming)
        valid, angle, residual = attend[:, -1], self.rotary_embed(n), x
        for block in self.transformer_blocks:
            x = block(x, time, angle, valid, attend[:, None])
        if self.long_skip_connection is not None:
            x = self.long_skip_connection(torch.cat([x, residual], -1))
        return self.proj_out(self.norm_out(x, time)).transpose(1, 2)


class CausalDiTNetwork(nn.Module):
    """``network(z_t, t, cond) -> v`` in CosyVoice's layout (b, mels, n).

    ``cond``: "mu" (b, mu_dim, n), "spks" (b, spk_dim), "cond" (b, mels, n), the prompt's Mel
    spectrogram and 0 after it; with none of them it is the null condition, zeros. "mask" (b, 1, n)
    or (b, n), 1 on valid frames, default all valid. Optional "streaming", a boolean tensor, 0-d or
    (b,), instead of the attribute ``streaming``. The output on padded frames means nothing and is
    not 0.
    """

    time_embedding_name = "estimator.time_embed"

    def __init__(self, config: CausalDiTConfig):
        super().__init__()
        self.config, self.streaming = config, False
        self.chunks = config.static_chunk_size > 0
        """Whether it has a streaming form, attention by chunks."""
        self.estimator = CausalDiT(config)

    def request(self, rows: int, length: int) -> tuple[Tensor, dict[str, Tensor]]:
        """A state and a condition of so many rows and frames, random ones."""
        shape = (rows, self.estimator.bands, length)
        cond = {"mu": torch.randn(shape), "mask": torch.ones(rows, 1, length)}
        cond |= {"spks": torch.randn(shape[:2]), "cond": torch.randn(shape)}
        return torch.randn(shape), cond

    def forward(self, z_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """z_t (b, mels, n), t (b,) or (b, 2) stacked. Returns the shape of z_t.

        Raises:
            ValueError: a part of the condition is missing.
        """
        b, mels, n = z_t.shape
        c, mask, streaming = self.config, cond.get("mask"), cond.get("streaming")
        mask = z_t.new_ones(b, 1, n) if mask is None else mask.reshape(b, 1, n)
        shapes = {"mu": (b, mels if c.mu_dim is None else c.mu_dim, n), "cond": (b, mels, n)}
        shapes |= {"spks": (b, c.spk_dim)} if c.spk_dim else {}
        if missing := [name for name in shapes if cond.get(name) is None]:
            if len(missing) < len(shapes):
                raise ValueError(
                    f"the condition has no '{missing[0]}'; this network needs "
                    + ", ".join(f"{name} {shape}" for name, shape in shapes.items())
                )
            cond = {name: z_t.new_zeros(shape) for name, shape in shapes.items()}
        return self.estimator(
            z_t,
            mask,
            cond["mu"],
            t,
            cond.get("spks"),
            cond["cond"],
            self.streaming if streaming is None else streaming,
        )
