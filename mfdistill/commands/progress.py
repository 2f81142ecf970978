"""One progress bar on the main process's terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress(total: float, unit: str, show: bool) -> Iterator[Callable[[str, float], None]]:
    """Yields ``advance(label, amount)``; silent where there is no terminal or ``show`` is false."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not show or not console.is_terminal:
        yield lambda label, amount: None
        return
    count = TextColumn("{task.completed:.0f}/{task.total:.0f} " + unit)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        count,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        line = bar.add_task("", total=max(total, 1e-9))
        yield lambda label, amount: bar.update(line, advance=amount, description=label)
