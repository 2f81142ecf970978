"""Folders of recordings: which files make up a split, and which noisy file belongs to which clean
one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

from mfdistill.errors import UserError
from mfdistill.reading import read_rows
from mfdistill.walk import audio_files, folders_in

ALIASES = {"train": ("train",), "valid": ("valid", "validation", "val", "dev"), "test": ("test",)}
HELD_OUT = 0.05  # of the speakers (or files), for each of valid and test where the corpus has none
# words in the names of folders and files with degraded speech
_DEGRADED = {"noisy", "mix", "mixed", "mixture", "mixtures", "degraded", "corrupted", "reverberant"}
_COMPARED = 5  # files that tell pairs from speakers who read the same sentences
_ALIKE = 0.3  # correlation: of speech at -10 dB
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
    check_folder(root)
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


def check_folder(root: Path) -> None:
    """Raise ``UserError`` unless there is a folder ``root``."""
    if not root.is_dir():
        raise UserError(
            f"{root}: no such folder; name a folder of recordings, a hub id (owner/name) or 'embedded'"
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
        return audio_files(folder / ("test" if split == "test" else "train"))
    files = audio_files(folder)
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
        if (pairs := _voicebank(root, alias)) is not None:
            return pairs
    return None


def _voicebank(root: Path, alias: str) -> tuple[Path, Path | None] | None:
    """``clean_X`` and ``noisy_X``, where X is ``alias`` or names it as VoiceBank-DEMAND does
    (``trainset_28spk_wav``, ``testset_wav``).

    Raises:
        UserError: several such folders for the one split.
    """
    called = re.compile(rf"clean_({re.escape(alias)}(?:set(?:_\d+spk)?_wav(?:_\d+k(?:hz)?)?)?)")
    found = [match[1] for folder in folders_in(root) if (match := called.fullmatch(folder.name))]
    if len(found) > 1:
        raise UserError(
            f"{root}: has {' and '.join(f'clean_{x}' for x in found)} for one split; name one, such as --data.{alias}-split {found[0]}"
        )
    if not found:
        return None
    clean, noisy = root / f"clean_{found[0]}", root / f"noisy_{found[0]}"
    # unpacked by hand, an archive's folder lies in a folder of its own name
    clean, noisy = (
        inner if (inner := place / place.name).is_dir() else place for place in (clean, noisy)
    )
    return clean, noisy if noisy.is_dir() else None


def _with(folders: tuple[Path, Path | None], noisy: bool) -> tuple[Path, Path | None]:
    return folders[0], folders[1] if noisy else None


def _by_name(folder: Path) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for file in audio_files(folder):
        # macOS writes the letters of a name and their accents apart, others together
        name = unicodedata.normalize("NFC", file.relative_to(folder).with_suffix("").as_posix())
        if name in named:
            raise UserError(f"{file}: has the same name as {named[name].name}; keep one of the two")
        named[name] = file
    return named


def _rows(root: Path, clean_folder: Path, noisy_folder: Path | None) -> list[Row]:
    clean = _by_name(clean_folder)
    if clean_folder == root:  # the noises beside the speakers are no speech
        clean = {
            name: file for name, file in clean.items() if not name.startswith(("noise/", "rir/"))
        }
    _refuse_degraded(clean, clean_folder, root)
    noisy = _by_name(noisy_folder) if noisy_folder else {}
    if noisy_folder:
        _need_twins(clean, noisy, "noisy", noisy_folder)
        _need_twins(noisy, clean, "clean", clean_folder)
    texts = _transcripts(root)
    return [
        {
            "name": name,
            "speaker": _speaker(name),
            "text": texts.get(unicodedata.normalize("NFC", file.relative_to(root).as_posix())),
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


def _refuse_degraded(clean: dict[str, Path], folder: Path, root: Path) -> None:
    """Raise ``UserError`` where files that are to be taken for clean speech are called otherwise:
    pairs in a layout that is not known.
    """
    for name, file in clean.items():
        *places, stem = (set(re.split(r"[^a-z]+", part)) for part in name.lower().split("/"))
        twin = re.sub("noisy", "clean", name, flags=re.IGNORECASE)
        if any(words & _DEGRADED for words in places) or ("noisy" in stem and twin in clean):
            raise UserError(
                f"{root}: looks like pairs, but not in a layout that is known: {file} would be taken for clean speech; "
                f"arrange it as train/clean/ and train/noisy/, or name the folder of clean speech alone (not {folder})"
            )
    if (twins := _twins(clean)) is not None:
        raise UserError(
            f"{root}: looks like pairs, but not in a layout that is known: {twins[0]} and {twins[1]} have the same names and "
            f"lengths throughout; arrange them as train/clean/ and train/noisy/, or name one of the folders alone"
        )


def _twins(files: dict[str, Path]) -> tuple[Path, Path] | None:
    """A file of each of two folders side by side in which all names are the same, and so are the
    lengths of the first few, which sound alike too.
    """
    folders: dict[str, dict[str, Path]] = {}
    for name, file in files.items():
        first, _, rest = name.partition("/")
        if rest:
            folders.setdefault(first, {})[rest] = file
    same: dict[tuple[str, ...], dict[str, Path]] = {}
    for inner in folders.values():
        before = same.setdefault(tuple(sorted(inner)), inner)
        few = sorted(inner)[:_COMPARED]
        if before is inner:
            continue
        try:
            lengths = [_frames(inner[name]) for name in few]
            # where all are of one length, it tells nothing
            if (
                len(set(lengths)) > 2
                and lengths == [_frames(before[name]) for name in few]
                and 2 * sum(_alike(before[name], inner[name]) for name in few) > len(few)
            ):
                return before[few[0]], inner[few[0]]
        except UserError:  # told where it is read
            continue
    return None


def _alike(one: Path, other: Path) -> bool:
    """Whether two recordings of one length are the same but for noise, a room or a coding; two
    speakers are not.
    """
    import numpy as np

    from mfdistill.audio.io import read_audio

    a, b = (read_audio(file).astype(np.float64).ravel() for file in (one, other))
    a, b = a - a.mean(), b - b.mean()
    # silence is like anything
    return bool(abs(a @ b) >= _ALIKE * np.linalg.norm(a) * np.linalg.norm(b))


def _frames(file: Path) -> tuple[int, int]:
    from mfdistill.audio.io import audio_info

    info = audio_info(file)
    return info.frames, info.sample_rate


def _transcripts(root: Path) -> dict[str, str]:
    """Texts by path from ``transcripts.tsv`` (columns path, speaker, text), where the corpus has
    one.

    Raises:
        UserError: not in UTF-8, without the columns, or of other files than those that are here.
    """
    file = root / "transcripts.tsv"
    if not file.is_file():
        return {}
    texts = {
        unicodedata.normalize("NFC", row["path"].replace("\\", "/").removeprefix("./")): row["text"]
        for row in read_rows(file, ("path", "text"))
    }
    spellings = (unicodedata.normalize(form, path) for path in texts for form in ("NFC", "NFD"))
    if texts and not any((root / path).is_file() for path in spellings):
        raise UserError(
            f"{file}: none of its {len(texts)} paths is a file below {root} ({next(iter(texts))}, ...); write them as they are from there"
        )
    return texts
