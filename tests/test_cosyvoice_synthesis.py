"""synthesize for CosyVoice: speech tokens, prompt and speaker from files; what the flow is given;
errors.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file
from tiny_tts import COSY, cosyvoice_file, matcha_file, moved, sizes_file
from torch import Tensor

from mfdistill.audio.speech_mel import speech_log_mel
from mfdistill.checkpoint import write_tensors
from mfdistill.cli import main
from mfdistill.data.token_files import read_embedding, read_tokens
from mfdistill.distill.cosyvoice_synthesis import aligned_prompt, speak_cosyvoice
from mfdistill.distill.opening import ready
from mfdistill.errors import UserError
from mfdistill.flow import CHANNEL_STD, noise
from mfdistill.students import Student, load_student, save_student
from mfdistill.students.token_to_mel import token_to_mel
from mfdistill.systems.cosyvoice_front import load_front
from mfdistill.teachers import load_teacher


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A student's folder as student-distill leaves it, a prompt, and files of tokens."""
    file = cosyvoice_file(tmp_path / "ckpt")
    save_student(
        moved(Student.from_teacher(load_teacher(file, config=COSY), 2)), tmp_path / "student"
    )
    write_tensors(tmp_path / "student/front.safetensors", load_front(file).state_dict())
    rng, t = np.random.default_rng(0), np.arange(30000) / 24000
    soundfile.write(
        tmp_path / "voice.wav",
        0.1 * np.sin(2 * np.pi * 170 * t) + 0.01 * rng.standard_normal(30000),
        24000,
    )
    np.save(tmp_path / "said.npy", rng.integers(0, 20, 40))
    np.save(tmp_path / "prompt.npy", rng.integers(0, 20, (1, 31)))
    np.save(tmp_path / "speaker.npy", rng.standard_normal(192).astype(np.float32))
    return tmp_path / "student"


def test_the_flow_gets_what_token_to_mel_gives_it(folder: Path, tmp_path: Path) -> None:
    model, seen = ready(folder, vocoder="griffin-lim"), []

    def vocoder(mel: Tensor) -> Tensor:
        seen.append(mel)
        return mel[:, 0, :-1].repeat_interleave(480, 1)

    wave = torch.from_numpy(soundfile.read(tmp_path / "voice.wav", dtype="float32")[0])
    tokens, given = read_tokens(tmp_path / "said.npy"), read_tokens(tmp_path / "prompt.npy")
    embedding = read_embedding(tmp_path / "speaker.npy")
    model.task.vocoder = vocoder
    speech = speak_cosyvoice(model, wave, given, tokens, embedding, seed=4)
    # 31 tokens of two frames; 62 frames are there
    mel = speech_log_mel(wave[None], model.task.config.mel).transpose(1, 2)[:, :62]
    z_0 = noise(4, torch.arange(142), "synthesis", (8,)).T[None] / CHANNEL_STD
    expected = token_to_mel(
        load_student(folder),
        load_front(folder),
        tokens[None],
        given[None],
        mel,
        embedding[None],
        2,
        z_0,
    )
    torch.testing.assert_close(seen[0], expected, atol=1e-5, rtol=1e-5)
    assert seen[0].shape == (1, 8, 80) and len(speech.wave) == 79 * 480
    speak_cosyvoice(model, wave, given, tokens, embedding, speed=2, seed=4)
    assert seen[1].shape == (1, 8, 40)


def test_a_prompt_and_its_tokens_are_cut_to_the_same_time() -> None:
    mel, tokens = torch.zeros(1, 65, 8), torch.zeros(1, 31)
    assert [part.shape[1] for part in aligned_prompt(mel, tokens, 2)] == [62, 31]
    assert [part.shape[1] for part in aligned_prompt(mel[:, :59], tokens, 2)] == [58, 29]
    with pytest.raises(UserError, match="31 tokens, but the prompt has 20"):
        aligned_prompt(mel[:, :40], tokens, 2)


