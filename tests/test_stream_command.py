"""mfdistill stream: files, raw samples, export, verification; the battery finds what is broken."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from mfdistill.cli import main
from mfdistill.config import to_dict
from mfdistill.errors import UserError
from mfdistill.metrics.hops import HopClock
from mfdistill.networks import build_network
from mfdistill.students import Student, load_student, save_student
from mfdistill.students.onnx import OnnxStep
from mfdistill.students.step import StreamStep, plan
from mfdistill.students.streaming import StreamRestorer
from mfdistill.students.verify import verify
from mfdistill.tasks import default_task, get_task
from mfdistill.teachers.field import Field

SIZES = {
    "channels": 4,
    "blocks": 1,
    "freqs": 32,
    "band_stride": 8,
    "embedding": 8,
    "causal": True,
    "mean": "y",
    "shape": "flat",
}


def make_student(causal: bool = True) -> Student:
    preset = default_task("phase", 8000, causal=causal)
    task = get_task(replace(preset, stft=replace(preset.stft, n_fft=64, hop=32)))
    torch.manual_seed(0)
    network = build_network("compact", {**SIZES, "causal": causal})
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.1 * torch.randn_like(value))
    config = {"network": {"name": "compact", "config": to_dict(network.config)}}
    return Student.from_teacher(Field(network, task, config)).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("student")
    save_student(make_student(), path)
    return path


def noise(samples: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal(samples)).astype(np.float32)


def test_file_to_file_is_the_stream(folder: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "in.wav", tmp_path / "out.wav"
    soundfile.write(source, noise(1000), 8000, subtype="FLOAT")
    assert (
        main(["stream", str(source), str(target), "--student", str(folder), "--gain", "2.0"]) == 0
    )
    restorer, wave = StreamRestorer(load_student(folder), gain=2.0), torch.from_numpy(noise(1000))
    expected = torch.cat([restorer.push(wave), restorer.flush()[0]]).clamp(-1, 1).numpy()
    written, rate = soundfile.read(target, dtype="float32")
    assert rate == 8000 and len(written) == 1000
    np.testing.assert_allclose(written, expected, atol=1e-4)


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_raw_samples_from_stdin_to_stdout(
    folder: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    wave = noise(333)
    given = (wave * 32768).round().astype("<i2") if dtype == "int16" else wave
    out = io.BytesIO()
    monkeypatch.setattr(
        sys, "stdin", SimpleNamespace(buffer=io.BytesIO(given.tobytes()), isatty=lambda: False)
    )
    monkeypatch.setattr(
        sys,
        "stdout",
        SimpleNamespace(
            buffer=out, isatty=lambda: False, write=lambda text: None, flush=lambda: None
        ),
    )
    assert (
        main(["stream", "-", "-", "--student", str(folder), "--dtype", dtype, "--gain", "1"]) == 0
    )
    got = np.frombuffer(out.getvalue(), given.dtype).astype(np.float32) / (
        32768 if dtype == "int16" else 1
    )
    restorer = StreamRestorer(load_student(folder), gain=1.0)
    heard = torch.from_numpy(given.astype(np.float32) / (32768 if dtype == "int16" else 1))
    expected = torch.cat([restorer.push(heard), restorer.flush()[0]]).numpy()
    assert len(got) == 333
    np.testing.assert_allclose(got, expected.clip(-1, 1), atol=6e-5 if dtype == "int16" else 1e-6)


def test_exported_graph_streams_by_itself(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "hop.onnx"
    assert main(["stream", "--student", str(folder), "--export", str(file)]) == 0
    graph, student = OnnxStep(file), load_student(folder)
    assert (graph.about["sample_rate"], graph.about["hop"], graph.about["offset"]) == (
        "8000",
        "32",
        "32",
    )
    step = StreamStep(student, plan(student))
    mine, other = list(step.initial(1)), graph.initial()
    assert graph.names == ["samples", "noise", *step.names]
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        new, eps = (torch.randn(*shape, generator=generator) for shape in ((1, 32), (1, 2, 32, 1)))
        with torch.no_grad():
            output, *mine = step(new, eps, *mine)
        found, *other = graph(new.numpy(), eps.numpy(), *other)
        np.testing.assert_allclose(found, output.numpy(), rtol=1e-4, atol=1e-5)
    (tmp_path / "no.onnx").write_bytes(b"nothing")
    with pytest.raises(UserError, match="not a model"):
        OnnxStep(tmp_path / "no.onnx")


def test_battery_passes_on_a_checkpoint_and_prints_latencies(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["stream", "--verify", str(folder)]) == 0
    told = capfd.readouterr().out
    assert (
        "offset 4 ms, algorithmic 8 ms, total 12 ms" in told
        and "BROKEN" not in told
        and "ONNX" in told
    )


def test_battery_finds_a_network_that_sees_ahead() -> None:
    student = make_student()
    student.network.encode.later, student.network.encode.past = 1, 1
    broken = {check.name for check in verify(student, (1,), onnx=False) if not check.passed}
    assert "no later frame is seen" in broken and any(
        name.startswith("stream = offline") for name in broken
    )


def test_what_cannot_stream_is_told_in_one_line(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    save_student(make_student(causal=False), tmp_path / "all")
    here = str(tmp_path / "a.wav")
    soundfile.write(here, np.zeros(8000), 8000)
    for arguments, said in (
        (["a.wav", "b.wav"], "a.wav: no such file"),
        (["--student", str(folder)], "needs IN and OUT"),
        (["-", "-", "--student", str(folder), "--paced"], "pace of its own"),
        ([here, "b.wav", "--student", str(tmp_path / "all")], "sees later frames"),
        ([here, "b.wav", "--student", str(folder), "--gain", "loud"], "--gain loud"),
        ([here, "b.wav", "--student", str(folder), "--runner", "cuda-graph"], "CUDA GPU"),
        (["none.wav", "b.wav", "--student", str(folder)], "none.wav"),
    ):
        assert main(["stream", *arguments]) == 2
        assert said in capfd.readouterr().err


def test_clock_paces_and_counts_underruns() -> None:
    import time

    clock = HopClock(0.02, paced=True)
    for k in range(5):
        clock.run(lambda k=k: time.sleep(0.05 if k == 2 else 0.0))
    facts = clock.summary()
    assert (
        facts["underruns"] >= 1
        and facts["hops"] == 5
        and facts["max_ms"] >= 50
        and facts["cpu_max_ms"] < 40
    )
    with pytest.raises(UserError, match="shorter than one hop"):
        HopClock(0.01).summary()


def test_broken_samples_are_told_and_the_output_is_finite(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    samples = noise(4000)
    samples[1000], samples[2000:2003] = np.nan, 1e20
    data = io.BytesIO(samples.astype("<f4").tobytes())
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=data))
    out = tmp_path / "out.wav"
    words = ["stream", "-", str(out), "--student", str(folder), "--dtype", "float32"]
    assert main(words) == 0
    told = capfd.readouterr().err
    assert "4 samples were not finite or above 8 times full scale" in told
    assert np.isfinite(soundfile.read(out)[0]).all()


def test_another_rate_and_stereo_are_said_and_headers_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "in.wav", tmp_path / "out.wav"
    soundfile.write(source, np.stack([noise(4000)] * 2, 1), 16000)
    assert main(["stream", str(source), str(out), "--student", str(folder)]) == 0
    assert "16000 Hz, 2 channel(s); resampled to 8000 Hz and channels averaged" in (
        capfd.readouterr().err
    )
    assert soundfile.info(out).frames == 2000
    data = SimpleNamespace(buffer=io.BytesIO(source.read_bytes()))
    monkeypatch.setattr(sys, "stdin", data)
    assert main(["stream", "-", str(out), "--student", str(folder)]) == 2
    assert "a file with a header" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"), [("threads", "100000"), ("threads", "0"), ("nfe", "1000000000"), ("gain", "inf"), ("gain", "1e300")]
)  # fmt: skip
def test_options_that_would_take_the_machine_are_one_line(
    folder: Path, tmp_path: Path, option: str, value: str, capfd: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "in.wav", noise(4000), 8000)
    words = ["stream", str(tmp_path / "in.wav"), str(tmp_path / "o.wav"), "--student", str(folder)]
    assert main([*words, f"--{option}", value]) == 2
    told = capfd.readouterr().err
    assert "Traceback" not in told and "error:" in told.splitlines()[-1]


def test_a_reader_that_leaves_ends_the_stream_quietly(folder: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", noise(80000), 8000)
    words = f"{sys.executable} -m mfdistill stream {tmp_path / 'in.wav'} - --student {folder}"
    done = subprocess.run(
        ["bash", "-c", f"{words} | head -c 64 > {tmp_path / 'head'}; echo ${{PIPESTATUS[0]}}"],
        cwd=Path(__file__).resolve().parents[1], capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.split() == ["141"]
    assert "Traceback" not in done.stderr and "Broken" not in done.stderr
    assert (tmp_path / "head").stat().st_size == 64
