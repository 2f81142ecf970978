"""Students of low-rank deltas: the same function at the start, one set of teacher weights, PEFT's
layout, merging, training and resuming.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_tts import COSY, F5, cosyvoice_file, f5_file, sizes_file, speech
from torch import Tensor, nn

from mfdistill.checkpoint import load_tensors
from mfdistill.cli import main
from mfdistill.distill.state import module_tensors
from mfdistill.errors import UserError
from mfdistill.networks import build_network
from mfdistill.networks.causal_layers import CausalConv as CausalConv2d
from mfdistill.networks.lora import add_deltas, merge_deltas, shared_copy, target_layers
from mfdistill.networks.lora_config import LoraConfig
from mfdistill.networks.mel_unet_layers import CausalConv
from mfdistill.students import Student, load_student
from mfdistill.students.adapter import adapter_tensors, merged, peft_config
from mfdistill.teachers import load_teacher

QUICK = ["--batch-size", "3", "--warmup", "0", "--valid-files", "1", "--num-workers", "0"]
MIXER = "base_model.model.time_embed_mixer.weight"


def disturbed(student: Student, seed: int = 3) -> Student:
    """Deltas and embedding as after training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, p in student.trained():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return student.eval()


def f5_cond(n: int = 14) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    cond = torch.zeros(2, n, 8)
    cond[:, :5] = torch.randn(2, 5, 8, generator=generator)
    mask = torch.arange(n) < torch.tensor([[n], [n - 3]])
    return {"cond": cond, "text": torch.tensor([[3, 4, 5, 6], [7, 8, 9, -1]]), "mask": mask}


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.Linear(6, 9), torch.randn(4, 6)),
        (nn.Conv1d(6, 9, 3, padding=1, dilation=1), torch.randn(2, 6, 12)),
        (nn.Conv1d(6, 9, 4, stride=2), torch.randn(2, 6, 12)),
        (CausalConv(6, 9, 3), torch.randn(2, 6, 12)),
        (nn.Conv2d(6, 9, (3, 2), padding=1), torch.randn(2, 6, 7, 8)),
        (CausalConv2d(6, 9, 3, dilation=2), torch.randn(2, 6, 7, 8)),
    ],
)
def test_a_delta_is_what_its_formula_says(layer: nn.Module, x: Tensor) -> None:
    network = nn.ModuleDict({"layer": layer}).double()
    x, weight = x.double(), network["layer"].weight.detach().clone()
    before = network["layer"](x)
    add_deltas(network, LoraConfig(rank=2, alpha=6.0), ["layer"])
    network.double()
    assert torch.equal(network["layer"](x), before)
    changed = network["layer"]
    with torch.no_grad():
        changed.lora_B.normal_(generator=torch.Generator().manual_seed(0))
    delta = 3.0 * (changed.lora_B.flatten(1) @ changed.lora_A.flatten(1)).reshape(weight.shape)
    moved = changed(x)
    with torch.no_grad():
        layer.weight.copy_(weight + delta)  # type: ignore[union-attr, operator]
        changed.lora_B.zero_()
    torch.testing.assert_close(moved, changed(x), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(moved, before)


def test_merging_gives_back_the_layers_classes(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(4, 5), CausalConv(5, 6, 3), CausalConv2d(2, 3, 3))
    kinds = [type(layer) for layer in network]
    add_deltas(network, LoraConfig(rank=1), ["0", "1", "2"])
    assert [isinstance(layer, kind) for layer, kind in zip(network, kinds, strict=True)]
    names = list(network.state_dict())
    assert sum("lora_" in name for name in names) == 6
    merge_deltas(network)
    assert [type(layer) for layer in network] == kinds
    assert not any("lora_" in name for name in network.state_dict())


def test_the_student_begins_as_its_teacher_and_holds_its_weights(tmp_path: Path) -> None:
    teacher = load_teacher(f5_file(tmp_path), config=F5, guidance_strength=0.0)
    held = {id(p) for p in teacher.network.parameters()}
    student = Student.from_teacher(teacher, adapter=LoraConfig(rank=2))
    cond, z, t = f5_cond(), torch.randn(2, 14, 8), torch.tensor([0.25, 0.5])
    assert torch.equal(student.eval()(z, t, t + 0.25, cond), teacher.velocity(z, t, cond))
    own = [p for p in student.parameters() if id(p) not in held]
    assert {id(p) for p in own} == {id(p) for _, p in student.trained()}
    assert len(held & {id(p) for p in student.parameters()}) == len(held)
    # attention and feed-forward layers of two blocks, two tensors each; and the mixer of times
    assert len(own) == 2 * 2 * 6 + 1
    assert set(module_tensors(student)) == {name for name, _ in student.trained()}
    disturbed(student)
    again = load_teacher(tmp_path / "model.safetensors", config=F5, guidance_strength=0.0)
    assert torch.equal(teacher.velocity(z, t, cond), again.velocity(z, t, cond))
    assert not torch.allclose(student(z, t, t + 0.25, cond), teacher.velocity(z, t, cond))
    whole = merged(student)
    assert whole.adapter is None and student.adapter is not None
    torch.testing.assert_close(
        whole(z, t, t + 0.25, cond), student(z, t, t + 0.25, cond), rtol=1e-5, atol=1e-6
    )
    full = set(Student.from_teacher(teacher).state_dict())
    assert set(whole.state_dict()) == full


def test_which_layers_get_a_delta() -> None:
    f5 = build_network("f5", F5)
    names = target_layers(f5, LoraConfig(rank=2), "transformer.time_embed")
    assert "transformer.transformer_blocks.1.ff.ff.0.0" in names and len(names) == 12
    named = LoraConfig(rank=2, targets=(r"to_[qv]$", "proj_out"))
    assert len(target_layers(f5, named, "transformer.time_embed")) == 5
    with pytest.raises(UserError, match="fits no linear or convolution layer"):
        target_layers(f5, LoraConfig(rank=2, targets=("nothing",)), "transformer.time_embed")
    unet = build_network("matcha_unet", COSY)
    names = target_layers(unet, LoraConfig(rank=2), unet.time_embedding_name)
    assert any("attn1.to_q" in name for name in names) and any("block" in name for name in names)
    compact = build_network("compact", {"channels": 4, "blocks": 1, "freqs": 16, "embedding": 8})
    names = target_layers(compact, LoraConfig(rank=2), compact.time_embedding_name)
    assert names and not any(name.startswith(compact.time_embedding_name) for name in names)
    shared = shared_copy(compact)
    assert shared is not compact
    for a, b in zip(shared.parameters(), compact.parameters(), strict=True):
        assert a is b
    ncsnpp = build_network("ncsnpp", {"nf": 8, "ch_mult": [1, 1], "num_res_blocks": 1})
    with pytest.raises(UserError, match="not for this network"):
        target_layers(ncsnpp, LoraConfig(rank=2), ncsnpp.time_embedding_name)
    for option in (
        {"rank": 0},
        {"alpha": 2.0},
        {"rank": 2, "alpha": -1.0},
        {"rank": 2, "targets": ("(",)},
    ):
        with pytest.raises(UserError, match="--lora"):
            LoraConfig(**option)  # type: ignore[arg-type]


def test_the_file_of_f5_base_is_below_50_mb() -> None:
    with torch.device("meta"):
        network = build_network("f5", {})
    names = target_layers(network, LoraConfig(rank=32), network.time_embedding_name)
    weights = [network.get_submodule(name).weight for name in names]
    deltas = sum(32 * (w.shape[0] + w.shape[1]) for w in weights)
    mixer = 2 * 1024 * 1024
    assert len(names) == 22 * 6
    assert 4 * (deltas + mixer) < 50e6
    assert deltas == 22 * 32 * (4 * 2048 + 2 * 3072)


def distil(tmp_path: Path, out: Path, *more: str, steps: int = 3) -> list[str]:
    file, data = f5_file(tmp_path / "ckpt"), speech(tmp_path / "data")
    return ["student-distill", "--teacher", str(file), "--sizes", str(sizes_file(tmp_path, F5)),
            "--data", str(data), "--tts.min-s", "0.1", "--out", str(out), "--lr", "0.01",
            "--steps", str(steps), "--lora.rank", "2", *QUICK, *more]  # fmt: skip


def test_an_adapter_is_distilled_resumed_merged_and_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "adapter"
    assert main(distil(tmp_path, out)) == 0
    assert not (out / "model.safetensors").exists()
    tensors = load_file(out / "adapter_model.safetensors")
    assert len(tensors) == 2 * 2 * 6 + 1 and MIXER in tensors
    raw = load_file(out / "training_state" / "raw.safetensors")
    assert len(raw) == len(tensors)
    assert any(value.abs().max() > 0 for name, value in tensors.items() if "lora_B" in name)

    # the same three updates in two calls
    halves = tmp_path / "halves"
    assert main(distil(tmp_path, halves, "--time-limit-hours", "1e-9")) == 0
    assert main(distil(tmp_path, halves, "--resume")) == 0
    resumed = load_file(halves / "adapter_model.safetensors")
    assert all(torch.equal(resumed[name], tensors[name]) for name in tensors)

    student = load_student(out)
    assert main(["merge", str(out), str(tmp_path / "full")]) == 0
    full = load_student(tmp_path / "full")
    cond, z, t = f5_cond(), torch.randn(2, 14, 8), torch.tensor([0.25, 0.5])
    with torch.no_grad():
        assert torch.equal(full(z, t, t + 0.5, cond), student(z, t, t + 0.5, cond))
    assert (tmp_path / "full/vocab.txt").read_text() == (out / "vocab.txt").read_text()
    assert "adapter" not in json.loads((tmp_path / "full/config.json").read_text())
    for place, file in ((out, "a.safetensors"), (tmp_path / "full", "b.safetensors")):
        assert main(["export", str(place), str(tmp_path / file), "--layout", "f5"]) == 0
    a, b = (load_tensors(tmp_path / file) for file in ("a.safetensors", "b.safetensors"))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    capsys.readouterr()
    assert main(["info", str(out)]) == 0
    assert "rank 2" in " ".join(capsys.readouterr().out.split())
    assert main(["merge", str(tmp_path / "full"), str(tmp_path / "x")]) == 2
    assert "is no adapter" in capsys.readouterr().err

    # another teacher's weights are noticed, a missing teacher is told with the remedy
    moved = tmp_path / "moved"
    (tmp_path / "ckpt").rename(moved)
    assert main(["export", str(out), str(tmp_path / "c.safetensors"), "--layout", "f5"]) == 2
    assert "mfdistill merge" in capsys.readouterr().err
    assert (
        main(
            [
                "merge",
                str(out),
                str(tmp_path / "again"),
                "--teacher",
                str(moved / "model.safetensors"),
            ]
        )
        == 0
    )
    held = load_file(moved / "model.safetensors")
    held["ema_model.transformer.proj_out.bias"] += 1
    from safetensors.torch import save_file

    save_file(held, moved / "other.safetensors")
    assert (
        main(
            ["merge", str(out), str(tmp_path / "y"), "--teacher", str(moved / "other.safetensors")]
        )
        == 2
    )
    assert "is not the teacher that this adapter was trained on" in capsys.readouterr().err


def test_cosyvoice_deltas_go_into_its_layouts(tmp_path: Path) -> None:
    teacher = load_teacher(cosyvoice_file(tmp_path), config=COSY, guidance_strength=0.0)
    student = disturbed(Student.from_teacher(teacher, adapter=LoraConfig(rank=2, alpha=1.0)))
    tensors = adapter_tensors(student)
    assert MIXER in tensors
    layers = peft_config(student)["target_modules"]
    official = {name.removeprefix("estimator.") for name, _ in teacher.network.named_modules()}
    assert layers and set(layers) <= official
    whole = merged(student)
    torch.manual_seed(0)
    cond = {"mu": torch.randn(1, 8, 12), "spks": torch.randn(1, 8), "cond": torch.zeros(1, 8, 12),
            "mask": torch.ones(1, 1, 12)}  # fmt: skip
    z, t = torch.randn(1, 8, 12), torch.tensor([0.25])
    with torch.no_grad():
        expected = student(z, t, t + 0.5, cond)
        torch.testing.assert_close(whole(z, t, t + 0.5, cond), expected, rtol=1e-5, atol=1e-6)
        from mfdistill.systems.chatterbox import export_chatterbox
        from mfdistill.systems.mel_flow import export_cosyvoice

        export_cosyvoice(whole, tmp_path / "out" / "flow.pt")
        export_chatterbox(whole, tmp_path / "out" / "s3gen.safetensors")
        for file in ("flow.pt", "s3gen.safetensors"):
            loaded = load_student(tmp_path / "out" / file, config=COSY, kind="chatterbox")
            torch.testing.assert_close(loaded(z, t, t + 0.5, cond), expected, rtol=1e-5, atol=1e-6)


def their_f5() -> type[nn.Module]:
    """The DiT of the package f5-tts, and PEFT; skips where one is missing."""
    pytest.importorskip(
        "peft", reason="needs: pip install peft, and f5-tts (see test_serving_tts.py)"
    )
    spec = importlib.util.find_spec("f5_tts")
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("f5-tts is not installed; test_serving_tts.py says how")
    model = types.ModuleType("f5_tts.model")
    model.__path__ = [str(Path(place) / "model") for place in spec.submodule_search_locations]
    sys.modules["f5_tts.model"] = model
    try:
        from f5_tts.model.backbones.dit import DiT  # type: ignore[import-not-found]
    except ImportError as error:
        pytest.skip(f"f5-tts is installed without {error.name}")
    return DiT


def test_peft_puts_the_file_into_f5_tts(tmp_path: Path) -> None:
    """PEFT on f5-tts's own module computes what our student computes, with an untrained mixer (the
    one thing that PEFT does not carry).
    """
    dit = their_f5()
    from peft import PeftModel  # type: ignore[import-not-found]

    out = tmp_path / "adapter"
    assert main(distil(tmp_path, out)) == 0
    theirs = dit(**F5, ff_mult=2, text_mask_padding=True, pe_attn_head=None).eval()
    published = load_file(tmp_path / "ckpt/model.safetensors")
    weights = {
        name.removeprefix("ema_model.transformer."): value for name, value in published.items()
    }
    theirs.load_state_dict(
        {n: v for n, v in weights.items() if n not in ("initted", "step")}, strict=False
    )
    adapted = PeftModel.from_pretrained(theirs, str(out)).eval()
    given = {n: p for n, p in adapted.named_parameters() if "lora_" in n}
    assert len(given) == 2 * 2 * 6

    student = load_student(out)
    with torch.no_grad():
        mixer = student.network.get_submodule("transformer.time_embed")
        mixer.weight.copy_(mixer.start)  # type: ignore[union-attr, operator, arg-type]
    n = 14
    cond, z, t = torch.zeros(1, n, 8), torch.randn(1, n, 8), torch.tensor([0.25])
    text = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        expected = student(z, t, t, {"cond": cond, "text": text})
        found = adapted.base_model.model(
            x=z, cond=cond, text=text, time=t, drop_audio_cond=False, drop_text=False
        )
        plain = adapted.merge_and_unload()(
            x=z, cond=cond, text=text, time=t, drop_audio_cond=False, drop_text=False
        )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(plain, expected, rtol=1e-4, atol=1e-5)
