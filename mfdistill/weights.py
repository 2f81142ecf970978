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
    try:
        length = file.stat().st_size
        with file.open("rb") as handle:
            (size,) = struct.unpack("<Q", handle.read(8))
            if size > min(length, _MOST_HEADER):
                raise ValueError(f"a header of {size} bytes in a file of {length}")
            header = json.loads(handle.read(size))
        sizes = {}
        for name, tensor in header.items():
            if name != "__metadata__":
                begin, end = tensor["data_offsets"]
                if not 0 <= begin <= end <= length - 8 - size:
                    raise ValueError(f"{name} ends at {end}, behind the end of the file")
                sizes[name] = math.prod(int(n) for n in tensor["shape"])
                if not 0 <= sizes[name] <= 8 * length:
                    raise ValueError(f"{name} has {sizes[name]} numbers in {length} bytes")
        return sizes
    # what a header that is no such header makes of the lines above
    except (
        OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, struct.error, OverflowError,
    ) as error:  # fmt: skip
        raise UserError(
            f"{file}: damaged or no safetensors file ({reason(error)}); copy or train it again"
        ) from error
