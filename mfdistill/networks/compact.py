"""The compact velocity network: time-frequency structure at under 1 GMAC per second of speech, fast
on a CPU.

Frequencies are gathered into bands by one strided convolution; a few residual blocks mix time
(dilated 3 x 3 convolutions, optionally one recurrence), bands (one matrix over all of them) and
channels; the bands are spread again and three complex masks come out, for the scaled state, the
condition and a free term. What a linear-Gaussian model of the data would answer is computed outside
the network (see ``Preconditioning``), so that its capacity goes to what is left.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mfdistill.errors import UserError
from mfdistill.networks.config import CompactConfig
from mfdistill.networks.memory import Memory, State, with_past, zero_state
from mfdistill.networks.preconditioning import Preconditioning
from mfdistill.networks.time import TimeEmbedding, current_time


class FrameNorm(nn.Module):
    """Root-mean-square norm over the channels of one band in one frame: no statistic leaves the
    frame, so nothing leaks.

    Written out, because the fused layer norms cannot be differentiated in forward mode under
    ``torch.compile``.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * self.weight


class DecoupledFrameConv(nn.Module):
    """``rank`` filters of its own for every input channel, then a mixture of all of them (arXiv
    1808.05517).
    """

    def __init__(self, inputs: int, outputs: int, bands: int, dilation: int, rank: int):
        super().__init__()
        self.depthwise = nn.Conv2d(
            inputs, inputs * rank, (3, bands), dilation=(dilation, 1), groups=inputs, bias=False
        )
        self.pointwise = nn.Conv2d(inputs * rank, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))


