"""Texts as the symbols of text2mel want them: letters, or espeak-ng's phonemes."""

from __future__ import annotations

from collections.abc import Sequence

from mfdistill.tasks.mel import MelTaskConfig


def prepared(texts: Sequence[str], config: MelTaskConfig) -> list[str]:
    """Lower-case letters with single spaces, or phonemes (all texts in one process of espeak-ng).

    Raises:
        UserError: phonemes without espeakng-loader, or an espeak-ng that fails.
    """
    if config.text == "phonemes":
        from mfdistill.data.espeak import MARKS, phonemes

        texts = phonemes(texts, config.language)
        # models that learnt without punctuation have no symbols for it
        if config.alphabet:
            absent = str.maketrans({mark: None for mark in MARKS if mark not in config.alphabet})
            texts = [text.translate(absent) for text in texts]
    else:
        texts = [text.lower() for text in texts]
    return [" ".join(text.split()) for text in texts]
