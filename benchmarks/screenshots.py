"""The pictures in ``docs/images``: ``python benchmarks/screenshots.py RUN`` shows the page of a
folder on a desktop and on a phone, and the terminal at 80 columns, in headless Chromium.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import soundfile
import tyro
from tyro.conf import Positional

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from browser import Browser, chromium  # noqa: E402
from cli_corpus import voice  # noqa: E402

from mfdistill.cli import main  # noqa: E402
from mfdistill.commands.pages import write_report  # noqa: E402

IMAGES = ROOT / "docs" / "images"
DESKTOP, PHONE, TERMINAL = (1100, 1700), (390, 1500), (80, 46)


@dataclass(frozen=True)
class Screenshots:
    """Make the pictures of docs/images anew."""

    run: Positional[str | None] = None
    """Folder with an evaluation; without one only the terminal is shown."""


def shot(browser: Browser, page: Path, size: tuple[int, int], file: str) -> None:
    """The top of a page."""
    browser.size(*size)
    browser.command("Emulation.setScrollbarsHidden", {"hidden": True})
    browser.open(page)
    browser.screenshot(IMAGES / file, whole=False)


def terminal(folder: Path) -> Path:
    """What two commands say at 80 columns, as a picture that a browser shows."""
    from rich.console import Console

    soundfile.write(folder / "noisy.wav", voice(1, 3.0, 16000), 16000)
    os.chdir(folder)
    os.environ["COLUMNS"] = str(TERMINAL[0])
    console = Console(record=True, width=TERMINAL[0], file=io.StringIO(), highlight=False)
    for words in (["--help"], ["restore", "noisy.wav", "clean.wav"]):
        told = io.StringIO()
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told), contextlib.suppress(SystemExit):  # fmt: skip
            main(words)
        console.print(f"$ mfdistill {' '.join(words)}", style="bold green")
        console.print(told.getvalue().rstrip() + "\n", markup=False)
    file = folder / "terminal.html"
    drawing = console.export_svg(title="mfdistill")
    file.write_text(f"<!doctype html><body style='margin:0'>{drawing}", encoding="utf-8")
    return file


def run(command: Screenshots) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        page = None if command.run is None else write_report(command.run, folder / "report.html")
        with chromium(folder / "profile") as browser:
            if page is not None:
                shot(browser, page, DESKTOP, "report-desktop.png")
                shot(browser, page, PHONE, "report-phone.png")
            shot(browser, terminal(folder), (1000, 1082), "terminal.png")


if __name__ == "__main__":
    run(tyro.cli(Screenshots))
