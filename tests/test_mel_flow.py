"""Teachers and students of Mel flows on tiny networks with random weights: guidance, priors,
streaming, files, live modules.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_tts import mel_field
from torch import Tensor, nn

from mfdistill.errors import UserError
from mfdistill.flow import cosine_times, total_derivative
from mfdistill.networks import build_network
from mfdistill.networks.mel_unet import MelUNet, UNet1d, visible
from mfdistill.networks.mel_unet_config import ACTIVATIONS
from mfdistill.networks.mel_unet_layers import SinusoidMLP
from mfdistill.students import Student, load_student, sample
from mfdistill.students.serving import serve_cosyvoice
from mfdistill.systems.chatterbox import export_chatterbox
from mfdistill.systems.mel_flow import (
    estimator_state,
    export_cosyvoice,
    masked_error,
    training_pair,
)
from mfdistill.tasks.mel_prior import fixed_noise
from mfdistill.teachers import load_teacher
from mfdistill.teachers.live_mel import live_mel_flow

TINY = {
    "in_channels": 32,
    "out_channels": 8,
    "channels": [16],
    "attention_head_dim": 8,
    "n_blocks": 1,
    "num_mid_blocks": 1,
    "num_heads": 2,
    "static_chunk_size": 4,
}
MATCHA = {
    "in_channels": 16,
    "out_channels": 8,
    "channels": [16, 16],
    "attention_head_dim": 8,
    "n_blocks": 1,
    "num_mid_blocks": 1,
}


def network(seed: int = 0, **changes: Any) -> MelUNet:
    torch.manual_seed(seed)
    return build_network("matcha_unet", {**TINY, **changes}).eval()  # type: ignore[return-value]


def inputs(
    lengths: tuple[int, ...] = (10, 7), seed: int = 1
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    torch.manual_seed(seed)
    b, n = len(lengths), max(lengths)
    mask = (torch.arange(n)[None] < torch.tensor(lengths)[:, None]).float()[:, None]
    cond = {
        "mu": torch.randn(b, 8, n),
        "mask": mask,
        "spks": torch.randn(b, 8),
        "cond": torch.randn(b, 8, n),
    }
    return torch.randn(b, 8, n), torch.rand(b), cond


def save(net: MelUNet, path: Path, prefix: str = "") -> Path:
    state = {f"{prefix}decoder.{name}": value for name, value in net.state_dict().items()}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def test_published_sizes_have_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        cosyvoice = build_network("matcha_unet", {})
    assert len(cosyvoice.state_dict()) == 910
    assert sum(p.numel() for p in cosyvoice.parameters()) == pytest.approx(71.3e6, rel=1e-3)


def test_guidance_is_two_calls_and_none_is_one() -> None:
    z, t, cond = inputs()
    calls: list[int] = []
    net = network()
    net.register_forward_hook(lambda _module, args, _out: calls.append(len(args[0])))
    v_cond = mel_field(net).velocity(z, t, cond)
    zeros = {name: torch.zeros_like(value) for name, value in cond.items()}
    v_null = mel_field(net).velocity(z, t, {**zeros, "mask": cond["mask"]})
    assert calls == [2, 2]
    guided = mel_field(net, 0.7)
    assert torch.allclose(guided.velocity(z, t, cond), 1.7 * v_cond - 0.7 * v_null, atol=1e-5)
    assert calls == [2, 2, 4] and guided.branches == 2 and mel_field(net).branches == 1
    assert torch.allclose(mel_field(net).velocity(z, t, {"mask": cond["mask"]}), v_null, atol=1e-6)
    at_once = mel_field(net, 0.7).velocity(z, torch.tensor(0.3), cond)
    assert torch.equal(at_once, mel_field(net, 0.7).velocity(z, torch.full((2,), 0.3), cond))
    assert torch.equal(at_once, mel_field(net, 0.7).velocity(z, torch.tensor([0.3]), cond))
    with pytest.raises(ValueError, match="no 'spks'"):
        mel_field(net).velocity(z, t, {"mu": cond["mu"]})


def test_padding_changes_nothing_and_stays_zero() -> None:
    z, t, cond = inputs()
    v = mel_field(network(), 0.7).velocity(z, t, cond)
    assert v[1, :, 7:].abs().max() == 0
    one = {
        name: value[1:] if name == "spks" else value[1:, :, :7]
        for name, value in cond.items()
        if name != "mask"
    }
    assert torch.allclose(
        mel_field(network(), 0.7).velocity(z[1:, :, :7], t[1:], one), v[1:, :, :7], atol=1e-5
    )


def test_fixed_noise_is_the_buffer_at_seed_0_and_fresh_noise_is_not() -> None:
    torch.manual_seed(0)
    buffer = torch.randn(1, 80, 15000)
    assert torch.equal(fixed_noise(100), buffer[:, :, :100])
    cond = {"mu": torch.zeros(2, 80, 30)}
    fixed = mel_field(network(), fixed_noise=True, temperature=0.5)
    assert torch.equal(fixed.prior(cond), 0.5 * buffer[:, :, :30].expand(2, -1, -1))
    fresh = mel_field(network())
    assert not torch.equal(fresh.prior(cond), fresh.prior(cond))
    draws = [fresh.prior(cond, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*draws) and not torch.equal(draws[0][0], draws[0][1])
    with pytest.raises(UserError, match="15000"):
        fixed_noise(15001)


def test_visible_frames() -> None:
    valid = torch.tensor([[True, True, True, True, False], [False] * 5])
    assert torch.equal(
        visible(valid, 2, False), torch.stack([valid[:1], torch.ones(1, 5, dtype=torch.bool)])
    )
    rows = visible(valid, 2, True)[0].int().tolist()
    assert rows == [
        [1, 1, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 0],
    ]


def test_streaming_prefix_and_one_flag_per_sample() -> None:
    z, t, cond = inputs((11, 11))
    net = network()
    net.streaming = True
    streaming = mel_field(net, 0.7)
    whole = streaming.velocity(z, t, cond)
    start = {name: value if name == "spks" else value[:, :, :8] for name, value in cond.items()}
    assert torch.allclose(streaming.velocity(z[:, :, :8], t, start), whole[:, :, :8], atol=1e-5)
    offline = mel_field(network(), 0.7)
    assert not torch.allclose(
        offline.velocity(z[:, :, :8], t, start), offline.velocity(z, t, cond)[:, :, :8], atol=1e-3
    )
    mixed = offline.velocity(z, t, {**cond, "streaming": torch.tensor([True, False])})
    assert torch.allclose(mixed[0], whole[0], atol=1e-5) and torch.allclose(
        mixed[1], offline.velocity(z, t, cond)[1], atol=1e-5
    )


VARIANTS = [
    *({"act_fn": name} for name in ACTIVATIONS),
    {"channels": [16, 24]},
    {"channels": [16, 16], "causal": False},
]


@pytest.mark.parametrize("changes", VARIANTS)
def test_student_equals_its_teacher_for_every_r(changes: dict[str, Any]) -> None:
    z, t, cond = inputs()
    teacher = mel_field(network(**changes), 0.7)
    student = Student.from_teacher(teacher).eval()
    with torch.no_grad():
        assert torch.equal(
            student(z, t, torch.rand(2), cond), mel_field(network(**changes)).velocity(z, t, cond)
        )


def test_total_derivative_in_forward_mode_is_that_of_differences() -> None:
    z, t, cond = inputs()
    net = network().double()
    student = Student.from_teacher(mel_field(net))
    cond = {name: value.double() for name, value in cond.items()}

    def u(z: Tensor, t: Tensor, r: Tensor) -> Tensor:
        return student(z, t, r, cond)

    at = (
        z.double(),
        0.2 + 0.3 * t.double(),
        torch.full((2,), 0.9, dtype=torch.double),
        torch.randn_like(z).double(),
    )
    exact, central = (
        total_derivative(u, *at, method=method)[1] for method in ("forward", "central")
    )
    assert (exact - central).norm() < 1e-2 * exact.norm()


def test_schedule_and_training_pair() -> None:
    assert cosine_times(10)[1:-1] == pytest.approx(
        [1 - math.cos(math.pi / 20 * k) for k in range(1, 10)]
    )
    z_1, noise, t, mask = (
        torch.randn(2, 8, 5),
        torch.randn(2, 8, 5),
        torch.tensor([0.25, 0.5]),
        torch.ones(2, 1, 5),
    )
    state, target = training_pair(z_1, noise, t, 0.0)
    assert torch.allclose(state[0], 0.75 * noise[0] + 0.25 * z_1[0]) and torch.equal(
        target, z_1 - noise
    )
    assert masked_error(target + 2, target, mask) == pytest.approx(4)
    longer = torch.cat([mask, torch.zeros(2, 1, 5)], 2)
    assert masked_error(
        torch.cat([target + 2] * 2, 2), torch.cat([target] * 2, 2), longer
    ) == pytest.approx(4)


def test_files_are_recognised_and_errors_name_the_first_wrong_key(tmp_path: Path) -> None:
    z, t, cond = inputs()
    expected = mel_field(network()).velocity(z, t, cond)
    places = {
        "flow.pt": "",
        "flow.safetensors": "",
        "s3gen.safetensors": "flow.",
        "epoch_1_step_2.pt": "module.",
    }
    for name, prefix in places.items():
        path = save(network(), tmp_path / name, prefix)
        assert torch.equal(
            load_teacher(path, config=TINY, guidance_strength=0).velocity(z, t, cond), expected
        )
    assert torch.equal(
        load_teacher(tmp_path, kind="cosyvoice2", config=TINY, guidance_strength=0).velocity(
            z, t, cond
        ),
        expected,
    )
    assert load_teacher(path, config=TINY).guidance_strength == 0.7  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="lacks down_blocks.0.1.1.*looks like kind cosyvoice2"):
        load_teacher(path, config={**TINY, "n_blocks": 2})
    with pytest.raises(UserError, match=r"time_mlp.linear_1.weight is \(64, 32\).*kind cosyvoice2"):
        load_teacher(path, kind="cosyvoice2", config={**TINY, "in_channels": 30})
    with pytest.raises(UserError, match="unknown key 'num_head'; did you mean 'num_heads'"):
        load_teacher(path, config={"num_head": 2})
    with pytest.raises(UserError, match="no streaming form"):
        load_teacher(path, config={**TINY, "static_chunk_size": 0}, streaming=True)
    with pytest.raises(UserError, match="looks like kind cosyvoice2"):
        load_teacher(path, kind="matcha", config=TINY)
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="no tensors named decoder.estimator"):
        load_teacher(tmp_path / "other.safetensors", kind="cosyvoice2")


@pytest.mark.parametrize("speaker", [0, 4])
def test_matcha(tmp_path: Path, speaker: int) -> None:
    """Its mask is a number added to the scores, so padding does leak into the attention, as in the
    original.
    """
    sizes = {
        **MATCHA,
        "in_channels": 16 + speaker,
        "act_fn": "snakebeta",
        "causal": False,
        "matcha": True,
        "static_chunk_size": 0,
    }
    torch.manual_seed(0)
    net = build_network("matcha_unet", {**sizes, "num_heads": 2}).eval()
    path = tmp_path / "matcha.ckpt"
    state = {f"decoder.{name}": value for name, value in net.state_dict().items()}
    torch.save(
        {"state_dict": {**state, "encoder.emb.weight": torch.zeros(3, 2)}, "global_step": 5}, path
    )
    teacher = load_teacher(path, config={**MATCHA, "in_channels": 16 + speaker})
    z, t, cond = inputs((12, 8))
    cond = {
        "mu": cond["mu"],
        "mask": cond["mask"],
        **({"spks": torch.randn(2, speaker)} if speaker else {}),
    }
    v = teacher.velocity(z, t, cond)
    with torch.no_grad():
        assert torch.equal(v, net(z, t, cond))
    assert teacher.branches == 1 and v[1, :, 8:].abs().max() == 0  # type: ignore[attr-defined]
    short = {
        name: value[1:] if name == "spks" else value[1:, :, :8] for name, value in cond.items()
    }
    assert not torch.allclose(teacher.velocity(z[1:, :, :8], t[1:], short), v[1:, :, :8], atol=1e-4)
    student = Student.from_teacher(teacher).eval()
    with torch.no_grad():
        assert torch.equal(student(z, t, torch.ones(2), cond), v)
    with pytest.raises(UserError, match="null condition"):
        load_teacher(path, config={**MATCHA, "in_channels": 16 + speaker}, guidance_strength=0.5)
    with pytest.raises(ValueError, match="no 'mu'"):
        teacher.velocity(z, t, {"mask": cond["mask"]})


def trained_student(net: MelUNet) -> Student:
    student = Student.from_teacher(mel_field(net)).eval()
    with torch.no_grad():
        student.network.get_submodule("estimator.time_mlp").weight.add_(0.1 * torch.randn(64, 128))
    return student


def test_exports_come_back(tmp_path: Path) -> None:
    z, t, cond = inputs()
    student = trained_student(network())
    base = tmp_path / "base.safetensors"
    save_file(
        {"decoder.estimator.x": torch.ones(1), "input_embedding.weight": torch.ones(2, 3)}, base
    )
    for name, export in (
        ("flow.pt", export_cosyvoice),
        ("flow.safetensors", export_cosyvoice),
        ("s3gen.safetensors", export_chatterbox),
    ):
        export(student, tmp_path / name, base=base)
        again = load_student(tmp_path / name, config=TINY)
        with torch.no_grad():
            assert torch.equal(again(z, t, torch.ones(2), cond), student(z, t, torch.ones(2), cond))
        assert again.schedule == [0, 0.5, 1]
        with pytest.raises(UserError, match="holds a student of kind chatterbox"):
            load_teacher(tmp_path / name, config=TINY)
    names = set(torch.load(tmp_path / "flow.pt", weights_only=True))
    assert {
        "input_embedding.weight",
        "decoder.estimator.time_embed_mixer.weight",
    } < names and "decoder.estimator.x" not in names
    with pytest.raises(UserError, match="causal U-Net"):
        export_chatterbox(
            Student.from_teacher(mel_field(network(causal=False))), tmp_path / "no.safetensors"
        )
    with pytest.raises(UserError, match="lacks decoder.estimator.time_embed_mixer.weight"):
        load_student(save(network(), tmp_path / "plain.pt"), kind="chatterbox", config=TINY)


class Features(nn.Module):
    """Their first time module."""

    def forward(self, t: Tensor) -> Tensor:
        rates = torch.exp(torch.arange(16) * -(math.log(10000) / 15))
        angle = 1000 * t[:, None] * rates
        return torch.cat([angle.sin(), angle.cos()], -1)


class TimeNetwork(nn.Module):
    """Their second one."""

    def __init__(self, whole: SinusoidMLP):
        super().__init__()
        self.linear_1, self.linear_2 = whole.linear_1, whole.linear_2

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(nn.functional.silu(self.linear_1(x)))


class Theirs(UNet1d):
    """An estimator with the two time modules of the originals."""

    def split(self) -> Theirs:
        self.time_embeddings, self.time_mlp = Features(), TimeNetwork(self.time_mlp)  # type: ignore[assignment,arg-type]
        return self

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        mu: Tensor,
        t: Tensor,
        spks: Any = None,
        cond: Any = None,
        streaming: Any = False,
    ) -> Tensor:
        return super().forward(
            x, mask, mu, self.time_embeddings(t).to(t.dtype), spks, cond, streaming
        )


class Decoder(nn.Module):
    """As CosyVoice's, in what a wrapper touches."""

    inference_cfg_rate = 0.7

    def __init__(self, estimator: nn.Module):
        super().__init__()
        self.estimator = estimator
        self.rand_noise = torch.randn(1, 8, 50)


