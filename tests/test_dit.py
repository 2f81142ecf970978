"""F5-TTS's and CosyVoice 3's networks and teachers on tiny random weights: what their golden sets
do not show.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_tts import f5_field
from torch import Tensor, nn

from mfdistill.errors import UserError
from mfdistill.flow import total_derivative
from mfdistill.networks.build import build_network
from mfdistill.networks.causal_dit import chunk_attention
from mfdistill.networks.dit import Rotary, rotate
from mfdistill.networks.f5_text import TextEmbedding
from mfdistill.students import Student
from mfdistill.systems.f5_inputs import f5_condition, f5_duration, paste_prompt
from mfdistill.tasks.mel_prior import noise
from mfdistill.teachers import load_teacher
from mfdistill.teachers.live_f5 import live_f5

F5 = {
    "dim": 32,
    "depth": 2,
    "heads": 2,
    "dim_head": 8,
    "ff_mult": 2,
    "mel_dim": 6,
    "text_num_embeds": 9,
    "text_dim": 4,
    "conv_layers": 1,
}
UNETT = {**F5, "text_dim": None, "conv_layers": 0}
COSY = {
    "dim": 32,
    "depth": 2,
    "heads": 2,
    "dim_head": 8,
    "mel_dim": 6,
    "mu_dim": 6,
    "spk_dim": 5,
    "static_chunk_size": 3,
}
SWITCHES = [
    ("f5", {}),
    ("f5", {"text_mask_padding": False, "pe_attn_head": 1, "qk_norm": "rms_norm"}),
    (
        "f5",
        {
            "attn_mask_enabled": True,
            "long_skip_connection": True,
            "text_embedding_average_upsampling": True,
            "pe_attn_head": 0,
        },
    ),
    ("f5_unett", {}),
    (
        "f5_unett",
        {
            "skip_connect_type": "add",
            "pe_attn_head": None,
            "conv_layers": 1,
            "attn_mask_enabled": True,
        },
    ),
    ("f5_unett", {"skip_connect_type": "none"}),
]


def network(name: str, seed: int = 0, **changes: Any) -> Any:
    torch.manual_seed(seed)
    net = build_network(
        name, {**{"f5": F5, "f5_unett": UNETT, "cosyvoice3": COSY}[name], **changes}
    ).eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    return net


def f5_inputs(
    lengths: tuple[int, ...] = (10, 7), masked: bool = True
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    g = torch.Generator().manual_seed(1)
    b, n = len(lengths), max(lengths)
    text = torch.randint(0, 9, (b, 5), generator=g)
    text[-1, 3:] = -1
    cond = {"cond": torch.randn(b, n, 6, generator=g), "text": text}
    if masked:
        cond["mask"] = torch.arange(n) < torch.tensor(lengths)[:, None]
    return torch.randn(b, n, 6, generator=g), torch.rand(b, generator=g), cond


def cosy_inputs(lengths: tuple[int, ...] = (10, 7)) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    g = torch.Generator().manual_seed(1)
    b, n = len(lengths), max(lengths)
    mask = (torch.arange(n) < torch.tensor(lengths)[:, None]).float()[:, None]
    cond = {
        "mu": torch.randn(b, 6, n, generator=g),
        "cond": torch.randn(b, 6, n, generator=g),
        "mask": mask,
    }
    return (
        torch.randn(b, 6, n, generator=g),
        torch.rand(b, generator=g),
        {**cond, "spks": torch.randn(b, 5, generator=g)},
    )


def test_rotation_turns_neighbouring_channels() -> None:
    rotary = Rotary(4)
    x = torch.tensor([[1.0, 0.0, 0.0, 1.0]] * 3)
    turned = rotate(x, rotary(3))
    a, b = 2 * 1.0, 2 * 10000.0**-0.5
    expected = torch.tensor([a, a, b, b])
    torch.testing.assert_close(rotary(3)[2], expected)
    torch.testing.assert_close(
        turned[2],
        torch.stack([expected[0].cos(), expected[0].sin(), -expected[2].sin(), expected[2].cos()]),
    )
    assert torch.equal(turned[0], x[0])
    assert Rotary(4).half().inv_freq.dtype == torch.float32
    assert torch.equal(Rotary(16).bfloat16().inv_freq, Rotary(16).inv_freq)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(("name", "switches"), SWITCHES)
def test_students_begin_as_their_teachers_and_packed_guidance_is_two_calls(
    name: str, switches: dict[str, Any], masked: bool
) -> None:
    z, t, cond = f5_inputs(masked=masked)
    net = network(name, **switches)
    teacher = f5_field(net)
    velocity = teacher.velocity(z, t, cond)
    student = Student.from_teacher(teacher)
    assert torch.equal(student(z, t, torch.ones(2), cond), velocity) and torch.equal(
        student(z, t, t, cond), velocity
    )
    one = {key: value[:1] for key, value in cond.items()}
    for time in (t[0], t[:1]):
        assert torch.equal(
            student(z[:1], time, torch.tensor(1.0), one), teacher.velocity(z[:1], time, one)
        )
    dropped = torch.ones(2, dtype=torch.bool)
    null = teacher.velocity(z, t, {**cond, "drop_audio": dropped, "drop_text": dropped})
    assert (null - velocity).abs().max() > 0.01
    for packed in (True, False):
        guided = f5_field(net, 1.5, packed)
        assert guided.branches == 2
        torch.testing.assert_close(
            guided.velocity(z, t, cond), velocity + 1.5 * (velocity - null), rtol=1e-4, atol=1e-4
        )
    half = torch.tensor([False, True])
    torch.testing.assert_close(
        teacher.velocity(z, t, {**cond, "drop_audio": half, "drop_text": half}),
        torch.stack([velocity[0], null[1]]),
    )


def test_strength_zero_skips_the_null_branch() -> None:
    calls: list[int] = []
    net = network("f5")
    net.register_forward_pre_hook(lambda module, given: calls.append(len(given[0])))
    z, t, cond = f5_inputs()
    for strength, packed, expected in (
        (0.0, True, [2]),
        (1e-6, True, [2]),
        (1.0, True, [4]),
        (1.0, False, [2, 2]),
    ):
        calls.clear()
        f5_field(net, strength, packed).velocity(z, t, cond)
        assert calls == expected


def test_padding_does_not_reach_the_valid_frames_where_attention_is_masked() -> None:
    z, t, cond = f5_inputs((12, 7))
    # the norm of the text's blocks sees the padding
    net = network("f5", attn_mask_enabled=True, conv_layers=0)
    whole = net(z, t, cond)
    alone = net(
        z[1:, :7],
        t[1:],
        {"cond": cond["cond"][1:, :7], "text": cond["text"][1:], "mask": cond["mask"][1:, :7]},
    )
    torch.testing.assert_close(whole[1:, :7], alone, rtol=1e-4, atol=1e-5)


def test_the_null_branch_knows_the_texts_length_only_where_padding_is_masked() -> None:
    z, t, cond = f5_inputs(masked=False)
    longer = {**cond, "text": torch.cat([cond["text"], torch.full((2, 3), 4)], 1)}
    drop = {"drop_text": torch.ones(2, dtype=torch.bool)}
    for masks, differs in ((True, True), (False, False)):
        net = network("f5", text_mask_padding=masks)
        assert (
            (net(z, t, {**cond, **drop}) - net(z, t, {**longer, **drop})).abs().max() > 1e-3
        ) == differs


@pytest.mark.parametrize("spk_dim", [5, None])
def test_what_a_condition_may_leave_out(spk_dim: int | None) -> None:
    z, t, cond = cosy_inputs((10, 10))
    net = network("cosyvoice3", spk_dim=spk_dim)
    with torch.no_grad():
        whole = net(z, t, cond)
        assert torch.equal(
            net(z, t, {key: value for key, value in cond.items() if key != "mask"}), whole
        )
        assert torch.equal(net(z, t, {**cond, "mask": cond["mask"][:, 0]}), whole)
        null = {
            key: value if key == "mask" else torch.zeros_like(value) for key, value in cond.items()
        }
        assert torch.equal(net(z, t, {"mask": cond["mask"]}), net(z, t, null))
        for name in ("mu", "cond", *(["spks"] if spk_dim else [])):
            with pytest.raises(ValueError, match=f"has no '{name}'; this network needs mu"):
                net(z, t, {key: value for key, value in cond.items() if key != name})
        with pytest.raises(ValueError, match="has no 'text'"):
            network("f5")(torch.zeros(1, 4, 6), torch.zeros(1), {"cond": torch.zeros(1, 4, 6)})


def test_upsampled_text_is_spread_evenly() -> None:
    embedding = TextEmbedding(9, 4, 0, True, upsample=True)
    rows = embedding.text_embed.weight.detach()
    text = torch.tensor([[4, 7, 2, -1], [1, -1, -1, -1], [-1, -1, -1, -1]])
    valid = torch.arange(8) < torch.tensor([8, 5, 8])[:, None]
    spread = embedding(text, 8, valid).detach()
    torch.testing.assert_close(spread[0], rows[[5, 5, 8, 8, 8, 3, 3, 3]])
    torch.testing.assert_close(spread[1, :5], rows[[2] * 5])
    assert not spread[1, 5:].any() and not spread[2].any()


def test_long_text_is_cut() -> None:
    z, t, cond = f5_inputs(masked=False)
    net = network("f5")
    long = {**cond, "text": torch.cat([cond["text"].clamp(min=0), torch.full((2, 20), 3)], 1)}
    assert torch.equal(net(z, t, long), net(z, t, {**long, "text": long["text"][:, :10]}))


@pytest.mark.parametrize("name", ["f5", "f5_unett", "cosyvoice3"])
def test_time_derivatives_agree(name: str) -> None:
    z, t, cond = cosy_inputs() if name == "cosyvoice3" else f5_inputs()
    student = Student.from_teacher(f5_field(network(name).double()))
    cond = {
        key: value.double() if value.is_floating_point() else value for key, value in cond.items()
    }
    z, t = z.double(), 0.1 + 0.5 * t.double()
    call = lambda z, t, r: student(z, t, r, cond)  # noqa: E731
    _, forward = total_derivative(call, z, t, t + 0.3, torch.ones_like(z), method="forward")
    _, central = total_derivative(
        call, z, t, t + 0.3, torch.ones_like(z), method="central", eps=1e-6
    )
    torch.testing.assert_close(forward, central, rtol=1e-4, atol=1e-4)


def test_checkpointed_activations_have_the_same_gradients() -> None:
    z, t, cond = f5_inputs()
    gradients = []
    for again in (False, True):
        net = network("f5", checkpoint_activations=again).train()
        net(z, t, cond).square().mean().backward()
        gradients.append([p.grad for p in net.parameters()])
    assert all(torch.allclose(a, b) for a, b in zip(*gradients, strict=True))


def test_half_precision_runs() -> None:
    z, t, cond = f5_inputs()
    teacher = f5_field(network("f5"), 2.0)
    exact = teacher.velocity(z, t, cond)
    rough = teacher.to(dtype=torch.bfloat16).velocity(
        z.bfloat16(), t, {**cond, "cond": cond["cond"].bfloat16()}
    )
    assert rough.dtype == torch.bfloat16 and (rough.float() - exact).norm() / exact.norm() < 0.1


def test_chunks_see_themselves_and_what_was_before() -> None:
    valid = torch.tensor([[True] * 5, [True] * 4 + [False], [False] * 5])
    offline = chunk_attention(valid, 2, False)
    assert offline.shape == (3, 1, 5) and torch.equal(offline[:2, 0], valid[:2])
    assert offline[2].all()  # nothing to see: all is seen, and nothing of it is used
    streaming = chunk_attention(valid, 2, True)
    assert streaming[0].int().tolist() == [[1, 1, 0, 0, 0]] * 2 + [[1, 1, 1, 1, 0]] * 2 + [[1] * 5]
    assert torch.equal(streaming[1, -1], valid[1])
    mixed = chunk_attention(valid, 2, torch.tensor([True, False, True]))
    assert torch.equal(mixed[0], streaming[0]) and torch.equal(mixed[1], valid[1].expand(5, 5))


def test_streaming_sees_no_later_chunk_and_offline_does() -> None:
    z, t, cond = cosy_inputs((10, 10))
    net = network("cosyvoice3")
    other = z.clone()
    other[..., 6:] += 1
    for net.streaming in (True, False):
        change = (net(z, t, cond) - net(other, t, cond)).abs().amax((0, 1))
        assert (change[:6].max() < 1e-5) == net.streaming
        assert change[6:].min() > 1e-4


def test_priors_are_drawn_sample_by_sample() -> None:
    _, _, cond = f5_inputs((10, 7))
    teacher = f5_field(network("f5"))
    z_0 = teacher.prior(cond, torch.Generator().manual_seed(3))
    assert not z_0[1, 7:].any() and z_0[0].std() > 0.5
    again = torch.Generator().manual_seed(3)
    torch.testing.assert_close(z_0, noise([10, 7], 6, generator=again))
    assert torch.equal(noise([4, 7], 6, seed=5)[0, :4], noise([4], 6, seed=5)[0])


def test_conditions_of_the_sampler() -> None:
    prompt, text = torch.randn(2, 4, 6), torch.tensor([[1, 2, 3, 4, 5, 6], [1, -1, -1, -1, -1, -1]])
    cond = f5_condition(prompt, text, torch.tensor([5, 9]), torch.tensor([4, 2]), vocabulary=9)
    assert cond["mask"].sum(1).tolist() == [7, 9]  # one more than the text; as asked for
    assert torch.equal(cond["cond"][1, :2], prompt[1, :2]) and not cond["cond"][1, 2:].any()
    assert "mask" not in f5_condition(prompt[:1], text[:1], 9)
    pasted = paste_prompt(torch.zeros(2, 9, 6), cond, [4, 2])
    assert torch.equal(pasted[0, :4], prompt[0]) and not pasted[1, 2:].any()
    assert f5_duration(100, "abcdefghij", "abcdefghijklmno") == 250
    assert f5_duration(100, "abcdefghij", "abc") == 200  # slow, for it is short
    for call, words in (
        (lambda: f5_condition(prompt, torch.full((2, 3), -1), 9), "none empty"),
        (lambda: f5_condition(prompt, text, 9, vocabulary=5), "not in the vocabulary of 5"),
        (lambda: f5_condition(prompt[:, :0], text, 9), "no frames"),
        (lambda: f5_duration(10, "a", ""), "empty"),
    ):
        with pytest.raises(UserError, match=words):
            call()


@pytest.mark.parametrize(("kind", "name"), [("f5", "f5"), ("f5-unett", "f5_unett")])
def test_files_of_all_ages(kind: str, name: str, tmp_path: Path) -> None:
    net, raw = network(name), network(name, seed=1)
    weights = {f"ema_model.{key}": value for key, value in net.state_dict().items()}
    old = {
        "ema_model.mel_spec.mel_stft.mel_scale.fb": torch.zeros(3),
        "ema_model.mel_spec.mel_stft.spectrogram.window": torch.zeros(3),
    }
    count = {"initted": torch.tensor(True), "step": torch.tensor(7)}
    save_file({**weights, **old, **count}, tmp_path / "old.safetensors")
    trained = {
        "model_state_dict": raw.state_dict(),
        "optimizer_state_dict": {"state": {}},
        "step": 7,
    }
    torch.save({**trained, "ema_model_state_dict": {**weights, **count}}, tmp_path / "trainer.pt")
    torch.save(trained, tmp_path / "raw.pt")
    z, t, cond = f5_inputs()
    config = {"f5": F5, "f5_unett": UNETT}[name]
    for file in ("old.safetensors", "trainer.pt"):
        teacher = load_teacher(tmp_path / file, config=config)
        assert (teacher.config["kind"], teacher.guidance_strength) == (kind, 2.0)  # type: ignore[attr-defined]
        assert torch.equal(
            load_teacher(tmp_path / file, kind, config=config, guidance_strength=0).velocity(
                z, t, cond
            ),
            net(z, t, cond),
        )
    again = load_teacher(
        tmp_path / "raw.pt", kind, config={**config, "weights": "raw"}, guidance_strength=0
    )
    assert torch.equal(again.velocity(z, t, cond), raw(z, t, cond))
    for file, options, words in (
        ("raw.pt", {}, "trained weights only"),
        ("trainer.pt", {"weights": "best"}, "'best' is not one of"),
        ("trainer.pt", {"conv_layer": 3}, "unknown key 'conv_layer'; did you mean 'conv_layers'"),
        ("trainer.pt", {"text_num_embeds": 20}, r"text_embed.text_embed.weight is \(10, "),
    ):
        with pytest.raises(UserError, match=words):
            load_teacher(tmp_path / file, kind, config={**config, **options})
    with pytest.raises(UserError, match="no streaming form"):
        load_teacher(tmp_path / "trainer.pt", kind, config=config, streaming=True)
    with pytest.raises(UserError, match="do not fit kind"):
        load_teacher(tmp_path / "trainer.pt", kind)  # taken for the published model


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("f5", {"dim": 30}, "multiple of 16"),
        ("f5", {"pe_attn_head": 3}, "pe_attn_head 3"),
        ("f5", {"dim_head": 7}, "must be even"),
        (
            "f5",
            {"text_mask_padding": False, "text_embedding_average_upsampling": True},
            "needs text_mask_padding",
        ),
        ("f5", {"qk_norm": "layer"}, "'layer' is not one of"),
        ("f5_unett", {"depth": 3}, "must be even"),
        ("cosyvoice3", {"static_chunk_size": -1}, "static_chunk_size -1"),
    ],
)
def test_bad_sizes_are_one_clear_line(name: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        network(name, **changes)


class Theirs(nn.Module):
    """Called as f5-tts's DiT is."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner, self.time_embed = inner, inner.time_embed

    def forward(
        self,
        x,
        cond,
        text,
        time,
        mask=None,
        drop_audio_cond=False,
        drop_text=False,
        cfg_infer=False,
        cache=False,
    ):
        assert not cache and not cfg_infer
        time = time.repeat(len(x)) if time.ndim == 0 else time
        self.inner.time_embed = self.time_embed
        drop = torch.full((len(x),), drop_text)
        return self.inner(
            x, torch.zeros_like(cond) if drop_audio_cond else cond, text, time, mask, drop
        )


def test_a_live_f5_is_a_teacher() -> None:
    z, t, cond = f5_inputs()
    net = network("f5")
    module = Theirs(network("f5").transformer)
    torch.testing.assert_close(
        live_f5(module).velocity(z, t, cond),
        f5_field(net, 2.0).velocity(z, t, cond),
        rtol=1e-4,
        atol=1e-4,
    )
    student = Student.from_teacher(live_f5(module, 0.0))
    assert torch.equal(student(z, t, torch.ones(2), cond), net(z, t, cond))
    with pytest.raises(UserError, match="give f5-tts's CFM"):
        live_f5(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("name", "changes", "millions", "tensors"),
    [
        ("f5", {}, 337.1, 364),
        ("f5", {"dim": 768, "depth": 18, "heads": 12}, 159.2, 308),
        ("f5_unett", {}, 333.5, 363),
        ("cosyvoice3", {}, 331.1, 323),
    ],
)
def test_published_sizes(name: str, changes: dict[str, Any], millions: float, tensors: int) -> None:
    with torch.device("meta"):
        net = build_network(name, changes)
    assert (
        round(sum(p.numel() for p in net.parameters()) / 1e6, 1) == millions
        and len(net.state_dict()) == tensors
    )
