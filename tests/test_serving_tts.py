"""Students in other systems' layouts, their files, and the wrappers that make a running program
sample them.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_tts import COSY, COSY3, F5, cosyvoice_file, f5_file, mel_field, moved, noisy
from torch import Tensor, nn

from mfdistill.audio.speech_mel import speech_log_mel
from mfdistill.errors import UserError
from mfdistill.networks import build_network
from mfdistill.students import Student, load_student, sample, save_student
from mfdistill.students.serving import serve_cosyvoice, serve_f5
from mfdistill.systems.chatterbox import export_chatterbox
from mfdistill.systems.f5 import export_f5
from mfdistill.systems.f5_inputs import f5_condition
from mfdistill.systems.mel_flow import export_cosyvoice
from mfdistill.systems.table import mel_task
from mfdistill.tasks.mel_prior import fixed_noise, noise
from mfdistill.teachers import load_teacher
from mfdistill.teachers.imported import import_teacher

MIXER = "ema_model.transformer.time_embed_mixer.weight"
TIMES = [0.0, 0.25, 0.5, 1.0]


def f5_student(tmp_path: Path) -> Student:
    return moved(Student.from_teacher(load_teacher(f5_file(tmp_path / "ckpt"), config=F5), TIMES))


def cosyvoice3_student() -> Student:
    config = {"kind": "cosyvoice3", "network": {"name": "cosyvoice3", "config": COSY3}}
    teacher = mel_field(noisy(build_network("cosyvoice3", COSY3)), config=config)
    return moved(Student.from_teacher(teacher))


def f5_cond() -> dict[str, Tensor]:
    torch.manual_seed(1)
    cond = torch.zeros(1, 14, 8)
    cond[:, :5] = torch.randn(5, 8)
    return {"cond": cond, "text": torch.tensor([[3, 4, 5, 6]])}


def mel_cond(n: int = 12) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {
        "mu": torch.randn(1, 8, n),
        "spks": torch.randn(1, 8),
        "cond": torch.zeros(1, 8, n),
        "mask": torch.ones(1, 1, n),
    }


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_f5_layout_both_ways(tmp_path: Path, ending: str) -> None:
    student, z = f5_student(tmp_path), torch.randn(1, 14, 8)
    file = export_f5(student, tmp_path / f"student.{ending}")
    loaded = load_student(file, config=F5)
    assert loaded.schedule == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert torch.equal(sample(loaded, z, f5_cond(), TIMES), sample(student, z, f5_cond()))
    with pytest.raises(UserError, match="student of two times"):
        load_teacher(file, config=F5)
    with pytest.raises(UserError, match="so it is no student"):
        load_student(f5_file(tmp_path / "teacher"), config=F5)
    names = set(load_file(export_f5(student, tmp_path / "x.safetensors")))
    # without the mixer it loads strictly into f5-tts
    assert names - {MIXER} == set(load_file(f5_file(tmp_path / "teacher")))
    with pytest.raises(UserError, match="one of these endings"):
        export_f5(student, tmp_path / "student.bin")
    save_student(student, tmp_path / "folder")
    assert torch.equal(
        sample(load_student(tmp_path / "folder"), z, f5_cond()), sample(student, z, f5_cond())
    )


@pytest.mark.parametrize("system", ["cosyvoice2", "cosyvoice3"])
def test_cosyvoice_layout_both_ways(tmp_path: Path, system: str) -> None:
    file, z = cosyvoice_file(tmp_path), torch.randn(1, 8, 12)
    student = (
        moved(Student.from_teacher(load_teacher(file, config=COSY)))
        if system == "cosyvoice2"
        else cosyvoice3_student()
    )
    export_cosyvoice(student, tmp_path / "out/flow.pt", base=file)
    loaded = load_student(
        tmp_path / "out/flow.pt", config=COSY if system == "cosyvoice2" else COSY3
    )
    assert loaded.task.config.name == system and torch.equal(
        sample(loaded, z, mel_cond(), 2), sample(student, z, mel_cond(), 2)
    )
    whole = torch.load(tmp_path / "out/flow.pt", weights_only=True)
    assert torch.equal(
        whole["input_embedding.weight"],
        torch.load(file, weights_only=True)["input_embedding.weight"],
    )
    save_student(loaded, tmp_path / "folder")
    assert torch.equal(
        sample(load_student(tmp_path / "folder"), z, mel_cond(), 2),
        sample(student, z, mel_cond(), 2),
    )
    chunks = load_student(tmp_path / "folder", streaming=True)
    assert torch.equal(
        sample(chunks, z, mel_cond(), 2),
        sample(student, z, {**mel_cond(), "streaming": torch.tensor([True])}, 2),
    )
    if system == "cosyvoice2":
        export_chatterbox(loaded, tmp_path / "s3gen_meanflow.safetensors", base=file)
        back = load_student(tmp_path / "s3gen_meanflow.safetensors", config=COSY)
        assert torch.equal(sample(back, z, mel_cond(), 2), sample(student, z, mel_cond(), 2))


def test_students_that_are_told_their_guidance_have_no_official_layout(tmp_path: Path) -> None:
    student = Student.from_teacher(load_teacher(f5_file(tmp_path), config=F5), guidance_input=2.0)
    with pytest.raises(UserError, match="told its guidance"):
        export_f5(student, tmp_path / "x.safetensors")
    student = Student.from_teacher(
        load_teacher(cosyvoice_file(tmp_path), config=COSY), guidance_input=2.0
    )
    with pytest.raises(UserError, match="told its guidance"):
        export_cosyvoice(student, tmp_path / "flow.pt")


class Transformer(nn.Module):
    """Called as f5-tts's DiT is by its sampler."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner, self.time_embed = inner, inner.time_embed

    def forward(
        self,
        x: Tensor,
        cond: Tensor,
        text: Tensor,
        time: Tensor,
        mask: Any = None,
        cache: bool = True,
        **_: Any,
    ) -> Tensor:
        self.inner.time_embed = self.time_embed
        return self.inner(
            x, cond, text, time.repeat(len(x)) if time.ndim == 0 else time, mask, None
        )


