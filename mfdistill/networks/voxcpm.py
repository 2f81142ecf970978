"""VoxCPM's local flow head as ``network(z_t, t, cond)``: a small transformer that makes one patch
of latents at a time from the language model's hidden vectors and the patch before it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mfdistill.networks.condition import need
from mfdistill.networks.delta import OwnInterval
from mfdistill.networks.voxcpm_config import VoxCPMConfig


class RMSNorm(nn.Module):
    """``x / rms(x)`` and a gain."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


class Attention(nn.Module):
    """Self-attention of all positions with all, several heads of queries to one of keys; halves of
    the channels are rotated against each other.
    """

    def __init__(self, c: VoxCPMConfig):
        super().__init__()
        self.heads, self.shared = c.num_heads, c.num_key_value_heads
        self.q_proj = nn.Linear(c.hidden_dim, c.num_heads * c.head, bias=False)
        self.k_proj = nn.Linear(c.hidden_dim, c.num_key_value_heads * c.head, bias=False)
        self.v_proj = nn.Linear(c.hidden_dim, c.num_key_value_heads * c.head, bias=False)
        self.o_proj = nn.Linear(c.num_heads * c.head, c.hidden_dim, bias=False)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor] | None) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (heads, -1)).transpose(1, 2)
            for layer, heads in (
                (self.q_proj, self.heads),
                (self.k_proj, self.shared),
                (self.v_proj, self.shared),
            )
        )
        if turn is not None:
            q, k = (_turned(part, *turn) for part in (q, k))
        k, v = (part.repeat_interleave(self.heads // self.shared, 1) for part in (k, v))
        return self.o_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


class GatedFeedForward(nn.Module):
    """Two layers, the first of them gated by SiLU."""

    def __init__(self, dim: int, inner: int):
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(dim, inner, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(inner, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """Attention and feed-forward, each after a norm and scaled."""

    def __init__(self, c: VoxCPMConfig):
        super().__init__()
        self.scale = c.residual_scale
        self.self_attn, self.mlp = Attention(c), GatedFeedForward(c.hidden_dim, c.ffn_dim)
        self.input_layernorm, self.post_attention_layernorm = (
            RMSNorm(c.hidden_dim, c.rms_norm_eps) for _ in range(2)
        )

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor] | None) -> Tensor:
        x = x + self.scale * self.self_attn(self.input_layernorm(x), turn)
        return x + self.scale * self.mlp(self.post_attention_layernorm(x))


class Transformer(nn.Module):
    """Layers and a last norm."""

    shard_units = ("Layer",)

    def __init__(self, c: VoxCPMConfig):
        super().__init__()
        self.config = c
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.num_layers))
        self.norm = RMSNorm(c.hidden_dim, c.rms_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        turn = self._turn(x) if self.config.rope else None
        for layer in self.layers:
            x = layer(x, turn)
        return self.norm(x)

    def _turn(self, x: Tensor) -> tuple[Tensor, Tensor]:
        c = self.config
        even = torch.arange(0, c.head, 2, device=x.device, dtype=torch.float32)
        factors = x.new_tensor(c.rope_factors or (1.0,) * (c.head // 2), dtype=torch.float32)
        place = torch.arange(x.shape[1], device=x.device, dtype=torch.float32)[:, None]
        angle = place * (1 / factors) * (1 / c.rope_theta ** (even / c.head))
        angle = torch.cat([angle, angle], -1)
        return (angle.cos() * c.rope_gain).to(x), (angle.sin() * c.rope_gain).to(x)


class TwoLayers(nn.Module):
    """Of an embedding of time."""

    def __init__(self, dim: int):
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


class VoxCPMTime(OwnInterval):
    """(b,) or (b, 2) stacked [t, r] on our clock -> (b, dim): noisiness ``1 - t`` and the length of
    the interval ``r - t``, each through two layers on sinusoids of 1000 times it.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim
        self.time_mlp, self.delta_time_mlp = TwoLayers(dim), TwoLayers(dim)

    def forward(self, time: Tensor) -> Tensor:
        t, r = time.unbind(-1) if time.ndim == 2 else (time, time)
        return self.time_mlp(self._waves(1 - t)) + self.delta_time_mlp(self._waves(r - t))

    @torch.no_grad()
    def forget_length(self) -> None:
        """Any length is embedded as 0 is, all that a teacher has learnt: a student of it then
        begins as its teacher for every interval.
        """
        weight = self.delta_time_mlp.linear_2.weight
        kept = self.delta_time_mlp(self._waves(weight.new_zeros(1)))[0]
        weight.zero_()
        self.delta_time_mlp.linear_2.bias.copy_(kept)

    def _waves(self, value: Tensor) -> Tensor:
        half = self.dim // 2
        value = value.to(torch.promote_types(value.dtype, torch.float32))
        rates = torch.exp(
            torch.arange(half, device=value.device, dtype=value.dtype)
            * -(math.log(10000) / (half - 1))
        )
        angle = 1000 * value[:, None] * rates
        return torch.cat([angle.sin(), angle.cos()], -1).to(self.time_mlp.linear_1.weight.dtype)


class LocalDiT(nn.Module):
    """Patches (k, p, latents) at an embedded time (k, dim), with hidden vectors (k, tokens, dim)
    and the patches before (k, p, latents) -> the direction towards noise (k, p, latents).
    """

    def __init__(self, c: VoxCPMConfig):
        super().__init__()
        self.in_proj, self.cond_proj = (nn.Linear(c.feat_dim, c.hidden_dim) for _ in range(2))
        self.out_proj = nn.Linear(c.hidden_dim, c.feat_dim)
        self.decoder = Transformer(c)

    def forward(self, x: Tensor, time: Tensor, hidden: Tensor, before: Tensor) -> Tensor:
        if hidden.shape[1] == 1:
            front = hidden + time[:, None]
        else:
            front = torch.cat([hidden, time[:, None]], 1)
        tokens = torch.cat([front, self.cond_proj(before), self.in_proj(x)], 1)
        return self.out_proj(self.decoder(tokens)[:, -x.shape[1] :])


class VoxCPMNetwork(nn.Module):
    """``network(z_t, t, cond) -> v`` of a row of patches (b, latents, n), each by itself.

    ``cond``: "mu" (b, tokens x dim, n), the language model's hidden vectors, every patch's repeated
    over its frames; "cond" (b, latents, n), at every patch the one before it. Its clock is flipped
    here.
    """

    time_embedding_name = "time"

    def __init__(self, config: VoxCPMConfig):
        super().__init__()
        self.config = config
        self.time, self.estimator = VoxCPMTime(config.hidden_dim), LocalDiT(config)

    def forward(self, z_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """z_t (b, latents, n), n a multiple of the patch; t (b,) or (b, 2) stacked. Returns the
        shape of z_t.

        Raises:
            ValueError: hidden vectors or patches before are missing, or n is no multiple.
        """
        c = self.config
        need(cond, ("mu", "cond"), "mu and cond")
        b, d, n = z_t.shape
        if n % c.patch_size:
            raise ValueError(f"{n} frames are not whole patches of {c.patch_size}")
        count = n // c.patch_size

        def patches(x: Tensor) -> Tensor:
            return x.unflatten(-1, (count, -1)).permute(0, 2, 3, 1).flatten(0, 1)

        hidden = cond["mu"][..., :: c.patch_size].transpose(1, 2)
        hidden = hidden.reshape(b * count, c.hidden_tokens, c.hidden_dim)
        time = self.time(t).repeat_interleave(count, 0)
        out = self.estimator(patches(z_t), time, hidden, patches(cond["cond"]))
        return -out.unflatten(0, (b, count)).permute(0, 3, 1, 2).reshape(b, d, n)
