"""Folders as systems leave them, tables as editors save them, JSON as nobody wrote it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mfdistill.data.folders import folder_rows
from mfdistill.data.transcripts import read_utterances
from mfdistill.errors import UserError
from mfdistill.reading import parse_json, read_json, read_rows
from mfdistill.walk import audio_files, files_below

NAMES = {part: part for part in ("train", "valid", "test")}
ROWS = "path\tspeaker\ttext\nspk/a.wav\tspk\tGrüße, said the voice\n"


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.ones(100), 8000)
    return path


def below(root: Path) -> list[str]:
    return [file.relative_to(root).as_posix() for file in audio_files(root)]


def test_what_systems_leave_behind_is_no_data(tmp_path: Path) -> None:
    for name in ("spk/a.wav", "spk/B.WAV", "noisy copies/c.FLAC"):
        put(tmp_path / name)
    for name in (
        *("spk/.ipynb_checkpoints/a-checkpoint.wav", ".Trash-1000/files/d.wav", "spk/._a.wav"),
        *("__MACOSX/spk/a.wav", "spk/@eaDir/a.wav", "$RECYCLE.BIN/x.wav", "spk/.hidden.wav"),
    ):
        put(tmp_path / name)
    assert below(tmp_path) == ["noisy copies/c.FLAC", "spk/B.WAV", "spk/a.wav"]


def test_links_are_followed_once(tmp_path: Path) -> None:
    root, other = tmp_path / "corpus", tmp_path / "elsewhere"
    for k in range(4):
        put(root / "spk" / f"u{k}.wav")
    put(other / "x.wav")
    (root / "aaa").symlink_to("spk")  # sorts before what it points to
    (root / "spk" / "loop").symlink_to("..")
    (root / "more").symlink_to(other)
    (other / "back").symlink_to(root)
    (root / "one.wav").symlink_to(root / "spk" / "u0.wav")
    (root / "broken.wav").symlink_to(root / "nothing.wav")
    (root / "self").symlink_to("self")
    assert below(root) == ["more/x.wav", *(f"spk/u{k}.wav" for k in range(4))]
    # a folder of links alone is a corpus too
    linked = tmp_path / "links"
    linked.mkdir()
    for k in range(4):
        (linked / f"{k}.wav").symlink_to(root / "spk" / f"u{k}.wav")
    assert below(linked) == [f"{k}.wav" for k in range(4)]


def test_a_folder_that_may_not_be_read_is_no_empty_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: cannot be read"):
        files_below(tmp_path / "nowhere", {".wav"})
    with pytest.raises(UserError, match="cannot be read"):
        files_below(tmp_path / ("x" * 300), {".wav"})
    if os.geteuid():  # root may read everything
        put(tmp_path / "shut" / "a.wav").parent.chmod(0)
        with pytest.raises(UserError, match="shut: cannot be read"):
            audio_files(tmp_path)


def test_voicebank_demand_as_it_is_downloaded(tmp_path: Path) -> None:
    for kind in ("clean", "noisy"):
        for part, count in (("trainset_28spk_wav", 40), ("testset_wav", 3)):
            for k in range(count):
                put(tmp_path / f"{kind}_{part}" / f"p226_{k:03d}.wav")
    found = {part: folder_rows(tmp_path, part, NAMES, noisy=True) for part in NAMES}
    assert {part: len(rows) for part, rows in found.items()} == {"train": 38, "valid": 2, "test": 3}
    for rows in found.values():
        for row in rows:
            assert "/clean_" in str(row["clean"]) and row["speaker"] == "p226"
            assert row["noisy"] == str(row["clean"]).replace("/clean_", "/noisy_")
    assert {row["noisy"] for row in folder_rows(tmp_path, "test", NAMES, noisy=False)} == {None}
    for kind in ("clean", "noisy"):
        put(tmp_path / f"{kind}_trainset_56spk_wav" / "p300_001.wav")
    with pytest.raises(UserError, match="--data.train-split trainset_28spk_wav"):
        folder_rows(tmp_path, "train", NAMES, noisy=True)
    named = NAMES | {"train": "trainset_56spk_wav"}
    with pytest.raises(UserError, match="too few"):  # one file, and a validation set to hold out
        folder_rows(tmp_path, "train", named, noisy=True)
    assert len(folder_rows(tmp_path, "test", named, noisy=True)) == 3


@pytest.mark.parametrize(
    "names",
    [
        ("Clean/a.wav", "Noisy/a.wav"),
        ("train/Noisy/a.wav", "train/speech/a.wav"),
        ("noisy_train/a.wav", "cleans/a.wav"),
        ("set1/mixture/a.wav", "set1/target/a.wav"),
        ("a_clean.wav", "a_noisy.wav"),
        ("clean_fileid_1.wav", "noisy_fileid_1.wav"),
    ],
)
@pytest.mark.parametrize("noisy", [True, False])
def test_pairs_that_are_not_understood_are_an_error(
    tmp_path: Path, names: tuple[str, str], noisy: bool
) -> None:
    for name in names:
        put(tmp_path / name)
    with pytest.raises(UserError, match="looks like pairs"):
        folder_rows(tmp_path, "train", NAMES, noisy)


def test_pairs_are_told_by_names_and_lengths_whatever_they_are_called(tmp_path: Path) -> None:
    names = {part: part for part in ("train", "valid", "test")}
    for folder in ("with_noise", "without"):
        for k in range(4):
            file = tmp_path / folder / f"{k}.wav"
            file.parent.mkdir(exist_ok=True)
            soundfile.write(file, 0.1 * np.ones(800 + 10 * k), 8000)
    with pytest.raises(UserError, match="with_noise/0.wav and .*without/0.wav have the same names"):
        folder_rows(tmp_path, "train", names, False)
    # two speakers who read the same sentences
    soundfile.write(tmp_path / "without" / "1.wav", 0.1 * np.ones(900), 8000)
    assert len(folder_rows(tmp_path, "train", names, False)) == 6


def test_clean_in_a_name_is_no_pair(tmp_path: Path) -> None:
    for k in range(4):
        put(tmp_path / "train-clean-100" / "103" / f"103-1240-{k:04d}.wav")
    assert len(folder_rows(tmp_path, "train", NAMES, True)) == 2


TABLES = {
    "bom": ROWS.encode("utf-8-sig"),
    "backslash": ROWS.replace("spk/a.wav", "spk\\a.wav").encode(),
    "crlf": ROWS.replace("\n", "\r\n").encode(),
    "decomposed": ROWS.replace("spk/a", "./spk/a").encode(),
    "quotes": ROWS.replace("Grüße, said the voice", '"Grüße"\tx').replace("text", "text\tmore").encode(),
}  # fmt: skip


@pytest.mark.parametrize("kind", TABLES)
def test_tables_as_editors_save_them(tmp_path: Path, kind: str) -> None:
    put(tmp_path / "spk" / "a.wav")
    (tmp_path / "transcripts.tsv").write_bytes(TABLES[kind])
    text = '"Grüße"' if kind == "quotes" else "Grüße, said the voice"
    (row,) = read_utterances(tmp_path, None, None, True, True)
    assert (row.name, row.text, row.speaker) == ("spk/a", text, "spk")
    for split in ("valid", "test"):
        put(tmp_path / split / "x.wav")
    (tmp_path / "spk").rename(tmp_path / "train")
    (tmp_path / "transcripts.tsv").write_bytes(
        TABLES[kind].replace(b"spk/", b"train/").replace(b"spk\\", b"train\\")
    )
    assert folder_rows(tmp_path, "train", NAMES, False)[0]["text"] == text


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (ROWS.encode("utf-16"), "line 1: not UTF-8, it looks like UTF-16"),
        (ROWS.encode("utf-16-le"), "UTF-16"),
        (ROWS.encode("latin-1"), "line 2: not UTF-8, it looks like Latin-1"),
        (b"", "empty"),
        (b"file\ttext\nspk/a.wav\thello\n", "line 1: needs one column 'path'"),
        (b"path\tpath\ttext\n", "line 1: needs one column 'path'"),
        (b"path\ttext\n\nspk/a.wav\thello\tagain\n", "line 3: has 3 cells, its header 2"),
    ],
)
def test_tables_that_cannot_be_read_name_line_and_encoding(
    tmp_path: Path, data: bytes, said: str
) -> None:
    put(tmp_path / "spk" / "a.wav")
    (tmp_path / "transcripts.tsv").write_bytes(data)
    for read in (
        lambda: read_utterances(tmp_path, None, None, True, True),
        lambda: folder_rows(tmp_path, "train", NAMES, False),
    ):
        with pytest.raises(UserError) as caught:
            read()
        assert said in str(caught.value) and "transcripts.tsv" in str(caught.value)


def test_texts_of_other_files_are_not_lost_without_a_word(tmp_path: Path) -> None:
    put(tmp_path / "spk" / "a.wav")
    (tmp_path / "transcripts.tsv").write_text("path\ttext\nwavs/b.wav\thello\n")
    with pytest.raises(UserError, match="none of its 1 paths"):
        folder_rows(tmp_path, "train", NAMES, False)


def test_csv_lines_are_counted_where_cells_are_quoted(tmp_path: Path) -> None:
    file = tmp_path / "metadata.csv"
    file.write_text('path,text\n\na.wav,"one, two"\nb.wav,x,y\n')
    with pytest.raises(UserError, match="line 4: has 3 cells"):
        read_rows(file, ("path", "text"), ",")
    file.write_text('path,text\na.wav,"one, two"\n')
    assert read_rows(file, ("path", "text"), ",") == [{"path": "a.wav", "text": "one, two"}]


@pytest.mark.parametrize("text", ["", "[1]", "null", '"x"', "{", '{"a": 1,}', "[" * 100000])
def test_json_that_is_no_object_is_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(UserError, match="config.json: .*; restore it$") as caught:
        read_json(file, "restore it")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert parse_json("[1]", "here", "x") == [1]