class CFM(nn.Module):
    """f5-tts's sampler: a grid that may be warped and pruned, guidance unless its strength is
    nearly 0, Euler steps.
    """

    def __init__(self, transformer: nn.Module):
        super().__init__()
        self.transformer = transformer

    @torch.no_grad()
    def sample(self, cond: Tensor, text: Tensor, *, steps: int = 32, cfg_strength: float = 1.0, sway_sampling_coef: Any = -1.0,
               seed: int = 0, use_epss: bool = True) -> Tensor:  # fmt: skip
        assert cfg_strength < 1e-5 and sway_sampling_coef is None and not use_epss, (
            "no guidance, no warped grid"
        )
        torch.manual_seed(seed)
        z, times = torch.randn(cond.shape[1:])[None], torch.linspace(0, 1, steps + 1)
        for t, r in zip(times[:-1], times[1:], strict=True):
            z = z + (r - t) * self.transformer(
                x=z, cond=cond, text=text, time=t, mask=None, cache=True
            )
        return z


def test_a_running_f5_serves_a_student(tmp_path: Path) -> None:
    student = f5_student(tmp_path)
    tensors = load_file(export_f5(student, tmp_path / "student.safetensors"))
    mixer = tensors.pop(MIXER)
    inner = build_network("f5", F5).transformer.eval()
    inner.load_state_dict(
        {
            name.removeprefix("ema_model.transformer."): value
            for name, value in tensors.items()
            if "." in name
        }
    )
    cfm = CFM(Transformer(inner))
    serve_f5(cfm, mixer, TIMES)
    cond = f5_cond()
    served = cfm.sample(
        cond["cond"], cond["text"], steps=32, cfg_strength=2.0, sway_sampling_coef=-1.0, seed=3
    )
    assert torch.allclose(served, sample(student, noise([14], 8, seed=3), cond), atol=1e-5)


class Decoder(nn.Module):
    """CosyVoice 3's ``flow.decoder`` as far as a student needs it: its own estimator, the buffer of
    noise.
    """

    def __init__(self, estimator: nn.Module):
        super().__init__()
        self.estimator, self.rand_noise = estimator, fixed_noise(300, 8)


