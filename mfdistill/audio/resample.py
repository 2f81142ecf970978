"""torchaudio's resampler, and what to say where torchaudio does not load beside the installed
torch: its binary fits only some versions of torch, which its metadata do not say.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any

import torch
from torch import Tensor

from mfdistill.errors import UserError


def resample(wave: Tensor, before: int, after: int, **options: Any) -> Tensor:
    """``wave (..., s)`` at ``before`` Hz to ``after`` Hz; ``options`` are those of
    ``torchaudio.functional.resample``.

    Raises:
        UserError: torchaudio does not load.
    """
    if fault := torchaudio_fault():
        raise UserError(fault)
    import torchaudio

    return torchaudio.functional.resample(wave, before, after, **options)


def torchaudio_fault() -> str | None:
    """Why torchaudio does not load and what mends it, in one line; None where it loads."""
    try:
        import torchaudio  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: another CUDA build
        fitting, found = _fitting(torch.__version__), _installed()
        reason = f"{error.__cause__ or error}".splitlines()[0]
        mend = f"python -m pip install 'torchaudio=={fitting}'"
        if found == fitting:
            # the versions fit, the builds do not: both anew, from one place
            mend = f"python -m pip install --force-reinstall 'torch=={torch.__version__.partition('+')[0]}' 'torchaudio=={fitting}'"
        return f"torchaudio {found or '(not installed)'} does not load beside torch {torch.__version__} ({reason}); {mend}"
    return None


def _fitting(torch_version: str) -> str:
    """As seen: 2.11.1 loads beside torch 2.13 to 2.15, 2.11.0 beside 2.11 to 2.14 of its CUDA
    version.
    """
    major, minor = (int(part) for part in torch_version.split(".")[:2])
    return "2.11.0" if (major, minor) < (2, 13) else "2.11.1"


def _installed() -> str | None:
    try:
        return importlib.metadata.version("torchaudio").partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None
