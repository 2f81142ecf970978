"""The one training loop, for teachers, students and regression alike: ``loss, logs =
objective(batch)`` and what belongs around it.

One step in order: micro-batches -> features -> objective -> gradients averaged over micro-batches
and processes -> clipping -> AdamW (of every player, see ``players``) -> EMA. Every draw is a
function of (seed, global sample index) and the learning rate one of the step, so the number of
processes and a resume change nothing.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from mfdistill.companions import SECTION, checksums, write_companions
from mfdistill.data.batches import Batched, Rows, batches
from mfdistill.distill.batch import loss_count, make_batch
from mfdistill.distill.disk import disk_need
from mfdistill.distill.interrupt import Interrupted, Signals
from mfdistill.distill.logs import say
from mfdistill.distill.players import MODEL, clip, learning_rates, leave_out_resting, set_rates
from mfdistill.distill.processes import (
    filled,
    first_error,
    gathered,
    make_accelerator,
    put_together,
    reshard,
    whole,
)
from mfdistill.distill.run import (
    Run,
    build_run,
    find_run,
    how_begun,
    prepare_folder,
    save_model,
    save_run,
)
from mfdistill.distill.settings import TrainConfig, check_end, check_run
from mfdistill.distill.state import Found, module_tensors
from mfdistill.errors import ToldElsewhere, UserError
from mfdistill.plain import Plain, Raw

if TYPE_CHECKING:
    from accelerate import Accelerator

    from mfdistill.tasks import Task

Validate = Callable[[nn.Module, int, "Accelerator"], Mapping[str, float]]
TrainData = Rows | Batched
STOPS = (signal.SIGTERM, signal.SIGINT)


def train(
    objective: nn.Module,
    data: TrainData,
    task: Task,
    config: TrainConfig,
    *,
    model_config: Plain | None = None,
    validate: Validate | None = None,
    accelerator: Accelerator | None = None,
    companions: Mapping[str, bytes] | None = None,
) -> Path:
    """Optimise all trainable parameters of ``objective`` and save its ``model``.

    Args:
        objective: ``forward(batch) -> (loss (), logs {name: ()})``, the same names on every rank,
            with the trained module at ``.model``; a teacher at ``.teacher`` is moved to the device;
            for parts that are trained beside the model see ``players``.
        data: a ``TrainSet`` (see ``mfdistill.data.batches``), or batches of your own
            (``distill.own.OwnBatches``).
        task: makes batches of its rows (``Task.batch``).
        model_config: sections of ``config.json`` beside "training"; on a resume all but "schedule"
            must be as they were. None: the student's own.
        validate: ``validate(model, step, accelerator) -> {metric: value}``, called on every rank
            without gradients, with the averaged weights in evaluation mode; values must be the same
            on every rank.
        accelerator: as from ``make_accelerator``, which is called where this is None.
        companions: files that the model is not used without, written before the first save
            (``mfdistill.companions``).

    Returns:
        ``config.out``: ``model.safetensors`` (averaged weights), ``config.json``, ``log.jsonl``,
        ``training_state/``, and ``best/`` where ``best_metric`` is set.

    Raises:
        UserError: bad settings, a folder that is in use, a resume with other settings, a full disk,
            a loss that stays non-finite or is so at the end.
        Interrupted: SIGTERM or Ctrl-C, after saving.
    """
    accelerator = accelerator or make_accelerator(config)
    model_config = _described(objective, model_config, companions or {})
    run, found = _opened(objective, task, config, model_config, accelerator, companions or {})
    if run is None:
        return Path(config.out)
    hours = config.time_limit_hours
    deadline = math.inf if hours is None else time.monotonic() + 3600 * hours
    try:
        with Signals() as signals, run.log:
            for text in how_begun(config, found):
                run.log.note(run.step, text)
            if found is None and config.resume and accelerator.is_main_process:
                say(f"{config.out}: nothing to resume, so this starts at step 0")
            if found is None:
                save_run(run, with_model=False)
            if run.to_validate:
                _validate(run, validate)
                save_run(run)
            with contextlib.closing(_micro_batches(run, data)) as stream:
                while run.step < config.steps:
                    began = time.monotonic()
                    raws = _next(run, stream)
                    values, wishes = training_step(run, raws, partial(_wishes, signals, deadline))
                    _account(run, raws, values, time.monotonic() - began)
                    if _stops(run, validate, wishes):
                        break
            _tell_left_out(run, data)
        if run.step >= config.steps:
            check_end(config, run.skipped_in_a_row, accelerator)
    finally:
        accelerator.unwrap_model(run.wrapped, keep_fp32_wrapper=False)
        accelerator.free_memory()
    accelerator.wait_for_everyone()
    return Path(config.out)


def _described(
    objective: nn.Module, model_config: Plain | None, companions: Mapping[str, bytes]
) -> Plain:
    """The sections of ``config.json`` with what follows from model and companions."""
    if model_config is None:
        model_config = {**objective.get_submodule("model").config, "objective": None}  # type: ignore[dict-item]
    return {**model_config, SECTION: checksums(companions)} if companions else model_config


def _opened(
    objective: nn.Module,
    task: Task,
    config: TrainConfig,
    model_config: Plain,
    accelerator: Accelerator,
    companions: Mapping[str, bytes],
) -> tuple[Run | None, Found | None]:
    """The run before its next update, new or as its ``Found`` state says; None where it is
    finished.
    """
    torch.set_flush_denormal(True)  # gradients behind SiLU underflow: up to 5 times slower
    if accelerator.mixed_precision != config.mixed_precision:
        raise UserError(
            f"--mixed-precision {config.mixed_precision}: launched with {accelerator.mixed_precision}; give the same to both"
        )
    check_run(config, accelerator.num_processes)
    found = find_run(config, model_config)
    saved = None if found is None else found.info
    accelerator.wait_for_everyone()
    if saved is not None and saved["finished"]:
        check_end(config, saved["skipped_in_a_row"], accelerator)
        if accelerator.is_main_process:
            say(f"{config.out}: already finished at step {saved['step']}; nothing to do")
        return None, found
    if accelerator.is_main_process:
        prepare_folder(config, found)
        write_companions(Path(config.out), companions)
    accelerator.wait_for_everyone()
    run = build_run(objective, task, config, model_config, accelerator, saved)
    if accelerator.is_main_process:
        files, best = sum(map(len, companions.values())), config.best_metric is not None
        need = disk_need(
            run.objective, run.model, files, best, config.keep_states, config.moments == "8bit"
        )
        say(need.told(Path(config.out)))
    return run, found


def _tell_left_out(run: Run, data: TrainData) -> None:
    """The recordings that this run went on without, on any process."""
    bad = getattr(data, "bad", None)  # a data set of one's own need not know of any
    if bad is None:
        return
    every = gathered(run.accelerator, (bad.read, bad.found))
    every.pop(run.accelerator.process_index)
    summary = bad.summary(every)
    if summary is not None:
        run.log.note(run.step, f"{run.config.out}: {summary}")


def _wishes(signals: Signals, deadline: float) -> list[bool]:
    """Who wants to stop: each of ``STOPS``, and the clock."""
    return [signals.signum == number for number in STOPS] + [time.monotonic() > deadline]


def _stops(run: Run, validate: Validate | None, wishes: Sequence[bool]) -> bool:
    """After an update: validate and save where that is due; True where the time is over.

    Raises:
        Interrupted: by a signal, after saving.
    """
    config = run.config
    run.to_validate = validate is not None and _due(run, config.valid_every)
    for number, wish in zip(STOPS, wishes, strict=False):
        if wish:
            _interrupt(run, number)
    if run.to_validate:
        _validate(run, validate)
    if wishes[-1] or _due(run, config.save_every):
        save_run(run)
    if not wishes[-1] or run.step >= config.steps:
        return False
    text = f"{config.out}: time limit reached; saved at step {run.step}, continue with --resume"
    run.log.note(run.step, text)
    return True


def _next(run: Run, stream: Iterator[Raw]) -> list[Raw]:
    """The micro-batches of a step. A recording that one process cannot read ends the run on all of
    them, after saving what was learnt; that process tells it.
    """
    raws, error = [], None
    try:
        raws = [next(stream) for _ in range(run.config.accumulation)]
    except UserError as met:
        error = met
    told = first_error(run.accelerator, None if error is None else str(error))
    if told is None:
        return raws
    rank, text = told
    if run.step > 0:
        save_run(run)
        text = f"{text}; saved at step {run.step}, continue with --resume"
        run.accelerator.wait_for_everyone()
    raise (UserError if rank == run.accelerator.process_index else ToldElsewhere)(text) from error


def _due(run: Run, every: int) -> bool:
    return run.step == run.config.steps or (every > 0 and run.step % every == 0)


def _micro_batches(run: Run, data: TrainData) -> Generator[Raw, None, None]:
    config, accelerator = run.config, run.accelerator
    # a set that makes batches of its own (of utterances of similar length) does so
    make = data.micro_batches if isinstance(data, Batched) else partial(batches, data)
    stream = make(
        global_batch=config.batch_size,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        start_step=run.step,
        accumulation=config.accumulation,
        num_workers=config.num_workers,
    )
    return cast("Generator[Raw, None, None]", stream)


def training_step(
    run: Run, raws: Sequence[Raw], wishes: Callable[[], Sequence[bool]]
) -> tuple[dict[str, float], list[bool]]:
    """One update from this rank's micro-batches; advances ``run.step``.

    An update whose loss or gradient is not finite, on any rank, is left out and counted.

    Returns: means over all ranks of the loss and what the objective logs; and which ``wishes`` to
    stop any rank had.
    Raises:
        UserError: ``max_skipped`` updates in a row were left out.
    """
    config, accelerator = run.config, run.accelerator
    # dropout, the one thing that draws from global generators, then depends on the step alone
    torch.manual_seed(((config.seed << 32) + run.step * 4096 + accelerator.process_index) % 2**63)
    rates = learning_rates(run.objective, config, run.step)
    set_rates(run.optimizer, rates)
    count = loss_count(raws, accelerator)
    totals: dict[str, torch.Tensor] = {}
    for number, raw in enumerate(raws, start=1):
        batch = make_batch(run.task, raw, accelerator.device) | {
            "step": run.step,
            "progress": run.step / config.steps,
            "loss_count": count,
        }
        with contextlib.nullcontext() if number == len(raws) else accelerator.no_sync(run.wrapped):
            loss, logs = run.wrapped(batch)
            accelerator.backward(loss / len(raws))
        for name, value in {**logs, "loss": loss}.items():
            value = torch.as_tensor(
                value, dtype=torch.float32, device=accelerator.device
            ).detach() / len(raws)
            totals[name] = totals[name] + value if name in totals else value
    norms = {
        name: put_together(norm) for name, norm in clip(run.objective, config, accelerator).items()
    }

    # one exchange and one wait for the device per step: what was measured, and who wants to stop
    asked = torch.tensor([float(wish) for wish in wishes()], device=accelerator.device)
    told = torch.cat(
        [torch.stack([*totals.values(), *map(torch.Tensor.float, norms.values())]), asked]
    )
    measured = cast(torch.Tensor, accelerator.reduce(told, "mean")).tolist()
    values = dict(zip([*totals, *norms], measured, strict=False)) | {"lr": rates[MODEL]}

    if all(math.isfinite(values[name]) for name in ("loss", *norms)):
        trained = leave_out_resting(run.objective, run.step)
        run.optimizer.step()
        if trained:
            run.ema.update()
        run.skipped_in_a_row = 0
    else:
        if accelerator.scaler is not None:
            accelerator.scaler.update()  # lowers the scale where fp16 overflowed
        run.skipped, run.skipped_in_a_row = run.skipped + 1, run.skipped_in_a_row + 1
    run.optimizer.zero_grad()
    run.step += 1
    if run.skipped_in_a_row >= config.max_skipped:
        raise UserError(
            f"{config.out}: loss or gradient not finite for {run.skipped_in_a_row} updates in a row, up to step {run.step}; "
            "lower --lr or --grad-clip, or resume in another --mixed-precision"
        )
    return values, [share > 0 for share in measured[len(totals) + len(norms) :]]


def _account(run: Run, raws: Sequence[Raw], values: Mapping[str, float], seconds: float) -> None:
    """Add a step to the log's window; write and empty it every ``log_every`` steps."""
    samples = sum(raw["clean"].numel() for raw in raws if "clean" in raw)
    samples *= run.accelerator.num_processes
    run.seconds += seconds
    run.window = run.window or {}
    for name, value in {
        **values,
        "seconds": seconds,
        "audio_s": samples / (run.task.sample_rate or 1),
    }.items():
        if math.isfinite(value):
            entry = run.window.setdefault(name, [0.0, 0])
            run.window[name] = [entry[0] + value, entry[1] + 1]
    means = {name: total / number for name, (total, number) in run.window.items()}
    pace, audio = means.pop("seconds"), means.pop("audio_s")
    loss = means.get("loss", math.nan)
    run.log.advance(run.step, loss, pace, audio / pace)
    if _due(run, run.config.log_every):
        line = means | {"loss": loss, "lr": values["lr"], "audio_s_per_s": audio / pace}
        run.log.train(run.step, line | {"hours": run.seconds / 3600, "skipped": run.skipped}, pace)
        run.window = None


