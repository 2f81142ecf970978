"""DCUNet, the complex U-Net that SGMSE and FlowSE offer beside NCSN++ (Choi et al. 2019), with the
originals' names of weights.

Complex numbers are pairs of real tensors. A complex layer has two real copies: ``re = f_re(a) -
f_im(b)``, ``im = f_re(b) + f_im(a)``, biases included.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mfdistill.errors import UserError
from mfdistill.networks.config import DCUNetConfig
from mfdistill.networks.delta import Fourier
from mfdistill.networks.ouve import to_velocity
from mfdistill.networks.time import current_time

Complex = tuple[Tensor, Tensor]
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
}


class ComplexConv(nn.Module):
    """A convolution, or a transposed one, from two real ones."""

    def __init__(self, make: type[nn.Module], *sizes: Any, **options: Any):
        super().__init__()
        self.re_module, self.im_module = make(*sizes, **options), make(*sizes, **options)

    def forward(self, x: Complex, size: list[int] | None = None) -> Complex:
        more = () if size is None else (size,)
        a, b = x
        return (
            self.re_module(a, *more) - self.im_module(b, *more),
            self.re_module(b, *more) + self.im_module(a, *more),
        )


class ComplexLinear(nn.Module):
    """A linear layer from two real ones."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.re, self.im = nn.Linear(inputs, outputs), nn.Linear(inputs, outputs)

    def forward(self, x: Complex) -> Complex:
        a, b = x
        return self.re(a) - self.im(b), self.re(b) + self.im(a)


class Activation(nn.Module):
    """A real activation on both parts."""

    def __init__(self, name: str):
        super().__init__()
        if name not in _ACTIVATIONS:
            raise UserError(
                f"network 'dcunet': activation {name!r} is not one of {', '.join(_ACTIVATIONS)}"
            )
        self.name = name

    def forward(self, x: Complex) -> Complex:
        return _ACTIVATIONS[self.name](x[0]), _ACTIVATIONS[self.name](x[1])


class SplitNorm(nn.Module):
    """Two batch norms, one of each part ("bN")."""

    def __init__(self, channels: int):
        super().__init__()
        self.re_module, self.im_module = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)

    def forward(self, x: Complex) -> Complex:
        return self.re_module(x[0]), self.im_module(x[1])


