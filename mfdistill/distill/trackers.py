"""What a run tells other programs, through Accelerate's trackers: numbers, hyper-parameters, and at
validation the sound and the spectrogram of the first utterances.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mfdistill.errors import UserError
from mfdistill.extras import missing

if TYPE_CHECKING:
    import numpy as np

FOLDERS = ("tensorboard", "wandb")
"""What trackers write into a run's folder; trackio has one of its own (``TRACKIO_DIR``)."""
PROJECT = "mfdistill"
HEARD = 2
"""Utterances that are listened to at every validation."""
_ID = "run-id.txt"


def chosen(log_with: str | None) -> str | None:
    """The tracker of a run; by default TensorBoard where it is installed.

    Raises:
        UserError: its package is not installed.
    """
    if log_with is None:
        return "tensorboard" if find_spec("tensorboard") is not None else None
    if log_with == "none":
        return None
    if find_spec(log_with) is None:
        raise UserError(missing(log_with, f"--log-with {log_with}"))
    return log_with


def open_tracker(
    accelerator: Any, log_with: str | None, out: Path, step: int, settings: Mapping[str, Any]
) -> None:
    """Make ``accelerator.trackers`` those of the run in ``out``; called on the main process.

    Args:
        step: already done; TensorBoard forgets what comes later.
        settings: sections of ``config.json``, told as hyper-parameters ``training.lr`` and so on.

    Raises:
        UserError: the package is not installed.
    """
    from accelerate.tracking import filter_trackers

    name = chosen(log_with)
    if name is None:
        return
    accelerator.project_configuration.logging_dir = str(out)
    accelerator.log_with = filter_trackers([name], str(out))
    options = {
        "tensorboard": lambda: {"purge_step": step + 1},
        "wandb": lambda: _wandb(out),
        "trackio": lambda: {"name": out.name, "resume": "allow", "embed": False},
    }[name]()
    project = "tensorboard" if name == "tensorboard" else PROJECT
    told = flat(settings) if step == 0 else None  # TensorBoard adds a run for every such table
    with _quiet(name):
        accelerator.init_trackers(project, told, {name: options})


def close(accelerator: Any) -> None:
    """Finish and forget the trackers of a run."""
    trackers, accelerator.trackers = accelerator.trackers, []
    for tracker in trackers:
        with _quiet(tracker.name):
            tracker.finish()


def listener(accelerator: Any, group: str, rate: int, step: int) -> Callable | None:
    """``keep(name, wave (s,))``, which hands the first recordings on to the trackers as
    ``group/name``; None without trackers (and on all but the main process).
    """
    trackers = getattr(accelerator, "trackers", None)
    if not trackers:
        return None
    count = 0

    def keep(name: str, wave: np.ndarray) -> None:
        nonlocal count
        count += 1
        if count > HEARD:
            return
        import numpy as np

        from mfdistill.report.listening import picture, spectra

        peak = float(np.abs(wave).max(initial=0))
        sound = wave / peak if peak > 1 else wave
        image = picture(spectra({name: sound}, rate)[name])
        for tracker in trackers:
            _TELL[tracker.name](tracker, f"{group}/{name}", sound, rate, image, step)

    return keep


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Nested sections as ``{"training.lr": 0.001, ...}``, lists as text, without what is None."""
    found: dict[str, bool | int | float | str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        elif value is not None:
            plain = isinstance(value, (bool, int, float, str))
            found[prefix + key] = value if plain else str(value)[:200]
    return found


def _wandb(out: Path) -> dict[str, Any]:
    """The run's id is kept in its folder, so that a resumed run goes on in the same place."""
    import uuid

    file = out / "wandb" / _ID
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(uuid.uuid4().hex[:12], encoding="utf-8")
    known = file.read_text(encoding="utf-8").strip()
    return {"name": out.name, "dir": str(out), "id": known, "resume": "allow"}


def _tensorboard(
    tracker: Any, tag: str, wave: np.ndarray, rate: int, image: np.ndarray, step: int
) -> None:
    tracker.writer.add_audio(tag, wave[None], step, sample_rate=rate)
    tracker.writer.add_image(f"{tag}/spectrogram", image, step, dataformats="HWC")


def _media(
    tracker: Any, tag: str, wave: np.ndarray, rate: int, image: np.ndarray, step: int
) -> None:
    """Of Weights & Biases and of trackio, which has its names."""
    package = __import__(tracker.name)
    sound = wave.astype("float32")
    tracker.log(
        {
            tag: package.Audio(sound, sample_rate=rate),
            f"{tag}/spectrogram": package.Image(image),
        },
        step=step,
    )


_TELL = {"tensorboard": _tensorboard, "wandb": _media, "trackio": _media}


@contextlib.contextmanager
def _quiet(name: str) -> Any:
    """trackio prints advice to stdout, which is for results."""
    if name != "trackio":
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
