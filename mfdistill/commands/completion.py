"""completion."""

from __future__ import annotations

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
