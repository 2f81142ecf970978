"""Speech from espeak-ng, in a process of its own: run as a script it reads a JSON request from its
standard input.

The library is GPL-3 and holds global state, so it is never loaded into the process that trains.
``synthesise`` is what the others call.
"""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from mfdistill.plain import Plain


class Speech(TypedDict):
    """One utterance to speak; ``rate_wpm`` in words per minute, ``pitch`` and ``pitch_range`` from
    0 to 100 (50 is the voice's own).
    """

    file: str
    voice: str
    text: str
    rate_wpm: int
    pitch: int
    pitch_range: int


def synthesise(jobs: list[Speech], folder: Path) -> int:
    """Speak every job into ``folder/<file>``, raw 16-bit little-endian mono, and give the sample
    rate in Hz. Same jobs, same samples.

    Raises:
        UserError: espeakng-loader is not installed, or espeak-ng fails.
    """
    return int(_ask({"folder": str(folder), "jobs": jobs}, "--data embedded"))


def phonemes(texts: Sequence[str], language: str) -> list[str]:
    """What espeak-ng reads in each text, in the phonetic alphabet (IPA) with its stress marks, and
    the mark (``MARKS``) that ends each clause.

    Raises:
        UserError: espeakng-loader is not installed, or espeak-ng fails (no such language, say).
    """
    return json.loads(_ask({"language": language, "texts": list(texts)}, "--speech.text phonemes"))


def _ask(request: Plain, what: str) -> str:
    """The answer of this file run as a script; ``what`` needs it."""
    from importlib.util import find_spec

    from mfdistill.errors import UserError
    from mfdistill.extras import remedy

    if find_spec("espeakng_loader") is None:
        raise UserError(
            f"{what}: needs the speech synthesiser espeak-ng; {remedy('espeakng_loader')}"
        )
    # -P: the modules beside this file must not hide others of the same name
    ask = json.dumps(request)
    done = subprocess.run(
        [sys.executable, "-P", __file__],
        input=ask,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise UserError(
            f"espeak-ng failed ({last}); free disk space, or pip install --force-reinstall espeakng-loader"
        )
    return done.stdout


MARKS = ",.;:!?"
"""Punctuation that stays among phonemes, each after a space."""

# names and numbers of espeak-ng's speak_lib.h (1.52)
_SYNCHRONOUS, _CHARACTERS, _UTF8, _IPA = 2, 1, 1, 2


def _library() -> tuple[ctypes.CDLL, int]:
    """The library, ready, and its sample rate."""
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0)
    if rate <= 0:
        raise SystemExit("cannot be initialised")
    return library, rate


def _transcribe(language: str, texts: list[str]) -> list[str]:
    library, _ = _library()
    if library.espeak_SetVoiceByName(language.encode()) != 0:
        raise SystemExit(f"has no language {language}")
    library.espeak_TextToPhonemes.restype = ctypes.c_char_p
    found = []
    for text in texts:
        rest = ctypes.c_char_p(text.encode())
        clauses = []
        # a clause at a time; the pointer moves on, and is null at the end
        while (before := rest.value) is not None:
            spoken = library.espeak_TextToPhonemes(ctypes.byref(rest), _UTF8, _IPA) or b""
            after = rest.value or b""
            read = before[: len(before) - len(after)].decode(errors="replace")
            # it has looked one character beyond the clause; the mark that ended it is a pause, or
            # the melody of a question
            end = re.search(r"\W*$", read[:-1] if after else read)
            mark = next((c for c in (end[0] if end else "") if c in MARKS), "")
            clauses.append(f"{spoken.decode()} {mark}".rstrip())
        found.append(" ".join(clauses))
    return found


def _speak(folder: Path, jobs: list[Speech]) -> int:
    rate_parameter, pitch_parameter, range_parameter = 1, 3, 4
    library, rate = _library()
    pieces: list[bytes] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    def keep(samples: int | None, count: int, _events: int | None) -> int:
        if samples and count > 0:
            pieces.append(ctypes.string_at(samples, 2 * count))
        return 0

    library.espeak_SetSynthCallback(keep)
    library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
    for number, job in enumerate(jobs):
        pieces.clear()
        library.espeak_ng_SetRandSeed(number + 1)  # breath and flutter are random
        if library.espeak_SetVoiceByName(job["voice"].encode()) != 0:
            raise SystemExit(f"has no voice {job['voice']}")
        for parameter, value in (
            (rate_parameter, job["rate_wpm"]),
            (pitch_parameter, job["pitch"]),
            (range_parameter, job["pitch_range"]),
        ):
            library.espeak_SetParameter(parameter, value, 0)
        text = job["text"].encode()
        if (
            library.espeak_Synth(
                text, ctypes.c_size_t(len(text) + 1), 0, _CHARACTERS, 0, _UTF8, None, None
            )
            != 0
        ):
            raise SystemExit(f"cannot speak with the voice {job['voice']}")
        library.espeak_Synchronize()
        (folder / job["file"]).write_bytes(b"".join(pieces))
    return rate


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    if "texts" in asked:
        sys.stdout.write(json.dumps(_transcribe(asked["language"], asked["texts"])))
    else:
        sys.stdout.write(str(_speak(Path(asked["folder"]), asked["jobs"])))
