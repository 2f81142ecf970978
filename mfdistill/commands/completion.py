"""completion."""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass
from typing import Literal

from tyro.conf import Positional


@dataclass(frozen=True)
class Completion:
    """A script with which a shell completes commands and options: mfdistill completion bash >
    ~/.local/share/bash-completion/completions/mfdistill; for zsh into a file _mfdistill in a folder
    of $fpath.
    """

    shell: Positional[Literal["bash", "zsh"]]
    """Which shell."""


def run(command: Completion) -> str:
    """Print and return the script, which is tyro's."""
    from mfdistill.commands.parsing import words_of

    told = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(told):
        words_of(["--tyro-print-completion", command.shell], {})
    # file names where no command or option fits
    script = told.getvalue().replace("complete -F _tyro", "complete -o default -F _tyro")
    sys.stdout.write(script)
    return script
