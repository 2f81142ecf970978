"""ZipVoice: the original's answers on tiny random weights
(``benchmarks/peers/zipvoice.py --write``), its files, and the ordinary commands on them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_tts import moved, speech
from torch import Tensor

from mfdistill.audio.speech_mel import SpeechMelConfig, speech_log_mel
from mfdistill.cli import main
from mfdistill.distill.opening import ready
from mfdistill.distill.speech import Said
from mfdistill.distill.synthesis import speak
from mfdistill.errors import UserError
from mfdistill.flow import solve
from mfdistill.students import Student, load_student, sample
from mfdistill.systems.table import recognise
from mfdistill.systems.zipvoice import export_zipvoice, zipvoice_times
from mfdistill.teachers import load_teacher
from mfdistill.teachers.imported import import_teacher

GOLDEN = Path(__file__).parent / "data" / "zipvoice.safetensors"
QUICK = ["--steps", "2", "--batch-size", "2", "--valid-every", "2", "--valid-files", "1"]


def tensors(prefix: str) -> dict[str, Tensor]:
    found = load_file(GOLDEN)
    return {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}


def model_dir(root: Path, which: str, mels: int | None = None) -> Path:
    """A folder as the original's ``--model-dir``."""
    root.mkdir(parents=True)
    torch.save({"model": tensors(f"{which}.")}, root / "model.pt")
    with safe_open(GOLDEN, "pt") as file:
        sizes = json.loads(file.metadata()["sizes"])
    (root / "model.json").write_text(json.dumps({"model": sizes}))
    symbols = "".join(f"{'_' if i == 3 else chr(97 + i)}\t{i}\n" for i in range(12))
    (root / "tokens.txt").write_text(symbols)
    return root


def inputs() -> tuple[Tensor, dict[str, Tensor]]:
    return load_file(GOLDEN)["z"], tensors("cond.")


def off(ours: Tensor, name: str) -> float:
    keep, theirs = inputs()[1]["mask"][..., None], load_file(GOLDEN)[f"answer.{name}"]
    return float(((ours - theirs) * keep).norm() / (theirs * keep).norm())


def test_the_teacher_is_the_original(tmp_path: Path) -> None:
    teacher, (z, cond) = load_teacher(model_dir(tmp_path / "t", "teacher")), inputs()
    assert teacher.guidance_strength == 1.0 and teacher.network.config.pad_id == 3
    # twice the strength and the prompt kept up to t = 0.5, neither after it
    for t in (0.25, 0.5, 0.75):
        assert off(teacher.velocity(z, torch.tensor(t), cond), f"guided_{t}") < 1e-5
    both = teacher.velocity(z, torch.tensor([0.25, 0.75]), cond)
    for row, t in enumerate((0.25, 0.75)):
        alone = teacher.velocity(z, torch.tensor(t), cond)
        assert torch.allclose(both[row], alone[row], atol=1e-5)
    ours = solve(lambda x, t: teacher.velocity(x, t, cond), z, zipvoice_times(4), "euler")
    assert off(ours, "sampler_4") < 1e-5
    teacher.guidance_strength = 0.0
    assert off(teacher.velocity(z, torch.tensor(0.25), cond), "velocity") < 1e-5


def test_zipvoice_distill_is_a_student_that_is_told_its_guidance(tmp_path: Path) -> None:
    place, (z, cond) = model_dir(tmp_path / "d", "distill"), inputs()
    student = load_student(place, kind="zipvoice")
    assert student.guidance_input == 3.0 and student.schedule == pytest.approx(zipvoice_times(8))
    told = {**cond, "guidance": torch.full((2,), 3.0)}
    assert off(sample(student, z, told), "distill_8") < 1e-5
    t, r = torch.tensor(0.2), torch.tensor(0.9)
    assert torch.equal(student(z, t, r, told), student(z, t, t, told))
    weaker = {**cond, "guidance": torch.full((2,), 1.0)}
    assert not torch.allclose(student(z, t, r, told), student(z, t, r, weaker), atol=1e-3)
    again = load_student(export_zipvoice(student, tmp_path / "again.pt"), config=sizes_of(place))
    assert torch.equal(again(z, t, r, told), student(z, t, r, told))
    with pytest.raises(UserError, match="is a student; load it with load_student"):
        load_teacher(place)


