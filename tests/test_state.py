"""Averages and training states, by exact answers: what is kept, which state is the newest, what
comes back, what is refused.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from test_students import toy
from torch import nn

from mfdistill.checkpoint import load_tensors, write_tensors
from mfdistill.distill import state
from mfdistill.distill.ema import EMA
from mfdistill.distill.moments import adamw
from mfdistill.distill.players import set_rates
from mfdistill.distill.settings import TrainConfig, check
from mfdistill.errors import UserError
from mfdistill.networks.lora import LoraConfig
from mfdistill.students import Student

# ---- averages


def test_averages_are_the_recursion() -> None:
    """a <- d a + (1 - d) w with d = min(decay, (1 + n) / (10 + n)), n from 1; decay 0.3 caps it
    from n = 3 on.
    """
    model = nn.Linear(2, 1).double()
    model.bias.requires_grad_(False)
    ema, generator = EMA(model, 0.3), torch.Generator().manual_seed(0)
    assert set(ema.averages) == {"weight"}
    wanted = model.weight.detach().clone()
    for decay in (2 / 11, 3 / 12, 0.3, 0.3):
        with torch.no_grad():
            model.weight.normal_(generator=generator)
        ema.update()
        wanted = decay * wanted + (1 - decay) * model.weight.detach()
        torch.testing.assert_close(ema.averages["weight"].double(), wanted, atol=1e-6, rtol=0)
    assert ema.updates == 4 and not ema.averages["weight"].requires_grad


def test_averages_start_as_the_weights_and_are_single_precision() -> None:
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        model = nn.Linear(3, 2).to(dtype)
        ema = EMA(model, 0.9)
        for name, value in model.named_parameters():
            assert ema.averages[name].dtype == torch.float32
            assert torch.equal(ema.averages[name], value.float())
        with torch.no_grad():
            model.weight.add_(1.0)
        # a copy, also where nothing had to be converted
        assert not torch.equal(ema.averages["weight"], model.weight.float())
        ema.update()
        with ema.applied():
            assert model.weight.dtype == dtype


def test_the_live_weights_come_back_bit_for_bit_whatever_happens() -> None:
    model = nn.Linear(3, 2)
    ema = EMA(model, 0.5)
    with torch.no_grad():
        model.weight.add_(1.0)
    live, place = model.weight.detach().clone(), model.weight.data_ptr()
    with pytest.raises(KeyError), ema.applied():
        assert torch.equal(model.weight, ema.averages["weight"])
        with torch.no_grad():
            model.bias.add_(3.0)  # what is changed within is lost
        raise KeyError
    assert torch.equal(model.weight, live) and model.weight.data_ptr() == place
    assert torch.equal(model.bias, ema.averages["bias"])
    assert model.weight.requires_grad and model.weight.grad_fn is None


def test_averages_elsewhere_are_the_same() -> None:
    """In the main memory: as far as a machine without another one can show it."""
    model = nn.Linear(3, 2)
    here, there = EMA(model, 0.9), EMA(model, 0.9, "cpu")
    for _ in range(3):
        with torch.no_grad():
            model.weight.mul_(1.1)
        here.update()
        there.update()
    live = model.weight.detach().clone()
    assert all(torch.equal(here.averages[name], there.averages[name]) for name in here.averages)
    with there.applied():
        assert torch.equal(model.weight, here.averages["weight"])
    assert torch.equal(model.weight, live)
    with pytest.raises(UserError, match="--ema-on cpu: --sharded shares out"):
        check(TrainConfig(sharded=True, ema_on="cpu"), 2)


def test_averages_are_taken_up_in_place() -> None:
    model = nn.Linear(3, 2)
    ema, other = EMA(model, 0.9), EMA(nn.Linear(3, 2), 0.9)
    kept = ema.averages["weight"]
    ema.load(other.averages, 7)
    assert ema.updates == 7 and ema.averages["weight"] is kept
    assert all(torch.equal(ema.averages[name], other.averages[name]) for name in other.averages)
    other.update()  # theirs are their own
    with pytest.raises(KeyError):
        ema.load({"weight": kept}, 8)


# ---- which state is the newest


def save(out: Path, step: int, keep: int = 1) -> None:
    state.save_state(out, {"raw": {"w": torch.full((2,), float(step))}}, {"step": step}, keep)


def steps(out: Path) -> dict[str, int]:
    """Of the whole states, by folder."""
    return {
        folder.name.removeprefix(state.FOLDER): state.load_info(folder)["step"]
        for folder in sorted(out.iterdir())
    }


def damage(out: Path, name: str = "") -> None:
    (out / f"{state.FOLDER}{name}" / "raw.safetensors").write_bytes(b"x")


@pytest.mark.parametrize("keep", [0, 1, 2, 3])
def test_so_many_states_are_kept(tmp_path: Path, keep: int) -> None:
    for step in range(1, 6):
        save(tmp_path, step, keep)
    wanted = {"": 5, ".1": 4, ".2": 3}
    assert steps(tmp_path) == dict(list(wanted.items())[: max(keep, 1)])


def test_the_newest_of_twelve_by_number_not_by_letter(tmp_path: Path) -> None:
    for step in range(1, 13):
        save(tmp_path, step, 12)
    (tmp_path / "training_state.old").mkdir()  # not ours
    (tmp_path / "training_state.5x").mkdir()
    order = [state.load_info(folder)["step"] for folder in state.folders(tmp_path)]
    assert order == list(range(12, 0, -1))
    for number in range(11):
        damage(tmp_path, f".{number}" if number else "")
        found = state.find_state(tmp_path)
        assert found is not None and found.info == {"step": 11 - number}
        assert len(found.damaged) == number + 1 and found.folder.name.endswith(f".{number + 1}")
    # of a number that was left out
    (tmp_path / "training_state.11").rename(tmp_path / "training_state.40")
    assert state.folders(tmp_path)[-1].name == "training_state.40"


def test_a_whole_new_state_is_newer_and_half_of_one_is_nothing(tmp_path: Path) -> None:
    save(tmp_path / "a", 1)
    save(tmp_path / "b", 2)
    new = tmp_path / "a" / "training_state.new"
    (tmp_path / "b" / state.FOLDER).rename(new)
    found = state.find_state(tmp_path / "a")
    assert found is not None and found.folder == new and found.info["step"] == 2
    assert found.damaged == ()
    # nothing was changed by looking
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"training_state", "training_state.new"}
    record = (new / state.RECORD).read_text()
    (new / state.RECORD).unlink()
    found = state.find_state(tmp_path / "a")
    assert found is not None and found.info["step"] == 1 and found.damaged == ()
    (new / state.RECORD).write_text(record)
    (new / "raw.safetensors").unlink()
    found = state.find_state(tmp_path / "a")
    assert found is not None and found.info["step"] == 1 and len(found.damaged) == 1
    state.settle(tmp_path / "a", found.folder)
    assert steps(tmp_path / "a") == {"": 1}


def test_settling_gives_the_newest_its_name(tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path, step, 2)
    save(tmp_path / "other", 3)
    (tmp_path / "other" / state.FOLDER).rename(tmp_path / "training_state.new")
    (tmp_path / "other").rmdir()
    state.settle(tmp_path, tmp_path / "training_state.new")
    assert steps(tmp_path) == {"": 3, ".1": 2, ".2": 1}
    before = {folder: folder.stat().st_ino for folder in tmp_path.iterdir()}
    state.settle(tmp_path, tmp_path / state.FOLDER)
    assert {folder: folder.stat().st_ino for folder in tmp_path.iterdir()} == before


@pytest.mark.parametrize("bad", [1, 2, 3])
def test_a_run_goes_on_after_its_newest_states_were_damaged(tmp_path: Path, bad: int) -> None:
    """They leave a gap in the numbers behind them, which later states fill."""
    for step in range(1, 6):
        save(tmp_path, step, 5)
    for number in range(bad):
        damage(tmp_path, f".{number}" if number else "")
    found = state.find_state(tmp_path)
    assert found is not None and found.info["step"] == 5 - bad
    state.settle(tmp_path, found.folder)
    assert list(steps(tmp_path).values()) == list(range(5 - bad, 0, -1))
    for step in range(6 - bad, 9):
        save(tmp_path, step, 5)
        assert list(steps(tmp_path).values()) == list(range(step, max(0, step - 5), -1))
    assert list(steps(tmp_path)) == ["", ".1", ".2", ".3", ".4"]


def test_no_state_and_no_whole_state(tmp_path: Path) -> None:
    assert state.find_state(tmp_path) is None and state.folders(tmp_path) == []
    (tmp_path / "training_state.new").mkdir()
    (tmp_path / "training_state.1").write_text("a file")
    assert state.find_state(tmp_path) is None
    (tmp_path / "training_state.1").unlink()
    for step in (1, 2):
        save(tmp_path, step, 2)
    for name in ("", ".1"):
        damage(tmp_path, name)
    with pytest.raises(UserError, match=r"training_state/raw.*no other state.*--overwrite"):
        state.find_state(tmp_path)


@pytest.mark.parametrize("fatal", range(6))
def test_state_survives_a_kill_at_any_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fatal: int
) -> None:
    """Each file operation of a save in turn is the last one that happens."""
    state.save_state(tmp_path, {"raw": {"w": torch.zeros(2)}}, {"step": 1})

    class Killed(BaseException):
        pass

    left = [fatal]

    def dying(operation: Any) -> Any:
        def call(*args: Any) -> Any:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return operation(*args)

        return call

    with monkeypatch.context() as patch:
        for name in ("write_tensors", "write_json", "remove_folder"):
            patch.setattr(state, name, dying(getattr(state, name)))
        patch.setattr(state.os, "rename", dying(os.rename))
        with pytest.raises(Killed):
            state.save_state(tmp_path, {"raw": {"w": torch.ones(2)}}, {"step": 2})
    found = state.find_state(tmp_path)
    assert found is not None
    step = found.info["step"]
    # whole from the moment that its state.json is there
    assert not found.damaged and step == (1 if fatal < 3 else 2)
    assert torch.equal(
        load_tensors(found.folder / "raw.safetensors")["w"], torch.full((2,), float(step - 1))
    )
    state.settle(tmp_path, found.folder)
    assert {p.name for p in tmp_path.iterdir()} <= {"training_state", "training_state.1"}
    assert state.load_info(tmp_path / "training_state", check=True)["step"] == step
    state.save_state(tmp_path, {"raw": {"w": torch.ones(2)}}, {"step": 3})
    assert state.load_info(tmp_path / "training_state")["step"] == 3
    assert [p.name for p in tmp_path.iterdir()] == ["training_state"]


def test_what_state_json_holds(tmp_path: Path) -> None:
    save(tmp_path, 4)
    folder = tmp_path / state.FOLDER
    written = json.loads((folder / state.RECORD).read_text())
    assert written["step"] == 4 and set(written["files"]) == {"raw.safetensors"}
    assert state.load_info(folder) == {"step": 4} == state.load_info(folder, check=True)
    damage(tmp_path)
    assert state.load_info(folder) == {"step": 4}
    with pytest.raises(UserError, match="raw.safetensors"):
        state.load_info(folder, check=True)
    (folder / state.RECORD).write_text("{")
    with pytest.raises(UserError, match="continue from another state"):
        state.load_info(folder)


INFO: dict[str, Any] = {
    "step": 3, "seconds": 1.5, "skipped": 0, "skipped_in_a_row": 0, "best": -1.0, "to_validate": False,
    "window": {"loss": [0.5, 3], "n": [1, 2]}, "finished": True, "ema_updates": 3, "scaler": None, "identity": {},
}  # fmt: skip


def test_what_a_run_writes_into_it_is_whole() -> None:
    place = Path("run")
    for changes in (
        {},
        {"best": None, "window": None, "seconds": 2},
        {"best": 4, "scaler": {"scale": 2.0}, "window": {}},
    ):
        state.check_info(INFO | changes, place)


@pytest.mark.parametrize(
    "changes",
    [
        *({name: "text"} for name in INFO),
        *({name: None} for name in INFO if name not in ("best", "window", "scaler")),
        {"step": -1},
        {"step": 10**15},
        {"step": True},
        {"step": 3.0},
        {"seconds": float("nan")},
        {"seconds": -0.5},
        {"seconds": float("inf")},
        {"finished": 1},
        {"window": {"loss": [0.5]}},
        {"window": {"loss": [0.5, 3.0]}},
        {"window": {"loss": [True, 3]}},
        {"window": {"loss": (0.5, 3)}},
        {"window": {"n": [1, 2], "loss": 3}},
    ],
)
def test_what_is_wrong_in_it_is_named(changes: dict[str, Any]) -> None:
    (name,) = changes
    with pytest.raises(UserError, match=f"run/state.json: {name}.* is .*--overwrite"):
        state.check_info(INFO | changes, Path("run"))
    missing = {key: value for key, value in INFO.items() if key != name}
    with pytest.raises(UserError, match=f"{name} is 'missing'"):
        state.check_info(missing, Path("run"))


# ---- tensors


class Buffered(nn.Module):
    """Parameters, a buffer that is saved, one that a checkpoint of weights leaves out, and a tensor
    under two names.
    """

    def __init__(self, value: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("count", torch.tensor([value]), persistent=False)
        self.one = nn.Linear(2, 2)
        self.two = self.one
        with torch.no_grad():
            for tensor in (*self.parameters(), *self.buffers()):
                tensor.fill_(value)


def test_buffers_are_saved_and_come_back(tmp_path: Path) -> None:
    old, new = Buffered(3.0), Buffered(5.0)
    tensors = state.module_tensors(old)
    assert set(tensors) == {
        *("one.weight", "one.bias", "norm.weight", "norm.bias", "count"),
        *("norm.running_mean", "norm.running_var", "norm.num_batches_tracked"),
    }
    write_tensors(tmp_path / "raw.safetensors", tensors)
    places = {name: value.data_ptr() for name, value in state.module_tensors(new).items()}
    state.restore_module(new, tmp_path / "raw.safetensors")
    for name, value in state.module_tensors(new).items():
        assert (value == 3).all() and value.data_ptr() == places[name], name
    assert new.one.weight.requires_grad and new.one.weight.grad_fn is None
    assert new.norm.num_batches_tracked.dtype == torch.int64


@pytest.mark.parametrize(
    ("name", "value"),
    [("count", None), ("one.bias", torch.zeros(3)), ("other", torch.zeros(2))],
)
def test_a_state_of_another_module_is_refused(
    tmp_path: Path, name: str, value: torch.Tensor | None
) -> None:
    tensors = dict(state.module_tensors(Buffered(3.0)))
    tensors.pop(name, None)
    write_tensors(tmp_path / "raw.safetensors", tensors | ({} if value is None else {name: value}))
    with pytest.raises(UserError, match=f"its tensor {name} does not fit"):
        state.restore_module(Buffered(5.0), tmp_path / "raw.safetensors")


@pytest.mark.parametrize("wrapped", [False, True])
def test_what_an_adapter_borrows_is_not_saved(wrapped: bool) -> None:
    teacher, _ = toy()
    module: nn.Module = Student.from_teacher(
        teacher, adapter=LoraConfig(rank=1, targets=("mlp.0",))
    )
    whole = dict(module.named_parameters())
    own = {name for name, p in whole.items() if p.requires_grad}
    assert 0 < len(own) < len(whole)
    if wrapped:
        module = nn.ModuleDict({"model": module, "critic": nn.BatchNorm1d(2)})
        beside = {f"critic.{n}" for n in nn.BatchNorm1d(2).state_dict()}
        own = {f"model.{name}" for name in own} | beside
    assert set(state.module_tensors(module)) == own


def test_an_optimiser_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    """One parameter has never had a gradient, and one group has another rate than at first."""

    def trained() -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
        torch.manual_seed(0)
        values = [nn.Parameter(torch.randn(n)) for n in (1, 2, 3)]
        groups = [{"params": values[:1], "lr": 0.5}, {"params": values[1:], "weight_decay": 0.1}]
        return values, torch.optim.AdamW(groups, lr=0.1, betas=(0.8, 0.9))

    def step(values: list[nn.Parameter], optimizer: torch.optim.Optimizer, power: int) -> None:
        for value in (values[0], values[2]):
            value.grad = value.detach() ** power
        optimizer.step()

    names = ["a", "b", "c"]
    one, first = trained()
    step(one, first, 1)
    step(one, first, 2)
    tensors = state.optimizer_tensors(first, names)
    assert set(tensors) == {f"{m}.{n}" for m in ("step", "exp_avg", "exp_avg_sq") for n in "ac"}
    write_tensors(tmp_path / "optimizer.safetensors", tensors)
    two, second = trained()
    for value, other in zip(two, one, strict=True):
        value.data.copy_(other.data)
    state.restore_optimizer(second, names, tmp_path / "optimizer.safetensors")
    assert second.param_groups[0]["lr"] == 0.5 and second.param_groups[1]["weight_decay"] == 0.1
    assert float(second.state[two[0]]["step"]) == 2 and two[1] not in second.state
    for values, optimizer in ((one, first), (two, second)):
        step(values, optimizer, 3)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_moments_of_8_bits_come_back_to_the_bit(tmp_path: Path) -> None:
    pytest.importorskip("torchao", reason="needs torchao (pip install torchao)")

    def trained(moments: Literal["fp32", "8bit"]) -> tuple[nn.Linear, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Linear(64, 128)
        groups = [{"params": [value], "player": "model"} for value in model.parameters()]
        config = TrainConfig(lr=0.01, moments=moments)
        return model, adamw(groups, config, torch.device("cpu"))

    def step(model: nn.Linear, optimizer: torch.optim.Optimizer, number: int) -> float:
        x = torch.randn(32, 64, generator=torch.Generator().manual_seed(number))
        loss = (model(x) - x.repeat(1, 2).sin()).square().mean()
        loss.backward()
        set_rates(optimizer, {"model": 0.01 * 0.9**number})
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    names = ["weight", "bias"]
    exact, plain = trained("fp32")
    one, first = trained("8bit")
    for number in range(20):
        losses = step(one, first, number), step(exact, plain, number)
    assert losses[0] == pytest.approx(losses[1], rel=0.05) and losses[0] < 0.5
    tensors = state.optimizer_tensors(first, names)
    assert tensors["exp_avg:codes.weight"].dtype == torch.uint8 and "exp_avg.bias" in tensors
    kept = sum(value.nbytes for name, value in tensors.items() if "weight" in name)
    assert kept < 0.3 * 2 * one.weight.nbytes
    write_tensors(tmp_path / "optimizer.safetensors", tensors)
    two, second = trained("8bit")
    two.load_state_dict(one.state_dict())
    state.restore_optimizer(second, names, tmp_path / "optimizer.safetensors")
    for number in range(20, 23):
        step(one, first, number)
        step(two, second, number)
    assert torch.equal(one.weight, two.weight) and torch.equal(one.bias, two.bias)
    with pytest.raises(UserError, match="--moments 8bit: --sharded shares out"):
        check(TrainConfig(sharded=True, moments="8bit"), 2)


def test_where_two_settings_first_differ() -> None:
    one = {"a": {"b": [1, 2], "c": None}, "d": 1.0}
    assert state.first_difference(one, json.loads(json.dumps(one))) is None
    for other, wanted in (
        ({**one, "d": 2.0}, ("d", 1.0, 2.0)),
        ({**one, "a": {"b": [1, 3], "c": None}}, ("a.b", [1, 2], [1, 3])),
        ({**one, "a": {"b": [1, 2], "c": 0}}, ("a.c", None, 0)),
        ({**one, "a": 3}, ("a", one["a"], 3)),
        ({**one, "e": 3}, ("e", None, 3)),
        ({"a": one["a"]}, ("d", 1.0, None)),
    ):
        assert state.first_difference(one, other) == wanted
    # absent is none
    assert state.first_difference(one, {"a": {"b": [1, 2]}, "d": 1.0}) is None
    assert state.first_difference(1, 2, "key") == ("key", 1, 2)
