"""The teacher trained here: frozen, on its path, and loadable; everything else is refused in one
line.
"""

import json

import pytest
import torch

from mfdistill.checkpoint import save_folder, write_tensors
from mfdistill.config import to_dict
from mfdistill.errors import UserError
from mfdistill.networks import build_network
from mfdistill.networks.compact import CompactConfig
from mfdistill.tasks import default_task, get_task
from mfdistill.teachers import Field, load_network, load_teacher, teacher_kinds

NETWORK = CompactConfig(channels=8, blocks=1, recurrent=0, embedding=8)


def teacher(role: str = "teacher") -> Field:
    torch.manual_seed(0)
    task = get_task(default_task("enhance"))
    config = {
        "role": role,
        "task": to_dict(task.config),
        "network": {"name": "compact", "config": to_dict(NETWORK)},
        "objective": None,
    }
    return Field(build_network("compact", NETWORK), task, config)


def test_velocity_is_frozen_and_takes_one_time_for_all():
    made = teacher()
    assert (
        not isinstance(made, torch.nn.Module)
        and made.facts.t_last == 1
        and made.facts.straight
        and not made.network.training
    )
    z, cond = torch.randn(3, 2, 256, 4, requires_grad=True), {"y": torch.randn(3, 2, 256, 4)}
    v = made.velocity(z, torch.tensor(0.5), cond)
    assert not v.requires_grad and torch.equal(v, made.velocity(z, torch.full((3,), 0.5), cond))
    assert (
        made.to(dtype=torch.float64) is made
        and next(made.network.parameters()).dtype == torch.float64
    )


def test_prior_is_the_task_paths_and_repeats_with_its_generator():
    made = teacher()
    cond = {"y": torch.randn(4, 2, 256, 50)}
    z_0 = made.prior(cond, torch.Generator().manual_seed(3))
    assert torch.equal(z_0, made.prior(cond, torch.Generator().manual_seed(3)))
    m, _ = made.task.path.end_means(cond["y"], cond)
    s_0, _ = made.task.path.scales(cond, like=m)
    eps = (z_0 - m) / s_0
    assert abs(eps.square().sum(1).mean().item() - 1) < 0.01, "complex noise of total variance 1"
    with pytest.raises(UserError, match="no prior"):
        Field(build_network("compact", NETWORK)).prior(cond)


def test_a_saved_teacher_loads(tmp_path):
    made = teacher()
    save_folder(tmp_path, made.network.state_dict(), made.config)
    z, cond, t = torch.randn(2, 2, 256, 4), {"y": torch.randn(2, 2, 256, 4)}, torch.rand(2)
    for place in (tmp_path, tmp_path / "config.json"):
        loaded = load_teacher(place)
        assert torch.equal(loaded.velocity(z, t, cond), made.velocity(z, t, cond))
    assert (
        load_teacher(tmp_path, kind="cfm", guidance_strength=0.0).config["network"]["name"]
        == "compact"
    )  # type: ignore[attr-defined]


def test_a_regression_network_is_no_teacher(tmp_path):
    made = teacher("regression")
    save_folder(tmp_path, made.network.state_dict(), made.config)
    with pytest.raises(UserError, match="holds a regression, not a teacher"):
        load_teacher(tmp_path)
    network, task, _ = load_network(tmp_path, "regression")
    assert not network.training and task.config == made.task.config


def test_what_cannot_be_loaded_gives_one_clear_line(tmp_path):
    made = teacher()
    save_folder(tmp_path, made.network.state_dict(), made.config)
    (tmp_path / "foreign.ckpt").write_bytes(b"x")
    write_tensors(tmp_path / "other.safetensors", {"a": torch.zeros(1)})
    for arguments, message in (
        (
            {"path": tmp_path, "kind": "wavegan"},
            f"wavegan: unknown kind.*{', '.join(teacher_kinds())}",
        ),
        ({"path": tmp_path / "foreign.ckpt"}, "foreign.ckpt: damaged or no PyTorch checkpoint"),
        ({"path": tmp_path / "other.safetensors"}, "not recognised as a teacher.*cfm"),
        ({"path": tmp_path / "nothing" / "here"}, "no such file"),
        ({"path": tmp_path, "config": {"channels": 8}}, "leave config out"),
        ({"path": tmp_path, "guidance_strength": 2.0}, "guidance strength 2.0"),
        ({"path": tmp_path, "streaming": True}, "streaming"),
    ):
        with pytest.raises(UserError, match=message) as error:
            load_teacher(**arguments)
        assert "\n" not in str(error.value)
    (tmp_path / "model.safetensors").write_bytes(
        (tmp_path / "model.safetensors").read_bytes()[:200]
    )
    with pytest.raises(UserError, match="damaged"):
        load_teacher(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"format": "mfdistill/1", "role": "student"}))
    with pytest.raises(UserError, match="holds a student, not a teacher; it belongs to --student"):
        load_teacher(tmp_path)
