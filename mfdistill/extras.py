"""Packages that only parts of the program need: by their importable names, what pip installs to get
them, and the extra of ``pyproject.toml`` that brings them.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from mfdistill.errors import UserError

OPTIONAL: dict[str, tuple[str, str]] = {
    "pesq": ("pesq", "metrics"),
    "pystoi": ("pystoi", "metrics"),
    "resemblyzer": ("resemblyzer", "metrics"),
    "webrtcvad": ("webrtcvad", "metrics"),
    "pkg_resources": ("setuptools<81", "metrics"),  # webrtcvad imports it, setuptools 81 dropped it
    "speechmos": ("speechmos", "metrics"),
    "librosa": ("librosa", "metrics"),
    "pandas": ("pandas", "metrics"),
    "scipy": ("scipy", "metrics"),
    "onnxruntime": ("onnxruntime", "onnx"),
    "onnx": ("onnx", "onnx"),
    "datasets": ("datasets", "hub"),
    "sklearn": ("scikit-learn", "tts"),
    "pypinyin": ("pypinyin", "pinyin"),
    "vocos": ("vocos", "vocos"),
    "torchaudio": ("torchaudio", "bandwidth"),
    "pyroomacoustics": ("pyroomacoustics", "reverb"),
    "espeakng_loader": ("espeakng-loader", "demo"),
    "sounddevice": ("sounddevice", "live"),
    "jiwer": ("jiwer", "asr"),
    "pocketsphinx": ("pocketsphinx", "asr"),
    "whisper": ("openai-whisper", "whisper"),
    "tensorboard": ("tensorboard", "tensorboard"),
    "wandb": ("wandb", "wandb"),
    "trackio": ("trackio", "trackio"),
    "torchao": ("torchao", "states8bit"),
}


def needed(module: str, what: str) -> ModuleType:
    """Import ``module``, which ``what`` needs.

    Raises:
        UserError: it, or something that it imports, is not installed; the message is `missing`.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(missing((error.name or module).split(".")[0], what)) from error


def missing(module: str, what: str) -> str:
    """The one line for a package that is not installed, with the commands that install it."""
    return f"{what}: the package '{module}' is not installed; {remedy(module)}"


def remedy(module: str) -> str:
    """What to run for a package: alone, or with what else the same work needs."""
    name, extra = OPTIONAL.get(module, (module, None))
    line = f"pip install '{name}'"
    return line if extra is None else f"{line}, or in a checkout: pip install '.[{extra}]'"
