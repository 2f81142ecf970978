"""The processes of one command watch each other: where one dies, the others say which and end.

Every process holds a connection to process 0. The system closes a dead process's connections, so
its end is known at once; of a machine that is gone, TCP's keep-alive tells within 20 s. Nothing is
sent while all is well, and a process that computes for long is not mistaken for a dead one.
Without this a launcher reports a lost process by a traceback, or, where the others wait for it on
a GPU, only when a collective operation times out.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import selectors
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_FAILED, _DONE = b"!", b"."
_PATIENCE_S = 3.0
"""How long an error of this process waits for news of another's end, which may be its cause."""

_watch: _Watch | None = None


class _Watch:
    """The connections of this process, and what became of the processes behind them."""

    def __init__(self, links: dict[int, socket.socket], rank: int, world: int) -> None:
        self.links, self.rank, self.world = links, rank, world
        self.lost: int | None = None
        """The process that died."""
        self.quiet = False
        """It has told its own error, or all are done."""
        self.over = False
        self.news = threading.Event()
        threading.Thread(target=self._follow, name="peers", daemon=True).start()

    def _follow(self) -> None:
        selector = selectors.DefaultSelector()
        for rank, link in self.links.items():
            selector.register(link, selectors.EVENT_READ, rank)
        while not self.over and selector.get_map():
            for key, _ in selector.select(timeout=1.0):
                rank, link = key.data, self.links[key.data]
                try:
                    said = link.recv(16)
                except OSError:
                    said = b""
                if said == _DONE:
                    selector.unregister(link)
                    continue
                if self.over:
                    return
                # process 0 passes on the number of the one that it lost
                self.lost = int(said[1:]) if said[:1] == b"#" else rank
                self.quiet = said == _FAILED
                self._pass_on(said if self.quiet else b"#%d" % self.lost, rank)
                self.news.set()
                # the main thread ends with the line, unless it waits for the dead one for ever
                time.sleep(_PATIENCE_S)
                self.leave()

    def _pass_on(self, text: bytes, source: int) -> None:
        if self.rank == 0:
            for rank, link in self.links.items():
                if rank != source:
                    with contextlib.suppress(OSError):
                        link.sendall(text)

    def line(self) -> str | None:
        """What this process has to say of the lost one; one process per machine says it."""
        if self.lost is None or self.quiet:
            return None
        size = int(os.environ.get("LOCAL_WORLD_SIZE", self.world))
        first = self.rank // size * size
        if self.rank != min(rank for rank in range(first, first + size) if rank != self.lost):
            return None
        return (
            f"error: process {self.lost} of {self.world} died (killed, out of memory, or its machine is gone), so the others "
            "stop too; a training goes on from its last save with --resume"
        )

    def leave(self) -> None:
        """End this process from whatever it is doing."""
        if self.over:
            return
        self.over = True
        text = self.line()
        if text is not None:
            sys.stderr.write(f"mfdistill: {text}\n")
            sys.stderr.flush()
        os._exit(1)


def watch(device: torch.device) -> None:
    """Connect the processes of this command; called on all of them, after their group is made. A
    single process, or a second call, does nothing.
    """
    global _watch
    import torch.distributed as dist

    if _watch is not None or not (dist.is_available() and dist.is_initialized()):
        return
    rank, world = dist.get_rank(), dist.get_world_size()
    if world == 1:
        return
    listener = socket.create_server(("", 0), backlog=world) if rank == 0 else None
    # only those who were told the word are let in
    told: list[Any] = [(listener.getsockname()[1], secrets.token_hex(16)) if listener else None]
    dist.broadcast_object_list(told, device=device)
    port, word = told[0]
    links = _accept(listener, word, world) if listener else {0: _connect(port, word, rank)}
    for link in links.values():
        _keep_alive(link)
    _watch = _Watch(links, rank, world)
    atexit.register(farewell, failed=False)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminated)
    dist.barrier()


def _accept(listener: socket.socket, word: str, world: int) -> dict[int, socket.socket]:
    links: dict[int, socket.socket] = {}
    with listener:
        listener.settimeout(120)
        while len(links) < world - 1:
            link, _ = listener.accept()
            link.settimeout(10)
            said = b""
            with contextlib.suppress(OSError):
                while len(said) < len(word) + 8 and (more := link.recv(64)):
                    said += more
            if said[: len(word)] == word.encode() and said[len(word) :].strip().isdigit():
                links[int(said[len(word) :])] = link
            else:
                link.close()
    return links


def _connect(port: int, word: str, rank: int) -> socket.socket:
    link = socket.create_connection((os.environ.get("MASTER_ADDR", "127.0.0.1"), port), timeout=120)
    link.sendall(word.encode() + b"%8d" % rank)
    return link


def _keep_alive(link: socket.socket) -> None:
    link.settimeout(None)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _terminated(signum: int, frame: object) -> None:
    """A launcher that lost one process ends the others, perhaps before they know why."""
    if _watch is not None and _watch.news.wait(1.0):
        _watch.leave()
    signal.signal(signum, signal.SIG_DFL)
    signal.raise_signal(signum)


def end_with_others() -> None:
    """After an error in this process: if it follows from the end of another, end with the line that
    says so (written by one process of a machine).
    """
    if _watch is not None and _watch.news.wait(_PATIENCE_S):
        _watch.leave()


def farewell(failed: bool) -> None:
    """Tell the others that this process ends: in order, or after an error that it has told."""
    if _watch is None or _watch.over:
        return
    _watch.over = True
    for link in _watch.links.values():
        with contextlib.suppress(OSError):
            link.sendall(_FAILED if failed else _DONE)
