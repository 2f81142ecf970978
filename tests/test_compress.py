"""Compression: exact at full rank, streams as before, eight bits close to float, and what is saved
loads.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mfdistill.checkpoint import save_folder
from mfdistill.config import to_dict
from mfdistill.errors import UserError
from mfdistill.networks import CompactConfig, build_network
from mfdistill.networks.int8 import Int8Layer
from mfdistill.students import Student, load_student
from mfdistill.students.compress import decouple
from mfdistill.students.quantize import quantize
from mfdistill.students.streaming import StreamRestorer
from mfdistill.students.verify import verify
from mfdistill.tasks import default_task, get_task

SIZES = CompactConfig(channels=12, blocks=2, embedding=8, causal=True, freqs=128)


def network(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    made = build_network("compact", SIZES).eval()
    for parameter in made.parameters():
        # what starts at zero would hide everything else
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return made


def inputs(frames: int = 40) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(1, 2, 128, frames, generator=generator),
        torch.zeros(1),
        {"y": torch.randn(1, 2, 128, frames, generator=generator)},
    )


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@torch.no_grad()
def streamed(net: torch.nn.Module) -> torch.Tensor:
    z, t, cond = inputs()
    state, frames = net.init_state(1), []  # type: ignore[operator]
    for i in range(z.shape[-1]):
        frame, state = net.step(z[..., i : i + 1], t, {"y": cond["y"][..., i : i + 1]}, state)  # type: ignore[operator]
        frames.append(frame)
    return torch.cat(frames, -1)


def test_rank_nine_is_exact_and_lower_ones_are_the_best_of_their_rank() -> None:
    whole, (z, t, cond) = network(), inputs()
    with torch.no_grad():
        errors = [
            relative(decouple(whole, rank)(z, t, cond), whole(z, t, cond)) for rank in (9, 6, 2)
        ]
    assert errors[0] < 1e-5 < errors[1] < errors[2]
    with pytest.raises(UserError, match="already"):
        decouple(decouple(whole, 2), 2)
    for rank in (0, 10):
        with pytest.raises(UserError, match=f"rank {rank}"):
            decouple(whole, rank)


def test_a_layer_in_eight_bits_rounds_and_nothing_else() -> None:
    """Weights and inputs on the grid of their eight bits: the only error is that of the output's
    255 steps.
    """
    layer = torch.nn.Linear(4, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[127.0, -64, 32, 1], [-127, 3, 5, 8]]) / 127)
        layer.bias.zero_()
    x = torch.tensor([[0.0, 1.0, 0.5, 0.25]]) * 127 / 127
    # steps of 1/16: every input is on the grid
    limits = (0.0, 127 / 4 / 4, -2.0, 2.0)
    new = Int8Layer(layer)
    new.fill(layer, limits)
    assert torch.equal(new.weight.float(), (layer.weight * 127).round())  # type: ignore[operator]
    assert float((new(x) - layer(x)).detach().abs().max()) <= 4 / 255 / 2 + 1e-6


def test_decoupled_and_eight_bit_networks_stream_at_their_offline_numbers() -> None:
    whole, (z, t, cond) = network(), inputs()
    with torch.no_grad():
        eight = [quantize(net, lambda m: m(z, t, cond))[0] for net in (whole, decouple(whole, 9))]
        for net in (decouple(whole, 3), *eight):
            assert relative(streamed(net), net(z, t, cond)) < 1e-5
            assert net is not eight[1] or relative(net(z, t, cond), whole(z, t, cond)) < 0.1


def test_compressed_students_load_with_their_numbers(tmp_path: Path) -> None:
    task = get_task(default_task("enhance", 8000, causal=True))
    whole, (z, _, cond) = network(), inputs()
    times = torch.zeros(1), torch.ones(1)
    student = Student(
        whole, "time_embedding", task, [0.0, 1.0], {"name": "compact", "config": to_dict(SIZES)}
    ).eval()
    small = decouple(student.network, 4)
    eight, names = quantize(small, lambda m: m(z, torch.tensor([[0.0, 1.0]]), cond))
    for folder, net, section in (("small", small, {}), ("eight", eight, {"int8": names})):
        student.network = net
        student.description = {"name": "compact", "config": to_dict(small.config), **section}  # type: ignore[arg-type]
        save_folder(tmp_path / folder, student.state_dict(), student.config)
        loaded = load_student(tmp_path / folder)
        with torch.no_grad():
            assert torch.equal(loaded(z, *times, cond), student(z, *times, cond))
            doubled = [v.double() for v in (z, *times)], {"y": cond["y"].double()}
            assert (
                relative(loaded.double()(*doubled[0], doubled[1]).float(), student(z, *times, cond))
                < 1e-2
            )
        assert all(
            check.passed
            for check in verify(load_student(tmp_path / folder), (1, 2), 12, onnx=folder == "eight")
        )
    with pytest.raises(UserError, match="layers in eight bits"):
        StreamRestorer(loaded, runner="onnx")