@pytest.mark.parametrize("steps", [1, 2])
def test_a_running_cosyvoice3_serves_a_student(tmp_path: Path, steps: int) -> None:
    student = cosyvoice3_student()
    export_cosyvoice(student, tmp_path / "flow.safetensors")
    tensors = load_file(tmp_path / "flow.safetensors")
    mixer = tensors.pop("decoder.estimator.time_embed_mixer.weight")
    estimator = build_network("cosyvoice3", COSY3).estimator.eval()
    estimator.load_state_dict(
        {name.removeprefix("decoder.estimator."): value for name, value in tensors.items()}
    )
    decoder, cond = Decoder(estimator), mel_cond()

    def as_theirs(
        x: Tensor,
        mask: Tensor,
        mu: Tensor,
        t: Tensor,
        spks: Tensor,
        cond: Tensor,
        streaming: bool = False,
    ) -> Tensor:
        return type(estimator).forward(estimator, x, mask, mu, t, spks, cond, streaming)

    estimator.forward = as_theirs
    serve_cosyvoice(decoder, mixer, steps)
    z_1, _ = decoder.forward(cond["mu"], cond["mask"], 10, 1.0, cond["spks"], cond["cond"])
    assert torch.allclose(z_1, sample(student, fixed_noise(12, 8), cond, steps), atol=1e-5)


def test_wrappers_are_short() -> None:
    for wrapper in (serve_cosyvoice, serve_f5):
        function = ast.parse(inspect.getsource(wrapper)).body[0]
        assert isinstance(function, ast.FunctionDef)
        # a statement per line, whatever the formatter makes of it; without the docstring
        lines = "\n".join(ast.unparse(statement) for statement in function.body[1:])
        assert 5 < len(lines.splitlines()) <= 20


def test_the_installed_f5_tts_serves_a_student(tmp_path: Path) -> None:
    """With the package itself: its DiT and CFM as teacher, and its sampler serving the exported
    student.
    """
    reason = (
        "f5-tts is not installed; to run this: pip install --no-deps --target DIR f5-tts x-transformers torchdiffeq einops rjieba pypinyin "
        "ema-pytorch loguru einx frozendict torch-einops-utils, then PYTHONPATH=DIR pytest tests/test_serving_tts.py"
    )
    spec = importlib.util.find_spec("f5_tts")
    if spec is None:
        pytest.skip(reason)
    assert spec.submodule_search_locations is not None
    # its package imports the trainer, and with it wandb and more; the models need none of that
    model = types.ModuleType("f5_tts.model")
    model.__path__ = [str(Path(place) / "model") for place in spec.submodule_search_locations]
    sys.modules["f5_tts.model"] = model
    try:
        from f5_tts.model.backbones.dit import DiT  # type: ignore[import-not-found]
        from f5_tts.model.cfm import CFM as TheirCFM  # type: ignore[import-not-found]
    except ImportError as error:
        pytest.skip(f"f5-tts is installed without {error.name}; {reason}")

    from mfdistill.teachers.live_f5 import live_f5

    student = f5_student(tmp_path)
    tensors = load_file(export_f5(student, tmp_path / "student.safetensors"))
    mixer = tensors.pop(MIXER)
    theirs = DiT(**F5, ff_mult=2, text_mask_padding=True, pe_attn_head=None).eval()
    cfm = TheirCFM(theirs, mel_spec_kwargs={"n_mel_channels": 8}, num_channels=8)
    cfm.load_state_dict(
        {name.removeprefix("ema_model."): value for name, value in tensors.items() if "." in name},
        strict=True,
    )
    cond, z, t = f5_cond(), torch.randn(1, 14, 8), torch.tensor([0.25])
    teacher = load_teacher(tmp_path / "ckpt/model.safetensors", config=F5, guidance_strength=2.0)
    live = TheirCFM(
        DiT(**F5, ff_mult=2, text_mask_padding=True, pe_attn_head=None),
        mel_spec_kwargs={"n_mel_channels": 8},
        num_channels=8,
    )
    live.transformer.load_state_dict(
        teacher.network.get_submodule("transformer").state_dict(), strict=False
    )
    assert torch.allclose(
        live_f5(live, 2.0).velocity(z, t, cond), teacher.velocity(z, t, cond), rtol=1e-4, atol=1e-4
    )
    serve_f5(cfm, mixer, TIMES)
    out, path = cfm.sample(cond["cond"][:, :5], cond["text"], 14, seed=3)
    expected = sample(student, noise([14], 8, seed=3), cond)
    assert torch.allclose(path[-1], expected, rtol=1e-4, atol=1e-4) and torch.equal(
        out[:, :5], cond["cond"][:, :5]
    )


