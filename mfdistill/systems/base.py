"""What another program's checkpoint is to this one: a ``System`` recognises its files, reads them
and writes them back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from mfdistill.errors import UserError
from mfdistill.flow import schedule
from mfdistill.flow.grids import flowse_times
from mfdistill.networks.dcunet import DCUNet
from mfdistill.networks.memory import streams_by_frames
from mfdistill.networks.ncsnpp import NCSNpp
from mfdistill.plain import Plain, Section
from mfdistill.systems.files import mismatches
from mfdistill.tasks import Task
from mfdistill.tasks.foreign import MelKind

Cond = Mapping[str, Tensor]
Null = Callable[[Cond, Tensor], tuple[dict[str, Tensor], dict[str, Tensor]]]
"""``(cond, t) -> (cond, null condition)`` of b samples at times t (b,), the same keys in both."""
SEES_ALL = "its norms see all frames"


@dataclass(frozen=True)
class FieldFacts:
    """What is known of a velocity field beside its numbers; nothing of it is guessed."""

    t_last: float
    """The latest time that it was trained at."""
    straight: bool
    """Whether its states in training lay on the task's path (those of a score model do not)."""
    grid: Callable[[int], list[float]]
    """The times of its system's own sampler for so many Euler steps."""
    steps: int
    """Of that sampler."""
    null: Null | None
    """The condition of its null branch; None: trained without one, so that guidance has no
    meaning.
    """
    streams: Literal["frames", "chunks"] | None
    """Its streaming form: frame by frame with a state, or attention by chunks
    (``network.streaming``).
    """
    no_stream: str = ""
    """Why it has none."""
    weight: Callable[[Tensor], Tensor] | None = None
    """What its system multiplies the strength of guidance by, at times t (b,); None: nothing."""
    unit: int | None = None
    """Frames that are guided by themselves ("zero-star"), where a state is a row of such; None: the
    whole state.
    """


def own_facts(network: nn.Module) -> FieldFacts:
    """Of a network of ``networks.NETWORKS`` that was trained here, or of one of yours: straight
    paths up to t = 1 unless its configuration (NCSN++ and DCUNet, in which other systems' networks
    are read too) says otherwise.
    """
    t_last, straight = 1.0, True
    if isinstance(network, NCSNpp | DCUNet):
        t_last, straight = network.config.t_last, network.config.output == "velocity"

    def grid(steps: int) -> list[float]:
        return flowse_times(steps, t_eps=1 - t_last) if t_last < 1 else schedule(steps)

    frames = streams_by_frames(network)
    why = "" if frames else f"{type(network).__name__} sees later frames"
    return FieldFacts(t_last, straight, grid, 10, None, "frames" if frames else None, why)


@dataclass(frozen=True)
class Opened:
    """What a file holds: a network with its weights, of one time, and what is known of it.

    ``config`` are sections of ``config.json`` ("role", "kind", "network", ...). Of students only:
    ``schedule``, ``interval`` and ``mixer`` (d, 2 d), the weights of the second time beside the
    first where the network does not hold them itself.
    """

    network: nn.Module
    task: Task | None
    facts: FieldFacts
    config: Plain
    guidance_strength: float = 0.0
    """The system's own."""
    schedule: int | Sequence[float] = 1
    interval: Literal["mixed", "delta"] = "mixed"
    mixer: Tensor | None = None
    guidance_input: float | None = None
    """Of a student that is told its guidance: the largest strength."""


class Reader(Protocol):
    """A system's ``read``: the file (or folder) at ``path`` as ours.

    Args:
        config: sizes and options where they are not the published ones or not in the file.
        streaming: in its streaming form.

    Raises:
        UserError: another kind of file, weights that do not fit, or no streaming form.
    """

    def __call__(self, path: Path, config: Section | None, streaming: bool) -> Opened: ...


class TwoTimes(Protocol):
    """What a layout writes: a student."""

    network: nn.Module
    task: Task | None
    schedule: list[float]
    interval: str
    guidance_input: float | None


class Writer(Protocol):
    """A layout: ``student`` as a file of that system. ``base``: a file of theirs whose other
    tensors go along.

    Raises:
        UserError: a student that the layout cannot hold, a base that it cannot take, or a disk that
            is full.
    """

    def __call__(
        self, student: TwoTimes, path: str | Path, base: str | Path | None = None
    ) -> object: ...


