"""push."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from mfdistill.errors import UserError

_PAGE = "report.html"


@dataclass(frozen=True)
class Push:
    """Put a model on the hub: weights, config, card, searches, page. Log in first (hf auth login,
    or the variable HF_TOKEN).
    """

    model: Positional[Annotated[str, tyro.conf.arg(metavar="RUN")]]
    """The model's folder."""
    target: Positional[Annotated[str, tyro.conf.arg(metavar="OWNER/NAME")]]
    """Its name on the hub; made if it is not there."""
    private: bool = False
    """Make it a private one."""
    license: str | None = None
    """The hub's name of the licence that you give the weights, such as apache-2.0, for the card."""
    message: str = "Model trained with mfdistill"
    """Of the commit."""


def run(command: Push) -> str:
    """Upload; returns ``owner/name@commit``, which loads these weights for ever.

    Raises:
        UserError: no model there, a bad name, or a hub that refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    from mfdistill.commands.results import is_model
    from mfdistill.distill.logs import say

    folder = Path(command.model)
    if not is_model(folder):
        raise UserError(f"{folder}: holds no model (model.safetensors and config.json)")
    if command.target.count("/") != 1:
        raise UserError(f"{command.target}: a model's name on the hub is OWNER/NAME")
    hub = HfApi()
    try:
        with tempfile.TemporaryDirectory() as staged:
            stage(folder, Path(staged), command.target, command.license)
            hub.create_repo(command.target, private=command.private or None, exist_ok=True)
            done = hub.upload_folder(
                repo_id=command.target, folder_path=staged, commit_message=command.message
            )
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{command.target}: the hub refused ({reason}); log in with 'hf auth login' or set HF_TOKEN, and check the name"
        ) from error
    pinned = f"{command.target}@{done.oid}"
    say(f"{done.commit_url}")
    say(f"pinned: mfdistill restore {pinned} noisy.wav clean.wav")
    return pinned


def stage(folder: Path, target: Path, name: str, license: str | None) -> None:
    """Lay out in ``target`` what is uploaded: what the model needs, a card whose commands name it
    by its hub id, and what is known of it. Folders of this machine are named without their path.

    Raises:
        UserError: a file is not as it was written.
    """
    from mfdistill.checkpoint import load_config, write_config, write_text
    from mfdistill.commands.derived import card
    from mfdistill.commands.results import FILE, WEIGHTS
    from mfdistill.companions import named_companions
    from mfdistill.integrity import check_folder, recorded

    check_folder(folder, recorded(folder / "config.json"))  # nothing damaged is spread
    held = ["config.json", *WEIGHTS, "adapter_config.json", *named_companions(folder), FILE, _PAGE]
    held += [file.name for file in folder.glob("o3s-*.json")]
    for file in held:
        if (folder / file).is_file():
            shutil.copyfile(folder / file, target / file)
    write_config(target, without_paths(load_config(folder)))
    write_text(target / "README.md", card(target, name, license))


def without_paths(value: Any) -> Any:
    """The same with every absolute path in it cut to its last part."""
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_paths(item) for item in value]
    return Path(value).name if isinstance(value, str) and value.startswith("/") else value