def _validate(run: Run, validate: Validate | None) -> None:
    """Score the averaged weights; keep them in ``best/`` where they are the best so far."""
    run.to_validate = False
    if validate is None:
        return
    modes = [(module, module.training) for module in run.model.modules()]
    with run.ema.applied(), torch.no_grad():
        run.model.eval()
        model = run.model
        if run.replica is not None:
            weights = whole(module_tensors(model), keep=True)
            model = filled(run.replica, weights, run.accelerator.device)
        values = dict(validate(model, run.step, run.accelerator))
        if run.replica is not None:
            run.replica.to("meta")
            reshard(run.objective)
    for module, training in modes:
        module.training = training
    run.log.valid(run.step, values)
    name = run.config.best_metric
    if name is None:
        return
    if name not in values:
        raise UserError(
            f"--best-metric {name}: validation gives {', '.join(values) or 'nothing'}; name one of these"
        )
    sign = 1.0 if run.config.best_mode == "max" else -1.0
    if math.isfinite(values[name]) and (run.best is None or sign * values[name] > sign * run.best):
        run.best = values[name]
        save_model(run, Path(run.config.out) / "best")


def _interrupt(run: Run, signum: int) -> None:
    save_run(run)
    run.accelerator.wait_for_everyone()
    text = f"{run.config.out}: stopped by {signal.Signals(signum).name}; saved at step {run.step}, continue with --resume"
    raise Interrupted(signum, text)
