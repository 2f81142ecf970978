"""What teacher-train does for Mel tasks alone: what is learnt from the corpus first (units, or
alphabet and alignment; Mel statistics), and the frame network.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Literal

from mfdistill.commands.options import Corpus
from mfdistill.networks.frames_config import FramesConfig, FramesSizes

if TYPE_CHECKING:
    from mfdistill.data.speech import SpeechSet
    from mfdistill.tasks import MelTask, MelTaskConfig


@dataclass(frozen=True)
class SpeechOptions:
    """Of token2mel and text2mel."""

    units: int = 1024
    """Discrete units of every level, learnt by k-means (token2mel); 31.25 of them make a second."""
    levels: int = 2
    """Each level says what those before it left."""
    text: Literal["characters", "phonemes"] = "characters"
    """Input of text2mel; phonemes by espeak-ng (extra demo)."""
    language: str = "en"
    """espeak-ng's name of the language, for phonemes."""
    alignment: Literal["learnt", "even"] = "learnt"
    """Which frames of a recording text2mel takes for which symbol of its text: as Gaussians of the
    symbols say, which are learnt from the corpus, or as many for each.
    """
    prompt_s: float = 3.0
    """Of an utterance, the beginning that is given where systems are compared."""
    vocoder: str = "griffin-lim"
    """'griffin-lim', or the folder of a vocode model with the same Mel spectrogram; kept in
    config.json.
    """


def learnt_task(
    preset: MelTaskConfig, speech: SpeechOptions, data: Corpus, seed: int
) -> MelTaskConfig:
    """A Mel task with what the training split teaches: units or alphabet, Mel statistics.

    Raises:
        UserError: bad data or options.
    """
    from mfdistill.data.speech import learn_task
    from mfdistill.distill.logs import say

    config = replace(
        preset,
        unit_levels=speech.levels,
        text=speech.text,
        language=speech.language,
        prompt_s=speech.prompt_s,
        vocoder=speech.vocoder,
    )
    say(f"learning what {config.name} is made of from {data.source}")
    return learn_task(data, config, speech.units, seed, speech.alignment == "learnt")


def started_task(config: MelTaskConfig, vocoder: str, temperature: float | None) -> MelTaskConfig:
    """The task of a model that a training starts from, with another vocoder or temperature where
    they are given.
    """
    config = config if vocoder == SpeechOptions.vocoder else replace(config, vocoder=vocoder)
    return config if temperature is None else replace(config, temperature=temperature)


def frames_config(
    task: MelTask, sizes: FramesSizes, dataset: SpeechSet, residual_std: float | None = None
) -> FramesConfig:
    """Sizes completed by what follows from task and data. ``residual_std``: already measured (by
    the run that is resumed).
    """
    own = {item.name: getattr(sizes, item.name) for item in fields(FramesSizes)}
    fitted = FramesConfig(
        **own, mels=task.config.n_mels, vocabulary=task.vocabulary, speaker=task.speaker_dim
    )
    return (
        replace(fitted, coarse=True, residual_std=residual_std or coarse_std(task, dataset))
        if task.voiced
        else fitted
    )


def coarse_std(task: MelTask, dataset: SpeechSet, count: int = 4, batch_size: int = 16) -> float:
    """Deviation of standardised bands from their coarse spectrogram, over the generated frames of
    some training batches, to two digits.

    Args:
        dataset: ``data.speech.SpeechSet``.
    """
    from mfdistill.data.batches import batches

    error = size = 0.0
    stream = batches(dataset, global_batch=batch_size, num_workers=0)
    for _ in range(count):
        batch = task.batch(next(stream), "cpu")
        mask = batch.get("loss_mask")
        assert mask is not None  # a Mel task always has one
        error += float(((batch["z_1"] - batch["cond"]["mu"]).square() * mask).sum())
        size += float(mask.sum()) * task.config.n_mels
    return float(f"{(error / size) ** 0.5:.2g}")
