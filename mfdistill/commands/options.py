"""Options that several commands share, without torch."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from mfdistill.config import from_dict
from mfdistill.data.config import DataConfig
from mfdistill.errors import UserError
from mfdistill.plain import Plain, Section
from mfdistill.reading import read_json

if TYPE_CHECKING:
    from mfdistill.tasks import TaskConfig


@dataclass(frozen=True)
class Corpus(DataConfig):
    """Speech, noise and the recipe of training samples."""

    source: Annotated[
        str, tyro.conf.arg(name="data", prefix_name=False, metavar="FOLDER|HUB-ID")
    ] = "embedded"
    """'embedded' (synthesised with espeak-ng), a folder, a parquet file, or a hub id such as
    'owner/name'.
    """
    on_bad_file: Annotated[
        Literal["stop", "skip"], tyro.conf.arg(name="on-bad-file", prefix_name=False)
    ] = "stop"
    """An unreadable recording of the training split stops the run, which is saved first, or is left
    out and told.
    """
    sample_rate: tyro.conf.Suppress[int | None] = None
    """The task's, which --sample-rate says; of configurations alone."""
    bad_share: Annotated[float, tyro.conf.arg(name="bad-share", prefix_name=False)] = 0.05
    """Of the recordings that may be left out; more of them stop the run."""


@dataclass(frozen=True)
class TaskOptions:
    """Numbers of the task; None is the preset's."""

    sigma_0: float | None = None
    """Spread of the prior."""
    sigma_1: float | None = None
    """Spread at the data."""
    prior_mean: Literal["y", "zero", "e"] | None = None
    """The flow starts around the condition's features, around zero, or around a predictor's
    estimate.
    """
    prior_shape: Literal["flat", "magnitude", "profile"] | None = None
    """Spread everywhere the same, following the condition's magnitude, or one for every frequency
    (needs --spread data, or bandwidth's preset).
    """
    prior_floor: float | None = None
    """Magnitude below which that spread stops shrinking."""
    temperature: float | None = None
    """Factor on the prior's noise in sampling (1); training draws all of it. Less is less varied,
    and for speech synthesis often better.
    """
    n_mels: int | None = None
    """Bands of the vocoder's Mel spectrogram."""
    normalise: Literal["peak", "none"] | None = None
    """Level that features are made at."""
    n_fft: int | None = None
    """Samples of a window."""
    hop: int | None = None
    """Samples between windows."""
    window: Literal["hann", "sqrt-hann"] | None = None
    exponent: float | None = None
    """Of the magnitude's compression."""
    scale: float | None = None
    """Of the features."""


@dataclass(frozen=True)
class ValidOptions:
    """What validation measures while training."""

    valid_files: int = 8
    """Utterances of the validation split; 0 is no validation."""
    valid_nfe: tuple[int, ...] = (1,)
    """Numbers of network evaluations to restore them with."""
    valid_metrics: tuple[str, ...] = ("pesq", "estoi", "sisdr")
    """Of those in docs/metrics.md."""


def task_config(
    name: str,
    sample_rate: int,
    options: TaskOptions,
    causal: bool = False,
    framing: str | None = None,
    with_predictor: bool = False,
) -> TaskConfig:
    """The preset of a task with the options that are given.

    Args:
        with_predictor: the flow starts around its estimate, unless the options say otherwise.

    Raises:
        UserError: a flow around an estimate that there is not; and as ``tasks.default_task``.
    """
    from mfdistill.tasks import default_task, predicted

    preset = default_task(name, sample_rate, causal, framing)
    if options.prior_mean == "e" and not with_predictor:
        raise UserError(
            "--prior-mean e: needs the predictor whose estimate that is; name its folder with --predictor"
        )
    if with_predictor and options.prior_mean in (None, "e"):
        preset = predicted(preset)
    given = {
        item.name: value
        for item in fields(options)
        if (value := getattr(options, item.name)) is not None
    }
    stft = {key: value for key, value in given.items() if hasattr(preset.stft, key)}
    own = {key: value for key, value in given.items() if key not in stft}
    if own.get("prior_shape", "profile") != "profile":
        own["prior_profile"] = ()
    return replace(preset, stft=replace(preset.stft, **stft), **own)


def corpus(section: Section | None, where: str) -> Corpus:
    """The section "data" of a ``config.json``; the embedded corpus where there is none."""
    return from_dict(Corpus, section or {}, f"{where}: data")


def read_sizes(path: str | None) -> Plain | None:
    """A JSON file of sizes; errors name it."""
    if path is None:
        return None
    try:
        return read_json(Path(path), "write an object of names and numbers")
    except UserError as error:
        raise UserError(f"--sizes {error}") from error
