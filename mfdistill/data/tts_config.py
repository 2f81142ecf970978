"""Options of data for text-to-speech students, without torch."""

from __future__ import annotations

from dataclasses import dataclass

from mfdistill.errors import UserError


@dataclass(frozen=True)
class TTSOptions:
    """Speech with texts or tokens, for text-to-speech teachers such as F5-TTS and CosyVoice
    (layout: docs/foreign-tts.md).
    """

    transcripts: str | None = None
    """Table of texts (tab-separated, with a header); default 'transcripts.tsv' or 'metadata.csv' in
    the folder, else a .txt for each.
    """
    features: str | None = None
    """Folder of precomputed features, one .safetensors per recording under the same name; default:
    beside the recordings.
    """
    vocab: str | None = None
    """F5-TTS's vocab.txt; default: beside the checkpoint."""
    front: str | None = None
    """CosyVoice's flow file with the front end; default: the teacher's own."""
    batch_frames: int = 4000
    """Most Mel frames, padding included, of one micro-batch; batches are made of utterances of
    similar length.
    """
    min_s: float = 0.5
    """Shorter recordings are left out."""
    max_s: float = 30.0
    """Longer recordings are left out."""
    data_free: bool = False
    """Texts or tokens only: no audio is read, states come from the teacher's own rollout, and there
    are no prompts.
    """
    chars_per_s: float = 14.0
    """Speaking rate by which F5-TTS's texts get their length when there is no audio."""
    span: tuple[float, float] = (0.7, 1.0)
    """Share of an utterance that is generated, the rest being its prompt (F5-TTS)."""
    streaming_share: float = 0.5
    """Share of batches in streaming form, teacher and student alike (CosyVoice)."""
    mel_mean: float = 0.0
    """Subtracted from log-Mels, where the system does so (data_statistics of its checkpoint)."""
    mel_std: float = 1.0
    """What log-Mels are divided by."""
    max_files: int | None = None
    """Use at most so many utterances."""

    def __post_init__(self) -> None:
        for name, least in (
            ("batch_frames", 1),
            ("chars_per_s", 1e-6),
            ("min_s", 0),
            ("mel_std", 1e-9),
        ):
            if getattr(self, name) < least:
                raise UserError(
                    f"--tts.{name.replace('_', '-')} {getattr(self, name)}: must be at least {least:g}"
                )
        if not self.min_s < self.max_s:
            raise UserError(f"--tts.min-s {self.min_s}: must be less than --tts.max-s {self.max_s}")
        if not 0 < self.span[0] <= self.span[1] <= 1:
            raise UserError(
                f"--tts.span {self.span[0]} {self.span[1]}: two shares, above 0 and at most 1, the smaller first"
            )
        if not 0 <= self.streaming_share <= 1:
            raise UserError(
                f"--tts.streaming-share {self.streaming_share}: must lie between 0 and 1"
            )