class WhiteningNorm(nn.Module):
    """Whitens real and imaginary part together ("CbN", Trabelsi et al. 2018); always by the
    statistics of the batch.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.Wrr, self.Wii = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.ones(channels))
        self.Wri = nn.Parameter(torch.empty(channels).uniform_(-0.9, 0.9))
        self.Br, self.Bi = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Complex) -> Complex:
        a, b = (part - part.mean((0, 2, 3), keepdim=True) for part in x)
        v_aa, v_bb = (part.square().mean((0, 2, 3)) + 1e-5 for part in (a, b))
        v_ab = (a * b).mean((0, 2, 3))
        # the inverse root of the 2 x 2 covariance in closed form
        root = (v_aa * v_bb - v_ab.square()).sqrt()
        scale = 1 / (root * (v_aa + v_bb + 2 * root).sqrt())
        u_aa, u_bb, u_ab = (root + v_bb) * scale, (root + v_aa) * scale, -v_ab * scale
        m_aa, m_ab = self.Wrr * u_aa + self.Wri * u_ab, self.Wrr * u_ab + self.Wri * u_bb
        m_ba, m_bb = self.Wri * u_aa + self.Wii * u_ab, self.Wri * u_ab + self.Wii * u_bb
        m_aa, m_ab, m_ba, m_bb, b_a, b_b = (
            value[:, None, None] for value in (m_aa, m_ab, m_ba, m_bb, self.Br, self.Bi)
        )
        return m_aa * a + m_ab * b + b_a, m_ba * a + m_bb * b + b_b


class _Fourier(Fourier):
    def forward(self, value: Tensor) -> Tensor:
        return value[:, None] * self.W[None] * 2 * math.pi


class _Steps(nn.Module):
    """Phases at frequencies from 1 to 10^4 ("ds"), without parameters."""

    def __init__(self, n: int):
        super().__init__()
        self.n = n

    def forward(self, value: Tensor) -> Tensor:
        exponents = torch.arange(self.n, device=value.device, dtype=value.dtype) * 4 / (self.n - 1)
        return value[:, None] * 10**exponents


class TimeNetwork(nn.Sequential):
    """t (b,) on our clock -> (b, 2 embed_dim): real and imaginary parts of the embedding of ``1 -
    t``.
    """

    def __init__(self, config: DCUNetConfig):
        n = config.embed_dim if config.complex_time else config.embed_dim // 2
        layers: list[nn.Module] = [
            _Fourier(n, config.fourier_scale) if config.time == "gfp" else _Steps(n)
        ]
        for _ in range(config.layers_global):
            layers += [
                ComplexLinear(config.embed_dim, config.embed_dim),
                Activation(config.time_activation),
            ]
        super().__init__(*layers)
        self.complex_time = config.complex_time

    def forward(self, input: Tensor) -> Tensor:
        like = next(self.parameters(), input)
        phase = self[0]((1 - input).to(like.dtype))
        if self.complex_time:
            e = phase.cos(), phase.sin()
        else:
            features = torch.cat([phase.sin(), phase.cos()], -1)
            e = features, torch.zeros_like(features)
        for layer in list(self)[1:]:
            e = layer(e)
        return torch.cat(e, -1)


class _Dense(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.dense = ComplexLinear(inputs, outputs)

    def forward(self, x: Complex) -> Complex:
        re, im = self.dense(x)
        return re[:, :, None, None], im[:, :, None, None]


class Block(nn.Module):
    """Convolution without bias, embedding added, norm, activation."""

    def __init__(
        self, config: DCUNetConfig, row: tuple[int, ...], inputs: int, outputs: int, decoder: bool
    ):
        super().__init__()
        make, name = (nn.ConvTranspose2d, "deconv") if decoder else (nn.Conv2d, "conv")
        conv = ComplexConv(
            make, inputs, outputs, row[2:4], row[4:6], row[6:8], dilation=row[8:10], bias=False
        )
        self.add_module(name, conv)
        self.norm = WhiteningNorm(outputs) if config.norm == "CbN" else SplitNorm(outputs)
        self.activation = Activation(config.activation)
        layers: list[nn.Module] = []
        for _ in range(config.layers_local - 1):
            layers += [
                ComplexLinear(config.embed_dim, config.embed_dim),
                Activation(config.time_activation),
            ]
        self.embed_layer = nn.Sequential(
            *layers, _Dense(config.embed_dim, outputs), Activation(config.time_activation)
        )

    def forward(self, x: Complex, e: Complex, size: list[int] | None = None) -> Complex:
        conv: nn.Module = self.get_submodule("conv" if size is None else "deconv")
        (re, im), (e_re, e_im) = conv(x, size), self.embed_layer(e)
        return self.activation(self.norm((re + e_re, im + e_im)))


class DCUNet(nn.Module):
    """``forward(z_t, t, cond) -> v``: ``z_t`` and ``cond["y"]`` are ``(b, 2, f, n)``, any n (padded
    with zeros inside), ``f - 1`` divided by the product of the frequency strides (257 bins for the
    default); t is ``(b,)`` or the stacked pair [t, r], on our clock.
    """

    time_embedding_name = "embed"

    def __init__(self, config: DCUNetConfig):
        super().__init__()
        self.config, rows = config, config.rows
        self.strides = math.prod(row[4] for row in rows), math.prod(row[5] for row in rows)
        self.embed = TimeNetwork(config)
        inputs = [2, *(row[0] for row in rows[1:])]  # state and condition, both complex
        self.encoders = nn.ModuleList(
            Block(config, row, c, row[1], False) for row, c in zip(rows, inputs, strict=True)
        )
        last = len(rows) - 1
        self.decoders = nn.ModuleList(
            Block(config, rows[i], rows[i][1] * (1 if i == last else 2), rows[i][0], True)
            for i in range(last, 0, -1)
        )
        first = rows[0]
        # the original gives this layer's dilation to an argument that has no effect: it is 1
        self.output_layer = ComplexConv(
            nn.ConvTranspose2d, first[1] * (2 if last else 1), 1, first[2:4], first[4:6], first[6:8]
        )

    def forward(self, z_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        f, n = z_t.shape[2:]
        if (f - 1) % self.strides[0]:
            raise ValueError(
                f"network 'dcunet' needs 1 more than a multiple of {self.strides[0]} bins, got {f}; use n_fft 512, 257 bins"
            )
        y = cond["y"]
        e_re, e_im = self.embed(t).chunk(2, -1)
        pad = (0, -(n - 1) % self.strides[1])
        re, im = (F.pad(torch.stack([z_t[:, i], y[:, i]], 1), pad) for i in range(2))
        size, x, skips = list(re.shape[2:]), (re, im), []
        for encoder in self.encoders:
            x = encoder(x, (e_re, e_im))
            skips.append(x)
        skips.pop()
        for decoder in self.decoders:
            skip = skips.pop()
            x = decoder(x, (e_re, e_im), list(skip[0].shape[2:]))
            x = torch.cat([x[0], skip[0]], 1), torch.cat([x[1], skip[1]], 1)
        output = torch.cat(self.output_layer(x, size), 1)[..., :n]
        noisiness = (1 - current_time(t)).to(output.dtype)
        return (
            output
            if self.config.output == "velocity"
            else to_velocity(-output, z_t, y, noisiness, self.config)
        )
