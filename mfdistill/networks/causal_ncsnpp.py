"""The frame-causal NCSN++ of Stream.FM (arXiv 2512.19442): a U-Net that strides over frequency only
and remembers past frames by its convolutions alone, so that it runs frame by frame at the numbers
it has offline. Weights have the published names.

Written from a description of the behaviour, not from the original's source.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mfdistill.errors import UserError
from mfdistill.networks.causal_layers import (
    CausalConv,
    DecoupledConv,
    Resample,
    SubBandNorm,
    TimeModules,
    can_decouple,
)
from mfdistill.networks.config import CausalNCSNppConfig
from mfdistill.networks.memory import Memory, State, zero_state

INPUTS = {2: ("y",), 4: ("z", "y"), 6: ("z", "e", "y")}
"""What the network sees, by its number of real channels: the state z, the condition y, the
predictor's estimate e.
"""


class ResBlock(nn.Module):
    """Two convolutions around a skip; halves (``resample`` "down") or doubles ("up") the
    frequencies after its first norm.
    """

    def __init__(
        self,
        config: CausalNCSNppConfig,
        inputs: int,
        outputs: int,
        freqs: int,
        resample: str | None = None,
    ):
        super().__init__()
        bands = _bands(config, freqs)
        self.down_or_upsample = (
            Resample(config.fir_kernel, resample == "up") if resample else nn.Identity()
        )
        after = {None: freqs, "down": (freqs + 1) // 2, "up": 2 * freqs}[resample]
        self.CGroupNorm_0 = SubBandNorm(inputs, freqs, bands, config.statistics)
        self.CConv_0 = CausalConv(
            inputs, outputs, dilation=config.down_dilation if resample == "down" else 1
        )
        self.Dense_0 = nn.Linear(4 * config.nf, outputs) if config.conditional else None
        self.CGroupNorm_1 = SubBandNorm(outputs, after, bands, config.statistics)
        self.CConv_1 = CausalConv(outputs, outputs)
        self.CConv_2 = (
            CausalConv(inputs, outputs, 1) if resample or inputs != outputs else nn.Identity()
        )

    def forward(self, x: Tensor, temb: Tensor | None, memory: Memory | None) -> Tensor:
        """``temb`` is the embedding after its activation; None where there is no embedding (any
        more).
        """
        h = self.down_or_upsample(F.silu(self.CGroupNorm_0(x)))
        x = self.down_or_upsample(x)
        h = self.CConv_0(h, memory)
        if self.Dense_0 is not None and temb is not None:
            h = h + self.Dense_0(temb)[:, :, None, None]
        h = self.CConv_1(F.silu(self.CGroupNorm_1(h)), memory)
        return (self.CConv_2(x) + h) / math.sqrt(2)


class Combine(nn.Module):
    """``(a + h) / sqrt 2``, with ``a`` brought to the channels of ``h`` where they differ."""

    def __init__(self, of_a: int, of_h: int):
        super().__init__()
        self.AlignConv = CausalConv(of_a, of_h, 1) if of_a != of_h else nn.Identity()

    def forward(self, a: Tensor, h: Tensor) -> Tensor:
        return (self.AlignConv(a) + h) / math.sqrt(2)


class NormConv(nn.Module):
    """What one level adds to the output."""

    def __init__(self, config: CausalNCSNppConfig, channels: int, freqs: int):
        super().__init__()
        self.norm = SubBandNorm(channels, freqs, _bands(config, freqs), config.statistics)
        self.conv = CausalConv(channels, config.output_channels)

    def forward(self, h: Tensor, memory: Memory | None) -> Tensor:
        return self.conv(F.silu(self.norm(h)), memory)


class CausalNCSNpp(nn.Module):
    """``forward(z_t, t, cond) -> v``: ``z_t``, ``cond["y"]`` and, with 6 channels, ``cond["e"]``
    are ``(b, 2, f, n)``; t is ``(b,)`` in [0, 1], 1 at the data, or the stacked pair [t, r]. With 2
    channels it is a predictor, ``y -> e``, and looks at neither z_t nor t.

    ``backbone(x, t)`` takes the real channels: all real parts, then all imaginary parts.
    """

    time_embedding_name = "temb_modules"
    causal = True

    def __init__(self, config: CausalNCSNppConfig):
        super().__init__()
        self.config = config
        levels, blocks = len(config.ch_mult), config.num_res_blocks
        widths = [config.nf * m for m in config.ch_mult]
        freqs = [config.input_freqs >> level for level in range(levels)]
        self.input_layer = CausalConv(config.input_channels, config.nf)
        self.temb_modules = (
            TimeModules(config.nf, config.fourier_scale) if config.conditional else None
        )
        self.pyramid_downsample, self.pyramid_upsample = (
            Resample(config.fir_kernel, False),
            Resample(config.fir_kernel, True),
        )
        down, up, width, skips = nn.ModuleDict(), nn.ModuleDict(), config.nf, [config.nf]
        for level, outputs in enumerate(widths):
            for i in range(blocks):
                down[f"lvl{level}_rnb{i}"] = ResBlock(config, width, outputs, freqs[level])
                width = outputs
                skips.append(width)
            if level < levels - 1:
                down[f"lvl{level}_rnb_down"] = ResBlock(config, width, width, freqs[level], "down")
                down[f"lvl{level}_combiner"] = Combine(config.input_channels, width)
        bottleneck = {name: ResBlock(config, width, width, freqs[-1]) for name in ("rnb1", "rnb2")}
        for level in reversed(range(levels)):
            for i in range(blocks + (level == 0)):
                up[f"lvl{level}_combiner{i}"] = Combine(skips.pop(), width)
                up[f"lvl{level}_rnb{i}"] = ResBlock(config, width, widths[level], freqs[level])
                width = widths[level]
            up[f"lvl{level}_pyramid_normconv"] = NormConv(config, width, freqs[level])
            if level > 0:
                up[f"lvl{level}_rnb_up"] = ResBlock(config, width, width, freqs[level], "up")
        self.down_modules, self.bottleneck_modules, self.up_modules = (
            down,
            nn.ModuleDict(bottleneck),
            up,
        )
        self._initialise()
        if config.decoupled_K:
            decouple_modules(self, config.decoupled_K)

    def forward(self, z_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        return self.backbone(self.channels(z_t, cond), t)

    def channels(self, z_t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """The real channels ``(b, c, f, n)`` that ``backbone`` takes.

        Raises:
            UserError: the condition lacks what a network of so many channels needs.
        """
        wanted = INPUTS[self.config.input_channels]
        if missing := [name for name in wanted if name != "z" and name not in cond]:
            raise UserError(
                f"network 'causal_ncsnpp': {self.config.input_channels} channels need the condition '{missing[0]}' "
                f"({', '.join(wanted)}); {'run the predictor first' if missing[0] == 'e' else 'give it'}"
            )
        return torch.stack([z_t if name == "z" else cond[name] for name in wanted], 2).flatten(1, 2)

    @property
    def past_frames(self) -> int:
        """How many frames before its own an output depends on: those of all convolutions in a row,
        the outputs of lower levels aside.
        """
        aside = [
            f"up_modules.lvl{level}_pyramid_normconv."
            for level in range(1, len(self.config.ch_mult))
        ]
        convs = (
            (name, module)
            for name, module in self.named_modules()
            if isinstance(module, CausalConv)
        )
        return sum(conv.past for name, conv in convs if not name.startswith(tuple(aside)))

    def init_state(self, batch: int, freqs: int | None = None) -> State:
        """The state before the first frame of ``batch`` streams (past frames only; 10.2 MB per
        stream for the published size).
        """
        like = self.input_layer.parameters().__next__()
        frame = like.new_zeros(batch, 2, freqs or self.config.input_freqs, 1)
        return zero_state(
            lambda z, t, cond, memory: self.backbone(self.channels(z, cond), t, memory),
            frame,
            {"y": frame, "e": frame},
        )

    def step(
        self, frame: Tensor, t: Tensor, cond: Mapping[str, Tensor], state: State
    ) -> tuple[Tensor, State]:
        """The next frame or frames ``(b, 2, f, n >= 1)`` of ``forward``, and the state after them;
        t must stay what it was.
        """
        memory = Memory(state)
        return self.backbone(self.channels(frame, cond), t, memory), tuple(memory.new)

    def backbone(self, x: Tensor, t: Tensor, memory: Memory | None = None) -> Tensor:
        """``(b, c_in, f, n) -> (b, 2, f, n)``, as published."""
        temb = None if self.temb_modules is None else F.silu(self.temb_modules(t))
        levels, blocks = len(self.config.ch_mult), self.config.num_res_blocks
        h = self.input_layer(x, memory)
        skips = [h]
        for level in range(levels):
            for i in range(blocks):
                h = self.down_modules[f"lvl{level}_rnb{i}"](h, temb, memory)
                skips.append(h)
            if level < levels - 1:
                h = self.down_modules[f"lvl{level}_rnb_down"](h, temb, memory)
                x = self.pyramid_downsample(x)
                h = self.down_modules[f"lvl{level}_combiner"](x, h)
        for name in ("rnb1", "rnb2"):
            h = self.bottleneck_modules[name](h, temb, memory)
        out: Tensor | None = None
        for level in reversed(range(levels)):
            for i in range(blocks + (level == 0)):
                h = self.up_modules[f"lvl{level}_combiner{i}"](skips.pop(), h)
                h = self.up_modules[f"lvl{level}_rnb{i}"](h, temb, memory)
            add = self.up_modules[f"lvl{level}_pyramid_normconv"](h, memory)
            out = add if out is None else self.pyramid_upsample(out) + add
            if level > 0:
                h = self.up_modules[f"lvl{level}_rnb_up"](h, temb, memory)
        assert out is not None
        return out

    def _initialise(self) -> None:
        """Uniform weights by fan-in and fan-out; those that end a branch at ``init_scale`` of the
        variance; no bias.
        """
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                last = name.endswith(("CConv_1", "normconv.conv"))
                nn.init.xavier_uniform_(
                    module.weight, gain=math.sqrt(self.config.init_scale) if last else 1.0
                )
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def decouple_modules(network: nn.Module, rank: int) -> None:
    """Put a ``DecoupledConv`` of random weights in the place of every convolution for which
    ``can_decouple``; in place.
    """
    network.register_buffer("_compressed_decoupled", torch.tensor(True))
    for parent in list(network.modules()):
        if isinstance(parent, DecoupledConv):
            continue
        for name, conv in list(parent.named_children()):
            if can_decouple(conv, rank):
                assert isinstance(conv, CausalConv)
                new = DecoupledConv(
                    conv.in_channels, conv.out_channels, conv.kernel_size[0], conv.dilation[1], rank
                )
                setattr(parent, name, new.to(conv.weight))


def _bands(config: CausalNCSNppConfig, freqs: int) -> int:
    return config.freq_groups if freqs >= config.no_freq_groups_below else 1
