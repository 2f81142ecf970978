"""Vocabulary and front end go with a student from its first save: what an interrupted distillation
can be used for, what a damaged folder says, and imports that are whole or not there.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_tts import COSY, F5, SYMBOLS, cosyvoice_file, f5_file, sizes_file, speech

from mfdistill.checkpoint import load_config
from mfdistill.cli import main
from mfdistill.companions import checksums, companion, copy_companions, write_companions
from mfdistill.distill.disk import DiskNeed, disk_need, size
from mfdistill.errors import UserError
from mfdistill.students import load_student
from mfdistill.tasks.foreign import ForeignTask
from mfdistill.teachers import imported, load_teacher

QUICK = ["--batch-size", "3", "--warmup", "0", "--valid-files", "1", "--num-workers", "0"]


def error(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    capsys.readouterr()
    assert main(arguments) == 2
    return capsys.readouterr().err


def stop_at_batch(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """SIGTERM comes while batch ``number`` is made."""
    make, seen = ForeignTask.batch, []

    def batch(self: ForeignTask, *arguments: object) -> object:
        seen.append(1)
        if len(seen) == number:
            signal.raise_signal(signal.SIGTERM)
        return make(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ForeignTask, "batch", batch)


def test_an_interrupted_f5_distillation_is_heard_searched_and_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, data, out = f5_file(tmp_path / "ckpt"), speech(tmp_path / "data"), tmp_path / "student"
    command = ["student-distill", "--teacher", str(file), "--sizes", str(sizes_file(tmp_path, F5)),
               "--data", str(data), "--tts.min-s", "0.1", "--out", str(out), "--steps", "50", *QUICK]  # fmt: skip
    with monkeypatch.context() as patch:
        stop_at_batch(patch, 3)
        assert main(command) == 128 + signal.SIGTERM
    config = load_config(out)
    assert config["training"]["step"] < 50
    assert (out / "vocab.txt").read_text().split("\n")[:-1] == SYMBOLS
    assert config["companions"] == checksums({"vocab.txt": (out / "vocab.txt").read_bytes()})

    speech(tmp_path / "prompts", seconds=(1.2,))
    say = ["synthesize", str(out), "--prompt", str(tmp_path / "prompts/take0.wav"), "--text",
           "Hello you.", "--prompt-text", "Hello there, number a, it is a longer text.",
           "--vocoder", "griffin-lim"]  # fmt: skip
    # 8 Mel bands are no spectrogram that Griffin-Lim inverts well; here it only has to be reached
    assert main([*say, "--out", str(tmp_path / "said.wav")]) == 0
    search = ["os3-search", "--student", str(out), "--nfe", "2", "--iterations", "1",
              "--teacher-steps", "2", "--metric", "teacher-mse"]  # fmt: skip
    assert main(search) == 0
    assert load_config(out)["companions"] == config["companions"]  # a search keeps them
    exported = tmp_path / "student.safetensors"
    assert main(["export", str(out), str(exported), "--layout", "f5"]) == 0
    assert "ema_model.transformer.time_embed_mixer.weight" in load_file(exported)
    assert main([*command, "--steps", "50", "--resume", "--time-limit-hours", "1e-9"]) == 0

    (out / "vocab.txt").write_text("\n".join(reversed(SYMBOLS)) + "\n")
    said = error(capsys, [*say, "--out", str(tmp_path / "again.wav")])
    assert "vocab.txt: is not the one that this model was made with" in said
    (out / "vocab.txt").unlink()
    assert "config.json names it" in error(capsys, [*say, "--out", str(tmp_path / "again.wav")])


def test_an_interrupted_cosyvoice_distillation_has_its_front_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = cosyvoice_file(tmp_path / "ckpt")
    data, out = speech(tmp_path / "data", features="tokens"), tmp_path / "student"
    command = ["student-distill", "--teacher", str(file), "--sizes", str(sizes_file(tmp_path, COSY)),
               "--data", str(data), "--tts.min-s", "0.1", "--out", str(out), "--steps", "50", *QUICK]  # fmt: skip
    with monkeypatch.context() as patch:
        stop_at_batch(patch, 3)
        assert main(command) == 128 + signal.SIGTERM
    front = load_file(out / "front.safetensors")
    held = torch.load(file, weights_only=True)
    assert set(front) == {name for name in held if not name.startswith("decoder.")}
    assert all(torch.equal(front[name], held[name]) for name in front)
    tokens = {"tokens": torch.arange(30) % 20, "embedding": torch.randn(192)}
    save_file(tokens, tmp_path / "prompt.safetensors")
    speech(tmp_path / "prompts", seconds=(1.2,))
    assert main(["synthesize", str(out), "--prompt", str(tmp_path / "prompts/take0.wav"),
                 "--prompt-tokens", str(tmp_path / "prompt.safetensors"), "--tokens",
                 str(tmp_path / "prompt.safetensors"), "--vocoder", "griffin-lim", "--out",
                 str(tmp_path / "said.wav")]) == 0  # fmt: skip
    assert main(["os3-search", "--student", str(out), "--nfe", "2", "--iterations", "1",
                 "--teacher-steps", "2", "--metric", "teacher-mse"]) == 0  # fmt: skip
    assert main(["export", str(out), str(tmp_path / "flow.pt"), "--layout", "cosyvoice"]) == 0
    assert load_student(out).schedule != [0.0, 1.0]  # the search wrote its two steps


def test_companions_are_written_once_checked_and_copied(tmp_path: Path) -> None:
    files = {"a.txt": b"one\n", "b.bin": bytes(range(256))}
    write_companions(tmp_path / "run", files)
    assert companion(tmp_path / "run", "a.txt") == tmp_path / "run/a.txt"  # no config: as it is
    assert companion(tmp_path / "run", "c.txt") is None
    (tmp_path / "run/config.json").write_text(json.dumps({"companions": checksums(files)}))
    before = (tmp_path / "run/b.bin").stat().st_mtime_ns
    (tmp_path / "run/a.txt").write_bytes(b"two\n")
    with pytest.raises(UserError, match="a.txt: is not the one"):
        companion(tmp_path / "run", "a.txt")
    write_companions(tmp_path / "run", files)
    assert companion(tmp_path / "run", "a.txt") == tmp_path / "run/a.txt"
    assert (tmp_path / "run/b.bin").stat().st_mtime_ns == before
    copy_companions(tmp_path / "run", tmp_path / "run/best", checksums(files))
    assert {name: (tmp_path / "run/best" / name).read_bytes() for name in files} == files
    (tmp_path / "run/b.bin").unlink()
    with pytest.raises(UserError, match="b.bin: missing"):
        companion(tmp_path / "run", "b.bin")
    copy_companions(tmp_path / "run", tmp_path / "run/best", checksums(files))  # there already
    with pytest.raises(UserError, match="cannot be copied"):
        copy_companions(tmp_path / "run", tmp_path / "other", checksums(files))


def test_an_import_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, out = cosyvoice_file(tmp_path / "ckpt"), tmp_path / "teachers" / "cosy"

    def full_disk(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(imported, "save_folder", full_disk)
        with pytest.raises(UserError, match="No space left"):
            imported.import_teacher(file, out, config=COSY)
    assert list((tmp_path / "teachers").iterdir()) == []
    imported.import_teacher(file, out, config=COSY)
    first = load_config(out)
    assert sorted(first["companions"]) == ["front.safetensors"]
    with monkeypatch.context() as patch:
        patch.setattr(imported, "save_folder", full_disk)
        with pytest.raises(UserError, match="No space left"):
            imported.import_teacher(file, out, config=COSY, overwrite=True)
    assert load_config(out) == first and load_teacher(out)
    imported.import_teacher(file, out, config=COSY, overwrite=True)
    assert [path.name for path in (tmp_path / "teachers").iterdir()] == ["cosy"]
    for place in ("data", "run"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "precious.txt").write_text("mine")
    (tmp_path / "run/config.json").write_text(
        json.dumps({"format": "mfdistill/1", "role": "teacher"})
    )
    (tmp_path / "run/log.jsonl").write_text("")
    for place in ("data", "run"):
        with pytest.raises(UserError, match="does not remove it"):
            imported.import_teacher(file, tmp_path / place, config=COSY, overwrite=True)
        assert (tmp_path / place / "precious.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--tts.vocab", "other.txt"], "has 3 symbols, the checkpoint's table 56"),
        (["--preset", "cosyvoice2"], "--preset f5"),
        (["--causal"], "--causal"),
        (["--data", "nowhere"], "nowhere: no such folder"),
        (["--out", "data"], "already holds files"),
        (["--batch-size", "0"], "--batch-size 0"),
        (["--integral.spectral", "0.1"], "--integral.spectral"),
        (["--tts.data-free", "--objective", "meanflow"], "--objective meanflow"),
    ],
)
def test_what_is_wrong_is_told_before_the_weights_are_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: list[str],
    says: str,
) -> None:
    file, data = f5_file(tmp_path / "ckpt"), speech(tmp_path / "data")
    imported.import_teacher(file, tmp_path / "teacher", config=F5)
    (tmp_path / "other.txt").write_text("a\nb\nc\n")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "teacher/model.safetensors").write_bytes(b"not read")
    command = ["student-distill", "--teacher", "teacher", "--data", str(data), "--out", "new"]
    assert says in error(capsys, [*command, *change])
    assert not (tmp_path / "new").exists()


def test_the_disk_that_is_told_is_the_disk_that_is_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(300, 400), torch.nn.Linear(400, 300))
    network[1].requires_grad_(False)
    objective = torch.nn.ModuleDict({"model": network, "critic": torch.nn.Linear(200, 100)})
    need = disk_need(objective, network, companions=1000, best=True)
    trained, whole, critic = 300 * 400 + 400, 2 * 300 * 400 + 700, 200 * 100 + 100
    assert need.model == 4 * whole
    # raw weights, averages of what is trained in the model, two moments of all that is trained
    assert need.state == 4 * (whole + critic) + 4 * trained + 8 * (trained + critic)
    assert need.kept == 2 * (need.model + 1000) + need.state
    assert need.most == need.kept + max(need.model, need.state)
    assert "not enough" in DiskNeed(10**18, 1).told(tmp_path / "new" / "run")

    out = tmp_path / "student"
    file, data = f5_file(tmp_path / "ckpt"), speech(tmp_path / "data")
    assert main(["student-distill", "--teacher", str(file), "--sizes",
                 str(sizes_file(tmp_path, F5)), "--data", str(data), "--tts.min-s", "0.1",
                 "--out", str(out), "--steps", "1", *QUICK]) == 0  # fmt: skip
    student = load_student(out)
    wanted = disk_need(torch.nn.ModuleDict({"model": student}), student)
    state = sum(f.stat().st_size for f in (out / "training_state").glob("*.safetensors"))
    assert f"state {size(wanted.state)}" in capsys.readouterr().err
    # names and shapes, which are much of so tiny a model, come on top
    for real, counted in (
        (out.joinpath("model.safetensors").stat().st_size, wanted.model),
        (state, wanted.state),
    ):
        assert counted < real < counted + 40_000
