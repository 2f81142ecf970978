"""Other systems' checkpoint files as tensors and plain values; nothing in a file is ever
executed.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mfdistill.checkpoint import load_tensors
from mfdistill.errors import UserError

# what Lightning writes into hyper_parameters and optimizer states by reference: read as an inert
# stand-in, the thing itself never imported
_REFERENCES = (
    "flowmse.data_module.SpecsDataModule",
    "functools.partial",
    "typing.Any",
    "collections.defaultdict",
)
_REFERENCES_UNDER = ("sgmse.", "omegaconf.", "torchaudio.", "torch.nn.modules.")


class _StandIn:
    """Takes whatever a pickle does with the real thing, and keeps nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _StandIn:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...


@dataclass(frozen=True)
class Foreign:
    """What a file holds.

    Attributes:
        path: the file.
        values: nested dictionaries and lists of tensors and plain values, as they are in the file;
            a safetensors file gives a flat one.
    """

    path: Path
    values: dict[str, Any]

    def tensors(self, *sections: str) -> dict[str, Tensor]:
        """The tensors directly in a section (of the file itself where none is named), for example
        ``tensors("state_dict")``; empty if there is no such section.
        """
        section: Any = self.values
        for name in sections:
            section = section.get(name) if isinstance(section, Mapping) else None
        if not isinstance(section, Mapping):
            return {}
        return {key: value for key, value in section.items() if isinstance(value, Tensor)}

    def names(self) -> list[str]:
        """What a file's kind is told from: dotted names of its tensors, and
        ``hyper_parameters.NAME`` of a Lightning file.
        """
        settings = self.values.get("hyper_parameters")
        said = (
            [f"hyper_parameters.{key}" for key in settings] if isinstance(settings, Mapping) else []
        )
        return [key for key, _ in walk_tensors(self.values)] + said


def read_foreign(path: str | Path) -> Foreign:
    """Read a ``.safetensors`` file, or a ``.pt``/``.pth``/``.ckpt``/``.bin`` file with
    ``weights_only=True``.

    References to a few packages' classes (settings, optimizers) become empty stand-ins among the
    values; those packages need not be here.

    Raises:
        UserError: no such file, damaged, or a pickle that names code; that is refused, not run.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    if file.suffix == ".safetensors":
        return Foreign(file, dict(load_tensors(file)))
    try:
        with torch.serialization.safe_globals(_stand_ins(file)):
            values = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not zipfile.is_zipfile(file) and file.read_bytes()[:1] != b"\x80":  # no pickle at all
            raise UserError(f"{file}: damaged or no PyTorch checkpoint; copy it again") from error
        raise UserError(
            f"{file}: its pickle holds more than tensors and plain values, so it is not loaded ({_named(error)}); "
            "ask its author for a safetensors file"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{file}: damaged or no PyTorch checkpoint ({reason}); copy it again"
        ) from error
    if not isinstance(values, Mapping):
        raise UserError(f"{file}: holds a {type(values).__name__}, not a dictionary of weights")
    return Foreign(file, {str(key): value for key, value in values.items()})


def mismatches(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    """How a file's tensors differ from those of a network, ``own``, in name or shape; empty if they
    fit.
    """
    wrong = [f"lacks {key}" for key in own if key not in tensors]
    wrong += [f"has {key}, which the network does not" for key in tensors if key not in own]
    return wrong + [
        f"{key} is {tuple(tensors[key].shape)} where the network has {tuple(own[key].shape)}"
        for key in own
        if key in tensors and tensors[key].shape != own[key].shape
    ]


def walk_tensors(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors in nested dictionaries, by dotted names."""
    for key, value in values.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value
        elif isinstance(value, Mapping):
            yield from walk_tensors(value, f"{prefix}{key}.")


def _stand_ins(file: Path) -> list[Any]:
    """Pairs (class, full name) for those names in the file's pickle that are known references;
    plain dictionaries stay what they are.
    """
    if not zipfile.is_zipfile(file):
        return [(_stand_in(name), name) for name in _REFERENCES]
    names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    known = [
        (_stand_in(name), name)
        for name in names
        if name in _REFERENCES or name.startswith(_REFERENCES_UNDER)
    ]
    return [*known, (dict, "builtins.dict")]


def _stand_in(name: str) -> type[_StandIn]:
    return type(name.rpartition(".")[2], (_StandIn,), {})


def _named(error: BaseException) -> str:
    """What the refused pickle wanted, out of torch's long message."""
    found = re.search(r"GLOBAL `?([\w.]+[\w])", str(error))
    return found[1] if found else "code"
