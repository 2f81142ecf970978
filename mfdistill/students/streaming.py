"""Streams: waveform in, waveform out, frame by frame, at the numbers that the whole signal would give.

Everything that is remembered is explicit (network states, one per evaluation, and two short buffers of samples), so that a stream can be
copied, put back and reset. Framing is causal: a frame ends at its newest sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mfdistill.audio.framing import Latency, frame_features, frame_waves, latency, overlap_add
from mfdistill.errors import UserError
from mfdistill.flow import Tableau, along, noise_like, schedule, tableau
from mfdistill.networks.memory import State
from mfdistill.students.student import Student
from mfdistill.teachers.protocol import Teacher

_CHUNK = 64  # frames that are computed at once where as many are there


@dataclass(frozen=True)
class Plan:
    """The evaluations of a sample as one table: evaluation i is at ``times[i]`` ([t] or [t, r]), from the prior's draw plus
    ``sum_j a[i][j] k_j``; the result is the draw plus ``sum_j b[j] k_j``. Fixed over a stream."""

    times: tuple[tuple[float, ...], ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]


def plan(model: Student | Teacher, steps: int | Sequence[float] | None = None, solver: str | Tableau = "euler") -> Plan:
    """A student's jumps along its schedule, or a teacher's evaluations with a solver (one step of it unless ``steps`` says more).

    Raises:
        UserError: a bad schedule, or an unknown solver.
    """
    if isinstance(model, Student):
        times = schedule(model.schedule if steps is None else steps)
        widths = tuple(r - t for t, r in zip(times, times[1:], strict=False))
        return Plan(tuple(zip(times, times[1:], strict=False)), tuple(widths[:i] for i in range(len(widths))), widths)
    table = along(tableau(solver) if isinstance(solver, str) else solver, schedule(1 if steps is None else steps))
    return Plan(tuple((node,) for node in table.c), table.a, table.b)


@dataclass(frozen=True)
class StreamState:
    """All that ``StreamRestorer`` remembers; tensors begin with the batch and are never changed in place."""

    pending: Tensor
    """Samples that do not fill a hop yet."""
    history: Tensor
    """The n_fft - hop samples before them."""
    overlap: Tensor
    """Output that later frames add to."""
    peak: Tensor
    """Running peak of the input, (b, 1)."""
    evaluations: tuple[State, ...]
    """One network state per evaluation."""
    predictor: State
    noise: tuple[Tensor, ...]
    """States of the random generators."""
    received: int
    emitted: int


class StreamRestorer:
    """Streaming restoration by a causal student or teacher.

    Output is aligned with the input: the first samples, which lie before the start, are dropped, so that nothing comes out of the first
    ``latency.offset`` samples and ``flush`` gives as many samples at the end.

    Args:
        model: has a ``task`` and a causal network. A student is sampled along ``steps`` (its own schedule where None); a teacher by
            ``steps`` steps (or between ascending times) of ``solver``, which may be a learned solver's ``tableau()``.
        batch: independent streams side by side.
        gain: factor on the input, undone at the output; "peak" divides by the running peak (falling back by half in ``release_s``); None
            is "peak" for tasks whose level is the peak and 1 for others. No stream can know the peak of its whole utterance.
        seeds: of the noise of each stream; 0, 1, ... where None.

    Raises:
        UserError: no task, guidance, a network that sees later frames, or numbers that do not fit.
    """

    def __init__(
        self,
        model: Student | Teacher,
        steps: int | Sequence[float] | None = None,
        solver: str | Tableau = "euler",
        batch: int = 1,
        gain: float | Literal["peak"] | None = None,
        seeds: Sequence[int] | None = None,
        release_s: float = 5.0,
    ):
        task = getattr(model, "task", None)
        if task is None:
            raise UserError("stream: the model has no task, so its features and prior are unknown; load it with them in config")
        if getattr(model, "branches", 1) != 1:
            raise UserError("stream: a teacher with guidance evaluates two branches; load it with guidance strength 0")
        self.network: Any = model.network
        if not getattr(self.network, "causal", False) or not hasattr(self.network, "init_state"):
            raise UserError(f"stream: {type(self.network).__name__} sees later frames, so it cannot stream; use a causal network")
        self.seeds = list(range(batch) if seeds is None else seeds)
        if batch < 1 or len(self.seeds) != batch:
            raise UserError(f"stream: batch {batch} with {len(self.seeds)} seeds; give 1 or more streams and a seed for each")
        if isinstance(gain, str) and gain != "peak" or isinstance(gain, int | float) and not gain > 0:
            raise UserError(f"stream: gain {gain!r} is neither a positive factor nor 'peak'")
        self.task, self.plan, self.batch = task, plan(model, steps, solver), batch
        self.stft = task.config.stft
        self.gain = gain if gain is not None else ("peak" if task.config.normalise == "peak" else 1.0)
        self.release = 0.5 ** (self.stft.hop / (release_s * self.stft.sample_rate))
        found = getattr(model, "predictor", None) or getattr(task, "predictor", None)
        self.predictor: Any = found if isinstance(found, nn.Module) else None
        self.latency: Latency = latency(self.stft)
        like = next(self.network.parameters())
        self.dtype, self.device = like.dtype, like.device
        self._zero = self._begin()
        self.state = self._zero

    @torch.inference_mode()
    def push(self, samples: Tensor) -> Tensor:
        """The next samples ``(b, s)``, or ``(s,)`` of a single stream, s >= 0: the output that is finished, in the same form.

        Raises:
            ValueError: another number of streams.
        """
        wave = samples if samples.ndim == 2 else samples[None]
        if wave.shape[0] != self.batch or samples.ndim not in (1, 2):
            raise ValueError(f"expected samples of {self.batch} streams, (streams, samples), got shape {tuple(samples.shape)}")
        wave = torch.cat([self.state.pending, wave.to(self.device, self.dtype)], 1)
        hop, outputs = self.stft.hop, []
        state = replace(self.state, received=self.state.received + samples.shape[-1])
        whole = wave.shape[1] // hop * hop
        for block in wave[:, :whole].split(_CHUNK * hop, 1) if whole else ():
            output, state = self._frames(block, state)
            outputs.append(output)
        early = max(0, self.latency.offset - state.emitted)
        output = torch.cat(outputs, 1) if outputs else wave[:, :0]
        self.state = replace(state, pending=wave[:, whole:], emitted=state.emitted + output.shape[1])
        return (output[:, early:] if samples.ndim == 2 else output[0, early:]).to(samples)

    def flush(self) -> Tensor:
        """The rest of the output ``(b, s)``, as if silence followed, so that it is as long as the input; and a new start."""
        left = self.state.received - max(0, self.state.emitted - self.latency.offset)
        frames = -(-(left + max(0, self.latency.offset - self.state.emitted)) // self.stft.hop)
        missing = frames * self.stft.hop - self.state.pending.shape[1]
        rest = self.push(self.state.pending.new_zeros(self.batch, max(0, missing)))[:, :left]
        self.reset()
        return rest

    def reset(self, mask: Tensor | None = None) -> None:
        """Start again: all streams, or those where ``mask (b,)`` is true while the others go on. A single one's output before its new start
        is not dropped; it is silence."""
        if mask is None:
            self.state = self._begin(self._zero)
            return
        if mask.shape != (self.batch,) or mask.dtype != torch.bool:
            raise ValueError(f"expected a mask of {self.batch} truth values, got {tuple(mask.shape)} of {mask.dtype}")

        def clear(tensor: Tensor) -> Tensor:
            return torch.where(mask.to(tensor.device).reshape(-1, *[1] * (tensor.ndim - 1)), torch.zeros_like(tensor), tensor)

        now, fresh = self.state, self._begin(self._zero)
        self.state = replace(
            now,
            **{name: clear(getattr(now, name)) for name in ("pending", "history", "overlap", "peak")},
            evaluations=tuple(tuple(map(clear, state)) for state in now.evaluations),
            predictor=tuple(map(clear, now.predictor)),
            noise=tuple(new if bool(m) else old for m, new, old in zip(mask.tolist(), fresh.noise, now.noise, strict=True)),
        )

    def snapshot(self) -> StreamState:
        """Everything that the stream's future depends on; put back by ``restore``, any number of times."""
        return self.state

    def restore(self, state: StreamState) -> None:
        """Go on from a snapshot, bit for bit."""
        self.state = state

    @property
    def state_bytes(self) -> int:
        """Size of the state of all streams."""
        tensors: list[Tensor] = []
        for field in fields(StreamState):
            value = getattr(self.state, field.name)
            stack = [value]
            while stack:
                item = stack.pop()
                if isinstance(item, Tensor):
                    tensors.append(item)
                elif isinstance(item, tuple):
                    stack.extend(item)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def _begin(self, old: StreamState | None = None) -> StreamState:
        noise = tuple(torch.Generator().manual_seed(seed).get_state() for seed in self.seeds)
        if old is not None:
            return replace(old, noise=noise)

        def zeros(samples: int) -> Tensor:
            return torch.zeros(self.batch, samples, dtype=self.dtype, device=self.device)

        one, past = self.network.init_state(self.batch, self.stft.bins), self.latency.offset
        predictor = () if self.predictor is None else self.predictor.init_state(self.batch, self.stft.bins)
        return StreamState(zeros(0), zeros(past), zeros(past), zeros(1), (one,) * len(self.plan.b), predictor, noise, 0, 0)

    def _frames(self, new: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Whole hops ``(b, n hop)`` to as many finished samples."""
        wave = torch.cat([state.history, new], 1)
        gain, peak = self._gains(new, state.peak)
        z = frame_features(wave.unfold(1, self.stft.n_fft, self.stft.hop) * gain[..., None], self.stft)
        if self.predictor is None:
            cond, predicted = self.task.observe(z), ()
        else:
            e, predicted = self.predictor.step(z, z.new_zeros(self.batch), {"y": z}, state.predictor)
            cond = {"y": z, "e": e}
        eps, noise = self._noise(z, state.noise)
        z_1, evaluations = self._sample(self.task.path.prior(cond, eps), cond, state.evaluations)
        output, overlap = overlap_add(frame_waves(z_1, self.stft) / gain[..., None], state.overlap, self.stft)
        history = wave[:, wave.shape[1] - self.latency.offset :]
        return output, replace(
            state, history=history, overlap=overlap, peak=peak, evaluations=evaluations, predictor=predicted, noise=noise
        )

    def _sample(self, z_0: Tensor, cond: dict[str, Tensor], states: tuple[State, ...]) -> tuple[Tensor, tuple[State, ...]]:
        slopes: list[Tensor] = []
        after: list[State] = []
        time_dtype = torch.promote_types(self.dtype, torch.float32)
        for time, row, state in zip(self.plan.times, self.plan.a, states, strict=True):
            t = torch.tensor(time, dtype=time_dtype, device=self.device).expand(self.batch, -1)
            slope, new = self.network.step(_move(z_0, row, slopes), t if len(time) == 2 else t[:, 0], cond, state)
            slopes.append(slope)
            after.append(new)
        return _move(z_0, self.plan.b, slopes), tuple(after)

    def _gains(self, new: Tensor, peak: Tensor) -> tuple[Tensor, Tensor]:
        """Factor of every frame ``(b, n)`` and the running peak after them ``(b, 1)``."""
        hops = new.reshape(self.batch, -1, self.stft.hop)
        if self.gain != "peak":
            return hops.new_full(hops.shape[:2], float(self.gain)), peak
        peaks = []
        for level in hops.abs().amax(-1).unbind(1):
            peak = torch.maximum(level[:, None], peak * self.release)
            peaks.append(peak)
        level = torch.cat(peaks, 1)
        return torch.where(level < 1e-6, 1.0, 1 / level.clamp_min(1e-6)).to(level), peak

    def _noise(self, like: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Noise frame by frame, so that it does not depend on how many frames come at once."""
        streams, after = [], []
        for state in states:
            generator = torch.Generator()
            generator.set_state(state)
            shape = (1, 2, like.shape[2], 1)
            streams.append(torch.cat([noise_like(shape, generator, dtype=like.dtype) for _ in range(like.shape[3])], 3))
            after.append(generator.get_state())
        return torch.cat(streams).to(like.device), tuple(after)


def _move(z: Tensor, weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    for weight, slope in zip(weights, slopes, strict=False):
        if weight != 0:
            z = z + weight * slope
    return z
