"""What scripts rely on: cheap checks before torch is imported, --json, --quiet, completion."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
from cli_corpus import voice

from mfdistill import cli
from mfdistill.commands.early import check_early
from mfdistill.commands.output import Output, plain, take
from mfdistill.commands.parsing import parse
from mfdistill.errors import UserError


@pytest.fixture
def noisy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    soundfile.write("noisy.wav", voice(1, 0.6, 16000), 16000)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    return tmp_path


@pytest.mark.parametrize(
    "words, said",
    [
        (["restore", "no.wav", "out.wav"], "no.wav: no such file or folder"),
        (["restore", "noisy.wav", "noisy.wav"], "noisy.wav: already there; --overwrite"),
        (["restore", "noisy.wav", "o.wav", "--model", "enhanc"], "did you mean the model enhance?"),
        (["restore", "noisy.wav", "o.wav", "--nfe", "0"], "--nfe 0: must be at least 1"),
        (["restore", "noisy.wav", "o.wav", "--batch", "0"], "--batch 0: must be at least 1"),
        (["stream", "no.wav", "o.wav"], "no.wav: no such file"),
        (["student-distill", "--teacher", "full/none"], "full/none: no such file or folder in full"),
        (["student-distill", "--lr", "0"], "--lr 0.0: must be positive"),
        (["teacher-train", "--data", "nowhere"], "nowhere: no such folder"),
        (["teacher-train", "--out", "full"], "full: already holds files; --resume"),
        (["teacher-train", "--sample-rate", "96000"], "must lie between 8000 and 48000 Hz"),
        (["demo", "--sample-rate", "96"], "must lie between 8000 and 48000 Hz"),
        (["evaluate", "--student", "enhance", "--metrics", "pesk"], "did you mean 'pesq'?"),
        (["evaluate", "--student", "enhance", "--limit", "0"], "--limit 0: must be at least 1"),
        (["os3-search", "--student", "enhance", "--nfe", "0"], "--nfe 0: must be at least 1"),
    ],
)  # fmt: skip
def test_cheap_checks(words: list[str], said: str, noisy: Path) -> None:
    with pytest.raises(UserError) as told:
        check_early(parse(words))
    assert said in str(told.value), told.value


def test_they_come_before_torch(noisy: Path) -> None:
    code = """
import sys
from mfdistill.cli import main
assert main(["restore", "no.wav", "out.wav"]) == 2
assert main(["restor", "no.wav", "out.wav"]) == 2
assert main(["evaluate", "--student", "enhance", "--metrics", "pesk"]) == 2
assert main(["teacher-train", "--batch-size", "0"]) == 2
assert main(["teacher-train", "--sample-rate", "96000"]) == 2
assert "torch" not in sys.modules, "torch"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "did you mean restore?" in done.stderr
    assert len(done.stderr.splitlines()) == 5


def test_json_and_quiet(noisy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["restore", "noisy.wav", "clean.wav", "--json", "--quiet"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out) == {"command": "restore", "result": ["clean.wav"]} and err == ""
    assert cli.main(["--json", "restore", "noisy.wav", "clean.wav", "--quiet"]) == 2
    out, err = capfd.readouterr()
    told = json.loads(out)
    assert told["command"] == "restore" and "already there" in told["error"]
    assert err.splitlines() == [f"mfdistill: error: {told['error']}"]
    assert cli.main(["models", "--json"]) == 0
    out, err = capfd.readouterr()
    names = [row["name"] for row in json.loads(out)["result"]]
    assert "enhance-causal" in names and "enhance-causal" in err  # the table is not lost
    assert cli.main(["stream", "-", "-", "--json"]) == 2
    assert "goes to stdout" in capfd.readouterr().err


def test_plain_values() -> None:
    @dataclass
    class Held:
        path: Path
        values: tuple[float, ...]

    held = Held(Path("a/b"), (1.0, math.nan, math.inf))
    assert plain(held) == {"path": "a/b", "values": [1.0, None, None]}
    assert plain({1: np.float32(0.5), "n": np.int64(3), "b": True}) == {"1": 0.5, "n": 3, "b": True}
    assert take(["a", "--json", "b"]) == (["a", "b"], Output(json=True))


def test_the_schedule_of_the_learning_rate_has_its_own_name() -> None:
    assert parse(["teacher-train", "--lr-schedule", "constant"]).training.schedule == "constant"
    with pytest.raises(UserError, match="no such option"):
        parse(["teacher-train", "--schedule", "constant"])
    assert parse(["restore", "a", "b", "--schedule", "0", "1"]).schedule == (0.0, 1.0)


def test_completion(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fish"):
        parse(["completion", "fish"])
    with pytest.raises(SystemExit) as stop:
        cli.main(["completion", "bash"])
    assert not stop.value.code
    script = capsys.readouterr().out
    assert "complete -o default -F" in script
    (tmp_path / "c").write_text(script)
    ask = (
        "source c; COMP_WORDS=(mfdistill stud); COMP_CWORD=1; _tyro_mfdistill; echo ${COMPREPLY[@]}"
    )
    ask += "; COMP_WORDS=(mfdistill restore --overw); COMP_CWORD=2; _tyro_mfdistill; echo ${COMPREPLY[@]}"
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, cwd=tmp_path)
    first, second = done.stdout.splitlines()
    assert first.split() == ["student-distill", "student-finish"], done.stderr
    assert second == "--overwrite"
