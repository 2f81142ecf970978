"""What pickled checkpoints refer to by name, read as plain values or as inert stand-ins: settings
and optimisers that trainers save beside the weights. The things themselves are never imported.
"""

from __future__ import annotations

import math
import pickletools
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from mfdistill.errors import UserError

_NAMES = {"functools.partial", "typing.Any", "argparse.Namespace", "collections.defaultdict"}
_PACKAGES = ("pathlib.", "numpy.", "torch.nn.modules.", "torch.optim.", "torch.utils.")
_OURS_TO_JUDGE = {*sys.stdlib_module_names, "__builtin__", "__main__", "torch", "numpy"}
"""Of these only what is listed above; a class of any other package is a program's own."""
# what takes memory by a number in the file, and no checkpoint needs
_REFUSED = {"builtins.bytearray", "__builtin__.bytearray"}
_MOST_PICKLE = 2**28  # bytes


class StandIn:
    """Takes whatever a pickle does with the real thing, and keeps nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> StandIn:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, value: Any) -> None: ...

    def extend(self, values: Any) -> None: ...


class Settings(dict[Any, Any]):
    """A namespace or attribute dictionary, as a plain dictionary."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Settings:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.update(state)


class _Path(str):
    """A path, as text."""

    def __new__(cls, *parts: Any) -> _Path:
        text = "/".join(str(part).rstrip("/") for part in parts)
        return super().__new__(cls, text or "/" * bool(parts))


class _Type(StandIn):
    """A numpy type of a number: its code, such as "f8", and its byte order."""

    def __init__(self, code: Any = "", *args: Any, **kwargs: Any) -> None:
        self.code, self.order = str(code), "<"

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            self.order = state[1]


class _Number(StandIn):
    """A numpy number, as Python's own."""

    def __new__(cls, kind: Any = None, data: Any = b"", *args: Any) -> Any:
        data = data.encode("latin-1") if isinstance(data, str) else data
        if not isinstance(kind, _Type) or not isinstance(data, bytes):
            return math.nan
        if kind.code not in (
            "f2",
            "f4",
            "f8",
            "i1",
            "i2",
            "i4",
            "i8",
            "u1",
            "u2",
            "u4",
            "u8",
            "b1",
        ):
            return math.nan
        number = np.frombuffer(data, kind.order + kind.code)
        return number[0].item() if number.size == 1 else math.nan


def stand_ins(file: Path) -> list[Any]:
    """Pairs (class, full name) for those names in a checkpoint's pickles that are known references;
    plain dictionaries stay what they are.

    Raises:
        UserError: a pickle larger than any, or one that asks for memory by a number.
    """
    found: set[str] = set()
    for name in names_in(file):
        if name in _REFUSED:
            raise UserError(
                f"{file}: its pickle holds more than tensors and plain values, so it is not loaded ({name}); "
                "ask its author for a safetensors file"
            )
        programs = name.partition(".")[0] not in _OURS_TO_JUDGE
        if programs or name in _NAMES or name.startswith(_PACKAGES):
            found.add(name)
    return [*((_stand_in(name), name) for name in sorted(found)), (dict, "builtins.dict")]


def _stand_in(name: str) -> type:
    leaf = name.rpartition(".")[2]
    if name.startswith("pathlib."):
        return type(leaf, (_Path,), {})
    if leaf in ("Namespace", "AttributeDict", "defaultdict"):
        return type(leaf, (Settings,), {})
    if name == "numpy.dtype":
        return type(leaf, (_Type,), {})
    if name.startswith("numpy.") and leaf == "scalar":
        return type(leaf, (_Number,), {})
    return type(leaf, (StandIn,), {})


def names_in(file: Path) -> Iterator[str]:
    """Full names that the pickles of a checkpoint refer to; nothing is unpickled. What follows a
    damaged place is not seen.

    Raises:
        UserError: an archive whose files are larger than it can hold.
    """
    if zipfile.is_zipfile(file):
        length = file.stat().st_size
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            # torch stores, so what is in the archive is no longer than it
            if (size := sum(entry.file_size for entry in entries)) > 2 * length + 2**24:
                raise UserError(
                    f"{file}: an archive of {length} bytes that promises {size}; it is not loaded"
                )
            for entry in entries:
                if entry.filename.endswith(".pkl") and entry.file_size <= _MOST_PICKLE:
                    with archive.open(entry) as stream:
                        yield from _names(stream)
    else:
        with file.open("rb") as stream:
            for _ in range(5):  # torch's older format: number, version, system, object, storages
                yield from _names(stream)


def _names(stream: IO[bytes]) -> Iterator[str]:
    """Of one pickle, as ``torch.serialization.get_unsafe_globals_in_checkpoint`` finds them."""
    strings: list[str] = []
    memo: dict[int, str] = {}
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "GLOBAL":
                yield str(argument).replace(" ", ".", 1)
            elif opcode.name == "STACK_GLOBAL" and len(strings) > 1:
                yield ".".join(strings[-2:])
            elif opcode.name == "MEMOIZE" and strings:
                memo[len(memo)] = strings[-1]
            elif opcode.name in ("BINPUT", "LONG_BINPUT") and strings:
                memo[int(argument or 0)] = strings[-1]
            elif opcode.name in ("BINGET", "LONG_BINGET"):
                strings.append(memo.get(int(argument or 0), ""))
            elif "UNICODE" in opcode.name:
                strings.append(str(argument))
            del strings[:-2]
    # genops raises many kinds of error on what is no pickle; torch.load tells it after this
    except Exception:
        return
