"""``mfdistill COMMAND ...``: options to a frozen dataclass, one call, and errors as one line.
Imports no torch.
"""

from __future__ import annotations

import errno
import importlib
import logging
import os
import sys
from collections.abc import Sequence

from mfdistill.commands.parsing import parse
from mfdistill.distill.interrupt import Interrupted
from mfdistill.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0, 2 for bad input, 128 + signal)."""
    logging.basicConfig(
        format="%(message)s", level=logging.WARNING if _rank() == 0 else logging.ERROR
    )
    logging.getLogger("mfdistill").setLevel(
        logging.INFO if _rank() == 0 and not sys.stderr.isatty() else logging.NOTSET
    )
    try:
        command = parse(list(sys.argv[1:] if arguments is None else arguments))
        importlib.import_module(type(command).__module__).run(command)
        _leave()
        return 0
    except UserError as error:
        return _tell(f"error: {error}", 2)
    except Interrupted as stop:
        return _tell(str(stop), stop.exit_code)
    except KeyboardInterrupt:
        return _tell("stopped", 130)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        return _tell(
            f"error: {error.filename or 'disk'}: {error.strerror}; free some space or name another folder",
            2,
        )


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
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _tell(text: str, code: int) -> int:
    who = f" (process {_rank()})" if _rank() else ""
    sys.stderr.write(f"mfdistill{who}: {' '.join(text.split())}\n")
    return code
