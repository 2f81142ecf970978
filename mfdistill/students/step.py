"""One call of a stream as one module of tensors: new samples, noise and state in, finished samples
and state out.

Everything that runs a stream (eagerly, compiled, as a CUDA graph, as ONNX) runs this module;
nothing is remembered in it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mfdistill.audio.framing import Dft, frame_features, frame_waves, overlap_add, window_envelope
from mfdistill.errors import UserError
from mfdistill.flow import Tableau, along, schedule, tableau
from mfdistill.networks.memory import streams_by_frames
from mfdistill.students.fold import fold_time
from mfdistill.students.student import Student
from mfdistill.tasks import with_audio
from mfdistill.teachers.field import Field

Gain = float | Literal["peak"]
LOUDEST = 8.0  # times full scale (+18 dB); a sample beyond it is no sound


@dataclass(frozen=True)
class Plan:
    """The evaluations of a sample as one table: evaluation i is at ``times[i]`` ([t] or [t, r]),
    from the prior's draw plus ``sum_j a[i][j] k_j``; the result is the draw plus ``sum_j b[j]
    k_j``. Fixed over a stream.
    """

    times: tuple[tuple[float, ...], ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]


def plan(
    model: Student | Field,
    steps: int | Sequence[float] | None = None,
    solver: str | Tableau = "euler",
) -> Plan:
    """A student's jumps along its schedule, or a teacher's evaluations with a solver (one step of
    it unless ``steps`` says more).

    Raises:
        UserError: a bad schedule, or an unknown solver.
    """
    if isinstance(model, Student):
        times = schedule(model.schedule if steps is None else steps)
        widths = tuple(r - t for t, r in zip(times, times[1:], strict=False))
        return Plan(
            tuple(zip(times, times[1:], strict=False)),
            tuple(widths[:i] for i in range(len(widths))),
            widths,
        )
    table = along(
        tableau(solver) if isinstance(solver, str) else solver,
        schedule(1 if steps is None else steps),
    )
    return Plan(tuple((node,) for node in table.c), table.a, table.b)


class StreamStep(nn.Module):
    """``step(new, noise, *state) -> (output, *state)`` for n whole hops of b streams.

    ``new (b, n hop)`` samples; ``noise (b, 2, f, n)`` of complex variance 1; ``output (b, n hop)``,
    N - H samples behind. The state is ``history, overlap (b, N - H), peak (b, 1)``, then the
    predictor's tensors, then those of every evaluation (``names``, ``initial``).

    Args:
        model: student or teacher with a task and a causal network.
        gain: factor on the input, undone at the output, or "peak": one over the running peak.
        release: factor by which the running peak falls per hop.
        fold: with one evaluation, its time is folded into the weights; exact.
        matrix: Fourier transforms as products with matrices, for graphs without them.

    Raises:
        UserError: no task, guidance, or a network or predictor that sees later frames.
    """

    def __init__(
        self,
        model: Student | Field,
        plan: Plan,
        gain: Gain | None = None,
        release_s: float = 5.0,
        fold: bool = False,
        matrix: bool = False,
    ):
        super().__init__()
        if model.task is None:
            raise UserError(
                "stream: the model has no task, so its features and prior are unknown; load it with them in config"
            )
        task = with_audio(model.task, "stream")
        if isinstance(model, Field) and model.branches != 1:
            raise UserError(
                "stream: a teacher with guidance evaluates two branches; load it with guidance strength 0"
            )
        network: Any = model.network
        if not streams_by_frames(network):
            raise UserError(
                f"stream: {type(network).__name__} sees later frames, so it cannot stream; use a causal network"
            )
        if (
            isinstance(gain, str)
            and gain != "peak"
            or isinstance(gain, int | float)
            and not 1e-6 <= gain <= 1e6
        ):
            raise UserError(
                f"stream: gain {gain!r} is neither a factor (from 1e-6 to 1e6) nor 'peak'"
            )
        self.task, self.plan, self.stft = task, plan, task.config.stft
        self.gain: Gain = (
            gain if gain is not None else ("peak" if task.config.normalise == "peak" else 1.0)
        )
        self.release = 0.5 ** (self.stft.hop / (release_s * self.stft.sample_rate))
        if fold and len(plan.b) == 1:
            network = fold_time(network, *plan.times[0])
        self.network: Any = network
        like = next(network.parameters())
        self.dtype, self.device = like.dtype, like.device
        self.predictor: Any = task.predictor
        if self.predictor is not None:
            if not self.predictor.causal:
                raise UserError(
                    "stream: the predictor in front sees later frames, so it cannot stream; train with a causal one"
                )
            self.predictor.to(self.device)
        time_dtype = torch.promote_types(like.dtype, torch.float32)
        times = torch.tensor(plan.times, dtype=time_dtype, device=like.device)
        self.register_buffer(
            "times", times if times.shape[1] == 2 else times[:, 0], persistent=False
        )
        self.register_buffer(
            "envelope", window_envelope(self.stft, like.dtype, like.device), persistent=False
        )
        self.dft = Dft(self.stft, like.dtype, like.device) if matrix else None
        self.parts = 0, 0
        state = self.initial(1)
        predicted = (
            0 if self.predictor is None else len(self.predictor.init_state(1, self.stft.bins))
        )
        self.parts = predicted, (len(state) - 3 - predicted) // len(plan.b)

    @property
    def names(self) -> list[str]:
        """Of the state's tensors."""
        predicted, each = self.parts
        return [
            *("history", "overlap", "peak"),
            *(f"predictor_{i}" for i in range(predicted)),
            *(f"evaluation_{k}_{i}" for k in range(len(self.plan.b)) for i in range(each)),
        ]

    def initial(self, batch: int) -> tuple[Tensor, ...]:
        """The state at the start of ``batch`` streams."""

        def zeros(samples: int) -> Tensor:
            return torch.zeros(batch, samples, dtype=self.dtype, device=self.device)

        past, bins = self.stft.n_fft - self.stft.hop, self.stft.bins
        predictor = () if self.predictor is None else self.predictor.init_state(batch, bins)
        return (
            zeros(past),
            zeros(past),
            zeros(1),
            *predictor,
            *(tuple(self.network.init_state(batch, bins)) * len(self.plan.b)),
        )

    def forward(self, new: Tensor, noise: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """See the class. A sample that is not finite, or absurd, counts as silence: what it would
        leave in the state would stay there for ever.
        """
        new = torch.where(absurd(new), torch.zeros_like(new), new)
        history, overlap, peak = state[:3]
        predicted, each = self.parts
        wave = torch.cat([history, new], 1)
        gain, peak = self._gains(new, peak)
        z = frame_features(
            wave.unfold(1, self.stft.n_fft, self.stft.hop) * gain[..., None], self.stft, self.dft
        )
        after: list[Tensor] = []
        cond = self.task.observe(z)
        if self.predictor is not None:
            e, own = self.predictor.step(cond, state[3 : 3 + predicted])
            cond = {**cond, "e": e}
            after += own
        z_0 = self.task.path.prior(cond, noise)
        slopes: list[Tensor] = []
        for k, row in enumerate(self.plan.a):
            start = 3 + predicted + k * each
            time = self.times[k : k + 1].expand(z.shape[0], *self.times.shape[1:])  # type: ignore[index]
            slope, own = self.network.step(
                _move(z_0, row, slopes), time, cond, state[start : start + each]
            )
            slopes.append(slope)
            after += own
        pieces = frame_waves(_move(z_0, self.plan.b, slopes), self.stft, self.dft) / gain[..., None]
        output, overlap = overlap_add(pieces, overlap, self.envelope, self.stft)  # type: ignore[arg-type]
        past = self.stft.n_fft - self.stft.hop
        return output, wave[:, wave.shape[1] - past :], overlap, peak, *after

    def _gains(self, new: Tensor, peak: Tensor) -> tuple[Tensor, Tensor]:
        """Factor of every frame ``(b, n)`` and the running peak after them ``(b, 1)``."""
        hops = new.unflatten(1, (-1, self.stft.hop))
        if self.gain != "peak":
            return torch.full_like(hops[..., 0], float(self.gain)), peak
        peaks = []
        for level in hops.abs().amax(-1).unbind(1):
            peak = torch.maximum(level[:, None], peak * self.release)
            peaks.append(peak)
        level = torch.cat(peaks, 1)
        return torch.where(level < 1e-6, torch.ones_like(level), 1 / level.clamp_min(1e-6)), peak


def absurd(samples: Tensor) -> Tensor:
    """Which samples are NaN, infinite or above ``LOUDEST``."""
    return ~(samples.abs() <= LOUDEST)


def frozen_copy(step: StreamStep) -> StreamStep:
    """A copy in evaluation mode whose weights take no gradient, for compilers and exporters."""
    return copy.deepcopy(step).eval().requires_grad_(False)


def _move(z: Tensor, weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    for weight, slope in zip(weights, slopes, strict=False):
        if weight != 0:
            z = z + weight * slope
    return z
