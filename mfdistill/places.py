"""Where a model is: a path, the name of one that came with the program, or a hub id with or without
a revision. Imports no torch.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from mfdistill.errors import UserError

SHIPPED = Path(__file__).parent / "models"
RESTORES, STREAMS = "enhance", "enhance-causal"
"""What ``restore`` and ``stream`` take where no model is named."""
_HUB_ID = r"(\w[\w.-]*/[\w.-]+)(?:@([\w./-]+))?"
# not the training state, which is four times as large
_DOWNLOADED = (
    *("config.json", "model.safetensors", "front.safetensors", "vocab.txt"),
    "adapter_model.safetensors",
)


def shipped() -> list[str]:
    """Names of the models that came with the program."""
    return sorted(file.parent.name for file in SHIPPED.glob("*/config.json"))


def resolve(path: str | Path) -> Path:
    """A local path as it is; the folder of a model that came with the program by its name; a hub id
    (``owner/name`` or ``owner/name@revision``) that is no local path is downloaded to the hub's
    cache.

    Where a folder "owner" is here the name is taken for a mistyped local one, and the hub is not
    asked. A revision is a commit, a tag or a branch; a commit names the same weights for ever.

    Raises:
        UserError: none of these.
    """
    check_place(path)
    place = Path(path)
    if place.exists():
        return place.parent if place.name == "config.json" else place
    if str(path) in shipped():
        return SHIPPED / str(path)
    found = re.fullmatch(_HUB_ID, str(path))
    assert found is not None
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(found[1], revision=found[2], allow_patterns=list(_DOWNLOADED))
        )
    except (OSError, ValueError, RuntimeError) as error:  # what hub and HTTP errors derive from
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{path}: neither a file or folder here nor a model that the hub gave ({reason})"
        ) from error


def check_place(path: str | Path) -> None:
    """Raise ``UserError`` for what `resolve` cannot find for certain, without asking the hub."""
    place = Path(path)
    if place.exists() or str(path) in (names := shipped()):
        return
    if re.fullmatch(_HUB_ID, str(path)) is None:
        near = difflib.get_close_matches(str(path), names, n=1)
        told = f"did you mean the model {near[0]}?" if near else "check the name"
        raise UserError(
            f"{path}: no such file or folder; {told} (mfdistill models lists those that came with the program)"
        )
    if place.parent.is_dir():
        raise UserError(
            f"{path}: no such file or folder in {place.parent}; check the name (for a hub id, move to a folder without one "
            f"called {place.parent})"
        )
