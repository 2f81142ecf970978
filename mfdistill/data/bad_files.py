"""Recordings of a corpus that turn out to be unreadable: a stop, or left out up to a share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import TypeVar

import numpy as np

from mfdistill.data.config import DataConfig
from mfdistill.errors import UserError

T = TypeVar("T")
FEW = 100
log = logging.getLogger(__name__)


class BadFiles:
    """The recordings of a training set that cannot be used, ``found``: what is wrong with each, by
    its number. Which they are follows from the files alone, not from when they are read, and who
    takes their places from their numbers, so that a resumed run draws what the run before would
    have.

    Args:
        config: ``on_bad_file`` and ``bad_share``. total: recordings of the set; None for a stream,
            whose share is one of the recordings ``read`` so far, or of the first hundred.
    """

    def __init__(self, config: DataConfig, total: int | None) -> None:
        self.skip, self.share = config.on_bad_file == "skip", config.bad_share
        self._total = total
        self.read = 0
        self.found: dict[int, str] = {}
        self._lock = Lock()

    def note(self, i: int, error: UserError) -> None:
        """Leave recording ``i`` out.

        Raises:
            UserError: bad files stop this run, or there are too many of them.
        """
        if not self.skip:
            raise UserError(f"{error}; --on-bad-file skip goes on without it") from error
        with self._lock:
            if i in self.found:
                return
            self.found[i] = str(error)
        log.warning("left out: %s", error)
        if len(self.found) > self.share * (self.total if self._total else max(self.total, FEW)):
            raise UserError(
                f"{len(self.found)} of {self.total} recordings are unusable, more than --bad-share {self.share:g}, the last: {error}"
            ) from error

    @property
    def total(self) -> int:
        """Recordings of the set, or read so far."""
        return self._total or self.read

    def draw(
        self, order: Sequence[int] | np.ndarray, position: int, read: Callable[[int], T]
    ) -> tuple[int, T]:
        """What ``read`` gives of the recording at ``position`` in ``order``, or of the next one
        there that is not bad; and its number.

        Raises:
            UserError: as ``note``, or all are bad.
        """
        for offset in range(len(order)):
            i = int(order[(position + offset) % len(order)])
            if i in self.found:
                continue
            try:
                return i, read(i)
            except UserError as error:
                self.note(i, error)
        raise UserError("--data: no recording can be read; see above")

    def summary(self, elsewhere: Sequence[tuple[int, Mapping[int, str]]] = ()) -> str | None:
        """What to tell at the end of a run; None where there was none.

        Args:
            elsewhere: ``(read, found)`` of the run's other processes.
        """
        found = dict(self.found)
        for _, others in elsewhere:
            found |= others
        if not found:
            return None
        lines = "; ".join(text for _, text in sorted(found.items())[:20])
        more = f"; and {len(found) - 20} more" if len(found) > 20 else ""
        total = self._total or self.read + sum(read for read, _ in elsewhere)
        return f"{len(found)} of {total} recordings were left out: {lines}{more}"
