"""synthesize for F5-TTS: what the flow is given, lengths, prompts, parts of long texts, the
command, and its errors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from test_serving_tts import CFM, MIXER, Transformer
from tiny_tts import F5, SYMBOLS, f5_file, moved, sizes_file
from torch import Tensor

from mfdistill.audio.crossfade import crossfade
from mfdistill.audio.resample import torchaudio_fault
from mfdistill.checkpoint import load_config, write_json
from mfdistill.cli import main
from mfdistill.data.chunks import text_chunks
from mfdistill.distill.f5_synthesis import prompt_ending, speak_f5, text_parts
from mfdistill.distill.opening import Model, open_model, ready
from mfdistill.errors import UserError
from mfdistill.flow import f5_times, solve
from mfdistill.networks import build_network
from mfdistill.students import Student, load_student, sample, save_student
from mfdistill.students.serving import serve_f5
from mfdistill.systems.f5 import export_f5
from mfdistill.tasks.mel_prior import noise
from mfdistill.teachers import load_teacher

TIMES = [0.0, 0.25, 0.5, 1.0]
SAID, TEXT = "hello there my friend", "good day to you all"


def voice(seconds: float = 1.3, level: float = 0.02) -> np.ndarray:
    t = np.arange(round(seconds * 24000)) / 24000
    rng = np.random.default_rng(0)
    return (level * np.sin(2 * np.pi * 160 * t) + 0.1 * level * rng.standard_normal(t.size)).astype(
        np.float32
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A student's folder as student-distill leaves it."""
    student = moved(
        Student.from_teacher(load_teacher(f5_file(tmp_path / "ckpt"), config=F5), TIMES)
    )
    save_student(student, tmp_path / "student")
    (tmp_path / "student/vocab.txt").write_text("\n".join(SYMBOLS) + "\n")
    soundfile.write(tmp_path / "voice.wav", voice(), 24000)
    return tmp_path / "student"


def recorded(folder: Path, **options: Any) -> tuple[Model, list[Tensor]]:
    """A speaker whose vocoder keeps what it is given; each of its samples is the first band of the
    frame it comes from.
    """
    model, seen = ready(folder, vocoder="griffin-lim", **options), []

    def vocoder(mel: Tensor) -> Tensor:
        seen.append(mel)
        return mel[:, 0, :-1].repeat_interleave(256, 1)

    model.task.vocoder = vocoder
    return model, seen


def by_hand(
    wave: np.ndarray, said: str, text: str, speed: float = 1.0
) -> tuple[Tensor, list[int], int, int]:
    """What f5-tts's ``infer_process`` hands to its sampler: Mel (1, n, mels), symbols, frames of
    all, prompt's frames of its rule.
    """
    if fault := torchaudio_fault():
        pytest.skip(fault)
    import torchaudio

    audio = torch.from_numpy(wave)[None]
    rms = audio.square().mean().sqrt()
    audio = audio * 0.1 / rms if rms < 0.1 else audio
    front = torchaudio.transforms.MelSpectrogram(
        24000, 1024, 1024, 256, n_mels=8, power=1, center=True
    )
    mel = front(audio).clamp(min=1e-5).log().transpose(1, 2)
    frames = audio.shape[1] // 256
    total = frames + int(frames / len(said.encode()) * len(text.encode()) / speed)
    return mel, [SYMBOLS.index(character) for character in said + text], total, frames


