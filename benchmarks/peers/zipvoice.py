"""ZipVoice's own code beside ours on tiny random weights: teacher, guidance, sampler,
ZipVoice-Distill, and a student of one step in the original's own program.

    python benchmarks/peers/zipvoice.py --src <clone>/ZipVoice
    [--write tests/data/zipvoice.safetensors] [--out benchmarks/results/peer_zipvoice.json]

``--src`` is a clone of k2-fsa/ZipVoice (Apache-2.0); nothing of it is in this repository. Its
dependency k2 is not needed in evaluation and is replaced by nothing. ``--write`` stores inputs,
weights and the original's answers, which tests compare with.
"""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import torch
from golden import Found, error, perturbed, run
from torch import Tensor

from mfdistill.flow import solve
from mfdistill.students import Student, load_student, sample
from mfdistill.systems.zipvoice import export_zipvoice, zipvoice_times
from mfdistill.teachers import load_teacher

SIZES: dict[str, Any] = {
    "fm_decoder_downsampling_factor": [1, 2, 1], "fm_decoder_num_layers": [1, 1, 1], "fm_decoder_cnn_module_kernel": [7, 5, 7],
    "fm_decoder_feedforward_dim": 24, "fm_decoder_num_heads": 4, "fm_decoder_dim": 16, "text_encoder_num_layers": 1,
    "text_encoder_feedforward_dim": 16, "text_encoder_cnn_module_kernel": 5, "text_encoder_num_heads": 4,
    "text_encoder_dim": 16, "query_head_dim": 4, "value_head_dim": 4, "pos_head_dim": 2, "pos_dim": 8,
    "time_embed_dim": 16, "text_embed_dim": 8, "feat_dim": 6,
}  # fmt: skip
VOCABULARY, PAD = 12, 3


def originals(src: Path) -> tuple[type, type]:
    """The original's classes; packages that they import and never call are stood in for."""
    sys.path.insert(0, str(src.resolve()))
    sys.dont_write_bytecode = True
    for name in ("k2", "lhotse", "torch.utils.tensorboard", "tensorboard"):
        try:
            __import__(name)
        except ImportError:
            sys.modules[name] = types.ModuleType(name)
    sys.modules.pop("k2")  # where it is, other kernels are taken
    from zipvoice.models.zipvoice import ZipVoice  # type: ignore[import-not-found]
    from zipvoice.models.zipvoice_distill import ZipVoiceDistill  # type: ignore[import-not-found]

    return ZipVoice, ZipVoiceDistill


def made(kind: type, seed: int) -> Any:
    """A model whose every weight matters."""
    torch.manual_seed(seed)
    model = kind(**SIZES, vocab_size=VOCABULARY, pad_id=PAD).eval()
    perturbed(model)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("bypass_scale"):
                p.clamp_(0.1, 0.9)
    return model


def folder(model: Any, root: Path, name: str) -> Path:
    """As the original's ``--model-dir``."""
    place = root / name
    place.mkdir()
    torch.save({"model": model.state_dict()}, place / "model.pt")
    (place / "model.json").write_text(json.dumps({"model": SIZES}))
    (place / "tokens.txt").write_text(
        "".join(f"{'_' if i == PAD else chr(97 + i)}\t{i}\n" for i in range(VOCABULARY))
    )
    return place


