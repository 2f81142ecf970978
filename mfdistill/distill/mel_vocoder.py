"""From the log-Mel spectrograms of other systems' flows to sound: Vocos (arXiv 2306.00814), or
Griffin-Lim without a network.
"""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mfdistill.audio.griffin_lim import mel_griffin_lim
from mfdistill.audio.speech_mel import SpeechMelConfig
from mfdistill.distill.logs import say
from mfdistill.errors import UserError
from mfdistill.extras import remedy
from mfdistill.plain import Plain, Section
from mfdistill.reading import read_text
from mfdistill.tasks.foreign import ForeignTask
from mfdistill.tasks.mel import GRIFFIN_LIM

MelVocoder = Callable[[Tensor], Tensor]
"""A task's Mel spectrogram (b, mels, n) -> waveform (b, (n - 1) hop)."""
VOCOS = "vocos"
VOCOS_HUB = "charactr/vocos-mel-24khz"
_FILES = ("config.yaml", "pytorch_model.bin")
_FEATURES = "vocos.feature_extractors.MelSpectrogramFeatures"
# of its class
_DEFAULTS = {
    "sample_rate": 24000,
    "n_fft": 1024,
    "hop_length": 256,
    "n_mels": 100,
    "padding": "center",
}


def open_mel_vocoder(
    name: str | None, task: ForeignTask, device: torch.device | str = "cpu"
) -> MelVocoder:
    """The vocoder of a Mel flow.

    Args:
        name: "vocos" (``VOCOS_HUB``, from the hub or its cache), the folder of a Vocos model, or
            "griffin-lim". None: Vocos where its package is installed and the Mel spectrogram is
            that of F5-TTS, otherwise Griffin-Lim, which is told.

    Raises:
        UserError: no package vocos, no such folder, weights that cannot be fetched or read, or of
            another Mel spectrogram.
    """
    if name is None:
        lacks = _why_not_vocos(task.config.mel)
        name = VOCOS if lacks is None else GRIFFIN_LIM
        if lacks is not None:
            say(f"vocoder: Griffin-Lim, which sounds metallic ({lacks}); --vocoder names another")
    mean, std = task.config.mel_mean, task.config.mel_std
    inner = (
        _griffin_lim(task.config.mel)
        if name == GRIFFIN_LIM
        else open_vocos(name, task.config.mel, device)
    )
    return lambda mel: inner(mel * std + mean)


def _griffin_lim(config: SpeechMelConfig) -> MelVocoder:
    return lambda mel: mel_griffin_lim(mel, config)


def _why_not_vocos(mel: SpeechMelConfig) -> str | None:
    if (theirs := _difference(_DEFAULTS, mel)) is not None:
        return f"Vocos has {theirs}"
    if importlib.util.find_spec(VOCOS) is None:
        return f"for Vocos: {remedy(VOCOS)}"
    return None


def open_vocos(name: str, mel: SpeechMelConfig, device: torch.device | str = "cpu") -> MelVocoder:
    """Vocos from the hub ("vocos") or from a folder with its ``config.yaml`` and
    ``pytorch_model.bin``; errors as ``open_mel_vocoder``.
    """
    if name != VOCOS and not all((Path(name) / file).is_file() for file in _FILES):
        raise UserError(
            f"--vocoder {name}: neither '{GRIFFIN_LIM}' nor '{VOCOS}', and no folder with {' and '.join(_FILES)}"
        )
    if name == VOCOS and (theirs := _difference(_DEFAULTS, mel)) is not None:
        raise UserError(f"--vocoder {name}: is for {theirs}; take --vocoder {GRIFFIN_LIM}")
    if importlib.util.find_spec(VOCOS) is None:
        raise UserError(
            f"--vocoder {name}: the package vocos is not installed; {remedy(VOCOS)}, or --vocoder {GRIFFIN_LIM}"
        )
    config, weights = _from_hub() if name == VOCOS else (Path(name) / file for file in _FILES)
    if (theirs := _difference(_features(config), mel)) is not None:
        raise UserError(
            f"--vocoder {name}: is for {theirs}; take one for the model's {_told(_own(mel))}, or --vocoder {GRIFFIN_LIM}"
        )
    from vocos import Vocos  # type: ignore[import-not-found]

    try:
        model = Vocos.from_hparams(str(config))
        model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    except (
        OSError,
        ImportError,
        AttributeError,
        TypeError,
        ValueError,
        RuntimeError,
        EOFError,
        pickle.UnpicklingError,
    ) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"--vocoder {name}: {config.parent} does not load as Vocos ({reason}); fetch it again"
        ) from error
    model = model.to(device).eval()

    @torch.no_grad()
    def decode(log_mel: Tensor) -> Tensor:
        return model.decode(log_mel.to(device))

    return decode


def _from_hub() -> list[Path]:
    from huggingface_hub import hf_hub_download

    try:
        return [Path(hf_hub_download(VOCOS_HUB, file)) for file in _FILES]
    except (OSError, ValueError, RuntimeError) as error:  # what hub and HTTP errors derive from
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"--vocoder {VOCOS}: {VOCOS_HUB} could not be fetched ({reason}); give the folder of a copy with "
            f"{' and '.join(_FILES)}, or --vocoder {GRIFFIN_LIM}"
        ) from error


def _features(file: Path) -> Plain:
    """The Mel settings of a Vocos ``config.yaml``; it names classes, which have to be Vocos's own
    before anything is made of them.
    """
    import yaml

    try:
        parts = yaml.safe_load(read_text(file))
        named = {
            part: parts[part]["class_path"] for part in ("feature_extractor", "backbone", "head")
        }
        given = parts["feature_extractor"].get("init_args") or {}
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"--vocoder: {file} is no configuration of Vocos ({error}); fetch it again"
        ) from error
    for name in named.values():
        if not str(name).startswith("vocos."):
            raise UserError(
                f"--vocoder: {file} names the class {name}, which is not Vocos's; it is not loaded"
            )
    if named["feature_extractor"] != _FEATURES:
        raise UserError(
            f"--vocoder: {file} reads {named['feature_extractor']}, no Mel spectrogram; take a Mel model of Vocos"
        )
    return {**_DEFAULTS, **given}


def _own(mel: SpeechMelConfig) -> Plain:
    own: Plain = {
        "sample_rate": mel.sample_rate,
        "n_fft": mel.n_fft,
        "hop_length": mel.hop,
        "n_mels": mel.n_mels,
    }
    return {**own, "padding": "center" if mel.scale == "htk" and mel.f_max is None else "another"}


def _difference(theirs: Section, mel: SpeechMelConfig) -> str | None:
    """What a Vocos reads, where it is not ``mel``."""
    return None if all(theirs[key] == value for key, value in _own(mel).items()) else _told(theirs)


def _told(settings: Section) -> str:
    scale = "HTK scale, centred" if settings["padding"] == "center" else "another scale or framing"
    return f"{settings['n_mels']} bands at {settings['sample_rate']} Hz, {settings['n_fft']}/{settings['hop_length']}, {scale}"
