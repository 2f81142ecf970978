"""Samples are functions of (seed, index); batches hold the same for any split; mixtures have the
SNR asked for.
"""

import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mfdistill.data import DataConfig, TrainSet, open_eval, open_train
from mfdistill.data.batches import batches
from mfdistill.data.mixing import crop_start, cut, generator, noise_segment
from mfdistill.errors import UserError

RATE = 8000


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for split, speakers in (("train", "abc"), ("valid", "de"), ("test", "fgh")):
        for speaker in speakers:
            (root / "clean" / split / speaker).mkdir(parents=True)
            for k, seconds in enumerate((0.2, 0.7, 1.6)):
                wave = 0.1 * np.sin(np.arange(round(seconds * RATE)) * rng.uniform(0.05, 0.5))
                soundfile.write(root / "clean" / split / speaker / f"{k}.flac", wave, RATE)
    for split in ("train", "test"):
        (root / "noise" / split).mkdir(parents=True)
        for k, seconds in enumerate((0.1, 2.0)):
            soundfile.write(
                root / "noise" / split / f"{k}.flac",
                0.01 * rng.standard_normal(round(seconds * RATE)),
                RATE,
            )
    return root


def small(corpus: Path, **changes: object) -> TrainSet:
    data = open_train(DataConfig(str(corpus), **{"crop_s": 0.5, **changes}), True, RATE)  # type: ignore[arg-type]
    assert isinstance(data, TrainSet)
    return data


def snr_db(item: dict) -> float:
    noise = item["degraded"] - item["clean"]
    return float(10 * torch.log10(item["clean"].square().sum() / noise.square().sum()))


def test_samples_are_functions_of_seed_and_index(corpus: Path) -> None:
    one, two, other = small(corpus), small(corpus), small(corpus, seed=1)
    last = [two[i] for i in reversed(range(40))][::-1]
    for i in range(40):
        item = one[i]
        assert (
            item["index"] == i
            and item["clean"].shape == item["degraded"].shape == (4000,)
            and item["clean"].dtype == torch.float32
        )
        assert torch.equal(item["clean"], last[i]["clean"]) and torch.equal(
            item["degraded"], last[i]["degraded"]
        )
    assert not all(torch.equal(one[i]["degraded"], other[i]["degraded"]) for i in range(5))


def test_every_epoch_holds_each_recording_by_its_length(corpus: Path) -> None:
    data = small(corpus)
    assert len(data) == 3 * (1 + 1 + 3)
    orders = [
        [data.recording(epoch * len(data) + i) for i in range(len(data))] for epoch in range(3)
    ]
    assert (
        all(sorted(order) == sorted(orders[0]) for order in orders)
        and orders[0] != orders[1] != orders[2]
    )
    counts = np.bincount(orders[0])
    assert sorted(counts) == [1] * 6 + [3] * 3


def test_snr_gain_and_peak(corpus: Path) -> None:
    snrs = [snr_db(small(corpus, snr_db=(3.0, 3.0))[i]) for i in range(20)]
    assert snrs == pytest.approx([3.0] * 20, abs=1e-3)
    spread = [snr_db(item) for item in map(small(corpus).__getitem__, range(60))]
    assert min(spread) > -0.01 and max(spread) < 15.01 and max(spread) - min(spread) > 8
    loud = small(corpus, gain_db=(40.0, 40.0), snr_db=(0.0, 0.0))
    for i in range(10):
        peak = max(float(loud[i]["clean"].abs().max()), float(loud[i]["degraded"].abs().max()))
        assert peak == pytest.approx(0.99, abs=1e-5)
    levels = [
        float(item["clean"].square().mean())
        for item in map(small(corpus, crop_s=0.2).__getitem__, range(40))
    ]
    assert 10 * np.log10(max(levels) / min(levels)) > 6


def test_without_noise_degraded_is_clean(corpus: Path) -> None:
    data = open_train(DataConfig(str(corpus), crop_s=0.5), False, RATE)
    assert isinstance(data, TrainSet) and data.degradation is None
    assert torch.equal(data[3]["clean"], data[3]["degraded"])
    assert torch.equal(
        open_eval(DataConfig(str(corpus)), "test", False, RATE)[0]["degraded"],
        open_eval(DataConfig(str(corpus)), "test", True, RATE)[0]["clean"],
    )


def test_pairs_are_cut_alike(tmp_path: Path) -> None:
    ramp = np.arange(RATE, dtype=np.float32) / RATE / 2
    for split in ("train", "valid", "test"):
        for kind, sign in (("clean", 1), ("noisy", -1)):
            (tmp_path / split / kind).mkdir(parents=True)
            soundfile.write(tmp_path / split / kind / "a.wav", sign * ramp, RATE, subtype="FLOAT")
    data = open_train(DataConfig(str(tmp_path), crop_s=0.25), True, RATE)
    for i in range(5):
        assert torch.equal(data[i]["clean"], -data[i]["degraded"])
    item = open_eval(DataConfig(str(tmp_path)), "test", True, RATE)[0]
    assert (
        torch.equal(item["clean"], torch.from_numpy(ramp))
        and torch.equal(item["degraded"], -item["clean"])
        and item["snr_db"] is None
    )