def test_the_flow_gets_what_a_serving_f5_gets(folder: Path, tmp_path: Path) -> None:
    wave = voice()
    mel, symbols, total, frames = by_hand(wave, SAID + ".  ", TEXT)
    assert (
        prompt_ending(SAID) == SAID + ".  "
        and prompt_ending("so.") == "so.  "
        and prompt_ending("好。") == "好。"
    )
    tensors = load_file(export_f5(load_student(folder), tmp_path / "student.safetensors"))
    mixer, inner = tensors.pop(MIXER), build_network("f5", F5).transformer.eval()
    inner.load_state_dict(
        {
            name.removeprefix("ema_model.transformer."): value
            for name, value in tensors.items()
            if "." in name
        }
    )
    cfm = CFM(Transformer(inner))
    serve_f5(cfm, mixer, TIMES)
    cond = torch.nn.functional.pad(mel, (0, 0, 0, total - mel.shape[1]))
    served = cfm.sample(cond, torch.tensor([symbols]), seed=3)
    speaker, seen = recorded(folder)
    speak_f5(speaker, torch.from_numpy(wave), SAID, TEXT, seed=3)
    expected = torch.cat([mel[:, frames:], served[:, mel.shape[1] :]], 1)
    torch.testing.assert_close(seen[0].transpose(1, 2), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("speed", [1.0, 2.0])
def test_length_level_and_no_prompt_in_the_output(folder: Path, speed: float) -> None:
    wave = voice()
    mel, _, total, frames = by_hand(wave, SAID + ".  ", TEXT, speed)
    speaker, seen = recorded(folder)
    speech = speak_f5(speaker, torch.from_numpy(wave), SAID, TEXT, speed)
    assert (
        seen[0].shape == (1, 8, total - frames) and len(speech.wave) == (total - frames - 1) * 256
    )
    # the centred frame at the prompt's very end is the first, as in f5-tts
    assert mel.shape[1] == frames + 1
    torch.testing.assert_close(seen[0][0, :, 0], mel[0, -1], atol=1e-4, rtol=1e-4)
    gain = 0.1 / np.sqrt(np.mean(np.square(wave)))
    torch.testing.assert_close(speech.wave[::256] * gain, seen[0][0, 0, :-1], atol=1e-4, rtol=1e-4)
    assert speech.flow_s <= speech.whole_s


def test_a_teacher_takes_its_own_grid_and_guidance(folder: Path, tmp_path: Path) -> None:
    assert main(["teacher-import", str(tmp_path / "ckpt/model.safetensors"), str(tmp_path / "t"), "--kind", "f5", "--sizes",
                 str(sizes_file(tmp_path, F5))]) == 0  # fmt: skip
    cond = {"cond": torch.randn(1, 30, 8), "text": torch.tensor([[3, 4, 5]])}
    z_0 = noise([30], 8, seed=1)
    for given, strength in ((None, 2.0), (0.5, 0.5)):
        teacher = load_teacher(tmp_path / "t", guidance_strength=strength)

        def velocity(z: Tensor, t: Tensor, teacher: Any = teacher) -> Tensor:
            return teacher.velocity(z, t, cond)

        model = open_model(tmp_path / "t", guidance=given)
        for steps, times in ((None, f5_times(32)), (7, f5_times(7)), (TIMES, TIMES)):
            assert torch.equal(
                model.endpoint(z_0, cond, steps), solve(velocity, z_0, times, "euler")
            )
    student = open_model(folder)
    assert torch.equal(
        student.endpoint(z_0, cond, None), sample(load_student(folder), z_0, cond, TIMES)
    )
    with pytest.raises(UserError, match="leave it out"):
        open_model(folder, guidance=2.0)


def test_a_student_that_is_told_its_guidance_gets_it(folder: Path, tmp_path: Path) -> None:
    student = Student.from_teacher(
        load_teacher(tmp_path / "ckpt/model.safetensors", config=F5), 2, guidance_input=3.0
    )
    with torch.no_grad():
        for p in student.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    save_student(student.eval(), tmp_path / "told")
    write_json(
        tmp_path / "told/config.json",
        {**load_config(tmp_path / "told"), "guidance": {"range": [0.5, 3.0]}},
    )
    cond: Mapping[str, Tensor] = {"cond": torch.randn(1, 30, 8), "text": torch.tensor([[3, 4, 5]])}
    z_0 = noise([30], 8, seed=1)
    found = [
        open_model(tmp_path / "told", guidance=given).endpoint(z_0, cond, None)
        for given in (None, 2.0, 1.0)
    ]
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    assert torch.equal(found[0], sample(student, z_0, {**cond, "guidance": torch.tensor([2.0])}))
    with pytest.raises(UserError, match="from 0.5 to 3"):
        open_model(tmp_path / "told", guidance=0.1)


def test_a_long_text_is_spoken_in_parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wave, text = (
        torch.from_numpy(voice()),
        "Here is one sentence, spoken first. And this is another one.",
    )
    speaker, seen = recorded(folder)
    whole = speak_f5(speaker, wave, SAID, text, seed=5)
    assert len(seen) == 1
    monkeypatch.setattr("mfdistill.distill.f5_synthesis.LONGEST_S", 1.3 + 1.3 * 36 / 24)
    parts = text_parts(text, SAID + ".  ", 1.3)
    assert parts == ["Here is one sentence, spoken first.", "And this is another one."]
    both = speak_f5(speaker, wave, SAID, text, seed=5)
    alone = [speak_f5(speaker, wave, SAID, part, seed=5 + i).wave for i, part in enumerate(parts)]
    assert (
        torch.equal(both.wave, crossfade(alone, 3600))
        and len(both.wave) == sum(map(len, alone)) - 3600
    )
    # the space between them, and rounding
    assert abs(len(whole.wave) - sum(map(len, alone))) <= 7 * 256


def test_parts_are_short_enough_and_lose_nothing() -> None:
    text = (
        "One, two; three.  Four five six seven eight nine ten eleven twelve? "
        + "x" * 50
        + " 你好，世界。这是一个很长的句子没有标点。"
    )
    for most in (12, 20, 64, 500):
        parts = text_chunks(text, most)
        assert all(0 < len(part.encode()) <= most for part in parts)
        assert "".join("".join(parts).split()) == "".join(text.split())
    assert text_chunks(text, 500) == [" ".join(text.split())]
    assert text_chunks("a b. c d. e f.", 9) == ["a b. c d.", "e f."]
    assert text_chunks("one two three four five six", 16) == ["one two three", "four five six"]
    with pytest.raises(ValueError, match="cannot hold"):
        text_chunks("abc", 3)


def test_crossfade_of_constants_is_constant() -> None:
    ones = torch.ones(10)
    assert torch.equal(crossfade([ones], 4), ones)
    torch.testing.assert_close(crossfade([ones, ones, ones[:2]], 4), torch.ones(16))
    assert torch.equal(crossfade([ones, 2 * ones], 0), torch.cat([ones, 2 * ones]))
    torch.testing.assert_close(
        crossfade([torch.zeros(5), torch.ones(5)], 3), torch.tensor([0, 0, 0, 0.5, 1, 1, 1.0])
    )


def test_synthesize_from_files(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt, made = str(tmp_path / "voice.wav"), tmp_path / "a.wav"
    say = ["synthesize", str(folder), "--prompt", prompt, "--prompt-text", SAID]
    assert main([*say, "--text", TEXT, "--out", str(made)]) == 0
    told = capsys.readouterr().err
    assert "Griffin-Lim" in told and "RTF" in told and "(flow)" in told
    assert f"{folder}: " in told and " at 24000 Hz, " in told
    wave, rate = soundfile.read(made)
    _, _, total, frames = by_hand(voice(), SAID + ".  ", TEXT)
    assert rate == 24000 and len(wave) == (total - frames - 1) * 256 and np.abs(wave).max() > 0
    for more in (["--schedule", *map(str, TIMES)], ["--seed", "0"]):
        assert (
            main(
                [
                    *say,
                    "--text",
                    TEXT,
                    "--out",
                    str(made),
                    "--overwrite",
                    "--vocoder",
                    "griffin-lim",
                    *more,
                ]
            )
            == 0
        )
        np.testing.assert_array_equal(soundfile.read(made)[0], wave)
    for more in (["--nfe", "1"], ["--seed", "1"]):
        assert main([*say, "--text", TEXT, "--out", str(made), "--overwrite", *more]) == 0
        assert not np.array_equal(soundfile.read(made)[0], wave)
    rows = [
        ("voice.wav", SAID, TEXT, "one.wav"),
        ("voice.wav", SAID, "", "two.wav"),
        ("none.wav", SAID, TEXT, "three.wav"),
    ]
    lines = ["prompt\tprompt_text\ttext\tout", *("\t".join(row) for row in rows[::2])]
    (tmp_path / "list.tsv").write_text("\n".join(lines) + "\n")
    run = [
        "synthesize",
        str(folder),
        "--list",
        str(tmp_path / "list.tsv"),
        "--out",
        str(tmp_path / "many"),
    ]
    assert main(run) == 2 and "1 of 2 rows" in capsys.readouterr().err
    stamp = (tmp_path / "many/one.wav").stat().st_mtime_ns
    soundfile.write(tmp_path / "none.wav", voice(1.1), 24000)
    assert main(run) == 0 and "1 of 2 spoken, 1 were there already" in capsys.readouterr().err
    assert (tmp_path / "many/three.wav").is_file() and (
        tmp_path / "many/one.wav"
    ).stat().st_mtime_ns == stamp


def test_what_cannot_be_spoken_is_told(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, wave in (("silent", np.zeros(30000)), ("short", voice(0.5)), ("long", voice(16))):
        soundfile.write(tmp_path / f"{name}.wav", wave, 24000)
    prompt = str(tmp_path / "voice.wav")

    def error(*options: str, model: Path = folder, **given: str) -> str:
        fields = {
            "prompt": prompt,
            "prompt-text": SAID,
            "text": TEXT,
            "out": str(tmp_path / "x.wav"),
        } | given
        flags = [word for name, value in fields.items() if value for word in (f"--{name}", value)]
        assert main(["synthesize", str(model), *flags, *options]) == 2
        assert not (tmp_path / "x.wav").exists()
        return capsys.readouterr().err

    assert "text: empty" in error("--text", " ", text="")
    assert "--prompt-text: empty" in error(**{"prompt-text": ""})
    assert "most of its symbols" in error(text="12345 67890")
    assert "most of its symbols" in error(**{"prompt-text": "12345 67890 12345"})
    assert "1 s or more" in error(prompt=str(tmp_path / "short.wav"))
    assert "silent" in error(prompt=str(tmp_path / "silent.wav"))
    assert "15 s or less" in error(prompt=str(tmp_path / "long.wav"))
    assert "too short for 12.0 s" in error(
        prompt=_written(tmp_path / "12.wav", voice(12)), **{"prompt-text": "a"}
    )
    assert "--tokens: not for this model" in error("--tokens", "a.npy", text="")
    assert "neither 'griffin-lim' nor 'vocos'" in error(vocoder="nowhere")
    assert "exclude each other" in error("--nfe", "1", "--schedule", "0", "1")
    (folder / "vocab.txt").write_text("\n".join(SYMBOLS[:-1]) + "\n")
    assert "take the vocab.txt that belongs" in error()
    (folder / "vocab.txt").unlink()
    assert "has no vocab.txt" in error()


def _written(file: Path, wave: np.ndarray) -> str:
    soundfile.write(file, wave, 24000)
    return str(file)


def test_symbols_that_are_replaced_are_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    speaker, seen = recorded(folder)
    speak_f5(speaker, torch.from_numpy(voice()), SAID, "good day to you 7")
    assert "--text: '7' are not in the vocabulary" in capsys.readouterr().err and math.isfinite(
        float(seen[0].sum())
    )