def sizes_of(place: Path) -> dict[str, Any]:
    return {**json.loads((place / "model.json").read_text())["model"], "pad_id": 3}


def test_a_student_begins_as_its_teacher_and_its_file_comes_back(tmp_path: Path) -> None:
    place, (z, cond) = model_dir(tmp_path / "t", "teacher"), inputs()
    teacher = load_teacher(place, guidance_strength=0.0)
    student = Student.from_teacher(teacher, 2).eval()
    t, r = torch.tensor(0.25), torch.tensor(0.75)
    assert torch.equal(student(z, t, r, cond), teacher.velocity(z, t, cond))
    trained = {name.split(".")[1] for name, _ in student.trained()}
    assert trained == {"fm_decoder", "time_embed"}  # the text's encoder is frozen
    moved(student)
    file = export_zipvoice(student, tmp_path / "two.safetensors")
    assert "fm_decoder.time_embed_mixer.weight" in load_file(file)
    again = load_student(file, kind="zipvoice", config=sizes_of(place))
    assert torch.equal(again(z, t, r, cond), student(z, t, r, cond))


def test_one_step_is_a_plain_file_of_the_original(tmp_path: Path) -> None:
    """The embedding of [0, 1] is folded in: strictly the teacher's names, and its velocity at 0 is
    the student's one step.
    """
    place, (z, cond) = model_dir(tmp_path / "t", "teacher"), inputs()
    teacher = load_teacher(place)
    student = moved(Student.from_teacher(teacher, 1))
    file = export_zipvoice(student, tmp_path / "one.pt")
    made = torch.load(file, weights_only=True)["model"]
    assert set(made) == set(tensors("teacher."))
    plain = load_teacher(file, config=sizes_of(place), guidance_strength=0.0)
    step = plain.velocity(z, torch.tensor(0.0), cond)
    assert torch.allclose(step, student(z, torch.tensor(0.0), torch.tensor(1.0), cond), atol=1e-5)
    assert not torch.allclose(step, teacher.velocity(z, torch.tensor(0.0), cond), atol=1e-2)


def test_text_is_laid_evenly_over_the_valid_frames(tmp_path: Path) -> None:
    network = load_teacher(model_dir(tmp_path / "t", "teacher")).network
    text, valid = torch.tensor([[1, 2, 4], [5, -1, -1]]), torch.ones(2, 11, dtype=torch.bool)
    valid[1, 7:] = False
    laid = network.spread_text(text, 11, valid)
    # 11 // 3 frames for each symbol, the symbol after the last for the rest
    assert [torch.equal(laid[0, i], laid[0, i + 1]) for i in range(10)] == [
        i not in (2, 5, 8) for i in range(10)
    ]
    assert torch.equal(laid[1, 0], laid[1, 6]) and not torch.equal(laid[1, 6], laid[1, 7])
    alone = network.spread_text(text[:1], 11)
    assert torch.allclose(alone[0], laid[0], atol=1e-6)
    crowded = network.spread_text(text[:1], 2)  # more symbols than frames
    assert torch.equal(crowded[0, 0], crowded[0, 1])


def test_frames_are_rounded_and_the_floor_is_the_originals() -> None:
    mel = SpeechMelConfig(scale="htk", floor=1e-7, rounded=True)
    for samples in (2560, 2560 + 127, 2560 + 128, 2560 + 255):
        frames = speech_log_mel(torch.zeros(1, samples), mel)
        assert frames.shape[2] == mel.frames(samples) == 10 + (samples >= 2560 + 128)
    assert float(frames.max()) == pytest.approx(-16.118, abs=1e-3)


def data_folder(root: Path) -> Path:
    speech(root)
    for number, file in enumerate(sorted(root.glob("*.wav"))):
        made = torch.randint(0, 12, (7 + number,), generator=torch.Generator().manual_seed(number))
        save_file({"tokens": made}, file.with_suffix(".safetensors"))
    return root


