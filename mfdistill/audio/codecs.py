"""Speech through a real codec and back, by the encoders inside libsndfile (in every wheel of
soundfile).
"""

from __future__ import annotations

import io

import numpy as np
import soundfile

from mfdistill.errors import UserError

# name: libsndfile's format and subtype, and the rate that the codec is made for (None: any)
_FORMATS: dict[str, tuple[str, str, int | None]] = {
    "opus": ("OGG", "OPUS", None),
    "vorbis": ("OGG", "VORBIS", None),
    "gsm": ("WAV", "GSM610", 8000),
    "g721": ("AU", "G721_32", 8000),
    "ulaw": ("AU", "ULAW", 8000),
}
CODECS = tuple(_FORMATS)
# libsndfile maps its compression level 1 ... 0 to these rates per channel
_OPUS_KBPS = (6.0, 256.0)
_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)


def coded(wave: np.ndarray, sample_rate: int, codec: str, kbps: float = 6.0) -> np.ndarray:
    """``wave (s,)`` encoded and decoded: same length, same rate, and aligned (these decoders undo
    their own delay).

    Args:
        codec: 'opus' at ``kbps`` (6 to 256); 'vorbis' at its lowest quality; or, resampled to 8 kHz
            and back, 'gsm' (GSM 06.10 full rate, 13 kbit/s), 'g721' (32 kbit/s) and 'ulaw' (64
            kbit/s).

    Raises:
        UserError: unknown codec, a bit rate or sample rate that it does not have.
    """
    if codec not in _FORMATS:
        raise UserError(f"--data.codec {codec}: unknown; this version has: {', '.join(CODECS)}")
    container, subtype, own_rate = _FORMATS[codec]
    level: float | None = None
    if codec == "opus":
        low, high = _OPUS_KBPS
        if not low <= kbps <= high:
            raise UserError(f"--data.codec-kbps {kbps:g}: opus has {low:g} to {high:g} kbit/s here")
        level = 1 - (kbps - low) / (high - low)
        own_rate = sample_rate if sample_rate in _OPUS_RATES else 48000
    elif codec == "vorbis":
        level = 1.0
    rate = own_rate or sample_rate
    inner = wave if rate == sample_rate else _resampled(wave, sample_rate, rate)
    file = io.BytesIO()
    soundfile.write(
        file,
        np.clip(inner, -1, 1),
        rate,
        format=container,
        subtype=subtype,
        compression_level=level,
    )
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32")
    decoded = decoded if rate == sample_rate else _resampled(decoded, rate, sample_rate)
    return np.pad(decoded[: wave.size], (0, max(0, wave.size - decoded.size)))


def _resampled(wave: np.ndarray, before: int, after: int) -> np.ndarray:
    import soxr

    return soxr.resample(wave, before, after, quality="HQ").astype(np.float32, copy=False)
