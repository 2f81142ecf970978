"""What a stream promises, measured on a checkpoint: equal to offline, nothing seen early, the
claimed latency, states that can be kept.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mfdistill.audio.features import inverse_features, stft_features
from mfdistill.errors import UserError
from mfdistill.flow import Tableau, noise_like, solve
from mfdistill.networks.compact import CompactNet
from mfdistill.networks.int8 import has_int8
from mfdistill.students.streaming import StreamRestorer
from mfdistill.students.student import Student, sample
from mfdistill.teachers.field import Field

Steps = int | Sequence[float] | None
BLOCKS = (1, 7, 160, 256, 1000)
LIMITS = {torch.float64: 1e-12, torch.float32: 1e-5}
# a value at the edge between two steps of eight bits is decided by the last digit of a float
EIGHT_BIT_LIMIT = 1e-2


@dataclass(frozen=True)
class Check:
    """One promise: what was measured, and what it may be."""

    name: str
    measured: str
    limit: str
    passed: bool


@torch.no_grad()
def offline(
    model: Student | Field,
    wave: Tensor,
    steps: Steps = None,
    solver: str | Tableau = "euler",
    seeds: Any = None,
) -> Tensor:
    """What a stream at gain 1 should give for the whole of ``wave (b, s)``, computed on all frames
    at once.
    """
    task: Any = model.task  # type: ignore[union-attr]
    stft = replace(task.config.stft, causal=True)
    z = stft_features(wave, stft)
    cond = task.completed(task.observe(z))
    z_0 = task.path.prior(cond, stream_noise(seeds or range(wave.shape[0]), z))
    if isinstance(model, Student):
        z_1 = sample(model, z_0, cond, steps)
    else:
        z_1 = solve(lambda z_t, t: model.velocity(z_t, t, cond), z_0, steps or 1, solver)
    return inverse_features(z_1, stft, wave.shape[1])


def stream_noise(seeds: Sequence[int], like: Tensor) -> Tensor:
    """The noise of streams with these seeds, in the shape of ``like (b, 2, f, n)``."""
    streams = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        shape = (1, 2, like.shape[2], 1)
        streams.append(
            torch.cat(
                [noise_like(shape, generator, dtype=like.dtype) for _ in range(like.shape[3])], 3
            )
        )
    return torch.cat(streams)


def run_stream(restorer: StreamRestorer, wave: Tensor, block: int) -> Tensor:
    """``wave (b, s)`` pushed in blocks of samples, and flushed."""
    parts = [restorer.push(wave[:, k : k + block]) for k in range(0, wave.shape[1], block)]
    return torch.cat([*parts, restorer.flush()], 1)


def distance(a: Tensor, b: Tensor) -> float:
    """``|a - b| / |b|``, infinite for other lengths."""
    return float((a - b).norm() / b.norm()) if a.shape == b.shape else float("inf")


def verify(
    model: Student | Field, nfes: Sequence[int] = (1, 2, 5), hops: int = 24, onnx: bool = True
) -> Iterator[Check]:
    """The battery, check by check; ``model`` is not changed.

    Args:
        nfes: numbers of evaluations at which a stream must equal offline.
        hops: length of the signals; at least 12.
        onnx: also export the hop and run it in onnxruntime, unless it has layers in eight bits,
            which are torch's own.

    Raises:
        UserError: a model that cannot stream at all, or signals too short.
    """
    if hops < 12:
        raise UserError(f"verify: {hops} hops are too few to show anything; take 12 or more")
    models = {dtype: in_precision(model, dtype) for dtype in LIMITS}
    restorer = StreamRestorer(models[torch.float64], gain=1.0)
    hop, eight = restorer.stft.hop, has_int8(restorer.step)
    limits = {**LIMITS, torch.float32: EIGHT_BIT_LIMIT} if eight else LIMITS
    generator = torch.Generator().manual_seed(0)
    waves = 0.1 * torch.randn(2, hops * hop, generator=generator, dtype=torch.float64)
    wave = waves[:1]

    for dtype, own in models.items():
        name, given = str(dtype).removeprefix("torch."), wave.to(dtype)
        for nfe in nfes:
            expected = offline(own, given, nfe)
            blocks = (*BLOCKS, given.shape[1]) if nfe == nfes[0] else (BLOCKS[2],)
            for block in blocks:
                got = run_stream(StreamRestorer(own, nfe, gain=1.0), given, block)
                label = "whole" if block == given.shape[1] else str(block)
                yield _below(
                    f"stream = offline, {name}, NFE {nfe}, blocks of {label}",
                    distance(got, expected),
                    limits[dtype],
                )

    yield _leak(models[torch.float32], hops)
    yield _field(restorer.step.network)
    if restorer.step.predictor is not None:
        yield _field(restorer.step.predictor.network, " of the predictor")
    yield _latency(restorer, wave)
    yield from _states(models[torch.float64], waves)
    if onnx and not eight:
        single = models[torch.float32]
        got, expected = (
            run_stream(StreamRestorer(single, gain=1.0, runner=runner), wave.float(), hop)
            for runner in ("onnx", "eager")
        )
        yield _below("ONNX = eager", distance(got, expected), 1e-5)


def in_precision(model: Student | Field, dtype: torch.dtype) -> Any:
    """A copy in ``dtype`` on the CPU, in evaluation mode."""
    own: Any = copy.deepcopy(model)
    own.to(device="cpu", dtype=dtype)
    if own.task.predictor is not None:
        own.task.predictor.to("cpu", dtype)
    own.network.eval()
    return own


def _below(name: str, value: float, limit: float) -> Check:
    return Check(name, f"{value:.1e}", f"<= {limit:.0e}", value <= limit)


@torch.no_grad()
def _leak(model: Any, hops: int) -> Check:
    """Frames after the k-th are changed: those up to it must be the same bit for bit, and the next
    one not.
    """
    z, task, k = (
        torch.randn(
            2, 2, model.task.config.stft.bins, hops, generator=torch.Generator().manual_seed(1)
        ),
        model.task,
        hops // 2,
    )
    z[1] = z[0]
    z[1, ..., k + 1 :] += 1
    eps = stream_noise([3], z[:1]).expand_as(z).clone()
    eps[1, ..., k + 1 :] -= 1
    after = []
    for i in (0, 1):  # one by one: rows of one batch may be rounded differently
        cond = task.completed(task.observe(z[i : i + 1]))
        z_0 = task.path.prior(cond, eps[i : i + 1])
        after.append(model.network(z_0, *_times(model), cond))
    same, sees = (
        torch.equal(after[0][..., : k + 1], after[1][..., : k + 1]),
        not torch.equal(after[0][..., k + 1], after[1][..., k + 1]),
    )
    return Check(
        "no later frame is seen",
        "bit-identical" if same and sees else "differs",
        "bit-identical",
        same and sees,
    )


def _times(model: Any) -> tuple[Tensor]:
    return (torch.tensor([[0.0, 1.0]]) if isinstance(model, Student) else torch.tensor([0.0]),)


def _field(network: Any, whose: str = "") -> Check:
    claimed = network.past_frames
    if claimed is None:
        return Check(f"receptive field{whose}", "unbounded (recurrence)", "any", True)
    measured = measured_past(network)
    return Check(
        f"receptive field{whose}, frames before its own",
        str(measured),
        f"= {claimed}",
        measured == claimed,
    )


@torch.no_grad()
def measured_past(network: Any) -> int:
    """The last frame that an impulse in the first one changes, with all weights positive, so that
    nothing cancels, and without biases, so that nothing but the impulse is there to be rounded
    against.
    """
    own = copy.deepcopy(network).double().eval()
    for name, value in own.named_parameters():
        scale = name.rsplit(".", 1)[-1] == "weight" and value.ndim == (
            2 if "CGroupNorm" in name or "normconv.norm" in name else 1
        )
        value.copy_(
            torch.ones_like(value)
            if scale
            else value.abs() / 8 + 1e-2
            if value.ndim > 1
            else torch.zeros_like(value)
        )
        if (
            name.endswith("bias")
            or name.startswith("position")
            or "modulation" in name
            or "Dense_0" in name
        ):
            value.zero_()
    for name, value in own.named_buffers():
        if name.endswith("running_mean"):
            value.zero_()
    if isinstance(own, CompactNet):
        # of y and e: they are not zero in silence
        for levels in (slice(4, 6), slice(12, 14)):
            own.encode.conv.weight[:, levels] = 0  # type: ignore[index]
    freqs = own.config.freqs if isinstance(own, CompactNet) else own.config.input_freqs
    frames = network.past_frames + 8
    z = torch.zeros(2, 2, freqs, frames, dtype=torch.float64)
    # two frames: some features are products of neighbours
    z[..., :2] = 1.0
    z[1, ..., 0] = 2.0
    zero = torch.zeros_like(z)
    cond = {"y": zero, "e": zero} if isinstance(own, CompactNet) else {"y": z, "e": z}
    time = torch.full((1,), 0.5, dtype=torch.float64)
    a, b = (
        own(z[i : i + 1], time, {key: value[i : i + 1] for key, value in cond.items()})
        for i in (0, 1)
    )
    return int((a != b).any(2).any(1)[0].nonzero().max())


def _latency(restorer: StreamRestorer, wave: Tensor) -> Check:
    """How much earlier than a changed sample the output changes, over places in a hop."""
    claimed, hop = restorer.latency, restorer.stft.hop
    out, ahead = run_stream(restorer, wave, 160), 0
    for place in (0, 1, hop // 2, hop - 1):
        start = wave.shape[1] // hop // 2 * hop + place
        changed = wave.clone()
        changed[:, start:] += 0.1
        ahead = max(ahead, start - int((run_stream(restorer, changed, 160) != out)[0].nonzero()[0]))
    # windows begin with a zero, so the algorithmic latency shows one sample short
    return Check(
        "latency, samples of look-ahead",
        str(ahead + 2),
        f"= {claimed.algorithmic}",
        ahead + 2 == claimed.algorithmic,
    )


def _states(model: Any, waves: Tensor) -> Iterator[Check]:
    restorer, half = StreamRestorer(model, gain=1.0), waves.shape[1] // 2
    first = run_stream(restorer, waves[:1], 100)
    restorer.push(waves[1:])
    restorer.reset()
    again = run_stream(restorer, waves[:1], 100)
    yield Check("reset", _identical(again, first), "bit-identical", torch.equal(again, first))
    restorer.push(waves[:1, :half])
    saved = restorer.snapshot()
    once = restorer.push(waves[:1, half:])
    restorer.restore(saved)
    twice = restorer.push(waves[:1, half:])
    yield Check(
        "snapshot and restore", _identical(twice, once), "bit-identical", torch.equal(twice, once)
    )
    apart = [StreamRestorer(model, gain=1.0, seeds=[seed]) for seed in (0, 1)]
    parts = [
        [own.push(waves[i : i + 1, k : k + 70]) for k in range(0, waves.shape[1], 70)]
        for i, own in enumerate(apart)
    ]
    single = torch.cat(
        [torch.cat([*part, own.flush()], 1) for part, own in zip(parts, apart, strict=True)]
    )
    both = StreamRestorer(model, batch=2, gain=1.0)
    yield _below(
        "two streams side by side = apart", distance(run_stream(both, waves, 70), single), 1e-12
    )
    cut = half // both.stft.hop * both.stft.hop
    head = both.push(waves[:, :cut])
    both.reset(torch.tensor([False, True]))
    tail = torch.cat([both.push(waves[:, cut:]), both.flush()], 1)
    yield _below(
        "masked reset: the other stream goes on",
        distance(torch.cat([head, tail], 1)[:1], single[:1]),
        1e-12,
    )
    alone = run_stream(StreamRestorer(model, gain=1.0, seeds=[1]), waves[1:, cut:], 64)
    yield _below(
        "masked reset: the stream starts anew",
        distance(tail[1:, both.latency.offset :], alone),
        1e-12,
    )


def _identical(a: Tensor, b: Tensor) -> str:
    return "bit-identical" if torch.equal(a, b) else f"{distance(a, b):.1e}"
