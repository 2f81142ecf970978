"""Parquet in VoiceBank-DEMAND's schema (``clean`` and ``noisy`` structs of bytes and path), read
whole and as a stream.
"""

import io
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mfdistill.data import DataConfig, TrainSet, open_eval, open_train
from mfdistill.data.batches import batches
from mfdistill.data.streaming import StreamTrainSet
from mfdistill.errors import UserError

RATE = 8000
FILES, ROWS = 4, 12


def flac(wave: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, RATE, format="FLAC")
    return buffer.getvalue()


def write_parquet(path: Path, first: int, count: int, noisy: bool = True, hub: bool = True) -> None:
    """Row k's clean recording is a constant of ``(k + 1) / 1024``, its noisy one the negative of
    that.
    """
    import pyarrow as pa
    from pyarrow import parquet

    audio = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns: dict[str, list] = {
        "id": [f"p{226 + k % 2}_{k:03d}" for k in range(first, first + count)]
    }
    for name, sign in (("clean", 1), ("noisy", -1))[: 2 if noisy else 1]:
        waves = [np.full(RATE // 2, sign * (k + 1) / 1024) for k in range(first, first + count)]
        columns[name] = [
            {"bytes": flac(wave), "path": f"{id_}.wav"}
            for wave, id_ in zip(waves, columns["id"], strict=True)
        ]
    schema = pa.schema([(name, pa.string() if name == "id" else audio) for name in columns])
    if hub:  # as the hub's own converter writes it
        features = {
            name: {"dtype": "string", "_type": "Value"} if name == "id" else {"_type": "Audio"}
            for name in columns
        }
        schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pydict(columns, schema=schema), path)


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    root = tmp_path / "table"
    for k in range(FILES):
        write_parquet(root / "data" / f"train-{k:05d}-of-{FILES:05d}.parquet", k * ROWS, ROWS)
    write_parquet(root / "data" / "test-00000-of-00001.parquet", 500, 5)
    return root


def rows_of(batch: dict[str, torch.Tensor]) -> list[int]:
    return [round(float(wave.max()) * 1024) - 1 for wave in batch["clean"]]


def config_of(table: Path, **changes: object) -> DataConfig:
    return DataConfig(
        str(table), **{"crop_s": 0.25, "gain_db": (0.0, 0.0), "shuffle_buffer": 4, **changes}
    )  # type: ignore[arg-type]


def test_map_style(table: Path) -> None:
    data = open_train(config_of(table), True, RATE)
    valid, test = (open_eval(config_of(table), split, True, RATE) for split in ("valid", "test"))
    assert (
        isinstance(data, TrainSet)
        and len(test) == 5
        and len(valid) == 2
        and len(data.clean) == FILES * ROWS - 2
    )
    assert all(torch.equal(data[i]["clean"], -data[i]["degraded"]) for i in range(10))
    assert test[0]["name"].startswith("p22") and float(test[0]["clean"][0]) * 1024 > 500
    held = {round(float(item["clean"][0]) * 1024) - 1 for item in valid}
    assert not held & set(rows_of(next(batches(data, 2 * len(data))))) and test[0][
        "clean"
    ].shape == (RATE // 2,)


def test_single_file_without_hub_metadata(table: Path) -> None:
    write_parquet(table / "one.parquet", 0, 20, noisy=False, hub=False)
    data = open_train(config_of(table / "one.parquet", clean_column="clean"), False, RATE)
    assert isinstance(data, TrainSet) and len(data.clean) == 18
    with pytest.raises(UserError, match="folder of noises"):
        open_train(config_of(table / "one.parquet"), True, RATE)


def test_errors(table: Path) -> None:
    for streaming in (False, True):
        with pytest.raises(UserError, match="no column 'speech', only id, clean, noisy"):
            open_train(config_of(table, clean_column="speech", streaming=streaming), True, RATE)
        with pytest.raises(UserError, match="no split 'tset'|cannot be read"):
            open_eval(
                config_of(table, train_split="all", test_split="tset", streaming=streaming),
                "test",
                True,
                RATE,
            )
    with pytest.raises(UserError, match="no such file"):
        open_train(DataConfig(str(table / "none.parquet")), True, RATE)


def stream(
    table: Path, world: int = 1, rank: int = 0, start: int = 0, workers: int = 0, seed: int = 0
) -> Iterator[dict]:
    return batches(
        open_train(config_of(table, streaming=True, seed=seed), True, RATE),
        8,
        rank,
        world,
        start,
        num_workers=workers,
    )


def test_stream_is_the_same_for_any_split_and_resumes(table: Path) -> None:
    data = open_train(config_of(table, streaming=True), True, RATE)
    assert isinstance(data, StreamTrainSet) and data.lanes == 4
    whole = list(islice(stream(table), 9))
    again = list(islice(stream(table, workers=2), 9))
    assert all(torch.equal(a["degraded"], b["degraded"]) for a, b in zip(whole, again, strict=True))
    for world in (2, 4, 8):
        ranks = [stream(table, world, rank, start=2) for rank in range(world)]
        for batch in whole[2:5]:
            parts = [next(rank) for rank in ranks]
            indices = torch.cat([part["index"] for part in parts])
            assert torch.equal(indices.sort().values, batch["index"])
            assert torch.equal(
                torch.cat([part["degraded"] for part in parts])[indices.argsort()],
                batch["degraded"],
            )
    assert all(torch.equal(batch["clean"], -batch["degraded"]) for batch in whole)
    assert not torch.equal(next(stream(table, seed=3))["clean"], whole[0]["clean"])
    assert torch.equal(next(iter(data))["clean"], whole[0]["clean"][0])


def test_stream_epochs_hold_everything_but_the_held_out(table: Path) -> None:
    valid = open_eval(config_of(table, streaming=True), "valid", True, RATE)
    held = {round(float(item["clean"][0]) * 1024) - 1 for item in valid}
    rows = [row for batch in islice(stream(table), 30) for row in rows_of(batch)]
    assert 1 <= len(held) <= 8 and not held & set(rows)
    assert set(rows) | held == set(range(FILES * ROWS))
    assert (
        rows[:16] != sorted(rows[:16])
        and len(open_eval(config_of(table, streaming=True), "test", True, RATE)) == 5
    )


def test_stream_reads_only_its_own_files(table: Path) -> None:
    rows = [rows_of(next(stream(table, world=4, rank=rank))) for rank in range(4)]
    assert [len({row // ROWS for row in part}) for part in rows] == [1] * 4


def test_bad_rows_of_a_stream_are_left_out_and_the_others_stay(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mfdistill.data import streaming

    def samples(world: int = 1, rank: int = 0, start: int = 0, **changes: object) -> list[dict]:
        config = config_of(table, streaming=True, on_bad_file="skip", bad_share=0.1, **changes)
        data = open_train(config, True, RATE)
        parts = batches(data, 8, rank, world, start, num_workers=0)
        return list(islice(parts, 6 - start))

    whole = [row for batch in islice(stream(table), 6) for row in rows_of(batch)]
    decode, bad = streaming.decode, {whole[4], whole[17], whole[18]}

    def damaged(cell: dict, label: str, rate: int) -> np.ndarray:
        wave = decode(cell, label, rate)
        if round(abs(float(wave.max() or wave.min())) * 1024) - 1 in bad:
            raise UserError(f"{label}: damaged; replace it")
        return wave

    monkeypatch.setattr(streaming, "decode", damaged)
    kept = [row for batch in samples() for row in rows_of(batch)]
    assert [a for a, b in zip(kept, whole, strict=True) if b not in bad] == [
        row for row in whole if row not in bad
    ]
    assert not bad & set(kept)
    # the same for several processes, and where a run is resumed
    again = []
    for parts in zip(samples(2, 0, 3), samples(2, 1, 3), strict=True):
        order = torch.cat([part["index"] for part in parts]).argsort().tolist()
        rows = [row for part in parts for row in rows_of(part)]
        again += [rows[place] for place in order]
    assert again == kept[24:]
    with pytest.raises(UserError, match=r"on-bad-file skip goes on"):
        list(islice(stream(table), 6))
    bad |= set(range(20))
    with pytest.raises(UserError, match=r"of .* recordings are unusable, more than --bad-share"):
        samples()


def test_a_damaged_stream_is_one_line(table: Path) -> None:
    file = table / "data" / "train-00001-of-00004.parquet"
    data = bytearray(file.read_bytes())
    data[200 : len(data) - 2000] = bytes(len(data) - 2200)
    file.write_bytes(data)
    with pytest.raises(UserError, match="cannot be read"):
        list(islice(stream(table), 12))
