"""Folders of recordings: which files make up a split, and which noisy file belongs to which clean
one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

from mfdistill.errors import UserError

AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64", ".caf"}
ALIASES = {"train": ("train",), "valid": ("valid", "validation", "val", "dev"), "test": ("test",)}
HELD_OUT = 0.05  # of the speakers (or files), for each of valid and test where the corpus has none
_SPEAKER_IN_NAME = re.compile(r"^(p\d{3})_|^(\d+)-\d+-\d+")  # VCTK and VoiceBank; LibriSpeech

Row = dict[str, str | None]  # name, speaker, text, clean (path), noisy (path or None)


def folder_rows(root: Path, split: str, names: dict[str, str], noisy: bool) -> list[Row]:
    """Utterances of one split of the folder ``root``, sorted by name.

    ``split`` is 'train', 'valid' or 'test', and ``names`` what the folders of the three are called.
    ``noisy``: look for noisy twins too.

    Raises:
        UserError: no such folder, no audio in it, a file without its twin, or too few files to hold
            some out.
    """
    if not root.is_dir():
        raise UserError(
            f"{root}: no such folder; name a folder of recordings, a hub id (owner/name) or 'embedded'"
        )
    present = {
        part: places
        for part in names
        if (places := _split_folder(root, part, names[part])) is not None
    }
    if not present:
        clean_folder = root / "clean" if (root / "clean").is_dir() else root
        noisy_folder = root / "noisy" if (root / "noisy").is_dir() else None
        rows = _rows(root, clean_folder, noisy_folder if noisy else None)
        return hold_out(rows, split, {"valid", "test"}, str(root))
    if split in present:
        rows = _rows(root, *_with(present[split], noisy))
        return (
            hold_out(rows, split, names.keys() - present.keys(), str(root))
            if split == "train"
            else rows
        )
    if "train" not in present:
        lack = f"has no '{names['train']}' folder to take the {split} split from"
        raise UserError(f"{root}: {lack}; make one or name it with --data.train-split")
    return hold_out(
        _rows(root, *_with(present["train"], noisy)),
        split,
        names.keys() - present.keys(),
        str(root),
    )


def noise_files(
    folder: Path, split: str, what: str = "noises", option: str = "noise"
) -> list[Path]:
    """Noises (or impulse responses) for a split: ``train/`` (also for valid) and ``test/`` where
    the folder has both, else a fifth is kept for the test.

    Raises:
        UserError: no such folder or no audio in it.
    """
    if not folder.is_dir():
        other = {
            "noise": "'embedded' for synthetic noises",
            "rirs": "'simulated' for simulated rooms",
        }[option]
        raise UserError(
            f"{folder}: no such folder of {what}; name one with --data.{option}, or {other}"
        )
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        return _audio(folder / ("test" if split == "test" else "train"))
    files = _audio(folder)
    if len(files) < 5:  # too few to set some aside
        return files
    kept = set(sorted(files, key=lambda file: stable_hash(file.stem))[: max(1, len(files) // 5)])
    return [file for file in files if (file in kept) == (split == "test")]


def hold_out(rows: list[Row], split: str, missing: Iterable[str], where: str) -> list[Row]:
    """The part of ``rows`` that belongs to ``split`` when the ``missing`` splits are cut from these
    rows.

    Whole speakers are held out where there are at least ten, else files; which ones depends on
    their names alone.
    """
    missing = [part for part in ("valid", "test") if part in set(missing)]
    if not missing:
        return rows
    key = (
        "speaker"
        if len({row["speaker"] for row in rows if row["speaker"]}) >= 10
        and all(row["speaker"] for row in rows)
        else "name"
    )
    units = sorted({str(row[key]) for row in rows}, key=stable_hash)
    if len(units) <= len(missing):
        few = f"{len(units)} file(s) are too few to hold out {' and '.join(missing)}"
        raise UserError(f"{where}: {few}; add files, or folders of these names")
    count = max(1, round(HELD_OUT * len(units)))
    owner = {
        unit: part for i, part in enumerate(missing) for unit in units[i * count : (i + 1) * count]
    }
    return [row for row in rows if owner.get(str(row[key]), "train") == split]


def stable_hash(text: str) -> int:
    """64-bit hash that is the same in every process and on every machine."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def _split_folder(root: Path, part: str, name: str) -> tuple[Path, Path | None] | None:
    """``(clean, noisy or None)`` folders of a split, or None when the corpus has no such split."""
    for alias in (name, *ALIASES[part]) if name == part else (name,):
        if (root / alias / "clean").is_dir():
            noisy = root / alias / "noisy"
            return root / alias / "clean", noisy if noisy.is_dir() else None
        if (root / "clean" / alias).is_dir():
            noisy = root / "noisy" / alias
            return root / "clean" / alias, noisy if noisy.is_dir() else None
        if (root / alias).is_dir():
            return root / alias, None
    return None