def test_tokens_out_of_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("3, 4 5\n6\n")
    np.save(tmp_path / "a.npy", np.array([[3, 4, 5, 6]]))
    save_file(
        {"tokens": torch.tensor([3, 4, 5, 6]), "embedding": torch.ones(4)},
        tmp_path / "a.safetensors",
    )
    for ending in ("txt", "npy", "safetensors"):
        assert read_tokens(tmp_path / f"a.{ending}").tolist() == [3, 4, 5, 6]
    assert torch.equal(read_embedding(tmp_path / "a.safetensors"), torch.ones(4))
    for text, told in (
        ("", "one or more integers"),
        ("1.5", "integers"),
        ("-1 2", "from 0 on"),
        ("x", "cannot be read"),
    ):
        (tmp_path / "b.txt").write_text(text)
        with pytest.raises(UserError, match=told):
            read_tokens(tmp_path / "b.txt")
    np.save(tmp_path / "b.npy", np.zeros((2, 3)))
    (tmp_path / "c.npy").write_bytes(b"nonsense")
    save_file({"other": torch.ones(4)}, tmp_path / "b.safetensors")
    for name, told in (
        ("b.npy", "one row"),
        ("c.npy", "cannot be read"),
        ("none.npy", "no such file"),
        ("b.safetensors", "has other"),
    ):
        with pytest.raises(UserError, match=told):
            read_tokens(tmp_path / name)
    np.save(tmp_path / "d.npy", np.zeros(192))
    with pytest.raises(UserError, match="zero"):
        read_embedding(tmp_path / "d.npy")


def test_synthesize_from_files(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*options: str, model: Path = folder, **given: str) -> tuple[int, str]:
        fields = {
            "prompt": "voice.wav",
            "tokens": "said.npy",
            "prompt-tokens": "prompt.npy",
            "speaker": "speaker.npy",
            "out": "x.wav",
        }
        fields |= given
        flags = [
            word
            for name, value in fields.items()
            if value
            for word in (f"--{name}", str(tmp_path / value))
        ]
        return main(
            ["synthesize", str(model), *flags, "--overwrite", *options]
        ), capsys.readouterr().err

    assert run()[0] == 0
    wave, rate = soundfile.read(tmp_path / "x.wav")
    assert rate == 24000 and len(wave) == 79 * 480
    tensors = {
        "tokens": read_tokens(tmp_path / "prompt.npy"),
        "embedding": read_embedding(tmp_path / "speaker.npy"),
    }
    save_file(tensors, tmp_path / "prompt.safetensors")
    # the file that it was trained with
    assert run("--nfe", "2", **{"prompt-tokens": "prompt.safetensors", "speaker": ""})[0] == 0
    np.testing.assert_array_equal(soundfile.read(tmp_path / "x.wav")[0], wave)
    np.save(tmp_path / "big.npy", np.array([21]))
    np.save(tmp_path / "small.npy", np.ones(7))
    for changes, told in (
        ({"speaker": ""}, "--speaker: missing"),
        ({"prompt-tokens": ""}, "--prompt-tokens: missing"),
        ({"tokens": "big.npy"}, "outside this flow's table"),
        ({"speaker": "small.npy"}, "7 numbers, but this flow wants 192"),
        ({"prompt-tokens": "big.npy"}, "tokens of the same recording"),
    ):
        code, error = run(**changes)
        assert code == 2 and told in error
    code, error = run("--text", "hello", tokens="")
    assert code == 2 and "give --tokens and --prompt-tokens" in error
    assert (
        main(
            [
                "teacher-import",
                str(tmp_path / "ckpt/flow.pt"),
                str(tmp_path / "t"),
                "--sizes",
                str(sizes_file(tmp_path, COSY)),
            ]
        )
        == 0
    )
    assert run(model=tmp_path / "t")[0] == 0
    (folder / "front.safetensors").unlink()
    assert "has no front.safetensors" in run()[1]
    sizes = sizes_file(
        tmp_path,
        {
            "in_channels": 16,
            "channels": [16, 16],
            "attention_head_dim": 8,
            "n_blocks": 1,
            "num_mid_blocks": 1,
        },
    )
    assert (
        main(
            [
                "teacher-import",
                str(matcha_file(tmp_path / "m")),
                str(tmp_path / "matcha"),
                "--sizes",
                str(sizes),
            ]
        )
        == 0
    )
    capsys.readouterr()
    assert "kind matcha starts from its text encoder" in run(model=tmp_path / "matcha")[1]