def no_files(place: Path, network: nn.Module, given: Path | None) -> dict[str, bytes]:
    """Of a system whose checkpoint is all there is.

    Raises:
        UserError: a file is named all the same.
    """
    if given is not None:
        raise UserError(f"--vocab {given}: this system's checkpoints have none; leave it out")
    return {}


def nothing_before(place: Path) -> str:
    """Of a system whose network is all there is."""
    return ""


@dataclass(frozen=True)
class System:
    """One row of ``systems.table.SYSTEMS``.

    ``recognise(names)`` tells its files by the names of tensors, with whatever prefixes, and
    ``hyper_parameters.NAME``.
    """

    name: str
    recognise: Callable[[Collection[str]], bool]
    read_teacher: Reader | None = None
    read_student: Reader | None = None
    layouts: Mapping[str, Writer] = field(default_factory=dict)
    """How students of it are written, by the names of ``export --layout``."""
    task: Callable[[Section, str], Task] | None = None
    """The task of the section "task" of a ``config.json`` (and where it stands), for tasks that no
    table of ours has.
    """
    facts: Callable[[nn.Module], FieldFacts] = own_facts
    """Of a network of it, from a file or from a folder of ours."""
    files: Callable[[Path, nn.Module, Path | None], Mapping[str, bytes]] = no_files
    """``files(place, network, given)``: what travels along in folders of ours, by name, out of what
    stands beside or in the checkpoint at ``place`` (or, of F5-TTS, ``given`` by name).
    """
    folders: bool = False
    """Whether folders with one such file are recognised too."""
    label: str = ""
    """As people call it."""
    licence: tuple[str, str] | None = None
    """Of its published weights, which a student inherits: the hub's name, and words."""
    mel: MelKind | None = None
    """Of a text-to-speech flow."""
    guidance: float | None = None
    """Its own strength; None: trained without a null condition, so that guidance has no meaning."""
    published: object | None = None
    """The published network's configuration, where files do not hold their sizes."""
    role: Callable[[Path], str] | None = None
    """"teacher" or "student": which of the two a file is, where it can be read as either."""
    before: Callable[[Path], str] = nothing_before
    """What comes before the flow of a file or folder, and whether it is there, in words."""


class Misfit(UserError):
    """A file's tensors are not those of the network. Whoever knows all systems says what they look
    like instead.

    Args:
        text: what is wrong. remedy: what to do. names: of the file's tensors. looks: what they look
            like, where it is known.
    """

    def __init__(self, text: str, remedy: str, names: Collection[str], looks: str = ""):
        super().__init__(f"{text}; {looks}; {remedy}" if looks else f"{text}; {remedy}")
        self.text, self.remedy, self.names, self.looks = text, remedy, names, looks


SIZES = "give its sizes in config (--sizes), or the right kind"


def check_fit(
    own: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    path: object,
    kind: str,
    prefix: str = "",
    looks: str = "",
) -> None:
    """See that a file's tensors are those of a network, ``own``, in name and shape.

    Args:
        prefix: before their names where their kind is told from them. looks: as ``Misfit``'s.

    Raises:
        Misfit: they are not; the first difference is named.
    """
    wrong = mismatches(own, tensors)
    if wrong:
        text = f"{path}: its weights do not fit kind '{kind}' and these sizes: {wrong[0]} ({len(wrong)} such)"
        raise Misfit(text, SIZES, [prefix + name for name in tensors], looks)


def no_stream(path: object, kind: str, why: str = SEES_ALL) -> UserError:
    """The error of a kind without a streaming form."""
    return UserError(f"{path}: kind {kind} has no streaming form ({why}); leave streaming out")


def chosen_weights(given: Plain, path: object) -> Literal["ema", "raw"]:
    """Takes ``weights`` out of a configuration: "ema" (the default) or "raw"."""
    weights = given.pop("weights", "ema")
    if weights not in ("ema", "raw"):
        raise UserError(f"{path}: weights {weights!r} is not one of 'ema', 'raw'")
    return weights


def both_branches(cond: Cond, null: Cond, b: int) -> dict[str, Tensor]:
    """Two conditions of b samples as one of 2 b; what is one value for all samples stays one."""
    return {
        key: torch.cat([value, null[key]])
        if null[key] is not value or (value.ndim and value.shape[0] == b)
        else value
        for key, value in cond.items()
    }
