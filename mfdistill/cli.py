"""``mfdistill COMMAND ...``: options to a frozen dataclass, one call, and errors as one line.
Imports no torch.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence

from mfdistill.errors import ToldElsewhere, UserError

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
_NAMES = (
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.EPERM,
    errno.EIO,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0, 2 for bad input, 128 + signal)."""
    logging.basicConfig(
        format="%(message)s", level=logging.WARNING if _rank() == 0 else logging.ERROR
    )
    logging.getLogger("mfdistill").setLevel(
        logging.INFO if _rank() == 0 and not sys.stderr.isatty() else logging.NOTSET
    )
    words = list(sys.argv[1:] if arguments is None else arguments)
    with _signs_of_life(words):
        from mfdistill import peers
        from mfdistill.commands.early import check_early
        from mfdistill.commands.output import check_output, take
        from mfdistill.commands.parsing import ALIASES, parse
        from mfdistill.distill.interrupt import Interrupted

    words, output = take(words)
    name = ALIASES.get(words[0], words[0]) if words else ""
    try:
        with _signs_of_life(words):
            command = parse(words)
        check_output(output, command)
        check_early(command)
        with output.applied():
            result = importlib.import_module(type(command).__module__).run(command)
        output.tell(name, result=result)
        _leave()
        return 0
    except Interrupted as stop:
        return _tell(str(stop), stop.exit_code)
    except KeyboardInterrupt:
        return _tell("stopped", 130)
    except BrokenPipeError:  # the reader of our output has had enough
        with contextlib.suppress(OSError, ValueError):  # Python flushes it once more at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        text = _line(error)
        if text is not None:
            told = isinstance(error, ToldElsewhere)
            code = 2 if told else _tell(f"error: {text}", 2)
            output.tell(name, error=text)
            peers.farewell(failed=True)
            return code
        peers.end_with_others()  # what a process finds that exchanges with one that died
        peers.farewell(failed=True)
        raise


@contextlib.contextmanager
def _signs_of_life(words: Sequence[str]) -> Iterator[None]:
    """A demo's lines before anything is imported, which takes seconds on a busy machine."""
    if list(words[:1]) != ["demo"] or {"-h", "--help", "--help-all", "--quiet"} & set(words):
        yield
        return
    from mfdistill.commands.heartbeat import heartbeat

    text = "mfdistill demo: getting ready"
    if "mfdistill.commands.parsing" not in sys.modules:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    with heartbeat(lambda: text + " ...", every_s=5.0):
        yield


def _line(error: Exception) -> str | None:
    """What to tell of bad input; None of anything else."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MemoryError):
        return "not enough memory; give smaller batches, blocks or files"
    # of other numbers, such as a connection that broke, the trace says more
    if isinstance(error, OSError) and (
        error.errno in _DISK or (error.filename is not None and error.errno in _NAMES)
    ):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = (
            "free some space or name another folder"
            if full
            else "check the name and its permissions"
        )
        return f"{str(error.filename or 'disk')[:200]}: {error.strerror}; {remedy}"
    return None


def _leave() -> None:
    """End the process group, where a launcher made one; together, since a process that is still
    exchanging dies when another has left.
    """
    torch = sys.modules.get("torch")
    if (
        torch is not None
        and torch.distributed.is_available()
        and torch.distributed.is_initialized()
    ):
        from mfdistill import peers

        torch.distributed.barrier()
        peers.farewell(failed=False)
        torch.distributed.destroy_process_group()


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _tell(text: str, code: int) -> int:
    who = f" (process {_rank()})" if _rank() else ""
    sys.stderr.write(f"mfdistill{who}: {' '.join(text.split())}\n")
    return code