def _with(folders: tuple[Path, Path | None], noisy: bool) -> tuple[Path, Path | None]:
    return folders[0], folders[1] if noisy else None


def _audio(folder: Path) -> list[Path]:
    found = (
        Path(place, file) for place, _, files in os.walk(folder, followlinks=True) for file in files
    )
    files = sorted(
        file
        for file in found
        if file.suffix.lower() in AUDIO_SUFFIXES and not file.name.startswith(".")
    )
    if not files:
        raise UserError(
            f"{folder}: no audio files in it ({', '.join(sorted(AUDIO_SUFFIXES))}); name a folder of recordings"
        )
    return files


def _by_name(folder: Path) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for file in _audio(folder):
        name = file.relative_to(folder).with_suffix("").as_posix()
        if name in named:
            raise UserError(f"{file}: has the same name as {named[name].name}; keep one of the two")
        named[name] = file
    return named


def _rows(root: Path, clean_folder: Path, noisy_folder: Path | None) -> list[Row]:
    clean = _by_name(clean_folder)
    if clean_folder == root:  # the noises beside the speakers are no speech
        clean = {name: file for name, file in clean.items() if not name.startswith("noise/")}
    noisy = _by_name(noisy_folder) if noisy_folder else {}
    if noisy_folder:
        _need_twins(clean, noisy, "noisy", noisy_folder)
        _need_twins(noisy, clean, "clean", clean_folder)
    texts = _transcripts(root)
    return [
        {
            "name": name,
            "speaker": _speaker(name),
            "text": texts.get(file.relative_to(root).as_posix()),
            "clean": str(file),
            "noisy": str(noisy[name]) if noisy_folder else None,
        }
        for name, file in sorted(clean.items())
    ]


def _need_twins(files: dict[str, Path], twins: dict[str, Path], kind: str, folder: Path) -> None:
    alone = sorted(files.keys() - twins.keys())
    if alone:
        more = f" (and {len(alone) - 1} more)" if len(alone) > 1 else ""
        raise UserError(
            f"{files[alone[0]]}{more}: has no {kind} twin of the same name in {folder}; add it or remove the file"
        )


def _speaker(name: str) -> str:
    if "/" in name:
        return name.split("/", 1)[0]
    match = _SPEAKER_IN_NAME.match(name)
    return next(group for group in match.groups() if group) if match else ""


def _transcripts(root: Path) -> dict[str, str]:
    """Texts by path from ``transcripts.tsv`` (columns path, speaker, text), where the corpus has
    one.
    """
    file = root / "transcripts.tsv"
    if not file.is_file():
        return {}
    lines = file.read_text(encoding="utf-8").splitlines()
    columns = lines[0].split("\t") if lines else []
    if "path" not in columns or "text" not in columns:
        raise UserError(
            f"{file}: needs the tab-separated columns 'path' and 'text'; correct its first line or remove the file"
        )
    path, text = columns.index("path"), columns.index("text")
    cells = (line.split("\t") for line in lines[1:])
    return {row[path]: row[text] for row in cells if len(row) > max(path, text)}