class FrameConv(nn.Module):
    """3 x 3 convolution over (frames, bands) of ``(b, n, f, c)``; causal: only past frames."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        dilation: int,
        causal: bool,
        bands: int = 3,
        stride: int = 1,
        rank: int = 0,
    ):
        super().__init__()
        if rank:
            self.conv: nn.Module = DecoupledFrameConv(inputs, outputs, bands, dilation, rank)
        else:
            self.conv = nn.Conv2d(
                inputs, outputs, (3, bands), stride=(1, stride), dilation=(dilation, 1)
            )
        self.past, self.later = (2 * dilation, 0) if causal else (dilation, dilation)
        self.bands = ((bands - stride + 1) // 2, (bands - stride) // 2)

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        if memory is not None:
            x = with_past(x, self.past, 1, memory)
        x = F.pad(
            x.permute(0, 3, 1, 2), (*self.bands, self.past if memory is None else 0, self.later)
        )
        return self.conv(x).permute(0, 2, 3, 1)


class Block(nn.Module):
    """Residual mixing of time and bands, then of channels; both halves are modulated by the time
    embedding (FiLM).
    """

    def __init__(self, config: CompactConfig, dilation: int):
        super().__init__()
        c, bands = config.channels, config.freqs // config.band_stride
        self.modulation = nn.Linear(config.embedding, 4 * c)
        self.norm_1, self.norm_2 = FrameNorm(c), FrameNorm(c)
        self.conv = FrameConv(c, c, dilation, config.causal, rank=config.decoupled)
        # (to, from), the same for all channels
        self.mix_bands = nn.Parameter(torch.randn(bands, bands) / bands)
        self.expand, self.reduce = nn.Linear(c, 2 * c), nn.Linear(2 * c, c)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, e: Tensor, memory: Memory | None = None) -> Tensor:
        scale_1, shift_1, scale_2, shift_2 = self.modulation(e)[:, None, None].chunk(4, -1)
        h = self.norm_1(x) * (1 + scale_1) + shift_1
        h = F.silu(self.conv(h, memory))
        x = x + h + torch.matmul(self.mix_bands, h)
        h = self.norm_2(x) * (1 + scale_2) + shift_2
        return x + self.reduce(F.silu(self.expand(h)))


class Recurrence(nn.Module):
    """A GRU along the frames of every band (weights shared by the bands), for memory beyond the
    convolutions.
    """

    def __init__(self, config: CompactConfig):
        super().__init__()
        directions = 1 if config.causal else 2
        self.norm = FrameNorm(config.channels)
        self.gru = nn.GRU(
            config.channels, config.recurrent, batch_first=True, bidirectional=not config.causal
        )
        self.out = nn.Linear(config.recurrent * directions, config.channels)

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        b, n, f, c = x.shape
        past = None
        if memory is not None:
            past = memory.recall(lambda: x.new_zeros(b, f, self.gru.hidden_size)).reshape(
                1, b * f, -1
            )
        h, last = self.gru(self.norm(x).transpose(1, 2).reshape(b * f, n, c), past)
        if memory is not None:
            memory.keep(last.reshape(b, f, -1))
        return x + self.out(h).reshape(b, f, n, c).transpose(1, 2)


class StateFilter(nn.Module):
    """Neighbours of every time-frequency bin, for a complex filter whose taps the network predicts
    ("deep filtering").

    A voiced bin turns by a phase that its exact frequency decides; predicting its neighbours'
    weights lets a small network continue a partial by one complex product, where it would otherwise
    have to learn the product itself.
    """

    def __init__(self, config: CompactConfig):
        super().__init__()
        self.past = config.filter_frames - 1 if config.causal else config.filter_frames // 2
        self.frames, self.bins = config.filter_frames, config.filter_bins
        self.pad = (
            config.filter_bins // 2,
            config.filter_bins // 2,
            0,
            config.filter_frames - 1 - self.past,
        )
        self.taps = config.filter_frames * config.filter_bins

    def neighbours(self, state: Tensor, memory: Memory | None = None) -> Tensor:
        """``(b, n, f, 2) -> (2, b, n, f, taps)``, zeros beyond the edges."""
        planes = F.pad(with_past(state, self.past, 1, memory).permute(3, 0, 1, 2), self.pad)
        n, f = state.shape[1:3]
        return torch.stack(
            [
                planes[:, :, i : i + n, j : j + f]
                for i in range(self.frames)
                for j in range(self.bins)
            ],
            -1,
        )

    def forward(self, taps: Tensor, neighbours: Tensor) -> Tensor:
        """Sum of complex products over the neighbours; ``taps`` is ``(b, n, f, 2 taps)``. Returns
        ``(b, n, f, 2)``.
        """
        (a_re, a_im), (x_re, x_im) = taps.chunk(2, -1), neighbours.unbind(0)
        return torch.stack(
            [(a_re * x_re - a_im * x_im).sum(-1), (a_re * x_im + a_im * x_re).sum(-1)], -1
        )


class CompactNet(nn.Module):
    """``forward(z_t, t, cond) -> v``: ``z_t``, ``cond["y"]`` and, where ``config.predicted``, a
    predictor's estimate ``cond["e"]`` are ``(b, 2, f, n)``, t is ``(b,)`` or the stacked pair [t,
    r].
    """

    time_embedding_name = "time_embedding"
    shard_units = ("Block",)

    def __init__(self, config: CompactConfig):
        super().__init__()
        self.config = config
        self.causal = config.causal
        c, s = config.channels, config.band_stride
        self.time_embedding = TimeEmbedding(config.embedding)
        self.preconditioning = Preconditioning(config)
        self.filter = StateFilter(config)
        self.encode = FrameConv(
            14 if config.predicted else 10, c, 1, config.causal, bands=2 * s, stride=s
        )
        self.position = nn.Parameter(0.02 * torch.randn(config.freqs // s, c))
        self.blocks = nn.ModuleList(
            Block(config, config.dilations[i % len(config.dilations)]) for i in range(config.blocks)
        )
        self.recurrence = Recurrence(config) if config.recurrent else None
        self.norm = FrameNorm(c)
        self.masks = 2 if config.predicted else 1
        self.decode = nn.Linear(c, s * (2 + 2 * self.masks + 2 * self.filter.taps))
        nn.init.zeros_(self.decode.weight)
        nn.init.zeros_(self.decode.bias)

    def forward(self, z_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        return self._forward(z_t, t, cond, None)

    @property
    def past_frames(self) -> int | None:
        """How many frames before its own an output depends on, of a causal network; None with a
        recurrence, which forgets nothing.
        """
        if self.recurrence is not None:
            return None
        in_a_row = 1 + self.encode.past + sum(block.conv.past for block in self.blocks)  # type: ignore[misc, union-attr]
        return max(in_a_row, self.filter.past)

    def init_state(self, batch: int, freqs: int | None = None) -> State:
        """The state before the first frame of ``batch`` streams.

        Raises:
            UserError: the network sees later frames.
        """
        if not self.causal:
            raise UserError(
                "network 'compact': sees later frames, so it cannot stream; train one with --network.causal"
            )
        frame = self.position.new_zeros(batch, 2, freqs or self.config.freqs, 1)
        return zero_state(self._forward, frame, {"y": frame, "e": frame})

    def step(
        self, frame: Tensor, t: Tensor, cond: Mapping[str, Tensor], state: State
    ) -> tuple[Tensor, State]:
        """The next frame or frames ``(b, 2, f, n >= 1)`` of ``forward``, and the state after them;
        t must stay what it was.
        """
        memory = Memory(state)
        return self._forward(frame, t, cond, memory), tuple(memory.new)

    def _forward(
        self, z_t: Tensor, t: Tensor, cond: Mapping[str, Tensor], memory: Memory | None
    ) -> Tensor:
        embedded = F.silu(self.time_embedding(t))
        # inside, frames come before bins and channels last: (b, n, f, c)
        z_t, *given = (
            value.permute(0, 3, 2, 1).contiguous() for value in (z_t, *self._given(cond))
        )
        state, answer, scale = self.preconditioning(z_t, current_time(t), *given)
        (y, level), *estimate = (self.preconditioning.normalise(value) for value in given)
        # by one frame, by one bin
        shifted = with_past(state, 1, 1, memory)[:, :-1], F.pad(state, (0, 0, 1, 0))[:, :, :-1]
        before, below = (_product(state, other * _CONJUGATE.to(state)) for other in shifted)
        seen = [state, y, level, before, below, *(part for pair in estimate for part in pair)]
        h = self.encode(torch.cat(seen, -1), memory) + self.position
        for i, block in enumerate(self.blocks):
            if self.recurrence is not None and i == len(self.blocks) // 2:
                h = self.recurrence(h, memory)
            h = block(h, embedded, memory)
        h = self.decode(self.norm(h)).to(state.dtype)
        h = h.reshape(*h.shape[:2], self.config.freqs, -1)
        free, of_y, *of_e, taps = h.split([2] * (1 + self.masks) + [2 * self.filter.taps], -1)
        residual = (
            free + _product(of_y, y) + self.filter(taps, self.filter.neighbours(state, memory))
        )
        for mask, (e, _) in zip(of_e, estimate, strict=True):
            residual = residual + _product(mask, e)
        return (answer + scale * residual).permute(0, 3, 2, 1)

    def _given(self, cond: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """What of the condition the network sees."""
        if not self.config.predicted:
            return (cond["y"],)
        if "e" not in cond:
            raise UserError(
                "network 'compact': sees a predictor's estimate, and the condition lacks 'e'; run the predictor first"
            )
        return cond["y"], cond["e"]


_CONJUGATE = torch.tensor([1.0, -1.0])


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Complex product of pairs of real numbers ``(..., 2)``."""
    a_re, a_im = a.unbind(-1)
    b_re, b_im = b.unbind(-1)
    return torch.stack([a_re * b_re - a_im * b_im, a_re * b_im + a_im * b_re], -1)
