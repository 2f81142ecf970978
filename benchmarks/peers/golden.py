"""What the comparisons with other systems' own code have in common: weights that all matter,
relative errors, and a command line that prints the errors and writes the golden vectors.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import types
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mfdistill.checkpoint import write_json

MOST = 1e-5
"""Relative error that a comparison may have."""
Found = tuple[dict[str, float], dict[str, Tensor]]
"""Relative errors by name, and the tensors of the golden file."""


def bare_package(name: str, place: Path) -> None:
    """Have ``name`` be the package in ``place`` without its ``__init__``, which imports its whole
    program.
    """
    package = types.ModuleType(name)
    package.__path__ = [str(place)]
    sys.modules[name] = package


@torch.no_grad()
def perturbed(model: nn.Module) -> None:
    """Add a little noise to every weight, so that none is zero."""
    for p in model.parameters():
        p.add_(0.1 * torch.randn_like(p))


def error(ours: Tensor, theirs: Tensor) -> float:
    """``|ours - theirs| / |theirs|``."""
    return float((ours - theirs).norm() / theirs.norm())


def run(about: str, compare: Callable[[Path, Path], Found], metadata: Mapping[str, str]) -> None:
    """The command: ``compare(clone, temporary folder)``, told and written as the options say.

    Args:
        about: the script's docstring. metadata: of the golden file (the sizes, as JSON).

    Raises:
        SystemExit: an error above ``MOST``.
    """
    parser = argparse.ArgumentParser(description=about.split("\n\n")[0])
    parser.add_argument("--src", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as root:
        errors, golden = compare(options.src, Path(root))
    for name, value in errors.items():
        sys.stdout.write(f"{name}: {value:.2e}\n")
    if options.write is not None:
        tensors = {name: value.contiguous().clone() for name, value in golden.items()}
        save_file(tensors, options.write, dict(metadata))
    if options.out is not None:
        write_json(options.out, {"relative_error": errors, "torch": torch.__version__})
    if max(errors.values()) > MOST:
        raise SystemExit(f"differs by more than {MOST:g}")