def test_prompts_and_texts_that_say_nothing() -> None:
    mel, text = mel_task("f5").config.mel, torch.tensor([[1, 2]])
    with pytest.raises(UserError, match="prompt: silent"):
        f5_condition(speech_log_mel(torch.zeros(1, 24000), mel).transpose(1, 2), text, 120)
    with pytest.raises(UserError, match="no frames"):
        f5_condition(torch.zeros(1, 0, 100), text, 120)
    with pytest.raises(UserError, match="more than 512 samples"):
        speech_log_mel(torch.randn(1, 300), mel)
    with pytest.raises(UserError, match="none empty"):
        f5_condition(torch.zeros(1, 9, 100), torch.tensor([[-1, -1]]), 120)


def test_an_imported_teacher_is_the_same_teacher(tmp_path: Path) -> None:
    torch.manual_seed(0)
    cases = [
        (f5_file(tmp_path / "a"), F5, torch.randn(1, 14, 8), f5_cond()),
        (cosyvoice_file(tmp_path / "b"), COSY, torch.randn(1, 8, 12), mel_cond()),
    ]
    for file, sizes, z, cond in cases:
        out, t = tmp_path / f"{file.parent.name}-folder", torch.tensor([0.375])
        import_teacher(file, out, config=sizes)
        for strength in (None, 0.0, 1.5):
            expected = load_teacher(file, config=sizes, guidance_strength=strength).velocity(
                z, t, cond
            )
            assert torch.equal(
                load_teacher(out, guidance_strength=strength).velocity(z, t, cond), expected
            )
        assert Student.from_teacher(load_teacher(out)).task is not None
        with pytest.raises(UserError, match="--overwrite"):
            import_teacher(file, out, config=sizes)
        with pytest.raises(UserError, match="already"):
            import_teacher(out, tmp_path / "again")
        with pytest.raises(UserError, match="leave config out"):
            load_teacher(out, config=sizes)
    streaming = load_teacher(tmp_path / "b-folder", streaming=True)
    expected = load_teacher(cases[1][0], config=COSY, streaming=True).velocity(
        cases[1][2], t, cases[1][3]
    )
    assert torch.equal(streaming.velocity(cases[1][2], t, cases[1][3]), expected)
    with pytest.raises(UserError, match="no streaming form"):
        load_teacher(tmp_path / "a-folder", streaming=True)


def test_what_a_file_is_taken_for(tmp_path: Path) -> None:
    f5, cosy = f5_file(tmp_path / "f5"), cosyvoice_file(tmp_path / "cv")
    assert load_teacher(f5.parent, config=F5).config["kind"] == "f5"  # type: ignore[attr-defined]
    assert load_teacher(cosy.parent, config=COSY).config["kind"] == "cosyvoice2"  # type: ignore[attr-defined]
    import_teacher(f5, tmp_path / "folder", config=F5)
    with pytest.raises(UserError, match="holds a teacher of kind f5, not cosyvoice2"):
        load_teacher(tmp_path / "folder", kind="cosyvoice2")
    with pytest.raises(UserError, match="looks like kind cosyvoice2"):
        load_teacher(cosy, kind="flowse")
    flowse = {
        "state_dict": {"dnn.all_modules.0.W": torch.zeros(2)},
        "hyper_parameters": {"ode": "flowmatching"},
    }
    torch.save(flowse, tmp_path / "flowse.ckpt")
    for kind in ("f5", "cosyvoice2"):
        with pytest.raises(UserError, match="looks like kind flowse"):
            load_teacher(tmp_path / "flowse.ckpt", kind=kind)
    (tmp_path / "text.pt").write_text("xxxx")
    with pytest.raises(UserError, match="damaged or no PyTorch checkpoint"):
        load_teacher(tmp_path / "text.pt", kind="f5")
    export_cosyvoice(cosyvoice3_student(), tmp_path / "student" / "flow.pt")
    with pytest.raises(UserError, match="student of two times; load it with load_student"):
        load_teacher(tmp_path / "student" / "flow.pt", config=COSY3)
