"""Causal students of teachers that see the future, from the command line to the stream."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from mfdistill.errors import UserError
from mfdistill.flow import noise_like
from mfdistill.networks import CompactConfig, build_network
from mfdistill.students import Student
from mfdistill.students.causal import causal_copy, causal_start
from mfdistill.students.streaming import StreamRestorer
from mfdistill.tasks import default_task, get_task
from mfdistill.teachers.field import Field

SIZES = CompactConfig(
    channels=8, blocks=3, freqs=32, band_stride=4, recurrent=6, embedding=12, filter_frames=5
)


def randomised(network: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.2 * torch.randn(value.shape, generator=generator))
    return network


def blind(network: torch.nn.Module) -> torch.nn.Module:
    """The same network with every weight on later frames set to zero."""
    with torch.no_grad():
        for block in [network.encode, *(b.conv for b in network.blocks)]:
            block.conv.weight[:, :, 2] = 0
        network.recurrence.out.weight[:, SIZES.recurrent :] = 0
        for rows in (network.decode.weight, network.decode.bias):
            taps = rows.view(SIZES.band_stride, -1, *rows.shape[1:])[:, 4:]
            taps.view(SIZES.band_stride, 2, 5, 3, *rows.shape[1:])[:, :, 3:] = 0
    return network


def test_causal_copy_is_the_network_without_its_view_of_later_frames() -> None:
    network = blind(randomised(build_network("compact", SIZES)))
    causal = causal_copy(network)
    assert causal.causal and causal_copy(causal) is causal
    z, y, t = noise_like((2, 2, 32, 20)), noise_like((2, 2, 32, 20)), torch.tensor([0.2, 0.7])
    with torch.no_grad():
        torch.testing.assert_close(
            causal(z, t, {"y": y}), network(z, t, {"y": y}), rtol=1e-4, atol=1e-5
        )


def test_student_of_a_teacher_that_sees_everything_streams() -> None:
    preset = default_task("phase", 8000)
    task = get_task(
        dataclasses.replace(preset, stft=dataclasses.replace(preset.stft, n_fft=64, hop=32))
    )
    teacher = Field(randomised(build_network("compact", SIZES)), task)
    start = causal_start(teacher)
    student = Student.from_teacher(start).eval()
    assert (
        student.task.config.stft.causal
        and not task.config.stft.causal
        and not teacher.network.causal
    )
    assert student.description["config"]["causal"]
    assert StreamRestorer(student).push(torch.randn(500)).shape == (500 // 32 * 32 - 32,)
    with pytest.raises(UserError, match="sees later frames"):
        StreamRestorer(teacher)


def test_networks_without_a_causal_form_are_refused() -> None:
    with pytest.raises(UserError, match="no causal form"):
        causal_copy(torch.nn.Linear(1, 1))