@torch.no_grad()
def compare(src: Path, root: Path) -> Found:
    """Relative errors by name, and the tensors of the golden file."""
    plain, distilled = originals(src)
    model, told = made(plain, 0), made(distilled, 1)
    places = [folder(model, root, "teacher"), folder(told, root, "distill")]
    teacher, student = load_teacher(places[0]), load_student(places[1], kind="zipvoice")
    prompts, texts, prompt_frames = [[1, 4, 2], [5, 6]], [[7, 8, 9, 1, 2], [4, 4, 1]], [9, 5]
    prompt = torch.randn(2, 9, 6)
    prompt[1, 5:] = 0
    lengths = torch.tensor(prompt_frames)
    text, padding = model.forward_text_inference_ratio_duration(texts, prompts, lengths, 1.0)
    n = text.shape[1]
    shown = torch.zeros(2, n, 6)
    for i, frames in enumerate(prompt_frames):
        shown[i, :frames] = prompt[i, :frames]
    joined = [a + b for a, b in zip(prompts, texts, strict=True)]
    symbols = torch.full((2, max(map(len, joined))), -1)
    for i, row in enumerate(joined):
        symbols[i, : len(row)] = torch.tensor(row)
    cond = {"cond": shown, "text": symbols, "mask": ~padding}
    z = torch.randn(2, n, 6)
    answers: dict[str, Tensor] = {}
    errors: dict[str, float] = {}

    def both(name: str, ours: Tensor, theirs: Tensor) -> None:
        keep = ~padding[..., None]
        answers[f"answer.{name}"] = theirs
        errors[name] = error(ours * keep, theirs * keep)

    given = {"text_condition": text, "speech_condition": shown, "padding_mask": padding}
    for t in (0.25, 0.5, 0.75):
        at = torch.tensor(t)
        theirs = model.solver.model(t=at, x=z, guidance_scale=1.0, **given)
        both(f"guided_{t}", teacher.velocity(z, at, cond), theirs)
    teacher.guidance_strength = 0.0
    theirs = model.forward_fm_decoder(torch.tensor(0.25), z, text, shown, padding)
    both("velocity", teacher.velocity(z, torch.tensor(0.25), cond), theirs)
    teacher.guidance_strength = 1.0
    theirs = model.solver.sample(x=z, num_step=4, guidance_scale=1.0, t_shift=0.5, **given)
    ours = solve(lambda x, t: teacher.velocity(x, t, cond), z, zipvoice_times(4), "euler")
    both("sampler_4", ours, theirs)
    t_text, _ = told.forward_text_inference_ratio_duration(texts, prompts, lengths, 1.0)
    given["text_condition"] = t_text
    theirs = told.solver.sample(x=z, num_step=8, guidance_scale=3.0, t_shift=0.5, **given)
    strength = torch.full((2,), 3.0)
    both("distill_8", sample(student, z, {**cond, "guidance": strength}), theirs)
    errors["one_step_in_the_original"] = served(plain, teacher, z, cond, root)
    weights = {f"teacher.{name}": v for name, v in model.state_dict().items()}
    weights |= {f"distill.{name}": v for name, v in told.state_dict().items()}
    return errors, {**weights, **answers, **{f"cond.{k}": v for k, v in cond.items()}, "z": z}


def served(plain: type, teacher: Any, z: Tensor, cond: Any, root: Path) -> float:
    """A moved student of one step, written, loaded strictly into the original and sampled there."""
    one = Student.from_teacher(teacher, 1).eval()
    one.network.time_embed.weight.add_(0.2 * torch.randn_like(one.network.time_embed.weight))  # type: ignore[union-attr, operator, arg-type]
    file = export_zipvoice(one, root / "one.pt")
    model: Any = plain(**SIZES, vocab_size=VOCABULARY, pad_id=PAD).eval()
    model.load_state_dict(torch.load(file, weights_only=True)["model"], strict=True)
    valid = cond["mask"]
    rows = [[int(s) for s in row if s >= 0] for row in cond["text"]]
    text, padding = model.forward_text_train(rows, valid.sum(1))
    theirs = model.solver.sample(
        x=z, text_condition=text, speech_condition=cond["cond"], padding_mask=padding, num_step=1, guidance_scale=0.0,
        t_shift=0.5,
    )  # fmt: skip
    keep = valid[..., None]
    return error(sample(one, z, cond) * keep, theirs * keep)


if __name__ == "__main__":
    run(__doc__, compare, {"sizes": json.dumps(SIZES)})
