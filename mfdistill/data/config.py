"""Where speech and noise come from, and how training samples are cut and mixed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mfdistill.errors import UserError

MOST_CROP_S = 600
MOST_HELD = 2**20  # undecoded utterances
CodecName = Literal["opus", "vorbis", "gsm", "g721", "ulaw"]


@dataclass(frozen=True)
class DataConfig:
    """Speech, noise and the recipe of training samples.

    Layouts of a folder: ``{train,valid,test}/{clean,noisy}/`` (pairs by name),
    ``{train,valid,test}/<speaker>/``, ``clean/{train,valid,test}/<speaker>/`` (and ``noisy/...``),
    or files without splits. A missing split is held out of ``train``.
    """

    source: str = "embedded"
    """'embedded' (synthesised with espeak-ng), a folder, a parquet file, or a hub id such as
    'owner/name'.
    """
    noise: str | None = None
    """Folder of noises to mix in on the fly ('embedded': synthetic ones). None: the corpus's own
    noisy files, else its folder 'noise'.
    """
    train_split: str = "train"
    valid_split: str = "valid"
    test_split: str = "test"
    subset: str | None = None
    """Configuration name of a hub data set that has several."""
    clean_column: str = "clean"
    noisy_column: str = "noisy"
    streaming: bool = False
    """Read hub or parquet data as they come: for corpora that do not fit on the disk."""
    shuffle_buffer: int = 256
    """Utterances held by each shuffling buffer of a stream."""
    sample_rate: int | None = None
    """Hz. Recordings are resampled to the task's own; naming another one is an error."""
    crop_s: float = 2.0
    snr_db: tuple[float, float] = (0.0, 15.0)
    rirs: str | None = None
    """dereverb: folder of room impulse responses, or 'simulated' (pyroomacoustics). None: the
    corpus's own degraded twins, else its folder 'rir', else simulated.
    """
    rt60_s: tuple[float, float] | None = None
    """Reverberation times of simulated rooms; None is 0.2 to 0.8."""
    codec: CodecName | None = None
    """codec: what speech is coded with. None: the corpus's own degraded twins, else opus."""
    codec_kbps: tuple[float, float] | None = None
    """Bit rates of opus, 6 to 256 kbit/s; None is 6."""
    cutoff: tuple[float, ...] | None = None
    """bandwidth: where speech is cut off, in parts of the Nyquist frequency. None: the corpus's own
    degraded twins, else 1/4 to 1 in steps of 1/8.
    """
    gain_db: tuple[float, float] = (-12.0, 0.0)
    """Random level change of a training sample; less where it would clip."""
    seed: int = 0
    max_files: int | None = None
    """Use at most so many utterances of each split (the same ones every time)."""
    on_bad_file: Literal["stop", "skip"] = "stop"
    """An unreadable recording of the training split stops the run, which is saved first, or is left
    out and told.
    """
    bad_share: float = 0.05
    """Of the recordings (of a stream: of those read so far) that may be left out; more of them stop
    the run.
    """

    def __post_init__(self) -> None:
        if not 0 <= self.bad_share <= 1:
            raise UserError(f"--bad-share {self.bad_share}: must lie between 0 and 1")
        if not 0 < self.crop_s <= MOST_CROP_S:
            raise UserError(
                f"--data.crop-s {self.crop_s}: must be positive and at most {MOST_CROP_S}; 2.0 is usual"
            )
        if self.rt60_s is not None and not 0 < self.rt60_s[0]:
            raise UserError(
                f"--data.rt60-s {_said(self.rt60_s)}: must be positive; 0.2 0.8 is usual"
            )
        if self.cutoff is not None and not (
            self.cutoff and all(0 < cutoff <= 1 for cutoff in self.cutoff)
        ):
            raise UserError(
                f"--data.cutoff {_said(self.cutoff)}: needs one or more parts of the Nyquist frequency, above 0 and up to 1"
            )
        for name in ("snr_db", "gain_db", "rt60_s", "codec_kbps"):
            if (given := getattr(self, name)) is not None and not given[0] <= given[1]:
                raise UserError(
                    f"{option(name)} {_said(given)}: the first number must not be larger than the second"
                )
        if self.shuffle_buffer > MOST_HELD:
            raise UserError(
                f"--data.shuffle-buffer {self.shuffle_buffer}: must be at most {MOST_HELD}"
            )
        for name, least in (("seed", 0), ("shuffle_buffer", 1), ("max_files", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{option(name)} {value}: must be at least {least}")
        if self.sample_rate is not None and self.sample_rate <= 0:
            raise UserError(
                f"data.sample_rate {self.sample_rate}: must be positive; leave it out to use the task's"
            )

    def split(self, name: str) -> str:
        """What the source calls the split ``name`` ('train', 'valid' or 'test')."""
        return {"train": self.train_split, "valid": self.valid_split, "test": self.test_split}[name]


def option(name: str) -> str:
    """A field of ``DataConfig`` as the command line calls it, for messages."""
    return f"--data.{name.replace('_', '-')}"


def _said(values: tuple[float, ...]) -> str:
    """Numbers as they are given on the command line."""
    return " ".join(map(str, values))


def check_rate(config: DataConfig, sample_rate: int) -> None:
    """Raise ``UserError`` when the data section names another sample rate than the task's."""
    if config.sample_rate not in (None, sample_rate):
        raise UserError(
            f"data.sample_rate {config.sample_rate}: the task works at {sample_rate} Hz, to which recordings are resampled; leave it out"
        )
    if round(config.crop_s * sample_rate) < 2:
        raise UserError(
            f"--data.crop-s {config.crop_s}: shorter than two samples at {sample_rate} Hz; 2.0 is usual"
        )
