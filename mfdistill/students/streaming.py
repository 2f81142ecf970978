"""Streams: waveform in, waveform out, frame by frame, at the numbers that the whole signal would
give.

Everything that is remembered is explicit (network states, one per evaluation, and two short buffers
of samples), so that a stream can be
copied, put back and reset. Framing is causal: a frame ends at its newest sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mfdistill.audio.framing import Latency, latency
from mfdistill.errors import UserError
from mfdistill.flow import Tableau, noise_like
from mfdistill.students.runners import Runner, RunnerName, make_runner
from mfdistill.students.step import Gain, StreamStep, absurd, plan
from mfdistill.students.student import Student
from mfdistill.teachers.field import Field

_CHUNK = 64  # frames that are computed at once where as many are there


@dataclass(frozen=True)
class StreamState:
    """All that ``StreamRestorer`` remembers; tensors begin with the batch and are never changed in
    place.
    """

    pending: Tensor
    """Samples that do not fill a hop yet."""
    step: tuple[Tensor, ...]
    """Last samples, output that later frames add to, running peak, and a network state per
    evaluation (``StreamStep.names``).
    """
    noise: tuple[Tensor, ...]
    """States of the random generators."""
    received: int
    emitted: int
    replaced: int = 0
    """Samples of all streams that were not finite, or absurd, and counted as silence."""


class StreamRestorer:
    """Streaming restoration by a causal student or teacher.

    Output is aligned with the input: the first samples, which lie before the start, are dropped, so
    that nothing comes out of the first ``latency.offset`` samples and ``flush`` gives as many
    samples at the end.

    Args:
        model: has a ``task`` and a causal network. A student is sampled along ``steps`` (its own
            schedule where None); a teacher by ``steps`` steps (or between ascending times) of
            ``solver``, which may be a learned solver's ``tableau()``.
        batch: independent streams side by side.
        gain: factor on the input, undone at the output; "peak" divides by the running peak (falling
            back by half in ``release_s``); None is "peak" for tasks whose level is the peak and 1
            for others. No stream can know the peak of its whole utterance.
        seeds: of the noise of each stream; 0, 1, ... where None.
        runner: what computes a hop, one of ``runners.RUNNERS``; all but "eager" work hop by hop,
            after a start that takes a while.
        fold: fold the time of a single evaluation into the weights.
        temperature: factor on the prior's noise; 0 for a regression network, which starts at the
            prior's mean.

    Raises:
        UserError: no task, guidance, a network that sees later frames, or numbers that do not fit.
    """

    def __init__(
        self,
        model: Student | Field,
        steps: int | Sequence[float] | None = None,
        solver: str | Tableau = "euler",
        batch: int = 1,
        gain: Gain | None = None,
        seeds: Sequence[int] | None = None,
        release_s: float = 5.0,
        runner: RunnerName = "eager",
        fold: bool = False,
        temperature: float = 1.0,
    ):
        torch.set_flush_denormal(True)  # states fade towards 0 in silence
        self.seeds = list(range(batch) if seeds is None else seeds)
        if batch < 1 or len(self.seeds) != batch:
            raise UserError(
                f"stream: batch {batch} with {len(self.seeds)} seeds; give 1 or more streams and a seed for each"
            )
        step = StreamStep(
            model, plan(model, steps, solver), gain, release_s, fold, matrix=runner != "eager"
        )
        self.task, self.plan, self.stft, self.batch, self.gain = (
            step.task,
            step.plan,
            step.stft,
            batch,
            step.gain,
        )
        self.latency: Latency = latency(self.stft)
        self.dtype, self.device = step.dtype, step.device
        self.step: StreamStep = step
        self.runner: Runner = make_runner(runner, step, batch)
        self.temperature = temperature
        self.chunk = _CHUNK if runner == "eager" else 1
        self._zero = self._begin()
        self.state = self._zero

    @torch.inference_mode()
    def push(self, samples: Tensor) -> Tensor:
        """The next samples ``(b, s)``, or ``(s,)`` of a single stream, s >= 0: the output that is
        finished, in the same form.

        Raises:
            ValueError: another number of streams.
        """
        wave = samples if samples.ndim == 2 else samples[None]
        if wave.shape[0] != self.batch or samples.ndim not in (1, 2):
            raise ValueError(
                f"expected samples of {self.batch} streams, (streams, samples), got shape {tuple(samples.shape)}"
            )
        wave = wave.to(self.device, self.dtype)
        replaced = self.state.replaced + int(absurd(wave).sum())
        wave = torch.cat([self.state.pending, wave], 1)
        hop, outputs = self.stft.hop, []
        received = self.state.received + samples.shape[-1]
        state = replace(self.state, received=received, replaced=replaced)
        whole = wave.shape[1] // hop * hop
        for block in wave[:, :whole].split(self.chunk * hop, 1) if whole else ():
            output, state = self._frames(block, state)
            outputs.append(output)
        early = max(0, self.latency.offset - state.emitted)
        output = torch.cat(outputs, 1) if outputs else wave[:, :0]
        self.state = replace(
            state, pending=wave[:, whole:], emitted=state.emitted + output.shape[1]
        )
        return (output[:, early:] if samples.ndim == 2 else output[0, early:]).to(samples)

    def flush(self) -> Tensor:
        """The rest of the output ``(b, s)``, as if silence followed, so that it is as long as the
        input; and a new start.
        """
        left = self.state.received - max(0, self.state.emitted - self.latency.offset)
        frames = -(-(left + max(0, self.latency.offset - self.state.emitted)) // self.stft.hop)
        missing = frames * self.stft.hop - self.state.pending.shape[1]
        rest = self.push(self.state.pending.new_zeros(self.batch, max(0, missing)))[:, :left]
        self.reset()
        return rest

    def reset(self, mask: Tensor | None = None) -> None:
        """Start again: all streams, or those where ``mask (b,)`` is true while the others go on. A
        single one's output before its new start is not dropped; it is silence.
        """
        if mask is None:
            self.state = self._begin(self._zero)
            return
        if mask.shape != (self.batch,) or mask.dtype != torch.bool:
            raise ValueError(
                f"expected a mask of {self.batch} truth values, got {tuple(mask.shape)} of {mask.dtype}"
            )

        def clear(tensor: Tensor) -> Tensor:
            return torch.where(
                mask.to(tensor.device).reshape(-1, *[1] * (tensor.ndim - 1)),
                torch.zeros_like(tensor),
                tensor,
            )

        now, fresh = self.state, self._begin(self._zero)
        noise = tuple(
            new if bool(m) else old
            for m, new, old in zip(mask.tolist(), fresh.noise, now.noise, strict=True)
        )
        self.state = replace(
            now, pending=clear(now.pending), step=tuple(map(clear, now.step)), noise=noise
        )

    def snapshot(self) -> StreamState:
        """Everything that the stream's future depends on; put back by ``restore``, any number of
        times.
        """
        return self.state

    def restore(self, state: StreamState) -> None:
        """Go on from a snapshot, bit for bit."""
        self.state = state

    @property
    def state_bytes(self) -> int:
        """Size of the state of all streams."""
        now = self.state
        return sum(
            tensor.numel() * tensor.element_size()
            for tensor in (now.pending, *now.step, *now.noise)
        )

    def _begin(self, old: StreamState | None = None) -> StreamState:
        noise = tuple(torch.Generator().manual_seed(seed).get_state() for seed in self.seeds)
        if old is not None:
            return replace(old, noise=noise, replaced=0)

        pending = torch.zeros(self.batch, 0, dtype=self.dtype, device=self.device)
        return StreamState(pending, self.step.initial(self.batch), noise, 0, 0)

    def _frames(self, new: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Whole hops ``(b, n hop)`` to as many finished samples."""
        eps, noise = self._noise(new, state.noise)
        output, *after = self.runner(new, eps, *state.step)
        return output, replace(state, step=tuple(after), noise=noise)

    def _noise(self, like: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Noise frame by frame, so that it does not depend on how many frames come at once."""
        streams, after = [], []
        for state in states:
            generator = torch.Generator()
            generator.set_state(state)
            shape, frames = (1, 2, self.stft.bins, 1), like.shape[1] // self.stft.hop
            streams.append(
                torch.cat(
                    [noise_like(shape, generator, dtype=like.dtype) for _ in range(frames)], 3
                )
            )
            after.append(generator.get_state())
        return (torch.cat(streams) * self.temperature).to(like.device), tuple(after)
