"""The page in a browser: no errors, no network, players that play, a table that sorts, no sideways
scrolling on a phone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, chromium
from page_runs import NAMES, make_evaluation

from mfdistill.commands.pages import write_report


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(make_evaluation(tmp_path_factory.mktemp("page")))


def column(browser: Browser, k: int) -> list[str]:
    script = "return [...document.querySelectorAll('#every tbody tr')].map(r => r.cells[arguments[0]].textContent)"
    return browser.run(script, k)


def test_the_table_sorts_and_searches(browser: Browser, page: Path) -> None:
    browser.open(page)
    names = [name + (" ♪" if name in NAMES[:2] else "") for name in NAMES]
    one, two, three, four = names
    # at first the worst of the student in one step by PESQ
    assert column(browser, 0)[0] == two and column(browser, 1) == ["2.25", "2.50", "2.50", "2.75"]
    assert column(browser, 2)[0] == "+0.75"  # against the input's 1.5
    head = "document.querySelectorAll('#every thead button')[arguments[0]]"
    browser.run(f"{head}.click()", 1)
    assert column(browser, 0)[0] == three
    sort = browser.run("return document.querySelectorAll('#every th')[1].ariaSort")
    assert sort == "descending"
    browser.run(f"{head}.click()", 0)
    assert column(browser, 0) == [one, two, three, four]
    marked = "return [...document.querySelectorAll('#every tr.worst, #every tr.best')].map(r => [r.className, r.cells[0].textContent])"
    assert browser.run(marked) == [["worst", two], ["best", three]]
    change = """
const item = document.getElementById(arguments[0]);
item.value = arguments[1];
item.dispatchEvent(new Event(arguments[2]));
"""
    browser.run(change, "system", "3", "change")
    assert column(browser, 1) == ["3.50", "3.50", "3.25", "3.75"]
    browser.run(change, "find", "FOUR", "input")
    assert column(browser, 0) == [four]
    assert browser.errors() == []


def test_players_play_one_at_a_time_from_the_same_place(browser: Browser, page: Path) -> None:
    browser.open(page)
    ready = "return [...document.querySelectorAll('audio')].every(a => a.readyState >= 1 && a.duration > 1.4)"
    browser.wait(ready)
    press = "document.querySelectorAll('.take button')[arguments[0]].click()"
    browser.run(press, 0)
    browser.wait("return document.querySelectorAll('audio')[0].currentTime > 0.4")
    browser.run(press, 1)
    browser.wait("return !document.querySelectorAll('audio')[1].paused")
    state = browser.run(
        "const a = document.querySelectorAll('audio'); return [a[0].paused, a[1].currentTime]"
    )
    assert state[0] is True and state[1] > 0.35
    browser.wait("return document.querySelectorAll('audio')[1].ended || document.querySelectorAll('audio')[1].paused")  # fmt: skip
    # a click in the middle of a spectrogram plays from there
    browser.run("""
const p = document.querySelectorAll('.picture')[2], box = p.getBoundingClientRect();
p.dispatchEvent(new MouseEvent('click', {clientX: box.left + box.width / 2, clientY: box.top + 5}));
""")
    browser.wait("return document.querySelectorAll('audio')[2].currentTime > 0.7")
    assert browser.errors() == []


@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_the_screen(browser: Browser, page: Path, width: int, tmp_path: Path) -> None:
    browser.size(width, 800)
    browser.open(page)
    assert browser.run("return document.documentElement.scrollWidth") <= width
    broken = "return [...document.images].filter(i => !(i.complete && i.naturalWidth > 10)).length"
    assert browser.run(broken) == 0
    browser.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 20_000
    assert browser.errors() == []


def test_the_check_sees_a_page_that_loads_from_elsewhere(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "bad.html"
    policy = "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'\">"
    file.write_text(f"<!DOCTYPE html>{policy}<img src='http://127.0.0.1:9/x.png'>")
    browser.open(file)
    assert browser.errors()