def test_the_ordinary_commands_take_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place, data = model_dir(tmp_path / "t", "teacher"), data_folder(tmp_path / "data")
    assert recognise(place) == "zipvoice"
    assert main(["info", str(place)]) == 0
    shown = capsys.readouterr().out
    assert "features tokens" in shown and "strength 1" in shown and "role" in shown
    assert main(["info", str(model_dir(tmp_path / "d", "distill"))]) == 0
    assert "an input, up to 3" in capsys.readouterr().out
    run = str(tmp_path / "run")
    assert main(["teacher-import", str(place), str(tmp_path / "own")]) == 0
    assert (tmp_path / "own" / "tokens.txt").is_file()
    common = ["student-distill", "--teacher", str(tmp_path / "own"), "--data", str(data), *QUICK]
    assert main([*common, "--tts.min-s", "0.3", "--out", run]) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["task"]["name"] == "zipvoice" and config["task"]["mel_std"] == 10.0
    assert main(["export", run, str(tmp_path / "s.pt"), "--layout", "zipvoice"]) == 0
    tokens = str(data / "take3.safetensors")
    said = [
        "synthesize",
        run,
        "--prompt",
        str(data / "take3.wav"),
        "--out",
        str(tmp_path / "x.wav"),
    ]
    assert main([*said, "--text", "hello", "--prompt-tokens", tokens]) == 2
    assert "--text: not for this model" in capsys.readouterr().err
    search = ["os3-search", "--student", run, "--data", str(data), "--nfe", "2", "--limit", "1"]
    assert (
        main([*search, "--metric", "teacher-mse", "--iterations", "1", "--teacher-steps", "2"]) == 0
    )


def test_symbols_are_spoken_at_the_prompts_pace(tmp_path: Path) -> None:
    place, data = model_dir(tmp_path / "t", "teacher"), data_folder(tmp_path / "data")
    import_teacher(place, tmp_path / "own")
    # six bands are no spectrogram that Griffin-Lim inverts
    model = ready(tmp_path / "own", "cpu", None, None, "griffin-lim")
    heard: list[Tensor] = []

    def vocoder(mel: Tensor) -> Tensor:
        heard.append(mel)
        return torch.ones(1, mel.shape[2] * 256)

    model.task.vocoder = vocoder
    prompt = torch.from_numpy(soundfile.read(data / "take3.wav")[0]).float()
    tokens = [str(data / f"take{i}.safetensors") for i in (2, 3)]
    said = Said(0.01 * prompt, tokens=tokens[0], prompt_tokens=tokens[1])
    speech = speak(model, said, steps=2)
    # 103 frames of 10 symbols: 9 symbols last as long each
    assert heard[0].shape == (1, 6, 93) and len(speech.wave) == 93 * 256
    # raised to an RMS of 0.1 before, lowered after
    assert float(speech.wave.max()) == pytest.approx(float((0.01 * prompt).square().mean().sqrt()) * 10, rel=1e-4)  # fmt: skip
    save_file({"tokens": torch.tensor([3, 12])}, tmp_path / "no.safetensors")
    with pytest.raises(UserError, match="symbol 12 is not in the table of 12"):
        speak(model, Said(prompt, tokens=str(tmp_path / "no.safetensors"), prompt_tokens=tokens[1]))


def test_another_file_is_told(tmp_path: Path) -> None:
    place = model_dir(tmp_path / "t", "teacher")
    (place / "model.json").write_text("{}")
    with pytest.raises(UserError, match="no configuration of ZipVoice"):
        load_teacher(place)
    (place / "model.json").unlink()
    with pytest.raises(UserError, match="do not fit kind 'zipvoice'"):
        load_teacher(place)
    student = Student.from_teacher(load_teacher(model_dir(tmp_path / "u", "teacher")), 1)
    with pytest.raises(UserError, match="ZipVoice reads"):
        export_zipvoice(student, tmp_path / "x.bin")
    with pytest.raises(UserError, match="leave it out"):
        export_zipvoice(student, tmp_path / "x.pt", "base")
