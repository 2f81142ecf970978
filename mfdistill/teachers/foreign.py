"""Other systems' checkpoint files as tensors and plain values; nothing in a file is ever executed."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mfdistill.checkpoint import load_tensors
from mfdistill.errors import UserError

# classes that Lightning writes into hyper_parameters by reference: read as an empty stand-in, never built or called
_REFERENCES = ("flowmse.data_module.SpecsDataModule", "sgmse.data_module.SpecsDataModule")


@dataclass(frozen=True)
class Foreign:
    """What a file holds.

    Attributes:
        path: the file.
        values: nested dictionaries and lists of tensors and plain values, as they are in the file; a safetensors file gives a flat one.
    """

    path: Path
    values: dict[str, Any]

    def tensors(self, *sections: str) -> dict[str, Tensor]:
        """The tensors directly in a section (of the file itself where none is named), for example ``tensors("state_dict")``; empty if
        there is no such section."""
        section: Any = self.values
        for name in sections:
            section = section.get(name) if isinstance(section, Mapping) else None
        if not isinstance(section, Mapping):
            return {}
        return {key: value for key, value in section.items() if isinstance(value, Tensor)}


def read_foreign(path: str | Path) -> Foreign:
    """Read a ``.safetensors`` file, or a ``.pt``/``.pth``/``.ckpt``/``.bin`` file with ``weights_only=True``.

    Raises:
        UserError: no such file, damaged, or a pickle that names code; that is refused, not run.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    if file.suffix == ".safetensors":
        return Foreign(file, dict(load_tensors(file)))
    stand_ins = [(type(name.rpartition(".")[2], (), {}), name) for name in _REFERENCES]
    try:
        with torch.serialization.safe_globals(stand_ins):
            values = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{file}: its pickle holds more than tensors and plain values, so it is not loaded ({_named(error)}); "
                        "ask its author for a safetensors file") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{file}: damaged or no PyTorch checkpoint ({reason}); copy it again") from error
    if not isinstance(values, Mapping):
        raise UserError(f"{file}: holds a {type(values).__name__}, not a dictionary of weights")
    return Foreign(file, {str(key): value for key, value in values.items()})


def walk_tensors(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors in nested dictionaries, by dotted names."""
    for key, value in values.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value
        elif isinstance(value, Mapping):
            yield from walk_tensors(value, f"{prefix}{key}.")


def _named(error: BaseException) -> str:
    """What the refused pickle wanted, out of torch's long message."""
    words = [word.strip("`'\".,") for word in str(error).split()]
    return next((word for word in words if "." in word and word.replace(".", "").replace("_", "").isidentifier()
                 and not word.startswith("torch.serialization")), "code")
