"""The training loop in one process: weights, logs, resume, signals, errors."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from loop_toy import MODEL_CONFIG, Data, Drawing, Task, Toy
from torch import Tensor

from mfdistill.checkpoint import load_config, load_tensors
from mfdistill.distill import TrainConfig, state
from mfdistill.distill.batch import loss_count
from mfdistill.distill.ema import EMA
from mfdistill.distill.interrupt import Interrupted
from mfdistill.distill.settings import lr_factor
from mfdistill.distill.train import make_accelerator, train
from mfdistill.errors import UserError


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def settings(out: Path, **changes: Any) -> TrainConfig:
    base = TrainConfig(
        str(out),
        steps=12,
        batch_size=4,
        lr=0.01,
        warmup=3,
        ema_decay=0.9,
        save_every=4,
        valid_every=0,
        log_every=3,
    )
    return replace(base, **changes)


def fit(
    config: TrainConfig,
    toy: Toy | None = None,
    model_config: dict[str, Any] = MODEL_CONFIG,
    **more: Any,
) -> Toy:
    toy = toy or Toy(config.steps)
    train(toy, Data(), Task(), config, model_config=model_config, **more)
    return toy


def test_training_flushes_denormal_numbers(tmp_path: Path) -> None:
    torch.set_flush_denormal(False)
    assert torch.tensor([1e-39]) * 0.5 > 0
    fit(settings(tmp_path / "run", steps=1, warmup=0, save_every=0))
    assert torch.tensor([1e-39]) * 0.5 == 0


def log(out: Path, kind: str = "train") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def state_tensors(out: Path) -> dict[str, Tensor]:
    folder = out / "training_state"
    return {
        f"{name}.{key}": v
        for name in ("raw", "ema", "optimizer")
        for key, v in load_tensors(folder / f"{name}.safetensors").items()
    }


def assert_same(one: Path, other: Path) -> None:
    for a, b in (
        (state_tensors(one), state_tensors(other)),
        (load_tensors(one), load_tensors(other)),
    ):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_is_plain_adamw(tmp_path: Path) -> None:
    toy = fit(settings(tmp_path, grad_clip=0.05))
    other, ema = Toy(12), None
    data, task = Data(), Task()
    big = [p for p in other.parameters() if p.ndim >= 2]
    small = [p for p in other.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": small, "weight_decay": 0.0}, {"params": big, "weight_decay": 0.01}],
        betas=(0.9, 0.99),
    )
    ema = {name: p.detach().clone() for name, p in other.model.named_parameters()}
    for step in range(12):
        samples = [job() for job in data.jobs(data.share(step, 4, 0, 1))]
        batch = {
            "z_1": task.target(torch.stack([s["clean"] for s in samples])),
            "cond": task.condition(torch.stack([s["degraded"] for s in samples])),
            "index": torch.tensor([s["index"] for s in samples]),
            "progress": step / 12,
        }
        optimizer.zero_grad()
        other(batch)[0].backward()
        torch.nn.utils.clip_grad_norm_(other.parameters(), 0.05)
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * lr_factor(step, settings(tmp_path))
        optimizer.step()
        decay = min(0.9, (2 + step) / (11 + step))
        for name, p in other.model.named_parameters():
            ema[name] = decay * ema[name] + (1 - decay) * p.detach()
    for a, b in zip(toy.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-6)
    saved = load_tensors(tmp_path)
    for name, value in ema.items():
        torch.testing.assert_close(saved[name], value, atol=1e-6, rtol=1e-5)
    config = load_config(tmp_path)
    assert (
        config["network"] == MODEL_CONFIG["network"]
        and config["training"]["step"] == 12
        and config["training"]["batch_size"] == 4
    )
    assert [line["step"] for line in log(tmp_path)] == [3, 6, 9, 12]
    assert {"loss", "frames", "lr", "grad_norm", "audio_s_per_s", "hours", "skipped"} <= log(
        tmp_path
    )[0].keys()
    assert not [p for p in tmp_path.rglob("*") if p.suffix in (".pt", ".pkl", ".bin", ".part")]


def test_learning_rate() -> None:
    config = TrainConfig(steps=100, warmup=10, lr_end=0.1)
    assert [lr_factor(step, config) for step in (0, 9, 10)] == [0.1, 1.0, 1.0]
    assert lr_factor(55, config) == pytest.approx(0.55) and lr_factor(100, config) == pytest.approx(
        0.1
    )
    assert lr_factor(99, replace(config, schedule="constant")) == 1.0


def test_ema_gives_the_weights_back() -> None:
    model = torch.nn.Linear(3, 2)
    ema = EMA(model, 0.99)
    before = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.add_(1.0)
    live = model.weight.detach().clone()
    ema.update()
    with ema.applied():
        torch.testing.assert_close(model.weight.detach(), (2 * before + 9 * live) / 11)
    assert torch.equal(model.weight, live)


def test_accumulation_changes_nothing(tmp_path: Path) -> None:
    one = fit(settings(tmp_path / "one"))
    two = fit(settings(tmp_path / "two", accumulation=2))
    assert [a + b for a, b in zip(two.seen[::2], two.seen[1::2], strict=True)] == one.seen
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    with pytest.raises(UserError, match="--batch-size 4.*multiple of 3"):
        fit(settings(tmp_path / "three", accumulation=3))


@pytest.mark.parametrize("at", [5, 7])
def test_sigterm_saves_and_resume_is_exact(tmp_path: Path, at: int) -> None:
    fit(settings(tmp_path / "whole"), validate=lambda *a: {"score": 1.0})
    previous = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match=f"saved at step {at + 1}") as stop:
        fit(
            settings(tmp_path / "cut"),
            Toy(12, at=at, signum=signal.SIGTERM),
            validate=lambda *a: {"score": 1.0},
        )
    assert stop.value.exit_code == 143 and signal.getsignal(signal.SIGTERM) == previous
    resumed = fit(settings(tmp_path / "cut", resume=True), validate=lambda *a: {"score": 1.0})
    assert resumed.seen[0][0] == 4 * (at + 1)
    assert_same(tmp_path / "whole", tmp_path / "cut")
    for kind in ("train", "valid"):
        whole, cut = (log(tmp_path / name, kind) for name in ("whole", "cut"))
        timing = {"time", "hours", "audio_s_per_s"}
        assert [{k: v for k, v in line.items() if k not in timing} for line in whole] == [
            {k: v for k, v in line.items() if k not in timing} for line in cut
        ]


def test_ctrl_c_before_the_last_validation(tmp_path: Path) -> None:
    with pytest.raises(Interrupted) as stop:
        fit(
            settings(tmp_path),
            Toy(12, at=11, signum=signal.SIGINT),
            validate=lambda *a: {"score": 1.0},
        )
    assert stop.value.exit_code == 130 and log(tmp_path, "valid") == []
    assert fit(settings(tmp_path, resume=True), validate=lambda *a: {"score": 1.0}).seen == []
    assert [line["step"] for line in log(tmp_path, "valid")] == [12]
    assert state.load_info(tmp_path / "training_state")["finished"]


def test_finished_run_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(settings(tmp_path, steps=2))
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    assert fit(settings(tmp_path, steps=2, resume=True)).seen == []
    assert "already finished at step 2" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def test_folder_in_use_and_other_settings(tmp_path: Path) -> None:
    fit(settings(tmp_path, steps=2))
    with pytest.raises(UserError, match="already holds files"):
        fit(settings(tmp_path, steps=2))
    for changes in ({"batch_size": 8}, {"seed": 1}, {"steps": 3}, {"lr": 0.5}):
        key = next(iter(changes))
        with pytest.raises(UserError, match=rf"training\.{key}"):
            fit(settings(tmp_path, **({"steps": 2} | changes), resume=True))
    other = {**MODEL_CONFIG, "network": {"name": "toy", "config": {"width": 5}}}
    with pytest.raises(UserError, match=r"network\.config\.width = 5.*started with 4"):
        fit(settings(tmp_path, steps=2, resume=True), model_config=other)
    (tmp_path / "mine.txt").write_text("keep")
    fit(settings(tmp_path, steps=3, overwrite=True))
    assert load_config(tmp_path)["training"]["step"] == 3 and (tmp_path / "mine.txt").exists()
    assert [line["step"] for line in log(tmp_path)] == [3]
    with pytest.raises(UserError, match="exclude each other"):
        fit(settings(tmp_path, resume=True, overwrite=True))


def test_resume_of_nothing_starts(tmp_path: Path) -> None:
    assert len(fit(settings(tmp_path / "new", steps=2, resume=True)).seen) == 2
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "model.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="no training_state"):
        fit(settings(tmp_path / "bare", steps=2, resume=True))


def test_non_finite_updates_are_skipped(tmp_path: Path) -> None:
    toy = fit(settings(tmp_path / "some", log_every=1), Toy(12, bad=(2, 3)))
    assert log(tmp_path / "some")[-1]["skipped"] == 2 and log(tmp_path / "some")[2]["loss"] is None
    assert all(torch.isfinite(p).all() for p in toy.parameters())
    assert state.load_info(tmp_path / "some" / "training_state")["ema_updates"] == 10
    with pytest.raises(UserError, match="not finite for 3 updates in a row, up to step 5"):
        fit(settings(tmp_path / "many", max_skipped=3), Toy(12, bad=(2, 3, 4, 5)))
    assert all(torch.isfinite(v).all() for v in state_tensors(tmp_path / "many").values())


def test_validation_sees_averages_and_keeps_the_best(tmp_path: Path) -> None:
    scores = {3: 1.0, 6: 3.0, 9: float("nan"), 12: 2.0}
    weights: dict[int, Tensor] = {}

    def validate(model: torch.nn.Module, step: int, accelerator: Any) -> dict[str, float]:
        assert not model.training and not torch.is_grad_enabled()
        weights[step] = model[0].weight.detach().clone()  # type: ignore[index]
        torch.manual_seed(0)
        return {"score": scores[step]}

    toy = fit(settings(tmp_path / "a", valid_every=3, best_metric="score"), validate=validate)
    assert toy.model.training and [line["score"] for line in log(tmp_path / "a", "valid")] == [
        1.0,
        3.0,
        None,
        2.0,
    ]
    assert torch.equal(load_tensors(tmp_path / "a" / "best")["0.weight"], weights[6])
    assert load_config(tmp_path / "a" / "best")["training"]["step"] == 6
    assert torch.equal(load_tensors(tmp_path / "a")["0.weight"], weights[12])
    plain = fit(settings(tmp_path / "b"))
    assert all(torch.equal(a, b) for a, b in zip(toy.parameters(), plain.parameters(), strict=True))
    with pytest.raises(UserError, match="--best-metric pesq: validation gives score"):
        fit(settings(tmp_path / "c", valid_every=3, best_metric="pesq"), validate=validate)


def test_time_limit(tmp_path: Path) -> None:
    cut = fit(settings(tmp_path / "cut", time_limit_hours=1e-9), Drawing(12))
    assert state.load_info(tmp_path / "cut" / "training_state")["step"] == 1
    resumed = fit(settings(tmp_path / "cut", resume=True), Drawing(12))
    whole = fit(settings(tmp_path / "whole"), Drawing(12))
    # what dropout draws is a function of the step alone
    assert cut.seen + resumed.seen == whole.seen and len({x for (x,) in whole.seen}) == 12
    assert_same(tmp_path / "whole", tmp_path / "cut")


def test_errors_are_lines(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        fit(settings(tmp_path / "file"))
    with pytest.raises(UserError, match="--ema-decay 1.5"):
        fit(settings(tmp_path / "x", ema_decay=1.5))
    assert not (tmp_path / "x").exists()


def test_bf16(tmp_path: Path) -> None:
    from accelerate.state import AcceleratorState

    fit(settings(tmp_path / "full", steps=2))
    with pytest.raises(UserError, match="--mixed-precision bf16"):  # one process, one precision
        fit(settings(tmp_path / "half", mixed_precision="bf16"))
    AcceleratorState._reset_state()
    try:
        fit(settings(tmp_path / "half", mixed_precision="bf16"))
        with pytest.raises(Interrupted):
            fit(
                settings(tmp_path / "cut", mixed_precision="bf16"),
                Toy(12, at=5, signum=signal.SIGTERM),
            )
        fit(settings(tmp_path / "cut", mixed_precision="bf16", resume=True))
    finally:
        AcceleratorState._reset_state()
    assert_same(tmp_path / "half", tmp_path / "cut")
    assert all(value.dtype == torch.float32 for value in load_tensors(tmp_path / "half").values())


def test_loss_count_makes_parts_add_up() -> None:
    masks = [
        torch.zeros(2, 1, 1, 8),
        torch.ones(2, 1, 1, 8),
        (torch.arange(16).reshape(2, 1, 1, 8) % 3 == 0).float(),
        torch.ones(2, 1, 1, 8),
    ]
    everything = torch.cat(masks).sum()

    class TwoRanks:
        num_processes, device = 2, torch.device("cpu")

        def reduce(self, total: Tensor, how: str) -> Tensor:
            assert how == "sum" and total in (
                masks[0].sum() + masks[1].sum(),
                masks[2].sum() + masks[3].sum(),
            )
            return everything

    errors = [torch.rand(2, 1, 1, 8) for _ in masks]
    counts = [
        loss_count([{"loss_mask": mask} for mask in masks[k : k + 2]], TwoRanks()) for k in (0, 2)
    ]
    parts = [(errors[k] * masks[k]).sum() / counts[k // 2] for k in range(4)]
    torch.testing.assert_close(
        sum(parts) / 4, (torch.cat(errors) * torch.cat(masks)).sum() / everything
    )
    assert loss_count([{"clean": None}], TwoRanks()) is None


def test_fp16_scale_is_resumed(tmp_path: Path) -> None:
    """Accelerate refuses fp16 on a CPU, so its state is told otherwise; the scaler and the loop are
    the real ones.
    """
    from accelerate.state import AcceleratorState

    def run(out: str, resume: bool = False, **toy: Any) -> dict[str, Any]:
        AcceleratorState._reset_state()
        accelerator = make_accelerator(settings(tmp_path))
        accelerator.state._mixed_precision, accelerator.native_amp, accelerator.autocast_handler = (
            "fp16",
            True,
            None,
        )
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=3)
        config = settings(tmp_path / out, mixed_precision="fp16", log_every=1, resume=resume)
        fit(config, Toy(12, **toy), accelerator=accelerator)
        return accelerator.scaler.state_dict()

    try:
        whole = run("whole", bad=(9,))
        with pytest.raises(Interrupted):
            run("cut", at=8, signum=signal.SIGTERM)
        assert run("cut", resume=True, bad=(9,)) == whole
    finally:
        AcceleratorState._reset_state()
    assert_same(tmp_path / "whole", tmp_path / "cut")
    skipped = [line["skipped"] for line in log(tmp_path / "whole")]
    # the scale was too large at first, and one loss was bad
    assert skipped[0] == 1 and skipped[9] == skipped[8] + 1
