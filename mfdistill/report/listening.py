"""Sound for a page: recordings at one loudness as MP3, and their spectrograms as WebP, both as
``data:`` addresses.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mfdistill.plain import Plain

if TYPE_CHECKING:
    import numpy as np

TARGET_DB = -23.0  # of the gated level, re full scale: EBU R 128's number
_PEAK = 0.98
_GATE_DB, _ABSOLUTE_DB = -10.0, -70.0
_BLOCK_S = 0.4
_FLOOR_DB = (
    -80.0
)  # darkest colour of a spectrogram, below the loudest bin of the recording that is compared with
_HEIGHT = 128  # pixels
_WIDEST = 480


def gated_level(wave: np.ndarray, sample_rate: int) -> float:
    """Level of what is not silence, in dB re full scale: mean square over blocks of 400 ms above
    -70 dB, and of these over those within 10 dB of their mean (the gates of ITU-R BS.1770, without
    its weighting).

    Args:
        wave: (s,), full scale 1.
    """
    import numpy as np

    size = max(1, round(_BLOCK_S * sample_rate))
    starts = range(0, max(1, len(wave) - size + 1), max(1, size // 4))
    powers = np.array([np.mean(np.square(wave[k : k + size], dtype=np.float64)) for k in starts])
    for gate in (lambda p: 10 ** (_ABSOLUTE_DB / 10), lambda p: 10 ** (_GATE_DB / 10) * np.mean(p)):
        kept = powers[powers > gate(powers)]
        powers = kept if len(kept) else powers
    return 10 * float(np.log10(max(float(np.mean(powers)), 1e-20)))


def equal_loudness(
    waves: Mapping[str, np.ndarray], sample_rate: int
) -> tuple[dict[str, np.ndarray], float]:
    """The recordings at one gated level, -23 dB or what the loudest peak allows, and that level in
    dB; silent ones as they are.
    """
    import numpy as np

    levels = {name: gated_level(wave, sample_rate) for name, wave in waves.items()}
    heard = [name for name, level in levels.items() if level > _ABSOLUTE_DB]
    headroom = [
        levels[name] + 20 * np.log10(_PEAK / float(np.max(np.abs(waves[name])))) for name in heard
    ]
    target = float(min([TARGET_DB, *headroom]))
    return {
        name: wave * (10 ** ((target - levels[name]) / 20) if name in heard else 1.0)
        for name, wave in waves.items()
    }, target


def mp3(wave: np.ndarray, sample_rate: int) -> str:
    """``data:`` address of MP3 (s,): the one lossy format that every browser plays."""
    import soundfile
    import soxr

    # the rates that MPEG layer III has; the nearest one that keeps the band
    rates = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
    rate = next((rate for rate in rates if rate >= sample_rate), rates[-1])
    wave = wave if rate == sample_rate else soxr.resample(wave, sample_rate, rate)
    out = io.BytesIO()
    soundfile.write(
        out, wave.astype("float32"), rate, format="MP3", bitrate_mode="VARIABLE", compression_level=0.3
    )  # fmt: skip
    return "data:audio/mpeg;base64," + base64.b64encode(out.getvalue()).decode()


def spectra(waves: Mapping[str, np.ndarray], sample_rate: int) -> dict[str, np.ndarray]:
    """Magnitudes (frequencies from low to high, frames) in dB re the loudest of the first
    recording, windows of 32 ms every 8 ms.
    """
    import numpy as np

    n_fft, hop = round(0.032 * sample_rate), round(0.008 * sample_rate)
    window = np.hanning(n_fft + 1)[:-1]
    found = {}
    for name, wave in waves.items():
        padded = np.pad(wave, (n_fft // 2, n_fft))
        frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop]
        found[name] = np.abs(np.fft.rfft(frames * window, axis=-1)).T
    loudest = float(np.max(next(iter(found.values())), initial=0)) or 1.0
    return {
        name: 20 * np.log10(np.maximum(values / loudest, 10 ** (_FLOOR_DB / 20)))
        for name, values in found.items()
    }


def picture(levels: np.ndarray) -> np.ndarray:
    """Colours (frequencies from high to low, frames, 3) of ``levels`` (frequencies, frames) in
    dB, one scale for all.
    """
    import numpy as np
    from matplotlib import colormaps

    pixels = colormaps["magma"](np.clip(1 - levels / _FLOOR_DB, 0, 1)[::-1], bytes=True)
    return np.ascontiguousarray(pixels[..., :3])


def spectrogram(levels: np.ndarray) -> str:
    """``data:`` address of the `picture` of ``levels``, low frequencies at the bottom."""
    from PIL import Image

    width = min(_WIDEST, max(1, levels.shape[1]))
    image = Image.fromarray(picture(levels)).resize((width, _HEIGHT), Image.Resampling.BOX)
    out = io.BytesIO()
    image.save(out, format="WEBP", quality=70, method=4)
    return "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode()


def players(waves: Mapping[str, np.ndarray], sample_rate: int) -> tuple[list[Plain], float]:
    """``{"system", "audio", "spectrogram", "seconds"}`` of recordings of one utterance at one
    loudness, and that level in dB; the first one sets the scale of the spectrograms.
    """
    equal, level = equal_loudness(waves, sample_rate)
    levels = spectra(equal, sample_rate)
    return [
        {
            "system": name,
            "audio": mp3(wave, sample_rate),
            "spectrogram": spectrogram(levels[name]),
            "seconds": len(wave) / sample_rate,
        }
        for name, wave in equal.items()
    ], level
