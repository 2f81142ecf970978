"""student-distill from F5-TTS, CosyVoice and Matcha-TTS checkpoints, end to end on tiny ones;
batches, masks, guidance, data-free.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from safetensors.torch import load_file
from tiny_tts import (
    COSY,
    F5,
    MATCHA,
    SYMBOLS,
    cosyvoice_file,
    f5_file,
    matcha_file,
    sizes_file,
    speech,
)

from mfdistill.cli import main
from mfdistill.data.config import DataConfig
from mfdistill.data.open import SpokenSet
from mfdistill.data.transcripts import Vocabulary, f5_symbols, read_utterances
from mfdistill.data.tts import TTSSet
from mfdistill.data.tts_config import TTSOptions
from mfdistill.distill.objectives import IntegralConfig, IntegralObjective
from mfdistill.errors import UserError
from mfdistill.flow import IntervalConfig
from mfdistill.search import StudentScorer
from mfdistill.students import Student, load_student, sample
from mfdistill.systems.chatterbox import export_chatterbox
from mfdistill.systems.cosyvoice_front import has_front, load_front
from mfdistill.systems.table import mel_task
from mfdistill.tasks.base import Draws
from mfdistill.tasks.foreign import ForeignTask
from mfdistill.teachers import load_teacher

QUICK = [
    "--steps",
    "2",
    "--batch-size",
    "3",
    "--warmup",
    "0",
    "--log-every",
    "1",
    "--valid-files",
    "1",
    "--num-workers",
    "0",
]


def options(**changes: Any) -> TTSOptions:
    return TTSOptions(min_s=0.1, **changes)


def f5_set(root: Path, **changes: Any) -> TTSSet:
    return TTSSet(str(root), options(**changes), f5_task())


def f5_task() -> ForeignTask:
    task = mel_task("f5", 8)
    task.vocabulary = Vocabulary(tuple(SYMBOLS), "vocab.txt")
    return task


def lines(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


def test_bad_recordings_are_left_out_of_their_batches(tmp_path: Path) -> None:
    root = speech(tmp_path / "data")
    files = sorted(root.rglob("*.wav"))

    def made(data: DataConfig | None) -> TTSSet:
        return TTSSet(str(root), options(), f5_task(), 0, "train", data)

    skip = DataConfig(on_bad_file="skip", bad_share=0.5)
    whole = made(skip)
    before = [whole.group(number, 2) for number in range(8)]
    assert whole.bad is not None and whole.bad.summary() is None
    victim = next(i for i, row in enumerate(whole.rows) if row.audio in files)
    file = whole.rows[victim].audio
    assert file is not None
    wave, rate = soundfile.read(file)
    soundfile.write(file, 0 * wave, rate)  # its header is whole: a silent one is found when drawn
    stopped = made(DataConfig())
    with pytest.raises(UserError, match=r"silent.*--on-bad-file skip goes on without it"):
        for number in range(8):
            stopped.group(number, 2)
    after = made(skip)
    lost = 0
    for number, old in enumerate(before):
        members = after._members(number, 2).tolist()
        if members == [victim]:  # the next group takes its place
            assert len(after.group(number, 2)["index"])
            lost += 1
            continue
        new, keep = (
            after.group(number, 2),
            [place for place, i in enumerate(members) if i != victim],
        )
        lost += len(keep) < len(members)
        assert torch.equal(new["index"], old["index"][keep])
        assert torch.equal(new["frames"], old["frames"][keep])
        size = new["clean"].shape[1]
        assert torch.equal(new["clean"], old["clean"][keep][:, :size])
    assert lost and after.bad is not None and "1 of" in str(after.bad.summary())
    file.write_bytes(b"RIFF")  # not even a length: noted when the set is opened
    assert made(skip).bad.found.keys() == after.bad.found.keys()  # type: ignore[union-attr]
    with pytest.raises(UserError, match=file.name):
        made(DataConfig())


@pytest.mark.parametrize("imported", [False, True])
def test_f5_checkpoint_and_folder_of_speech_to_a_student(
    tmp_path: Path, imported: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    file, sizes, data, out = (
        f5_file(tmp_path / "ckpt"),
        sizes_file(tmp_path, F5),
        speech(tmp_path / "data"),
        tmp_path / "student",
    )
    source = ["--teacher", str(file), "--sizes", str(sizes)]
    if imported:
        assert (
            main(
                [
                    "teacher-import",
                    str(file),
                    str(tmp_path / "teacher"),
                    "--kind",
                    "f5",
                    "--sizes",
                    str(sizes),
                ]
            )
            == 0
        )
        source = ["--teacher", str(tmp_path / "teacher")]
    arguments = [
        "student-distill",
        *source,
        "--data",
        str(data),
        "--preset",
        "f5",
        "--tts.min-s",
        "0.1",
        "--out",
        str(out),
        *QUICK,
    ]
    assert main(arguments) == 0
    saved = json.loads((out / "config.json").read_text())
    assert (
        saved["schedule"] == pytest.approx([0, 1 / 3, 2 / 3, 1])
        and saved["objective"]["substeps"] == 4
    )
    assert (
        saved["training"]["lr"] == 2e-5
        and saved["task"]["name"] == "f5"
        and saved["parent"]["guidance_strength"] == 2.0
    )
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    # 4 midpoint steps of two evaluations of two branches each
    assert [row["teacher_nfe"] for row in rows if row["kind"] == "train"] == [16, 16]
    assert {"mel_error_1", "mel_error_2", "teacher_error_1", "loss"} <= set(
        next(row for row in rows if row["kind"] == "valid")
    )
    student = load_student(out)
    cond = {"cond": torch.zeros(1, 20, 8), "text": torch.tensor([[1, 2, 3]])}
    assert sample(student, torch.randn(1, 20, 8), cond).shape == (1, 20, 8)
    assert main(["info", str(out)]) == 0
    shown = capsys.readouterr().out
    assert (
        "f5, 8 Mel bands at 24000 Hz" in shown
        and "strength 2" in shown
        and "--layout f5" in " ".join(shown.split())
    )
    assert main(["export", str(out), str(tmp_path / "student.safetensors"), "--layout", "f5"]) == 0
    with torch.no_grad():
        exported = load_student(tmp_path / "student.safetensors", config=F5)
        z, times = torch.randn(1, 9, 8), (torch.tensor([0.25]), torch.tensor([0.5]))
        words = {"cond": torch.zeros(1, 9, 8), "text": torch.tensor([[1, 2, 3]])}
        torch.testing.assert_close(exported(z, *times, words), student(z, *times, words))
    capsys.readouterr()
    judged = tmp_path / "judged"
    evaluate = ["evaluate", "--student", str(out), "--metrics", "lsd", "--audio", "1"]
    evaluate += ["--student-nfe", "1", "--teacher-nfe", "2", "--out", str(judged)]
    assert main(evaluate) == 0
    table = json.loads((judged / "evaluation.json").read_text())
    names = [(row["model"], row["nfe"], row["schedule"]) for row in table]
    assert names == [("unprocessed", 0, ""), ("teacher", 2, "uniform"), ("student", 1, "uniform")]
    # the recording's own Mel spectrogram is nearer than what a random network makes
    assert table[0]["lsd"] < min(table[1]["lsd"], table[2]["lsd"])
    assert len(list((judged / "audio").glob("*/student-1.wav"))) == 1
    assert main(
        ["restore", str(file), str(tmp_path / "data"), str(tmp_path / "restored")]
    ) == 2 and "text-to-speech" in lines(capsys)
    assert (out / "vocab.txt").read_text().split("\n")[:-1] == SYMBOLS
    search = [
        "os3-search",
        "--student",
        str(out),
        "--nfe",
        "3",
        "--iterations",
        "1",
        "--teacher-steps",
        "2",
    ]
    assert (
        main(
            [
                *search,
                "--metric",
                "lsd",
                "--starts",
                "sway",
                "--vocoder",
                "griffin-lim",
                "--out",
                str(tmp_path / "heard"),
            ]
        )
        == 0
    )
    heard = json.loads((tmp_path / "heard/o3s.json").read_text())
    assert (
        heard["column"] == "lsd"
        and heard["direction"] == -1
        and heard["score"] >= heard["starts"][0]["from_score"]
    )
    assert main([*search, "--metric", "teacher-mse"]) == 0
    placed = json.loads((out / "o3s.json").read_text())
    assert (
        placed["score"] >= max(start["from_score"] for start in placed["starts"])
        and placed["column"] == "teacher-mse"
    )
    assert load_student(out).schedule == placed["schedule"] and len(placed["schedule"]) == 4
    again = tmp_path / "again"
    assert (
        main(
            [
                "student-distill",
                "--config",
                str(out / "config.json"),
                "--out",
                str(again),
                "--steps",
                "1",
            ]
        )
        == 0
    )
    repeated = json.loads((again / "config.json").read_text())
    for key in ("schedule", "parent", "objective", "valid", "guidance", "checkpoint_activations"):
        assert repeated[key] == saved[key]
    teacher = load_teacher(file, config=F5, guidance_strength=0)
    moved = [
        not torch.equal(a, b)
        for a, b in zip(
            student.parameters(), Student.from_teacher(teacher).parameters(), strict=True
        )
    ]
    assert any(moved)


def test_cosyvoice_tokens_to_a_one_step_student(tmp_path: Path) -> None:
    file, data, out = (
        cosyvoice_file(tmp_path / "ckpt"),
        speech(tmp_path / "data", features="tokens"),
        tmp_path / "student",
    )
    teacher = tmp_path / "teacher"
    assert (
        main(
            ["teacher-import", str(file), str(teacher), "--sizes", str(sizes_file(tmp_path, COSY))]
        )
        == 0
    )
    arguments = [
        "student-distill",
        "--teacher",
        str(teacher),
        "--data",
        str(data),
        "--preset",
        "cosyvoice2-paper",
        "--tts.min-s",
        "0.1",
    ]
    assert main([*arguments, "--out", str(out), *QUICK]) == 0
    saved = json.loads((out / "config.json").read_text())
    assert saved["schedule"] == [0.0, 1.0] and (
        saved["objective"]["substeps"],
        saved["objective"]["solver"],
    ) == (16, "euler")
    front, original = load_file(out / "front.safetensors"), load_front(file).state_dict()
    # frozen
    assert set(front) == set(original) and all(
        torch.equal(front[name], value) for name, value in original.items()
    )
    student = load_student(out)
    assert sample(student, torch.randn(1, 8, 12), {"mu": torch.randn(1, 8, 12), "spks": torch.randn(1, 8), "cond": torch.zeros(1, 8, 12)},
                  1).shape == (1, 8, 12)  # fmt: skip
    assert (
        main(
            [
                "os3-search",
                "--student",
                str(out),
                "--metric",
                "teacher-mse",
                "--iterations",
                "1",
                "--out",
                str(tmp_path / "o3s"),
            ]
        )
        == 0
    )
    assert (tmp_path / "o3s" / "o3s.json").is_file() and load_student(out).schedule == [0.0, 1.0]
    judged = ["evaluate", "--student", str(out), "--metrics", "lsd", "--audio", "0"]
    judged += ["--student-nfe", "1", "--teacher-nfe", "1", "--out", str(tmp_path / "judged")]
    assert main([*judged, "--vocoder", "griffin-lim"]) == 0
    rows = json.loads((tmp_path / "judged/evaluation.json").read_text())
    assert [row["model"] for row in rows] == ["unprocessed", "teacher", "student"]
    assert rows[0]["lsd"] < rows[2]["lsd"]
    again = tmp_path / "again"
    assert (
        main(
            [
                "student-distill",
                "--config",
                str(out / "config.json"),
                "--out",
                str(again),
                "--steps",
                "1",
            ]
        )
        == 0
    )
    assert json.loads((again / "config.json").read_text())["tts"] == saved["tts"]


def test_matcha_features_to_a_student(tmp_path: Path) -> None:
    file, data = matcha_file(tmp_path / "ckpt"), speech(tmp_path / "data", 22050, features="mu")
    sizes = sizes_file(tmp_path, {**MATCHA, "temperature": 0.5})
    arguments = [
        "student-distill",
        "--teacher",
        str(file),
        "--sizes",
        str(sizes),
        "--data",
        str(data),
        "--lr",
        "1e-4",
    ]
    arguments += ["--tts.min-s", "0.1", "--tts.mel-mean", "-5.5", "--tts.mel-std", "2"]
    assert main([*arguments, "--out", str(tmp_path / "student"), *QUICK]) == 0
    assert json.loads((tmp_path / "student/config.json").read_text())["task"]["mel_std"] == 2
    task = load_student(tmp_path / "student").task
    cond, eps = {"mask": torch.ones(2, 1, 5)}, torch.randn(2, 8, 5)
    drawn = task.path.prior(cond, eps)
    assert torch.equal(drawn, load_teacher(file, config=json.loads(sizes.read_text())).task.path.prior(cond, eps))  # fmt: skip
    z_0, _ = task.path.end_points(eps, cond, eps)
    torch.testing.assert_close(drawn, 0.5 * z_0)
    assert (
        main([*arguments, "--guidance.strength", "1", "--out", str(tmp_path / "no"), *QUICK]) == 2
    )


def test_data_free_reads_no_audio_and_no_prompt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, sizes, data = (
        f5_file(tmp_path / "ckpt"),
        sizes_file(tmp_path, F5),
        speech(tmp_path / "data"),
    )
    for wave in data.glob("*.wav"):
        wave.unlink()
    arguments = [
        "student-distill",
        "--teacher",
        str(file),
        "--sizes",
        str(sizes),
        "--data",
        str(data),
        "--preset",
        "f5",
    ]
    arguments += ["--tts.min-s", "0"]
    assert main([*arguments, "--out", str(tmp_path / "no"), *QUICK]) == 2
    assert main([*arguments, "--tts.data-free", "--out", str(tmp_path / "student"), *QUICK]) == 0
    assert " updates/s  " in (shown := lines(capsys)) and " s/s" not in shown
    assert (
        json.loads((tmp_path / "student/config.json").read_text())["objective"]["state"]
        == "rollout"
    )
    raw = f5_set(data, data_free=True).group(0, 3)
    batch = f5_task().batch(raw, "cpu")
    assert batch["cond"]["cond"].abs().max() == 0 and batch["z_1"].abs().max() == 0
    assert torch.equal(batch["loss_mask"][..., 0].bool(), batch["cond"]["mask"])


def test_a_span_is_generated_and_the_rest_is_the_prompt(tmp_path: Path) -> None:
    dataset = f5_set(speech(tmp_path / "data"))
    number = next(i for i in range(9) if len(dataset.group(i, 2)["index"]) == 2)
    raw = dataset.group(number, 2)
    batch = dataset.task.batch(raw, "cpu")
    x, cond, span = batch["z_1"], batch["cond"]["cond"], batch["loss_mask"]
    assert x.shape == cond.shape and span.shape == (*x.shape[:2], 1)
    assert (
        torch.equal(cond + x * span, x) and (cond * span).abs().max() == 0 and cond.abs().max() > 0
    )
    shares = span[..., 0].sum(1) / raw["frames"]
    assert ((shares > 0.65) & (shares <= 1)).all() and (x[~batch["cond"]["mask"]] == 0).all()
    assert (batch["cond"]["text"] >= -1).all() and batch["cond"]["text"].max() < len(SYMBOLS)
    again = dataset.task.batch(dataset.group(number, 2), "cpu")
    assert torch.equal(again["loss_mask"], span)
    alone = dataset.group(0, 1)
    assert "mask" not in dataset.task.batch(alone, "cpu")["cond"]


def test_batches_hold_similar_lengths_within_the_budget_and_every_utterance_once_an_epoch(
    tmp_path: Path,
) -> None:
    dataset = f5_set(
        speech(tmp_path / "data", seconds=(0.4, 0.5, 0.5, 0.9, 1.0, 1.1, 1.2)), batch_frames=230
    )
    groups = len(dataset._epoch(0, 4))
    seen = []
    for number in range(groups):
        raw = dataset.group(number, 4)
        assert int(raw["frames"].max()) * len(raw["frames"]) <= 230
        seen += raw["frames"].tolist()
    assert sorted(seen) == sorted(dataset.lengths.tolist())
    one = dataset.micro_batches(4, num_workers=0)
    raws = [next(one) for _ in range(4)]
    halves = [dataset.micro_batches(8, rank, 2, num_workers=1) for rank in (0, 1)]
    shared = [next(halves[number % 2]) for number in range(4)]
    assert all(
        torch.equal(a["index"], b["index"]) and torch.equal(a["clean"], b["clean"])
        for a, b in zip(raws, shared, strict=True)
    )
    later = next(dataset.micro_batches(4, start_step=3, num_workers=0))
    assert torch.equal(later["index"], raws[3]["index"])


def test_the_loss_sees_counted_frames_only(tmp_path: Path) -> None:
    """A student that is wrong outside of the span and on padding only has no loss, in either
    layout.
    """
    from mfdistill.distill.objectives.base import reduce, squared_error

    for first in (True, False):
        mask = torch.zeros(2, 6, 1) if first else torch.zeros(2, 1, 6)
        shape = (2, 6, 3) if first else (2, 3, 6)
        mask[0].flatten()[1:4] = 1
        mask[1].flatten()[2:3] = 1
        a = torch.randn(shape)
        assert squared_error(a, a + (1 - mask) * 7, mask).abs().max() == 0
        error = squared_error(a, a + mask * torch.tensor([1.0, 3.0]).reshape(2, 1, 1), mask)
        assert torch.allclose(error, torch.tensor([1.0, 9.0]), atol=1e-4)
        assert float(reduce(error, {"loss_mask": mask})) == pytest.approx(
            (3 * 1 + 1 * 9) / 4, rel=1e-4
        )


def test_cosyvoice_batches_share_one_streaming_flag_and_prompts_are_prefixes(
    tmp_path: Path,
) -> None:
    dataset = TTSSet(
        str(speech(tmp_path / "data", features="tokens")),
        options(),
        mel_task("cosyvoice2", 8),
    )
    front = load_front(cosyvoice_file(tmp_path / "ckpt"))
    dataset.task.front, dataset.task.draws = front, Draws(0.5)
    flags, prompts = set(), []
    for number in range(8):
        raw = dataset.group(number, 2)
        batch = dataset.task.batch(raw, "cpu")
        cond, n = batch["cond"], int(raw["frames"].max())
        assert cond["mu"].shape == batch["z_1"].shape == (len(raw["index"]), 8, n) and n % 2 == 0
        assert cond["streaming"].all() == cond["streaming"].any()
        flags.add(bool(cond["streaming"].any()))
        for row, length in enumerate(raw["prompt"].tolist()):
            assert torch.equal(cond["cond"][row, :, :length], batch["z_1"][row, :, :length])
            assert cond["cond"][row, :, length:].abs().max() == 0
            prompts.append(length)
        assert torch.equal(batch["loss_mask"], cond["mask"])
    assert flags == {True, False} and 0 in prompts and max(prompts) > 0
    dataset.task.front = None
    with pytest.raises(UserError, match="no front end"):
        dataset.task.batch(dataset.group(0, 2), "cpu")


def test_a_student_is_told_its_guidance(tmp_path: Path) -> None:
    file = f5_file(tmp_path / "ckpt")
    teacher = load_teacher(file, config=F5, guidance_strength=3.0)
    student = Student.from_teacher(teacher, guidance_input=3.0)
    dataset = f5_set(speech(tmp_path / "data"))
    dataset.task.draws = Draws(guidance=(0.0, 3.0))
    batch = dataset.task.batch(dataset.group(0, 3), "cpu")
    strength, cond = batch["cond"]["guidance"], batch["cond"]
    assert (
        strength.shape == (len(batch["index"]),)
        and (strength >= 0).all()
        and (strength <= 3).all()
        and strength.std() > 0
    )
    z, t, plain = (
        torch.randn_like(batch["z_1"]),
        torch.rand(len(strength)),
        {k: v for k, v in cond.items() if k != "guidance"},
    )
    v_cond = load_teacher(file, config=F5, guidance_strength=0).velocity(z, t, plain)
    with torch.no_grad():
        for s in (strength, torch.zeros_like(strength)):
            # exact at the start, for every strength
            assert torch.equal(student(z, t, t + 0.1, {**plain, "guidance": s}), v_cond)
        embedding: Any = student.network.get_submodule("transformer.time_embed")
        embedding.out.weight.fill_(0.1)
        assert not torch.equal(student(z, t, t, cond), v_cond)
    one_by_one = [
        load_teacher(file, config=F5, guidance_strength=float(s)).velocity(z, t, plain)[row]
        for row, s in enumerate(strength)
    ]
    assert torch.allclose(teacher.velocity(z, t, cond), torch.stack(one_by_one), atol=1e-5)
    anchors = IntegralObjective(
        student, teacher, dataset.task.path, IntegralConfig(interval=IntervalConfig(p_equal=1.0))
    )  # type: ignore
    anchors(batch)[0].backward()
    assert embedding.out.weight.grad.abs().max() > 0
    data, out = tmp_path / "data", tmp_path / "student"
    arguments = [
        "student-distill",
        "--teacher",
        str(file),
        "--sizes",
        str(sizes_file(tmp_path, F5)),
        "--data",
        str(data),
        "--preset",
        "f5",
    ]
    assert (
        main(
            [
                *arguments,
                "--tts.min-s",
                "0.1",
                "--guidance.range",
                "0",
                "3",
                "--out",
                str(out),
                *QUICK,
            ]
        )
        == 0
    )
    assert load_student(out).guidance_input == 3.0


def test_texts_of_all_layouts(tmp_path: Path) -> None:
    table = speech(tmp_path / "table")
    beside = tmp_path / "beside" / "speaker"
    shutil.copytree(table, beside)
    (beside / "transcripts.tsv").unlink()
    for row in read_utterances(table, None, None, True, True):
        (beside / f"{row.name}.txt").write_text((row.text or "") + "\n")
    lj = tmp_path / "lj"
    shutil.copytree(table, lj / "wavs")
    (lj / "wavs/transcripts.tsv").unlink()
    (lj / "metadata.csv").write_text(
        "".join(
            f"{row.name}|x|{row.text}\n" for row in read_utterances(table, None, None, True, True)
        )
    )
    expected = [row.text for row in read_utterances(table, None, None, True, True)]
    assert len(expected) == 4 and expected[0] == "Hello there, number a."
    for root in (tmp_path / "beside", lj):
        assert [row.text for row in read_utterances(root, None, None, True, True)] == expected
    assert "".join(f5_symbols("Hi,you; \u201cdon't\u201d")) == 'Hi, you, "don\'t"'


def test_errors_are_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, sizes, data = (
        f5_file(tmp_path / "ckpt"),
        sizes_file(tmp_path, F5),
        speech(tmp_path / "data"),
    )
    base = [
        "student-distill",
        "--teacher",
        str(file),
        "--sizes",
        str(sizes),
        "--tts.min-s",
        "0.1",
        "--out",
        str(tmp_path / "s"),
        *QUICK,
    ]

    def told(*arguments: str) -> str:
        capsys.readouterr()
        assert main([*base, *arguments]) == 2
        return lines(capsys)

    assert "--data" in told()
    wrong = tmp_path / "vocab.txt"
    wrong.write_text(" \na\n")
    assert f"has 2 symbols, the checkpoint's table {len(SYMBOLS)}" in told(
        "--data", str(data), "--tts.vocab", str(wrong)
    )
    assert "--tts.batch-frames" in told("--data", str(data), "--tts.batch-frames", "20")
    capsys.readouterr()
    importing = ["teacher-import", str(file), str(tmp_path / "imported"), "--sizes", str(sizes)]
    assert main([*importing, "--vocab", str(wrong)]) == 2 and not (tmp_path / "imported").exists()
    assert f"--vocab {wrong}: has 2 symbols, the checkpoint's table {len(SYMBOLS)}" in lines(capsys)
    assert (
        "take --preset f5, or leave it out"
        in (line := told("--data", str(data), "--preset", "cosyvoice2"))
        and "is of kind f5;" in line
    )
    assert "--preset meanflowse-vbdmd: is for enhancement" in told(
        "--data", str(data), "--preset", "meanflowse-vbdmd"
    )
    assert "repeats the numbers of its own run" in told(
        "--config", str(tmp_path / "config.json"), "--preset", "f5"
    )
    assert "none of 3 utterances" in told("--data", str(data), "--tts.max-s", "0.2")
    assert "f5-paper" in told("--data", str(data), "--preset", "f6")
    table = (data / "transcripts.tsv").read_text()
    (data / "transcripts.tsv").write_text(table.replace("Hello there, number a.", " "))
    assert "take0: its text is empty" in told("--data", str(data))
    (data / "transcripts.tsv").write_text(
        table.replace("Hello there, number", "\u4f60\u597d\u5417\u4f60\u597d")
    )
    assert "text" in told("--data", str(data))
    (data / "transcripts.tsv").write_text(table)
    import numpy as np
    import soundfile

    for take in data.glob("*.wav"):
        soundfile.write(take, np.zeros(24000, np.float32), 24000)
    assert "silent" in told("--data", str(data))
    (tmp_path / "other.json").write_text(json.dumps({**F5, "dim": 32}))
    capsys.readouterr()
    assert (
        main(
            [
                "student-distill",
                "--teacher",
                str(file),
                "--sizes",
                str(tmp_path / "other.json"),
                "--data",
                str(data),
            ]
        )
        == 2
    )
    assert (
        "where the network has" in (message := lines(capsys))
        and "it looks like kind f5 of dim 16" in message
    )


def test_a_schedule_is_scored_by_where_the_teacher_arrives(tmp_path: Path) -> None:
    """A student that is its teacher yet lands where the teacher's Euler steps do: the score of as
    many steps is 0.
    """
    teacher = load_teacher(f5_file(tmp_path / "ckpt"), config=F5, guidance_strength=0.0)
    dataset = f5_set(speech(tmp_path / "data"))
    items, task, student = SpokenSet(dataset), dataset.task, Student.from_teacher(teacher).eval()
    euler: dict[str, Any] = {"teacher_steps": 2, "teacher_solver": "euler"}

    def scorer_of(seed: int = 0) -> StudentScorer:
        return StudentScorer(student, task, items, "teacher-mse", seed, teacher=teacher, **euler)

    scorer = scorer_of()
    assert scorer.n == len(items) > 1
    assert (
        scorer((0.0, 0.5, 1.0)) == pytest.approx(0, abs=1e-9) and scorer((0.0, 0.25, 1.0)) < -1e-4
    )
    assert scorer.fingerprint() != scorer_of(1).fingerprint()
    with pytest.raises(UserError, match="no utterances"):
        StudentScorer(student, task, [], "teacher-mse", teacher=teacher)


def test_info_says_what_a_checkpoint_is_and_what_comes_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown(*arguments: str) -> str:
        capsys.readouterr()
        assert main(["info", *arguments]) == 0
        return " ".join(capsys.readouterr().out.split())

    f5, f5_sizes = f5_file(tmp_path / "f5"), str(sizes_file(tmp_path / "f5-sizes", F5))
    cosy, cosy_sizes = (
        cosyvoice_file(tmp_path / "cosy"),
        str(sizes_file(tmp_path / "cosy-sizes", COSY)),
    )
    matcha, matcha_sizes = (
        matcha_file(tmp_path / "matcha"),
        str(sizes_file(tmp_path / "matcha-sizes", MATCHA)),
    )
    count = sum(p.numel() for p in load_teacher(f5, config=F5).network.parameters())
    for place in (f5, f5.parent):
        text = shown(str(place), "--sizes", f5_sizes)
        for part in ("kind f5 role teacher", "f5, 8 Mel bands at 24000 Hz", "dim 16", f"parameters {count:,}", "vocab.txt, beside it",
                     "guidance strength 2,", "student-distill --teacher", "--preset f5"):  # fmt: skip
            assert part in text
    for place in (cosy, cosy.parent):
        text = shown(str(place), "--sizes", cosy_sizes)
        assert (
            "kind cosyvoice2 role teacher" in text
            and "tokens and speaker, in it" in text
            and "strength 0.7" in text
        )
    text = shown(str(matcha), "--sizes", matcha_sizes)
    assert (
        "kind matcha" in text
        and "none: trained without a null condition" in text
        and "--preset" not in text
    )
    teacher: Any = load_teacher(cosy, config=COSY)
    student = Student.from_teacher(teacher)
    export_chatterbox(student, tmp_path / "s3gen_meanflow.safetensors")
    text = shown(str(tmp_path / "s3gen_meanflow.safetensors"), "--sizes", cosy_sizes)
    assert (
        "kind chatterbox role student" in text
        and "schedule, 2 NFE 0 0.5 1" in text
        and "load_student" in text
    )
    assert (
        main(["teacher-import", str(cosy), str(tmp_path / "imported"), "--sizes", cosy_sizes]) == 0
    )
    text = shown(str(tmp_path / "imported"))
    assert (
        "kind cosyvoice2" in text
        and "tokens and speaker, in it" in text
        and "--preset cosyvoice2" in text
    )
    bare = {
        name: value
        for name, value in torch.load(cosy, weights_only=True).items()
        if name.startswith("decoder.")
    }
    torch.save(bare, tmp_path / "bare.pt")
    assert (
        main(
            [
                "teacher-import",
                str(tmp_path / "bare.pt"),
                str(tmp_path / "no-front"),
                "--sizes",
                cosy_sizes,
            ]
        )
        == 0
    )
    assert "none in it: features mu and spks" in shown(
        str(tmp_path / "no-front")
    ) and not has_front(tmp_path / "no-front")
    assert main(["info", str(f5)]) == 2 and "give its sizes in config (--sizes)" in lines(capsys)
    assert main(
        ["info", str(tmp_path / "imported"), "--sizes", cosy_sizes]
    ) == 2 and "holds its own" in lines(capsys)
