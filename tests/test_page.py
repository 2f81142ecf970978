"""The page of a run: exact words and numbers, sound at one loudness, everything inside one file."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from page_runs import NAMES, make_evaluation, make_search

from mfdistill.commands.pages import single, warnings_of, write_report
from mfdistill.commands.runs import Run, read_run
from mfdistill.errors import UserError
from mfdistill.report.listening import equal_loudness, gated_level, mp3, spectra
from mfdistill.report.page import render, utterance_scores
from mfdistill.report.panels import curve_panels, search_panels, thinned
from mfdistill.report.story import cautions, extremes, main_row, sentences, system_label, tiles


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_evaluation(tmp_path_factory.mktemp("page") / "evaluation")


@pytest.fixture(scope="module")
def rows(evaluation: Path) -> list[dict[str, Any]]:
    return json.loads((evaluation / "evaluation.json").read_text())


def test_levels_are_gated() -> None:
    rate = 8000
    tone = np.sin(2 * np.pi * 500 * np.arange(4 * rate) / rate)
    # mean square of a sine is half of its amplitude's
    assert gated_level(tone, rate) == pytest.approx(-3.0103, abs=1e-3)
    pause = np.concatenate([0.5 * tone, np.zeros(8 * rate)])
    assert gated_level(pause, rate) == pytest.approx(-9.03, abs=0.2)
    assert gated_level(np.zeros(rate), rate) == -200


def test_recordings_come_to_one_loudness_below_the_loudest_peak() -> None:
    rate = 8000
    tone = np.sin(2 * np.pi * 500 * np.arange(2 * rate) / rate)
    click = 0.001 * tone
    click[0] = 1.0
    waves, level = equal_loudness({"a": tone, "b": 0.01 * tone, "none": 0 * tone}, rate)
    assert level == pytest.approx(-23)
    assert gated_level(waves["a"], rate) == pytest.approx(level, abs=1e-6)
    assert gated_level(waves["b"], rate) == pytest.approx(level, abs=1e-6)
    assert not waves["none"].any()
    waves, level = equal_loudness({"a": tone, "peaky": click}, rate)
    assert max(abs(waves["peaky"])) == pytest.approx(0.98) and level < -23
    assert gated_level(waves["a"], rate) == pytest.approx(gated_level(waves["peaky"], rate))


@pytest.mark.parametrize("rate", [8000, 16000, 20000, 44100])
def test_mp3_holds_the_sound(rate: int) -> None:
    tone = 0.2 * np.sin(2 * np.pi * 500 * np.arange(rate) / rate)
    kind, data = mp3(tone, rate).split(",")
    assert kind == "data:audio/mpeg;base64"
    back, own = soundfile.read(io.BytesIO(base64.b64decode(data)))
    assert own >= rate and len(back) / own == pytest.approx(1, abs=0.2)
    spectrum = np.abs(np.fft.rfft(back))
    assert np.argmax(spectrum) * own / len(back) == pytest.approx(500, abs=2)


def test_a_spectrogram_shows_a_tone_where_it_is() -> None:
    rate = 16000
    tone = np.sin(2 * np.pi * 2000 * np.arange(rate) / rate)
    levels = spectra({"a": tone, "half": 0.5 * tone}, rate)
    middle = levels["a"].shape[1] // 2
    assert np.argmax(levels["a"][:, middle]) == 2000 * 512 / rate
    assert levels["a"].max() == 0 and levels["half"].max() == pytest.approx(-6.02, abs=0.01)


def test_words_of_an_evaluation(rows: list[dict[str, Any]], evaluation: Path) -> None:
    main = main_row(rows)
    assert main is not None and system_label(main) == "student, 1 step"
    # (2.5 - 1.5) / (3.5 - 1.5), (3 - 1.5) / (3.5 - 1.5)
    assert (
        sentences(rows)[0]
        == "PESQ: 10 steps of the teacher are worth 2.00 over one step; the student keeps 50 % in one step; "
        "with placed steps 75 % in two steps."
    )
    shown = [(tile["label"], tile["value"]) for tile in tiles(rows)]
    assert shown == [
        ("student, 1 step", "2.50"),
        ("student, 2 steps placed by O3S", "3.00"),
        ("teacher, 10 steps", "3.50"),
        ("regression", "2.12"),
        ("unprocessed", "1.38"),
        ("Speed, student, 1 step", "100×"),
    ]
    assert cautions(rows) == [
        "Only 4 utterances were scored: intervals are wide, and small differences mean nothing."
    ]
    better = [{**row, "pesq": 4.0} if row["model"] == "regression" else row for row in rows]
    assert "A regression network is better by PESQ in one step: 4.00 ±0.12 against 3.00 ±0.12." in (
        cautions(better)
    )
    flat = [{**row, "pesq": 3.6} if row["nfe"] == 1 else row for row in rows]
    assert any("at its best in one step already" in text for text in cautions(flat))
    details = json.loads((evaluation / "utterances.json").read_text())
    assert extremes(rows, details) == ("b/two", "c/three")
    missing = [{**row, "pesq_n": 3} if row["model"] == "teacher" else row for row in rows]
    assert "teacher, 1 step: PESQ on 1 of 4 utterances could not be scored; means are over the rest." in (
        cautions(missing)
    )  # fmt: skip


def test_scores_of_every_utterance(evaluation: Path) -> None:
    details = json.loads((evaluation / "utterances.json").read_text())
    found = utterance_scores(details, system_label, "student, 1 step", "unprocessed", ["b/two"])
    assert found is not None
    assert found["names"] == list(NAMES) and found["heard"] == [-1, 0, -1, -1]
    assert found["systems"][found["main"]] == "student, 1 step" and found["reference"] == 0
    assert [column["name"] for column in found["columns"]] == ["PESQ", "LSD (dB)"]
    assert found["values"][found["main"]][2] == [2.75, 6.25]


class _Addresses(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action", "poster") and value:
                self.found.append(value)
            if name == "id" and value:
                self.ids.append(value)


def test_the_page_is_one_file(evaluation: Path) -> None:
    path = write_report(evaluation)
    text = path.read_text()
    page = _Addresses()
    page.feed(text)
    assert len(page.ids) == len(set(page.ids))
    for address in page.found:
        assert address.startswith("data:") or address.removeprefix("#") in page.ids, address[:80]
    styles = "".join(re.findall(r"<style>(.*?)</style>", text, re.S))
    assert "url(" not in styles and "@import" not in styles
    assert "<four>" not in text and "corpus &amp; more" in text
    assert sum(address.startswith("data:audio/mpeg") for address in page.found) == 14
    assert len(text) < 1_500_000
    for part in ("Listen", "Every utterance", "Speed and latency", "worst", "50 % in one step"):
        assert part in text


def test_a_search_is_drawn_with_its_landscape(evaluation: Path) -> None:
    run = read_run(evaluation)
    run.searches = [make_search()]
    page = single(run)
    (found,) = page["searches"]
    assert found["title"] == "2 steps: 0.000 0.400 1.000"
    assert "5 schedules were scored on 8 utterances by PESQ in 1.0 min" in found["text"]
    assert "chosen 0.400" in found["panels"].images[0].alt
    assert any("not clearly better" in text for text in page["warnings"])
    assert [cell["text"] for cell in found["table"]["rows"][0]] == [
        *("uniform", "2.99 ±0.1", "+0.01 ±0.02", "no clear difference")
    ]
    assert "O3S" in render(page)
    labels = [entry["label"] for entry in search_panels(make_search()).legend]
    assert labels == ["sweep 1", "chosen"]


def test_paired_differences_are_shown(tmp_path: Path) -> None:
    place = make_evaluation(tmp_path / "run")
    row = {
        "model": "student",
        "nfe": 1,
        "schedule": "uniform",
        "pesq": -0.875,
        "pesq_ci95": 0.25,
        "n": 4,
    }
    (place / "differences.json").write_text(json.dumps([row]))
    assert "-0.88 ±0.25" not in write_report(place).read_text()  # of an earlier evaluation
    told = json.loads((place / "command.json").read_text()) | {"against": "teacher-10"}
    (place / "command.json").write_text(json.dumps(told))
    text = write_report(place).read_text()
    assert "Difference to teacher-10" in text and "-0.88 ±0.25" in text


def test_notes_are_cautions_unless_they_are_harmless() -> None:
    texts = ("runs/x: nothing to resume, so this starts at step 0", "3 recordings were left out")
    notes = [{"step": 0, "kind": "note", "text": text} for text in texts]
    assert warnings_of(Run(Path("x"), "x", logs={"student": notes})) == [f"student: {texts[1]}"]


def test_curves_are_grouped() -> None:
    log = [{"step": s, "kind": "train", "loss": 1 / s, "lr": 1e-3} for s in range(1, 1000)]
    log += [{"step": 500, "kind": "valid", "loss": 0.1, "pesq_1": 2.0, "pesq_2": 2.5}]
    found = curve_panels({"student": log})
    assert [image.alt.split(" against")[0] for image in found.images] == [
        "loss",
        "validation: PESQ",
    ]
    assert "1 NFE ends at 2, 2 NFE ends at 2.5" in found.images[1].alt
    assert [image.alt.split(" against")[0] for image in found.folded] == ["lr"]
    labels = [entry["label"] for entry in found.legend]
    assert labels == ["training", "validation", "1 NFE", "2 NFE"]
    two = curve_panels({"a": log, "b": log})
    assert [entry["label"] for entry in two.legend] == ["a", "b"]
    points = thinned([(float(k), float(k)) for k in range(1000)])
    assert len(points) == 250 and points[0] == (1.5, 1.5)


def test_a_folder_that_holds_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no model and no evaluation"):
        write_report(tmp_path)
    (tmp_path / "evaluation.json").write_text("[")
    with pytest.raises(UserError, match=r"evaluation\.json: not valid JSON.*; evaluate again"):
        write_report(tmp_path)


def test_runs_are_compared(tmp_path: Path) -> None:
    from mfdistill.cli import main

    one, two = (make_evaluation(tmp_path / name) for name in ("one", "two"))
    changed = json.loads((two / "evaluation.json").read_text())
    for row in changed:
        row["n"] = 8
    (two / "evaluation.json").write_text(json.dumps(changed))
    out = tmp_path / "both.html"
    assert main(["compare", str(one), str(two), "--out", str(out)]) == 0
    text = out.read_text()
    for part in (
        "one and two",
        "one: student, 1 step",
        "two: PESQ: 10 steps",
        "The runs were evaluated on different numbers of utterances (one 4, two 8).",
    ):
        assert part in text
    assert main(["compare", str(one), str(one)]) == 2
