"""Rules of guidance in closed form; checkpointed activations of every foreign network."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tiny_tts import COSY, COSY3, F5, f5_field, mel_field, noisy
from torch import nn

from mfdistill.errors import UserError
from mfdistill.networks import build_network
from mfdistill.networks.recompute import recompute_activations
from mfdistill.students import Student
from mfdistill.teachers.guidance import guide

UNETT = {
    "dim": 16,
    "depth": 2,
    "heads": 2,
    "dim_head": 8,
    "mel_dim": 8,
    "text_num_embeds": 9,
    "pe_attn_head": 1,
}


def test_rules_of_guidance_on_vectors() -> None:
    v_cond, v_null = (
        torch.tensor([[[3.0, 4.0]], [[1.0, 0.0]]]),
        torch.tensor([[[6.0, 8.0]], [[2.0, 2.0]]]),
    )
    assert torch.allclose(guide(v_cond, v_null, 0.7), 1.7 * v_cond - 0.7 * v_null)
    # the first null velocity is parallel to the conditional one: its projection is that one, and
    # guidance adds nothing
    expected = torch.tensor([[[3.0, 4.0]], [[1 + 2 * 0.5, -2 * 0.5]]])
    assert torch.allclose(guide(v_cond, v_null, 2.0, "zero-star"), expected)
    assert torch.allclose(guide(v_cond, v_null, torch.tensor([5.0, 2.0]), "zero-star"), expected)
    # the projection is of what counts: 3 6 / 36 and 1 2 / 4
    valid = torch.tensor([1.0, 0.0]).expand(2, 1, 2)
    assert torch.allclose(guide(v_cond, v_null, 1.0, "zero-star", valid), 2 * v_cond - 0.5 * v_null)


def test_teachers_apply_the_rule_and_ignore_padding() -> None:
    torch.manual_seed(0)
    z, t, mask = (
        torch.randn(2, 10, 8),
        torch.tensor([0.25, 0.5]),
        torch.arange(10)[None] < torch.tensor([[10], [7]]),
    )
    cond = {"cond": torch.zeros(2, 10, 8), "text": torch.tensor([[1, 2], [3, -1]]), "mask": mask}
    net = noisy(build_network("f5", F5))
    drop = {key: torch.ones(2, dtype=torch.bool) for key in ("drop_audio", "drop_text")}
    plain = f5_field(net)
    v_cond, v_null = plain.velocity(z, t, cond), plain.velocity(z, t, {**cond, **drop})
    teacher = f5_field(net, 2.0)
    teacher.guidance_rule = "zero-star"
    assert torch.allclose(
        teacher.velocity(z, t, cond),
        guide(v_cond, v_null, 2.0, "zero-star", mask[..., None].float()),
        atol=1e-5,
    )
    assert not torch.allclose(teacher.velocity(z, t, cond), guide(v_cond, v_null, 2.0), atol=1e-3)
    mels = {
        "mu": torch.randn(1, 8, 12),
        "spks": torch.randn(1, 8),
        "cond": torch.zeros(1, 8, 12),
        "mask": torch.ones(1, 1, 12),
    }
    unet, x = noisy(build_network("matcha_unet", COSY)), torch.randn(1, 8, 12)
    v_cond, v_null = (
        mel_field(unet).velocity(x, t[:1], mels),
        mel_field(unet).velocity(x, t[:1], {"mask": mels["mask"]}),
    )
    guided = mel_field(unet, 0.7)
    guided.guidance_rule = "zero-star"
    assert torch.allclose(
        guided.velocity(x, t[:1], mels), guide(v_cond, v_null, 0.7, "zero-star"), atol=1e-5
    )


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("f5", F5), ("f5_unett", UNETT), ("matcha_unet", COSY), ("cosyvoice3", COSY3)],
)
def test_blocks_computed_again_give_the_same_gradients_and_keep_less(
    name: str, sizes: dict[str, Any]
) -> None:
    network: Any = noisy(build_network(name, sizes))
    torch.manual_seed(0)
    z, cond = (
        torch.randn(2, 8, 12),
        {"mu": torch.randn(2, 8, 12), "spks": torch.randn(2, 8), "cond": torch.zeros(2, 8, 12)},
    )
    cond["mask"] = torch.ones(2, 1, 12)
    if name.startswith("f5"):
        z, cond = (
            torch.randn(2, 12, 8),
            {"cond": torch.randn(2, 12, 8), "text": torch.tensor([[1, 2], [3, 4]])},
        )
    plain = Student(copy.deepcopy(network), network.time_embedding_name).train()
    student = Student(network, network.time_embedding_name)
    assert recompute_activations(student.network) > 0
    student = copy.deepcopy(student).train()  # a copy computes with its own weights
    with torch.no_grad():
        for p in network.parameters():
            p.zero_()
    kept = []
    for model in (plain, student):
        sizes_kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, seen=sizes_kept: (seen.append(x.numel()), x)[1], lambda x: x
        ):  # type: ignore
            loss = (
                model(z, torch.tensor([0.25, 0.5]), torch.tensor([0.5, 1.0]), cond).square().mean()
            )
        loss.backward()
        kept.append(sum(sizes_kept))
    assert kept[1] < 0.7 * kept[0]
    for (key, a), (other, b) in zip(
        plain.named_parameters(), student.named_parameters(), strict=True
    ):
        assert key == other and (a.grad is None) == (b.grad is None)
        assert a.grad is None or torch.allclose(a.grad, b.grad, rtol=1e-4, atol=1e-6), key
    with torch.no_grad():
        args = (z, torch.tensor([0.25, 0.5]), torch.tensor([0.5, 1.0]), cond)
        assert torch.equal(plain.eval()(*args), student.eval()(*args))
    with pytest.raises(UserError, match="no transformer blocks"):
        recompute_activations(nn.Linear(2, 2))
