"""--json and --quiet: what a command says to scripts."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mfdistill.errors import UserError


@dataclasses.dataclass(frozen=True)
class Output:
    """``json``: stdout is one line of JSON, and what else would be there goes to stderr.
    ``quiet``: stderr has nothing but errors.
    """

    json: bool = False
    quiet: bool = False

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """While a command runs."""
        with contextlib.ExitStack() as stack:
            if self.quiet:
                logging.getLogger("mfdistill").setLevel(logging.ERROR)
                nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(contextlib.redirect_stderr(nowhere))
            if self.json:
                stack.enter_context(contextlib.redirect_stdout(sys.stderr))
            yield

    def tell(self, name: str, **facts: Any) -> None:
        """``{"command": name, ...}`` on stdout, with ``json``."""
        if self.json:
            told = {"command": name, **{key: plain(value) for key, value in facts.items()}}
            sys.stdout.write(json.dumps(told, ensure_ascii=False, allow_nan=False) + "\n")


def take(arguments: Sequence[str]) -> tuple[list[str], Output]:
    """The words without ``--json`` and ``--quiet``, which any command has, anywhere."""
    rest = [word for word in arguments if word not in ("--json", "--quiet")]
    return rest, Output("--json" in arguments, "--quiet" in arguments)


def check_output(output: Output, command: Any) -> None:
    """Raise ``UserError`` where stdout is needed for the result itself."""
    if output.json and "-" in (getattr(command, "target", None), getattr(command, "out", None)):
        raise UserError("--json: the result itself goes to stdout here; name a file for it")


def plain(value: Any) -> Any:
    """What JSON has: paths as text, numbers that are not finite as null."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    item = getattr(value, "item", None)  # a number of numpy's
    number = item() if item is not None else value
    if isinstance(number, float):
        return number if math.isfinite(number) else None
    return number if isinstance(number, (bool, int)) else str(value)
