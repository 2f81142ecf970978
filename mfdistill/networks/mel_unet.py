"""The 1-D U-Net of arXiv 2309.03199, CosyVoice 2 and Chatterbox as velocity network, with the
originals' state-dict names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from mfdistill.networks.mel_unet_config import MelUNetConfig
from mfdistill.networks.mel_unet_layers import (
    ConvBlock,
    Double,
    Halve,
    ResidualBlock,
    SinusoidMLP,
    TransformerBlock,
    frame_conv,
)


class UNet1d(nn.Module):
    """``estimator(x, mask, mu, t, spks, cond, streaming)``, called and named as the originals'
    (``CausalConditionalDecoder``, ``ConditionalDecoder``, ``Decoder``).
    """

    def __init__(self, config: MelUNetConfig):
        super().__init__()
        self.config, self.bands = config, config.out_channels
        widths, causal, time = config.channels, config.causal, 4 * config.channels[0]
        self.time_mlp = SinusoidMLP(config.in_channels, time)

        def stage(inputs: int, outputs: int) -> list[nn.Module]:
            sizes = (
                outputs,
                config.num_heads,
                config.attention_head_dim,
                config.act_fn,
                config.dropout,
            )
            return [
                ResidualBlock(inputs, outputs, time, causal),
                nn.ModuleList(TransformerBlock(*sizes) for _ in range(config.n_blocks)),
            ]

        def stages(pairs: Iterable[tuple[int, int]], resize: type[nn.Module]) -> nn.ModuleList:
            rows = list(pairs)
            ends = [
                resize(b) if i < len(rows) - 1 else frame_conv(b, causal)
                for i, (_, b) in enumerate(rows)
            ]
            return nn.ModuleList(
                nn.ModuleList([*stage(a, b), end]) for (a, b), end in zip(rows, ends, strict=True)
            )

        self.down_blocks = stages(
            zip((config.in_channels, *widths[:-1]), widths, strict=True), Halve
        )
        self.mid_blocks = nn.ModuleList(
            nn.ModuleList(stage(widths[-1], widths[-1])) for _ in range(config.num_mid_blocks)
        )
        self.up_blocks = stages(
            ((2 * a, b) for a, b in zip(widths[::-1], (*widths[-2::-1], widths[0]), strict=True)),
            Double,
        )
        self.final_block = ConvBlock(widths[0], widths[0], causal)
        self.final_proj = nn.Conv1d(widths[0], config.out_channels, 1)

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        mu: Tensor,
        t: Tensor,
        spks: Tensor | None = None,
        cond: Tensor | None = None,
        streaming: bool | Tensor = False,
    ) -> Tensor:
        """x, mu, cond (b, mels, n); mask (b, 1, n); t as the time embedding takes it; spks (b,
        speaker); streaming also (b,) or 0-d.

        Returns: (b, mels, n), zero where the mask is.
        """
        time = self.time_mlp(t)
        parts = [x, mu]
        if spks is not None:
            parts.append(spks[:, :, None].expand(-1, -1, x.shape[-1]))
        if cond is not None and not self.config.soft_mask:
            parts.append(cond)
        x, hidden, masks = torch.cat(parts, 1), [], [mask]
        for block, transformers, shrink in self.down_blocks:  # type: ignore[misc]
            x = self._stage(x, masks[-1], time, block, transformers, streaming)
            hidden.append(x)
            x = shrink(x * masks[-1])
            masks.append(masks[-1][:, :, ::2])
        masks.pop()
        for block, transformers in self.mid_blocks:  # type: ignore[misc]
            x = self._stage(x, masks[-1], time, block, transformers, streaming)
        here = mask
        for block, transformers, grow in self.up_blocks:  # type: ignore[misc]
            here, skip = masks.pop(), hidden.pop()
            x = self._stage(
                torch.cat([x[:, :, : skip.shape[-1]], skip], 1),
                here,
                time,
                block,
                transformers,
                streaming,
            )
            x = grow(x * here)
        return self.final_proj(self.final_block(x, here) * here) * mask

    def _stage(
        self,
        x: Tensor,
        mask: Tensor,
        time: Tensor,
        block: nn.Module,
        transformers: nn.Module,
        streaming: bool | Tensor,
    ) -> Tensor:
        x = block(x, mask, time).transpose(1, 2)
        # its mask reaches the attention as a number that is added: not seen would be -inf, but it
        # is 0 against 1
        if self.config.soft_mask:
            attend = mask[:, None].to(x.dtype)
        else:
            attend = visible(mask[:, 0] > 0, self.config.static_chunk_size, streaming)[:, None]
        for transformer in transformers:  # type: ignore[attr-defined]
            x = transformer(x, attend)
        return x.transpose(1, 2)


def visible(valid: Tensor, chunk: int, streaming: bool | Tensor) -> Tensor:
    """Which frames (last axis) each frame attends to: (b, 1, n) or (b, n, n), True is seen.

    Args:
        valid: (b, n), False on padded frames, which nobody sees; who would see nothing sees all (as
            the originals).
        chunk: in streaming form, frames see up to the end of their chunk of so many; 0 is no such
            limit.
        streaming: for all, or (b,) one by one.
    """
    seen = valid[:, None]
    if chunk > 0 and streaming is not False:
        position = torch.arange(valid.shape[-1], device=valid.device)
        block = position[None] < ((position // chunk + 1) * chunk)[:, None]
        free = ~torch.as_tensor(streaming, device=valid.device).bool().reshape(-1, 1, 1)
        seen = seen & (block | free)
    return seen | ~seen.any(-1, keepdim=True)


class MelUNet(nn.Module):
    """``UNet1d`` under the signature of all networks here: ``network(z_t, t, cond) -> v``, in the
    layout ``(b, mels, n)``.

    ``cond``: ``mu`` (b, mels, n), ``spks`` (b, speaker), ``cond`` the prompt's Mel (b, mels, n),
    those that ``in_channels`` has room for; with none of them it is the null condition, zeros.
    ``mask`` (b, 1, n) or (b, n), default all valid; ``streaming`` 0-d or (b,), default
    ``self.streaming``.
    """

    time_embedding_name = "estimator.time_mlp"

    def __init__(self, config: MelUNetConfig):
        super().__init__()
        self.config = config
        self.estimator = UNet1d(config)
        self.streaming = False
        self.chunks = config.causal and config.static_chunk_size > 0
        """Whether it has a streaming form: attention by chunks, and convolutions that see nothing
        later.
        """

    def request(self, rows: int, length: int) -> tuple[Tensor, dict[str, Tensor]]:
        """A state and a condition of so many rows and frames, random ones."""
        bands, channels = self.estimator.bands, self.config.in_channels
        shape = (rows, bands, length)
        cond = {"mu": torch.randn(shape), "mask": torch.ones(rows, 1, length)}
        if channels > 2 * bands:
            cond["spks"] = torch.randn(rows, bands)
        if channels > 3 * bands:
            cond["cond"] = torch.randn(shape)
        return torch.randn(shape), cond

    def forward(self, z_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """z_t (b, mels, n), t (b,) or (b, 2) stacked. Returns the shape of z_t.

        Raises:
            ValueError: a part of the condition is missing.
        """
        b, mels, n = z_t.shape
        mask = cond.get("mask")
        mask = z_t.new_ones(b, 1, n) if mask is None else mask.to(z_t.dtype).reshape(b, 1, n)
        given = [name for name in ("mu", "spks", "cond") if cond.get(name) is not None]
        room = self.config.in_channels - 2 * mels
        prompt = mels if room >= mels and not self.config.soft_mask else 0
        shapes = {"mu": (b, mels, n), "spks": (b, room - prompt), "cond": (b, prompt, n)}
        parts = {}
        # its system has no null condition
        given = given or (["none"] if self.config.soft_mask else [])
        for name in (name for name, shape in shapes.items() if shape[1] > 0):
            if given and name not in given:
                raise ValueError(
                    f"the condition has no '{name}'; this network needs mu (b, {mels}, n)"
                    + "".join(
                        f", {key} {tuple(shapes[key])}"
                        for key in ("spks", "cond")
                        if shapes[key][1] > 0
                    )
                )
            parts[name] = cond[name] if given else z_t.new_zeros(shapes[name])
        return self.estimator(
            z_t,
            mask,
            parts["mu"],
            t,
            parts.get("spks"),
            parts.get("cond"),
            cond.get("streaming", self.streaming),
        )
