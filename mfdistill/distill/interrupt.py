"""SIGTERM and Ctrl-C end a run between two steps, after it was saved."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any


class Interrupted(Exception):
    """The run was saved and stopped by a signal; ``exit_code`` is what a shell expects (143
    SIGTERM, 130 Ctrl-C).
    """

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum
        self.exit_code = 128 + signum


class Signals:
    """Context manager that notes the first SIGTERM or SIGINT in ``signum``; another one,
    ``PATIENCE_S`` later, acts as it always did.

    A launcher passes Ctrl-C on to processes that the terminal has already told, so repeats within
    that time are the same wish.
    """

    PATIENCE_S = 3.0

    def __init__(self) -> None:
        self.signum: int | None = None
        self._since = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        # Python allows handlers only there
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGTERM, signal.SIGINT):
                self._previous[signum] = signal.signal(signum, self._note)
        return self

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is None:
            self.signum, self._since = signum, time.monotonic()
        elif time.monotonic() - self._since > self.PATIENCE_S:
            self._restore()
            signal.raise_signal(signum)

    def _restore(self) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous = {}

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()
