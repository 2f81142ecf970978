"""ZipVoice's text encoder and flow decoder as ``network(z_t, t, cond)``."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mfdistill.networks.condition import need
from mfdistill.networks.time import GuidedTime
from mfdistill.networks.zipformer import SwooshR, Zipformer
from mfdistill.networks.zipvoice_config import ZipVoiceConfig

_GUIDANCE = 192  # features of the guidance, whatever the other sizes


def sinusoid(value: Tensor, dim: int) -> Tensor:
    """(b,) -> (b, dim): cosines, then sines, of angles value 10000^(-i / half)."""
    half = dim // 2
    rates = torch.exp(
        torch.arange(half, device=value.device, dtype=torch.float32) * (-math.log(10000) / half)
    ).to(torch.promote_types(value.dtype, torch.float32))
    angle = value[:, None].to(rates.dtype) * rates
    return torch.cat([angle.cos(), angle.sin()], -1)


class TimeEmbedding(GuidedTime):
    """(b,) times -> (b, dim); of ZipVoice-Distill (b, 2) [t, s] too, s the strength of guidance (0
    where it is not given).
    """

    def __init__(self, dim: int, guided: bool):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, 2 * dim), SwooshR(), nn.Linear(2 * dim, dim))
        self.guidance = nn.Linear(_GUIDANCE, dim, bias=False) if guided else None

    @property
    def takes_guidance(self) -> bool:
        return self.guidance is not None

    def forward(self, time: Tensor) -> Tensor:
        t, s = time.unbind(-1) if time.ndim == 2 else (time, torch.zeros_like(time))
        dim, weight = self.net[0].in_features, self.net[0].weight  # type: ignore[union-attr]
        e = sinusoid(t, dim).to(weight.dtype)  # type: ignore[arg-type, call-overload]
        if self.guidance is not None:
            e = e + self.guidance(sinusoid(s, _GUIDANCE).to(e.dtype))
        return self.net(e)


class ZipVoiceNetwork(nn.Module):
    """``network(z_t, t, cond) -> v`` in ZipVoice's layout (b, n, mels).

    ``cond``: "cond" (b, n, mels), the scaled log-Mels with all but the prompt set to 0; "text" (b,
    nt) integers of prompt and text together, -1 where it has ended; "mask" (b, n) boolean, true on
    valid frames, or absent. Optional "drop_audio", "drop_text" (b,) boolean: samples whose prompt
    or text is dropped. The text is laid evenly over the valid frames.

    Embedding and encoder of the text are frozen, as a student's should be.
    """

    time_embedding_name = "time_embed"

    def __init__(self, config: ZipVoiceConfig):
        super().__init__()
        c = self.config = config
        self.embed = nn.Embedding(c.vocab_size, c.text_embed_dim)
        heads = c.query_head_dim, c.value_head_dim, c.pos_head_dim, c.pos_dim
        self.text_encoder = Zipformer(
            c.text_embed_dim, c.feat_dim, c.text_encoder_dim, (1,), (c.text_encoder_num_layers,),
            (c.text_encoder_cnn_module_kernel,), c.text_encoder_feedforward_dim, c.text_encoder_num_heads, *heads, None,
        )  # fmt: skip
        self.fm_decoder = Zipformer(
            3 * c.feat_dim, c.feat_dim, c.fm_decoder_dim, c.fm_decoder_downsampling_factor, c.fm_decoder_num_layers,
            c.fm_decoder_cnn_module_kernel, c.fm_decoder_feedforward_dim, c.fm_decoder_num_heads, *heads, c.time_embed_dim,
        )  # fmt: skip
        self.time_embed = TimeEmbedding(c.time_embed_dim, c.guidance)
        for module in (self.embed, self.text_encoder):
            module.requires_grad_(False)

    def forward(self, z_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """z_t (b, n, mels), t (b,) or stacked. Returns the shape of z_t.

        Raises:
            ValueError: prompt or text are missing.
        """
        need(cond, ("cond", "text"), f"cond {tuple(z_t.shape)} and text (b, symbols)")
        prompt, mask = cond["cond"], cond.get("mask")
        valid = None if mask is None else mask.bool()
        if (drop := cond.get("drop_audio")) is not None:
            prompt = prompt.masked_fill(drop.bool()[:, None, None], 0.0)
        text = self.spread_text(cond["text"], z_t.shape[1], valid)
        if (drop := cond.get("drop_text")) is not None:
            text = text.masked_fill(drop.bool()[:, None, None], 0.0)
        x = torch.cat([z_t, text.to(z_t.dtype), prompt], -1)
        return self.fm_decoder(x, self.time_embed(t), valid)

    def spread_text(self, text: Tensor, n: int, valid: Tensor | None = None) -> Tensor:
        """(b, n, mels): every symbol for as many whole frames as each can have, the symbol after
        the last for the rest.
        """
        symbols = text != -1
        lengths = symbols.sum(1)
        ended = torch.cat([text, torch.full_like(text[:, :1], -1)], 1)
        filled = ended.masked_fill(ended == -1, self.config.pad_id)
        known = torch.cat([symbols, torch.zeros_like(symbols[:, :1])], 1)
        encoded = self.text_encoder(self.embed(filled), None, known)
        frames = torch.full_like(lengths, n) if valid is None else valid.sum(1)
        each = frames // lengths.clamp(min=1)
        place = torch.arange(n, device=text.device) // each.clamp(min=1)[:, None]
        place = torch.where(each[:, None] > 0, place, lengths[:, None]).minimum(lengths[:, None])
        return encoded.gather(1, place[..., None].expand(-1, -1, encoded.shape[-1]))
