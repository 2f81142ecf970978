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
from mfdistill.plain import Plain, Section
from mfdistill.reading import reason
from mfdistill.systems.stand_ins import stand_ins

# what compilers, checkpointing and sharding put into the middle of tensors' names, and what
# wrappers put before them
MIXER = "time_embed_mixer.weight"  # what a student's file has more than its teacher's
_INSIDE = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_BEFORE = "module."
_DEEPEST = 100  # of nested dictionaries


@dataclass(frozen=True)
class Foreign:
    """What a file holds.

    Attributes:
        path: the file.
        values: nested dictionaries and lists of tensors and plain values, as they are in the file;
            a safetensors file gives a flat one.
    """

    path: Path
    values: Plain

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
        return Foreign(file, bare(load_tensors(file)))
    remedy = "copy it again"
    try:
        with torch.serialization.safe_globals(stand_ins(file)):
            values = torch.load(file, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        with file.open("rb") as stream:
            is_pickle = zipfile.is_zipfile(file) or stream.read(1) == b"\x80"
        if not is_pickle:
            raise UserError(f"{file}: damaged or no PyTorch checkpoint; {remedy}") from error
        raise UserError(
            f"{file}: its pickle holds more than tensors and plain values, so it is not loaded ({_named(error)}); "
            "ask its author for a safetensors file"
        ) from error
    # whatever an unpickler raises on damaged bytes
    except Exception as error:
        raise UserError(
            f"{file}: damaged or no PyTorch checkpoint ({reason(error)}); {remedy}"
        ) from error
    if not isinstance(values, Mapping):
        raise UserError(f"{file}: holds a {type(values).__name__}, not a dictionary of weights")
    found = bare({str(key): value for key, value in values.items()}, file)
    for name, tensor in walk_tensors(found):
        if tensor.layout == torch.strided and tensor.numel() > tensor.untyped_storage().nbytes():
            raise UserError(f"{file}: {name} is larger than what is stored of it; {remedy}")
    return Foreign(file, found)


def bare(values: Section, where: object = "", depth: int = 0) -> Plain:
    """Nested dictionaries of tensors by the names that they have without wrappers: torch.compile
    and sharding (anywhere in a name), data parallelism (before it). The one place where they are
    taken off; names that would then be two are left.

    Raises:
        UserError: dictionaries nested deeper than any checkpoint's.
    """
    if depth > _DEEPEST:
        raise UserError(f"{where}: dictionaries nested deeper than {_DEEPEST}; it is not loaded")
    found: Plain = {}
    for key, value in values.items():
        name = key
        if isinstance(value, Tensor) and isinstance(key, str):
            name = ".".join(part for part in key.split(".") if part not in _INSIDE)
            kept = "ema_model." if name.startswith("ema_model.") else ""
            name = kept + name.removeprefix(kept).removeprefix(_BEFORE)
            name = key if name in values and name != key else name
        found[name] = bare(value, where, depth + 1) if isinstance(value, Mapping) else value
    return found


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


def walk_tensors(values: Section, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors in nested dictionaries, by dotted names."""
    for key, value in values.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value
        elif isinstance(value, Mapping):
            yield from walk_tensors(value, f"{prefix}{key}.")


def mixed_role(file: Path) -> str:
    """A file with a mixer of two times is a "student"."""
    names = read_foreign(file).names()
    return "student" if any(name.endswith(MIXER) for name in names) else "teacher"


def _named(error: BaseException) -> str:
    """What the refused pickle wanted, out of torch's long message."""
    found = re.search(r"GLOBAL `?([\w.]+[\w])", str(error))
    return found[1] if found else "code"
