"""What a safetensors file says about itself, held against its length before anything is loaded."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

from mfdistill.errors import UserError
from mfdistill.reading import reason

_MOST_HEADER = 2**27  # bytes; a million tensors need less


def tensor_sizes(file: Path) -> dict[str, int]:
    """How many numbers each tensor of a safetensors file has, from its header alone.

    Raises:
        UserError: missing, or its header is damaged or promises more than the file holds.
    """
    if not file.exists():
        raise UserError(f"{file}: is missing; copy or train it again")
    try:
        length = file.stat().st_size
        with file.open("rb") as handle:
            (size,) = struct.unpack("<Q", handle.read(8))
            if size > min(length, _MOST_HEADER):
                raise ValueError(f"a header of {size} bytes in a file of {length}")
            header = json.loads(handle.read(size))
        sizes, last = {}, 0
        for name, tensor in header.items():
            if name != "__metadata__":
                begin, end = tensor["data_offsets"]
                if not 0 <= begin <= end:
                    raise ValueError(f"{name} lies from {begin} to {end}")
                last = max(last, end)
                sizes[name] = math.prod(int(n) for n in tensor["shape"])
                if not 0 <= sizes[name] <= 8 * length:
                    raise ValueError(f"{name} has {sizes[name]} numbers in {length} bytes")
        missing = 8 + size + last - length
        if missing:
            raise UserError(
                f"{file}: damaged: {abs(missing)} bytes too {'short' if missing > 0 else 'long'}; copy or train it again"
            )
        return sizes
    # what a header that is no such header makes of the lines above
    except (
        OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, struct.error, OverflowError,
    ) as error:  # fmt: skip
        raise UserError(
            f"{file}: damaged or no safetensors file ({reason(error)}); copy or train it again"
        ) from error
