"""What the figures share: size, colours, and writing a PNG whole or not at all. No pyplot: nothing
global, no display.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from mfdistill.errors import UserError
from mfdistill.parts import part_of
from mfdistill.plain import Plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito: told apart by everybody
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
GREY = "#666666"
DPI = 130


def new_figure(width: float, height: float, title: str | None = None) -> Figure:
    """An empty figure of that size in inches whose parts are kept from overlapping."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.set(w_pad=0.08, h_pad=0.06)  # type: ignore[call-arg]
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def tidy(axes: Axes, xlabel: str = "", ylabel: str = "") -> None:
    """House look of one panel."""
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.set_xlabel(xlabel, fontsize=9)
    axes.set_ylabel(ylabel, fontsize=9)


def shared_legend(figure: Figure, handles: Plain, columns: int = 4) -> None:
    """One legend below all panels; nothing for a single entry or none."""
    if len(handles) > 1:
        figure.legend(
            list(handles.values()),
            list(handles),
            loc="outside lower center",
            ncols=min(columns, len(handles)),
            fontsize=8,
            frameon=False,
        )


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a PNG by way of a temporary name in the same folder.

    Raises:
        UserError: it cannot be written; whatever stood at ``path`` is untouched.
    """
    path = Path(path)
    part = part_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(part, format="png")
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise UserError(
            f"{path}: cannot be written ({error}); free some space or name another folder"
        ) from error
    return path