def their_decoder(state: Mapping[str, Tensor]) -> Decoder:
    estimator = Theirs(network().config)
    estimator.load_state_dict(dict(state))
    return Decoder(estimator.split()).eval()


def test_a_live_module_is_a_teacher_and_its_student_exports(tmp_path: Path) -> None:
    z, t, cond = inputs()
    decoder = their_decoder(network().estimator.state_dict())
    for module, strength in ((decoder, 0.7), (decoder.estimator, 0.0)):
        teacher = live_mel_flow(module)
        assert teacher.guidance_strength == strength
        assert torch.allclose(
            teacher.velocity(z, t, cond),
            mel_field(network(), strength).velocity(z, t, cond),
            atol=1e-5,
        )
    student = Student.from_teacher(live_mel_flow(decoder, 0)).eval()
    with torch.no_grad():
        assert torch.equal(
            student(z, t, torch.rand(2), cond), live_mel_flow(decoder, 0).velocity(z, t, cond)
        )
    assert isinstance(decoder.estimator.time_embeddings, Features)
    export_cosyvoice(student, tmp_path / "flow.pt")
    again = load_student(tmp_path / "flow.pt", config=TINY)
    with torch.no_grad():
        assert torch.allclose(
            again(z, t, torch.rand(2), cond), student(z, t, torch.rand(2), cond), atol=1e-5
        )
    streaming = live_mel_flow(decoder, 0, streaming=True).velocity(z, t, cond)
    assert torch.allclose(
        streaming,
        mel_field(network()).velocity(z, t, {**cond, "streaming": torch.tensor(True)}),
        atol=1e-5,
    )
    with pytest.raises(UserError, match="no estimator"):
        live_mel_flow(nn.Linear(2, 2))


@pytest.mark.parametrize("steps", [1, 3])
def test_a_running_program_serves_a_student(steps: int) -> None:
    _, _, cond = inputs((12,))
    student = trained_student(network())
    state = estimator_state(student)
    mixer = state.pop("time_embed_mixer.weight")
    decoder = their_decoder(state)
    serve_cosyvoice(decoder, mixer, steps)
    mel, cache = decoder(
        mu=cond["mu"],
        mask=cond["mask"],
        spks=cond["spks"],
        cond=cond["cond"],
        n_timesteps=10,
        streaming=False,
    )
    expected = sample(student, decoder.rand_noise[:, :, :12], cond, steps)
    assert cache is None and torch.allclose(mel, expected, atol=1e-5)
