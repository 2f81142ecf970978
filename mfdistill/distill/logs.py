"""What a run tells: ``log.jsonl``, a tracker, and the terminal. Only the main process writes."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from mfdistill.checkpoint import write_text
from mfdistill.distill import trackers
from mfdistill.errors import UserError
from mfdistill.plain import Plain, Section
from mfdistill.reading import disk_remedy, parse_json, read_lines, reason

FILE = "log.jsonl"


def truncate_log(file: Path, step: int) -> None:
    """Drop lines after ``step`` and a line cut short by a kill, so that a resumed run repeats
    nothing. No file is no error.
    """
    if not file.is_file():
        return
    kept = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if int(json.loads(line)["step"]) <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
            continue
    write_text(file, "".join(kept))


def read_log(file: Path) -> list[Plain]:
    """The lines of ``log.jsonl`` with numbers (kinds "train" and "valid"); a number that was not
    finite is None.

    Raises:
        UserError: no such file, or a line that no run wrote; it is named.
    """
    rows = []
    for number, line in read_lines(file):
        where, remedy = f"{file}, line {number}", "remove the line"
        row = parse_json(line, where, remedy)
        kind, step = (row.get("kind"), row.get("step")) if isinstance(row, dict) else (None, None)
        if kind not in ("note", "train", "valid") or type(step) is not int:
            raise UserError(f"{where}: not written by a run; {remedy}")
        if kind != "note":
            wrong = [
                name for name, value in row.items()
                if name != "kind" and type(value) not in (int, float, type(None))
            ]  # fmt: skip
            if wrong:
                raise UserError(f"{where}: {wrong[0]} is no number; {remedy}")
            rows.append(row)
    return rows


def duration(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _pace(audio_rate: float, seconds_per_step: float) -> str:
    """Seconds of audio per second; updates per second of a training without recordings."""
    rate, unit = (
        (audio_rate, "s/s") if audio_rate > 0 else (1 / max(seconds_per_step, 1e-9), "updates/s")
    )
    return f"{rate:.0f} {unit}" if rate >= 10 else f"{rate:.2g} {unit}"


class RunLog:
    """Log of one run; a context manager. On ranks other than the main one every call does nothing.

    Args:
        out: the run's folder.
        steps: of the whole run.
        step: already done; later lines in an existing log are dropped.
        accelerator: says whether this is the main process, and gets the tracker.
        log_with: which tracker (``trackers.chosen``). settings: told to it.
    """

    def __init__(
        self,
        out: Path,
        steps: int,
        step: int,
        accelerator: Any,
        log_with: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.out, self.steps, self.start, self.active = (
            out,
            steps,
            step,
            accelerator.is_main_process,
        )
        self._accelerator, self._log_with, self._settings = accelerator, log_with, settings or {}
        self._file: IO[str] | None = None
        self._console: Any = None
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> RunLog:
        if not self.active:
            return self
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)
        truncate_log(self.out / FILE, self.start)
        try:
            self._file = (self.out / FILE).open("a", encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"{self.out / FILE}: cannot be written ({error}); name another folder"
            ) from error
        try:
            trackers.open_tracker(
                self._accelerator, self._log_with, self.out, self.start, self._settings
            )
        except OSError as error:
            self._file.close()
            raise self._unwritable("the tracker's folder", error) from error
        if self._console.is_terminal:
            self._open_bar()
        return self

    def _open_bar(self) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[status]}"),
            console=self._console,
        )  # fmt: skip
        self._task = self._bar.add_task(
            self.out.name, total=self.steps, completed=self.start, status=""
        )
        self._bar.start()

    def advance(self, step: int, loss: float, seconds_per_step: float, audio_rate: float) -> None:
        """Move the progress bar: ``audio_rate`` in seconds of audio per second, 0 where the data
        have none.
        """
        if self._bar is not None:
            left = duration((self.steps - step) * seconds_per_step)
            self._bar.update(
                self._task,
                completed=step,
                status=f"loss {loss:.4g}  {_pace(audio_rate, seconds_per_step)}  {left} left",
            )

    def train(self, step: int, values: Mapping[str, float], seconds_per_step: float) -> None:
        """One line of training means; plain text too where there is no progress bar."""
        self._write("train", step, values)
        if self._bar is None:
            left = duration((self.steps - step) * seconds_per_step)
            rates = f"lr {values['lr']:.2e}  {_pace(values['audio_s_per_s'], seconds_per_step)}  {left} left"
            self._say(f"step {step}/{self.steps}  loss {values['loss']:.4g}  {rates}")

    def valid(self, step: int, values: Mapping[str, float]) -> None:
        """One line of validation results."""
        self._write("valid", step, values)
        self._say(
            f"step {step}/{self.steps}  valid  "
            + "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        )

    def note(self, step: int, text: str) -> None:
        """Something worth knowing, in words."""
        if self._file is not None:
            self._line({"step": step, "kind": "note", "text": text})
        self._say(text)

    def _say(self, text: str) -> None:
        if self._console is not None:
            self._console.print(text, markup=False, soft_wrap=True)

    def _write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        if self._file is None:
            return
        self._line(
            {
                "step": step,
                "kind": kind,
                **{name: value if math.isfinite(value) else None for name, value in values.items()},
            }
        )
        if self._accelerator.trackers:
            try:
                self._accelerator.log(
                    {f"{kind}/{name}": value for name, value in values.items()}, step=step
                )
            except OSError as error:
                raise self._unwritable("the tracker's folder", error) from error

    def _line(self, values: Section) -> None:
        assert self._file is not None
        try:
            self._file.write(
                json.dumps({**values, "time": round(time.time(), 1)}, ensure_ascii=False) + "\n"
            )
            self._file.flush()
        except OSError as error:
            raise self._unwritable(FILE, error) from error

    def _unwritable(self, name: str, error: OSError) -> UserError:
        return UserError(
            f"{self.out / name}: cannot be written ({reason(error)}); {disk_remedy(error)}, and continue with --resume"
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._file is not None:
            # what a full disk did not take was told when it was written; closing writes it again
            with contextlib.suppress(OSError):
                self._file.close()
        try:
            trackers.close(self._accelerator)
        except OSError as late:
            # what ended the run says more than curves that did not reach a full disk
            if error is None:
                raise self._unwritable("the tracker's folder", late) from late


def say(text: str) -> None:
    """One line to the terminal outside a run."""
    from rich.console import Console

    Console(stderr=True, highlight=False).print(text, markup=False, soft_wrap=True)