def test_crops_avoid_silence_and_pad_short_recordings() -> None:
    wave = np.zeros(10000, dtype=np.float32)
    wave[6000:8000] = 1.0
    hits = [crop_start(generator(0, i), wave, 1000) for i in range(200)]
    assert np.mean([wave[start : start + 1000].any() for start in hits]) > 0.7  # 0.3 by chance
    short = np.arange(1, 5, dtype=np.float32)
    for i in range(10):
        padded = cut(short, crop_start(generator(0, i), short, 7), 7)
        assert padded.size == 7 and np.array_equal(padded[padded > 0], short)
    looped = noise_segment(generator(0, 0), short, 11)
    assert np.array_equal(looped[:4], looped[4:8]) and set(looped) == set(short)


def test_batches_are_the_same_for_any_split(corpus: Path) -> None:
    data = small(corpus)
    whole = list(islice(batches(data, 8, num_workers=0), 4))
    assert [batch["index"].tolist() for batch in whole] == [
        list(range(8 * k, 8 * k + 8)) for k in range(4)
    ]
    for world, accumulation, workers in ((2, 1, 1), (2, 2, 3), (4, 2, 0)):
        ranks = [
            batches(small(corpus), 8, rank, world, 1, accumulation, workers)
            for rank in range(world)
        ]
        for k in (1, 2, 3):
            parts = [next(ranks[rank]) for rank in range(world) for _ in range(accumulation)]
            for key in ("clean", "degraded", "index"):
                assert torch.equal(torch.cat([part[key] for part in parts]), whole[k][key])
        for rank in ranks:
            rank.close()  # type: ignore[attr-defined]


def test_uneven_batches_are_refused(corpus: Path) -> None:
    with pytest.raises(
        UserError,
        match="--batch-size 10: must be a multiple of 4 processes x 1 accumulation; take 8",
    ):
        next(batches(small(corpus), 10, 0, 4))


def test_an_error_in_a_worker_arrives(corpus: Path, tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        (tmp_path / split).mkdir()
        wave = np.full(RATE, np.nan if split == "train" else 0.1, dtype=np.float32)
        soundfile.write(tmp_path / split / "a.wav", wave, RATE, subtype="FLOAT")
    data = open_train(DataConfig(str(tmp_path), crop_s=0.5), False, RATE)
    with pytest.raises(UserError, match="a.wav: holds NaN"):
        next(batches(data, 2))


def test_evaluation_mixtures_do_not_depend_on_limit_or_seed(corpus: Path) -> None:
    everything = open_eval(DataConfig(str(corpus)), "test", True, RATE)
    some = open_eval(
        DataConfig(str(corpus), seed=5, snr_db=(1.0, 2.0)), "test", True, RATE, limit=4
    )
    assert len(everything) == 9 and len(some) == 4
    assert {item["speaker"] for item in some[:3]} == {"f", "g", "h"}
    assert [item["snr_db"] for item in everything] == [
        2.5,
        7.5,
        12.5,
        17.5,
        2.5,
        7.5,
        12.5,
        17.5,
        2.5,
    ]
    for a, b in zip(some, everything, strict=False):
        assert (
            a["name"] == b["name"]
            and torch.equal(a["degraded"], b["degraded"])
            and a["clean"].dtype == torch.float32
        )
        assert snr_db(a) == pytest.approx(a["snr_db"], abs=1e-2)
    assert {
        item["speaker"] for item in open_eval(DataConfig(str(corpus)), "valid", True, RATE)
    } == {"d", "e"}
    assert len(open_eval(DataConfig(str(corpus), max_files=2), "test", True, RATE)) == 2


def test_real_speech(shared: Path) -> None:
    config = DataConfig(str(shared / "data"))
    data = open_train(config, True, 16000)
    assert isinstance(data, TrainSet) and len(data.speakers) == 138 and "57 noises" in data.summary
    for index in range(0, len(data), 2):  # most of the corpus into the cache
        data[index]
    stream = batches(data, 16, num_workers=0)
    next(stream)
    start = time.process_time()
    for _ in range(30):
        next(stream)
    assert (time.process_time() - start) / 30 < 0.03  # 5 ms measured; room for a busy machine
    assert (
        len(open_eval(config, "valid", True, 16000)) == 16
        and len(open_eval(config, "test", True, 16000)) == 40
    )
    pairs = open_train(DataConfig(str(shared / "data" / "pairs" / "vbdmd_train")), True, 16000)
    assert isinstance(pairs, TrainSet) and len(pairs.clean) == 4 and pairs.noisy is not None
