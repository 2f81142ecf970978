"""Speech tokens and speaker embeddings of CosyVoice out of files: numpy, text, or the features of
docs/foreign-tts.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mfdistill.checkpoint import load_tensors
from mfdistill.errors import UserError
from mfdistill.reading import read_text

_HOW = "give .npy, .txt (numbers between blanks or commas), or .safetensors with {}"


def read_tokens(path: str | Path, option: str = "--tokens") -> Tensor:
    """Speech tokens (n,) int64; a leading axis of 1, as tokenizers leave it, is dropped.

    Raises:
        UserError: no such file, another kind of file, or no sequence of integers from 0 on.
    """
    found = _numbers(Path(path), option, "tokens")
    if not found.numel() or bool((found != found.round()).any()) or float(found.min()) < 0:
        raise UserError(
            f"{option} {path}: needs one or more integers from 0 on; take the output of CosyVoice's speech tokenizer"
        )
    return found.long()


def read_embedding(path: str | Path, option: str = "--speaker") -> Tensor:
    """A speaker's x-vector (d,) float32.

    Raises:
        UserError: no such file, another kind of file, NaN or infinity, or nothing but zeros.
    """
    found = _numbers(Path(path), option, "embedding").float()
    if not bool(found.isfinite().all()) or not bool(found.any()):
        raise UserError(
            f"{option} {path}: empty, zero, or with NaN or infinity; take the output of CosyVoice's speaker encoder"
        )
    return found


def has_embedding(path: str | Path) -> bool:
    """Whether a file of tokens is one of features with the speaker's embedding."""
    return (
        Path(path).suffix == ".safetensors"
        and Path(path).is_file()
        and "embedding" in load_tensors(Path(path))
    )


def _numbers(file: Path, option: str, name: str) -> Tensor:
    how = _HOW.format(name)
    if not file.is_file():
        raise UserError(f"{option} {file}: no such file; {how}")
    try:
        if file.suffix == ".safetensors":
            tensors = load_tensors(file)
            if name not in tensors:
                raise UserError(
                    f"{option} {file}: has {', '.join(tensors) or 'nothing'}, not {name}; {how}"
                )
            found = tensors[name].double()
        elif file.suffix == ".npy":
            found = torch.from_numpy(np.load(file, allow_pickle=False).astype(np.float64))
        else:
            found = torch.tensor(
                [float(word) for word in read_text(file).replace(",", " ").split()],
                dtype=torch.float64,
            )
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{option} {file}: cannot be read ({error}); {how}") from error
    while found.ndim > 1 and found.shape[0] == 1:
        found = found[0]
    if found.ndim != 1:
        raise UserError(
            f"{option} {file}: has shape {tuple(found.shape)}; it needs one row of numbers"
        )
    return found
