"""Recordings with their texts or speech tokens out of a folder, and F5-TTS's vocabulary."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mfdistill.errors import UserError
from mfdistill.extras import remedy
from mfdistill.reading import read_lines, read_rows, read_text
from mfdistill.walk import AUDIO_SUFFIXES, files_below

_TABLES = ("transcripts.tsv", "metadata.tsv", "metadata.csv")
_CHINESE = re.compile(r"[\u3100-\u9fff]")
_REPLACED = str.maketrans({";": ",", "\u201c": '"', "\u201d": '"', "\u2018": "'", "\u2019": "'"})


@dataclass(frozen=True)
class Utterance:
    """One recording or text; what is not there is None."""

    name: str
    """Path below the folder, without ending."""
    audio: Path | None = None
    text: str | None = None
    features: Path | None = None
    speaker: str = ""


def read_utterances(
    root: Path, transcripts: str | None, features: str | None, audio: bool, texts: bool
) -> list[Utterance]:
    """The utterances of a folder, sorted by name.

    Args:
        transcripts: a table instead of the folder's own; paths in it count from its own folder.
        features: folder of ``NAME.safetensors``; None: ``root``.
        audio: only those with a recording (else only those with what the teacher's condition
            needs).
        texts: every one needs a text; otherwise its features.

    Raises:
        UserError: no such folder or table, a damaged table, an empty text, nothing usable.
    """
    if not root.is_dir():
        raise UserError(
            f"--data {root}: no such folder; name a folder of recordings with texts (layout: docs/foreign-tts.md)"
        )
    found = {
        _name(file, root): Utterance(_name(file, root), file)
        for file in files_below(root, AUDIO_SUFFIXES)
    }
    for name, text, speaker in _texts(root, transcripts, found):
        found[name] = replace(found.get(name, Utterance(name)), text=text, speaker=speaker)
    folder = root if features is None else Path(features)
    if not folder.is_dir():
        raise UserError(f"--tts.features {folder}: no such folder")
    for file in files_below(folder, {".safetensors"}):
        name = _name(file, folder)
        found[name] = replace(found.get(name, Utterance(name)), features=file)
    rows = [found[name] for name in sorted(found)]
    if audio:
        rows = [row for row in rows if row.audio is not None]
        if not rows:
            raise UserError(
                f"--data {root}: has no recordings; for texts or tokens alone add --tts.data-free"
            )
    usable = [row for row in rows if (row.text if texts else row.features) is not None]
    if not usable:
        needed = (
            "texts: a transcripts.tsv with columns path and text, or a .txt beside each"
            if texts
            else (
                "features: a .safetensors of the same name for each, with speech tokens (see docs/foreign-tts.md)"
            )
        )
        raise UserError(f"--data {root}: {len(rows)} recordings, none with {needed}")
    for row in usable:
        if texts and not (row.text or "").strip():
            raise UserError(
                f"{root}: {row.name}: its text is empty; write what is said, or remove it"
            )
    return usable


def _name(file: Path, root: Path) -> str:
    return file.relative_to(root).with_suffix("").as_posix()


def _texts(root: Path, transcripts: str | None, found: Iterable[str]) -> list[tuple[str, str, str]]:
    """(name, text, speaker) from the table, or from one .txt per recording."""
    table = (
        Path(transcripts)
        if transcripts is not None
        else next((root / name for name in _TABLES if (root / name).is_file()), None)
    )
    if table is None:
        files = [file for file in files_below(root, {".txt"}) if file.name != "vocab.txt"]
        return [(_name(file, root), read_text(file).strip(), "") for file in files]
    if not table.is_file():
        raise UserError(f"--tts.transcripts {table}: no such file")
    is_csv = table.suffix.lower() == ".csv"
    lines = read_lines(table)
    if is_csv and lines and "|" in lines[0][1]:  # LJSpeech: id|text|normalised text
        cells = [line.split("|") for _, line in lines]
        known = {name.rpartition("/")[2]: name for name in found}
        return [(known.get(row[0], row[0]), row[-1].strip(), "") for row in cells if len(row) > 1]
    rows = read_rows(table, ("path", "text"), "," if is_csv else "\t")
    if not rows:
        raise UserError(f"{table}: has no line but its header; write one per recording")
    return [
        (name, row["text"].strip(), row.get("speaker", ""))
        for row in rows
        if (name := _within(row["path"], table, root))
    ]


def _within(path: str, table: Path, root: Path) -> str | None:
    """A table's path as a name below ``root``; None where it lies elsewhere."""
    path = path.replace("\\", "/")
    file = (table.parent / path).resolve()
    place = root.resolve()
    if not path or not file.is_relative_to(place) or file == place:
        return None
    return (
        file.relative_to(place).with_suffix("").as_posix()
        if file.suffix.lower() in AUDIO_SUFFIXES
        else file.relative_to(place).as_posix()
    )


