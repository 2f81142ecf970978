"""Whether a checkpoint is of the task that a command is about."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mfdistill.errors import UserError

if TYPE_CHECKING:
    from mfdistill.tasks import Task, TaskConfig

_OF_SAMPLING = ("temperature", "fixed_noise", "mel_mean", "mel_std")
_PRIOR = ("sigma_", "prior_", "temperature")


def same_task(own: Task, other: Task, what: str) -> None:
    """Raise ``UserError`` unless a checkpoint's task is the one that is trained for, whatever
    belongs to sampling (temperature) or to the data (means of Mels).
    """
    _same(own.config, other.config, lambda key: key in _OF_SAMPLING, what)


def same_features(own: TaskConfig, other: TaskConfig, what: str) -> None:
    """Raise ``UserError`` unless two tasks make the same condition, whatever their priors: what a
    regression network needs.
    """
    _same(own, other, lambda key: key.startswith(_PRIOR), what)


def _same(own: object, other: object, ignored: Callable[[str], bool], what: str) -> None:
    from mfdistill.config import to_dict
    from mfdistill.distill.state import first_difference

    theirs, ours = (
        {key: value for key, value in to_dict(config).items() if not ignored(key)}
        for config in (other, own)
    )
    if different := first_difference(theirs, ours):
        key, before, now = different
        raise UserError(
            f"{what}: is of another task ({key} is {before!r}, here {now!r}); choose another one or change the options"
        )
