"""Help fits a screen, says the defaults of the dataclasses, and names options that there are."""

from __future__ import annotations

import contextlib
import io
import re

import pytest

from mfdistill.commands.parsing import COMMANDS, parse
from mfdistill.commands.short_help import SHORT, SUMMARIES, overview, short_help


def told(arguments: list[str]) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as stop:
        parse(arguments)
    assert stop.value.code in (0, None)
    return out.getvalue()


@pytest.mark.parametrize("name", list(SHORT))
def test_short_help(name: str) -> None:
    text = told([name, "--help"])
    lines = text.splitlines()
    assert len(lines) <= 45 and max(map(len, lines)) <= 80, (len(lines), max(map(len, lines)))
    assert text == short_help(name, COMMANDS[name])
    assert "``" not in text and not re.search(r"--[\w.-]*_", text)
    every = set(re.findall(r"--[a-z][\w.-]*", told([name, "--help-all"])))
    assert set(re.findall(r"^  (?:\S+, )?(--[a-z][\w.-]*)", text, re.M)) <= every
    assert len(every) >= len(SHORT[name])


def test_defaults_are_those_of_the_commands() -> None:
    text = told(["student-distill", "-h"])
    assert re.search(r"--steps .*\(3000\)", text) and "(runs/student)" in text
    assert "what the teacher was trained on" in " ".join(text.split())
    assert re.search(r"--steps .*\(6000\)", told(["teacher-train", "-h"]))
    assert re.search(r"--metric .*", told(["os3-search", "-h"])) and "(spksim)" in told(
        ["o3s-search", "--help"]
    )


def test_overview_names_every_command() -> None:
    text = told(["--help"])
    assert text == told([]) == overview(COMMANDS)
    assert all(re.search(rf"^  {name} ", text, re.M) for name in COMMANDS)
    assert set(COMMANDS) == set(SUMMARIES)
    assert len(text.splitlines()) <= 40 and max(map(len, text.splitlines())) <= 80
