"""Disposable processes for work that may crash or never end: each call has a limit of processor
time, and a dead process costs the call that killed it and nothing else.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import psutil

from mfdistill.errors import UserError

# the parent's module search path, so that what it can import the worker can too
_COMMAND = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from mfdistill.metrics.workers import serve; serve()"
)


PATIENCE = 20.0
"""How many times its limit a call may last, whatever the processor does."""


class Died(RuntimeError):
    """The process of a call ended, or was ended at its time limit; the message says which."""


class Workers:
    """``count`` processes, started when first needed and again after each death.

    They are programs of their own and not ``multiprocessing``'s: nothing of the caller's script is
    run again, and nothing of torch or CUDA is forked.
    """

    def __init__(self, count: int = 1):
        self._threads = ThreadPoolExecutor(count, "metrics")
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        self._epoch = 0  # counts abandonments
        self._all = [_Process() for _ in range(count)]
        for process in self._all:
            self._idle.put(process)

    def submit(self, limit_s: float, fn: Callable[..., Any], *args: Any) -> Future[Any]:
        """``fn(*args)`` in a process, ended after ``limit_s`` seconds of processor time (a busy
        machine takes longer, not more of it) or ``PATIENCE`` times as long in all. ``fn`` is found
        by its module and name; what it raises, the future raises.

        Raises (from the future):
            Died: the process ended before it answered. UserError: no process can be started.
        """
        return self._threads.submit(self._call, self._epoch, limit_s, fn, args)

    def _call(self, epoch: int, limit_s: float, fn: Callable[..., Any], args: Any) -> Any:
        process = self._idle.get()
        try:
            process.begin(lambda: epoch == self._epoch)
            return process.call(limit_s, fn, args)
        finally:
            self._idle.put(process)

    def abandon(self, futures: Iterable[Future[Any]]) -> None:
        """Drop what was submitted, and end what is being computed: after Ctrl-C nobody waits for
        it.
        """
        self._epoch += 1
        for future in futures:
            future.cancel()
        for process in self._all:
            process.kill()

    def close(self) -> None:
        """End the processes once what was submitted is done."""
        self._threads.shutdown()
        while not self._idle.empty():
            self._idle.get().end()


@functools.cache
def default_workers() -> Workers:
    """One process for the whole program, ended with it."""
    workers = Workers(1)
    atexit.register(workers.close)
    return workers


class _Process:
    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._greeted = False
        self._lock = threading.Lock()  # an abandoned call must not start what nobody ends

    def begin(self, wanted: Callable[[], bool]) -> None:
        """Start the process if there is none alive, for a call that is still ``wanted``."""
        with self._lock:
            if not wanted():
                raise Died("was abandoned")
            # one killed, or dead by itself, while it had nothing to do costs the next call nothing
            if self._process is not None and self._process.poll() is not None:
                self.end()
            if self._process is None:
                path = json.dumps([item for item in sys.path if isinstance(item, str)])
                self._greeted = False
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _COMMAND, path],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )

    def call(self, limit_s: float, fn: Callable[..., Any], args: Any) -> Any:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        if not self._greeted and process.stdout.read(1) != b"+":
            why = _ended(self.end())
            if "SIGKILL" in why:
                raise Died("was abandoned")
            raise UserError(
                f"metrics: a scoring process cannot be started with {sys.executable} ({why})"
            )
        self._greeted = True
        answered, late = threading.Event(), threading.Event()
        watch = threading.Thread(
            target=_watch, args=(process, limit_s, answered, late), daemon=True
        )
        watch.start()
        try:
            pickle.dump((fn, args), process.stdin)
            process.stdin.flush()
            fine, result = pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            code = self.end()
            why = f"took longer than {limit_s:.0f} s" if late.is_set() else _ended(code)
            raise Died(why) from error
        finally:
            answered.set()
            watch.join()
        if late.is_set():  # it answered just before it was killed
            self.end()
        if not fine:
            raise result
        return result

    def kill(self) -> None:
        """End the process at once; a call that it works on raises ``Died``."""
        with self._lock:
            process = self._process  # its call may let go of it meanwhile
            if process is not None:
                process.kill()
                process.wait()  # so that `begin` sees it

    def end(self) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        for pipe in (process.stdin, process.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:  # what was still buffered for a dead process
                continue
        try:
            return process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def _watch(
    process: subprocess.Popen[bytes],
    limit_s: float,
    answered: threading.Event,
    late: threading.Event,
) -> None:
    """End a process that has not ``answered`` at its limit, and say that it was ``late``."""
    began = time.monotonic()
    try:
        clock = psutil.Process(process.pid)
        before = sum(clock.cpu_times()[:2])
        while not answered.wait(min(1.0, limit_s / 10)):
            used = sum(clock.cpu_times()[:2]) - before
            if used > limit_s or time.monotonic() - began > PATIENCE * limit_s:
                late.set()
                process.kill()
                return
    except psutil.NoSuchProcess:  # it died by itself, which its pipe says
        return


def _ended(code: int) -> str:
    try:
        return f"its process was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"its process ended with code {code}"


def serve() -> None:
    """The worker's side: answer calls from standard input until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what native code prints must not mix with the answers
    answers.write(b"+")
    answers.flush()
    while True:
        try:
            fn, args = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = True, fn(*args)
        except Exception as error:  # for the caller to handle, whatever it is
            answer = False, error
        pickle.dump(answer, answers)
        answers.flush()
