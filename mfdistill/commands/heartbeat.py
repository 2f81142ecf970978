"""Signs of life: a line where nothing has been said for a while."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any


class _Noted:
    """A stream that notes when it was last written to."""

    def __init__(self, stream: Any, note: Callable[[], None]) -> None:
        self._stream, self._note = stream, note

    def write(self, text: str) -> int:
        self._note()
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def heartbeat(what: Callable[[], str], every_s: float = 8.0) -> Iterator[None]:
    """While it is open, ``what()`` is written to stderr whenever neither stdout nor stderr was
    written to for ``every_s``.
    """
    last = [time.monotonic()]

    def note() -> None:
        last[0] = time.monotonic()

    over = threading.Event()
    err = _Noted(sys.stderr, note)

    def watch() -> None:
        while not over.wait(max(0.05, last[0] + every_s - time.monotonic())):
            if time.monotonic() - last[0] >= every_s:
                err.write(what() + "\n")
                err.flush()

    thread = threading.Thread(target=watch, daemon=True)
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(_Noted(sys.stdout, note)):  # type: ignore[type-var]
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