@dataclass(frozen=True)
class Vocabulary:
    """F5-TTS's symbols; the first (a space) stands for every unknown one too."""

    symbols: tuple[str, ...]
    path: str

    @classmethod
    def read(cls, path: str | Path) -> Vocabulary:
        """One symbol per line.

        Raises:
            UserError: no such file, or an empty one.
        """
        file = Path(path)
        if not file.is_file():
            raise UserError(
                f"--tts.vocab {file}: no such file; give the vocab.txt that belongs to the checkpoint"
            )
        lines = read_text(file).split("\n")
        symbols = tuple(line.rstrip("\r") for line in (lines[:-1] if lines[-1] == "" else lines))
        if not symbols:
            raise UserError(
                f"--tts.vocab {file}: empty; give the vocab.txt that belongs to the checkpoint"
            )
        return cls(symbols, str(file))

    def check(self, size: int) -> None:
        """Raise ``UserError`` unless the checkpoint's table has as many symbols."""
        if len(self.symbols) != size:
            raise UserError(
                f"--tts.vocab {self.path}: has {len(self.symbols)} symbols, the checkpoint's table {size}; "
                "take the vocab.txt that belongs to this checkpoint"
            )

    def encode(self, text: str) -> list[int]:
        """Numbers of a text's symbols (``f5_symbols``).

        Raises:
            UserError: an empty text, one of which most symbols are unknown, or Chinese without the
                package pypinyin.
        """
        known = {symbol: number for number, symbol in enumerate(self.symbols)}
        symbols = f5_symbols(text)
        if not symbols:
            raise UserError("text: empty; write what is to be said")
        unknown = [symbol for symbol in symbols if symbol not in known]
        if 2 * len(unknown) > len(symbols):
            raise UserError(
                f"text {text[:40]!r}: most of its symbols, such as {unknown[0]!r}, are not in {self.path}; "
                "take the vocabulary of this checkpoint, and texts in its languages"
            )
        return [known.get(symbol, 0) for symbol in symbols]


def f5_symbols(text: str) -> Sequence[str]:
    """Symbols of F5-TTS's "pinyin" tokenizer: characters, a space before a word that lacks one, and
    Chinese as a space and the syllable with its tone's number (package pypinyin; words are not
    segmented first, so tones in context may differ from the original's).
    """
    symbols: list[str] = []
    for part in re.findall(
        r"[A-Za-z0-9]+|[\u3100-\u9fff]+|.", text.strip().translate(_REPLACED), flags=re.DOTALL
    ):
        if len(part) > 1 and part.isascii() and symbols and symbols[-1] not in " :'\"":
            symbols.append(" ")
        symbols.extend(
            [symbol for syllable in _syllables(part) for symbol in (" ", syllable)]
            if _CHINESE.match(part)
            else part
        )
    return symbols


def _syllables(characters: str) -> list[str]:
    if importlib.util.find_spec("pypinyin") is None:
        raise UserError(
            f"text: has Chinese ({characters[:9]!r}), which needs the package pypinyin; {remedy('pypinyin')}"
        )
    from pypinyin import Style, lazy_pinyin  # type: ignore[import-not-found]

    return lazy_pinyin(characters, style=Style.TONE3, tone_sandhi=True)
