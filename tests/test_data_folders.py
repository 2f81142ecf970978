"""Which files of a folder are which: layouts, pairs, held-out parts, and one clear line for what is
wrong.
"""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from mfdistill.data import DataConfig, open_eval, open_train
from mfdistill.data.folders import folder_rows, noise_files
from mfdistill.errors import UserError

RATE = 8000
NAMES = {part: part for part in ("train", "valid", "test")}


def write(path: Path, seconds: float = 0.5, rate: int = RATE, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(
        path, 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * rate)), rate
    )
    return path


def names(root: Path, split: str, noisy: bool = False) -> list[str]:
    return [str(row["name"]) for row in folder_rows(root, split, NAMES, noisy)]


def test_pairs_by_split(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for kind in ("clean", "noisy"):
            for k in range(40):
                write(tmp_path / split / kind / f"{split}{k:02d}.wav", seconds=0.01)
    train, valid, test = (
        folder_rows(tmp_path, split, NAMES, noisy=True) for split in ("train", "valid", "test")
    )
    assert len(test) == 40 and len(valid) == 2 and len(train) == 38
    assert not {str(row["name"]) for row in train} & {str(row["name"]) for row in valid}
    assert all(
        Path(str(row["noisy"])).name == Path(str(row["clean"])).name for row in train + valid + test
    )
    assert folder_rows(tmp_path, "test", NAMES, noisy=False)[0]["noisy"] is None


def test_speaker_folders_and_noises(tmp_path: Path) -> None:
    for split, speaker in (("train", "a"), ("train", "b"), ("dev", "c"), ("test", "d")):
        write(tmp_path / "clean" / split / speaker / "one.flac")
    (tmp_path / "transcripts.tsv").write_text(
        "path\tspeaker\ttext\nclean/train/a/one.flac\ta\tHello there.\n"
    )
    rows = folder_rows(tmp_path, "train", NAMES, noisy=True)
    assert [(row["name"], row["speaker"], row["text"]) for row in rows] == [
        ("a/one", "a", "Hello there."),
        ("b/one", "b", None),
    ]
    assert names(tmp_path, "valid") == ["c/one"] and names(tmp_path, "test") == ["d/one"]
    for split in ("train", "test"):
        write(tmp_path / "noise" / split / f"{split}.wav")
    assert [noise_files(tmp_path / "noise", split)[0].stem for split in NAMES] == [
        "train",
        "train",
        "test",
    ]


def test_flat_folder_is_cut_by_name_alone(tmp_path: Path) -> None:
    for k in range(40):
        write(tmp_path / f"{k:02d}.wav", seconds=0.01)
    write(tmp_path / "noise" / "hiss.wav")
    parts = {split: names(tmp_path, split) for split in NAMES}
    assert {split: len(part) for split, part in parts.items()} == {
        "train": 36,
        "valid": 2,
        "test": 2,
    }
    assert sorted(sum(parts.values(), [])) == [f"{k:02d}" for k in range(40)]
    moved = tmp_path.parent / "moved"
    tmp_path.rename(moved)
    assert {split: names(moved, split) for split in NAMES} == parts


def test_whole_speakers_are_held_out(tmp_path: Path) -> None:
    for speaker in range(12):
        for k in range(2):
            write(tmp_path / f"p{200 + speaker}_{k:03d}.wav", seconds=0.01)
    speakers = [
        {row["speaker"] for row in folder_rows(tmp_path, split, NAMES, noisy=False)}
        for split in NAMES
    ]
    assert [len(part) for part in speakers] == [10, 1, 1] and len(set.union(*speakers)) == 12


def test_noises_without_splits_keep_some_for_the_test(tmp_path: Path) -> None:
    for k in range(10):
        write(tmp_path / f"{k}.wav")
    train, test = noise_files(tmp_path, "train"), noise_files(tmp_path, "test")
    assert (
        len(train) == 8
        and len(test) == 2
        and not set(train) & set(test)
        and noise_files(tmp_path, "valid") == train
    )


def one_line(config: DataConfig, *words: str, noisy: bool = True) -> None:
    with pytest.raises(UserError) as caught:
        data = open_train(config, noisy, RATE)
        data[0]
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_missing_and_empty(tmp_path: Path) -> None:
    one_line(DataConfig(str(tmp_path / "nowhere")), "nowhere", "no such folder")
    one_line(DataConfig(str(tmp_path)), str(tmp_path), "no audio files")
    write(tmp_path / "train" / "a.wav")
    one_line(DataConfig(str(tmp_path)), "too few to hold out")
    for part in ("valid", "test"):
        write(tmp_path / part / "a.wav")
    one_line(DataConfig(str(tmp_path)), "folder of noises")
    one_line(
        DataConfig(str(tmp_path), noise=str(tmp_path / "quiet")),
        "quiet",
        "no such folder of noises",
    )
    one_line(DataConfig(str(tmp_path), streaming=True), "streamed")
    assert len(open_train(DataConfig(str(tmp_path)), False, RATE).clean) == 1


@pytest.mark.parametrize("absent", ["clean", "noisy"])
def test_missing_twin(tmp_path: Path, absent: str) -> None:
    for kind in ("clean", "noisy"):
        for k in range(40):
            write(tmp_path / "train" / kind / f"{k}.wav", seconds=0.01)
    (tmp_path / "train" / absent / "7.wav").unlink()
    one_line(DataConfig(str(tmp_path)), "7.wav", f"has no {absent} twin")


def test_misaligned_pairs(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        write(tmp_path / split / "clean" / "a.wav", 0.5)
        write(tmp_path / split / "noisy" / "a.wav", 0.4)
    one_line(DataConfig(str(tmp_path)), "noisy of 'a'", "3200 samples", "4000")
    write(tmp_path / "train" / "noisy" / "a.wav", 0.5, rate=16000)
    one_line(DataConfig(str(tmp_path)), "16000 Hz", "8000 Hz")
    with pytest.raises(UserError, match="samples, but clean"):
        open_eval(DataConfig(str(tmp_path)), "test", True, RATE)


def test_damaged_files(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        write(tmp_path / split / "a.flac")
    bad = tmp_path / "train" / "b.wav"
    bad.write_bytes(b"")
    one_line(DataConfig(str(tmp_path)), "b.wav", noisy=False)
    bad.write_bytes(b"no audio at all, just text")
    one_line(DataConfig(str(tmp_path)), "b.wav", noisy=False)
    soundfile.write(bad, np.zeros(1), RATE)
    one_line(DataConfig(str(tmp_path)), "b.wav", "1 sample", noisy=False)


def test_wrong_configurations() -> None:
    for wrong, said in (
        ({"crop_s": 0.0}, "--data.crop-s 0.0"), ({"snr_db": (5.0, 0.0)}, "--data.snr-db 5.0 0.0"), ({"seed": -1}, "--data.seed -1"),
        ({"max_files": 0}, "--data.max-files 0"), ({"sample_rate": 0}, "data.sample_rate 0"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=f"^{said}: "):
            DataConfig(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="the task works at 8000 Hz"):
        open_train(DataConfig(sample_rate=16000), True, RATE)
