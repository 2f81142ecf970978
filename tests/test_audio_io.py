"""Reading and writing: every format, every kind of bad file, hour-long files in blocks, noise at a
stated ratio.
"""

import io
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from mfdistill.audio import degrade
from mfdistill.audio.blocks import process_file, read_blocks
from mfdistill.audio.io import (
    audio_info,
    decode_audio,
    is_silent,
    read_audio,
    resample,
    resampled_length,
    write_audio,
)
from mfdistill.audio.writing import BlockWriter
from mfdistill.errors import UserError

RATE = 16000


def tone(seconds=0.5, rate=RATE, hertz=440.0, channels=1):
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate).astype(
        np.float32
    )
    return (
        wave if channels == 1 else np.stack([wave * (k + 1) / channels for k in range(channels)], 1)
    )


def one_line(call):
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("ending", ["wav", "flac", "aiff", "au", "caf", "w64", "rf64"])
def test_lossless_formats_round_trip(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    write_audio(path, tone(), RATE, "PCM_16")
    assert audio_info(path).subtype == "PCM_16" and audio_info(path).seconds == 0.5
    assert np.abs(read_audio(path) - tone()).max() <= 2**-15
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("ending", ["ogg", "opus", "mp3"])
def test_lossy_formats_round_trip(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    write_audio(path, tone(), RATE)
    wave = read_audio(path)
    assert len(wave) == RATE // 2 and np.abs(wave - tone()).mean() < 0.05


def test_float_keeps_every_bit_and_integers_clip(tmp_path):
    loud = 2 * tone()
    write_audio(tmp_path / "a.wav", loud, RATE, "FLOAT")
    assert np.array_equal(read_audio(tmp_path / "a.wav"), loud)
    write_audio(tmp_path / "b.wav", 3 * loud, RATE)
    assert np.abs(read_audio(tmp_path / "b.wav")).max() <= 1


def test_stereo_is_folded_and_the_rate_changed(tmp_path):
    path = tmp_path / "a.flac"
    write_audio(path, tone(rate=44100, channels=2), 44100)
    wave = read_audio(path, RATE)
    assert wave.dtype == np.float32 and wave.shape == (resampled_length(22050, 44100, RATE),)
    middle = slice(500, -500)
    assert np.abs(wave[middle] - 0.75 * tone()[middle]).max() < 2e-3
    assert np.array_equal(decode_audio(path.read_bytes(), "row 3", RATE), wave)
    assert resample(tone(), RATE, 8000).shape == (4000,) and resample(
        np.ones(1, np.float32), 8000, 48000
    ).shape == (6,)


def test_a_part_of_a_file(tmp_path):
    path = tmp_path / "a.flac"
    write_audio(path, tone(1.0), RATE, "PCM_24")
    assert np.array_equal(
        read_audio(path, start_s=0.25, duration_s=0.5), read_audio(path)[4000:12000]
    )
    assert len(read_audio(path, start_s=0.75, duration_s=5)) == 4000
    assert "1.000 s long" in one_line(lambda: read_audio(path, start_s=1.0))


@pytest.mark.parametrize(
    "ending", ["wav", "flac", "ogg", "opus", "mp3", "aiff", "au", "caf", "w64", "rf64"]
)
def test_truncated_files_are_refused(tmp_path, ending):
    path, cut = tmp_path / f"a.{ending}", tmp_path / f"cut.{ending}"
    noise = 0.1 * np.random.default_rng(0).standard_normal(2 * RATE)
    write_audio(path, noise, RATE)
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    message = one_line(lambda: read_audio(cut, 8000))
    assert str(cut) in message and "truncated" in message
    assert "truncated" in one_line(lambda: decode_audio(cut.read_bytes(), "row 7"))
    assert "truncated" in one_line(lambda: list(read_blocks(cut, 10**6)))


def test_a_length_left_open_by_a_pipe_is_no_truncation(tmp_path):
    path = tmp_path / "a.wav"
    write_audio(path, tone(), RATE)
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = b"\xff" * 4
    path.write_bytes(data)
    assert len(read_audio(path)) == RATE // 2


def test_bad_files_give_one_line(tmp_path):
    def bad(name, content=None, samples=None, **options):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        if samples is not None:
            soundfile.write(path, samples, RATE, subtype="FLOAT")
        message = one_line(lambda: read_audio(path, **options))
        assert str(path) in message
        return message

    assert "no such file" in bad("missing.wav")
    assert "empty" in bad("empty.wav", b"")
    assert "not an audio file" in bad("text.wav", b"just words\n" * 100)
    assert "not an audio file" in bad("noise.raw", bytes(range(256)) * 8)
    assert "no samples" in bad("none.wav", samples=np.zeros(0))
    assert "one sample" in bad("one.wav", samples=np.ones(1))
    holes = tone().astype(np.float64)
    holes[800] = np.nan
    assert "NaN or infinity (1 samples, the first at 0.050 s)" in bad("nan.wav", samples=holes)
    holes[800] = np.inf
    assert "NaN or infinity" in bad("inf.wav", samples=holes)
    assert "silent" in bad("silent.wav", samples=np.zeros(RATE), silent="error")
    assert is_silent(read_audio(tmp_path / "silent.wav")) and not is_silent(tone())
    assert "folder" in one_line(lambda: audio_info(tmp_path))
    assert "row 1: empty" in one_line(lambda: decode_audio(b"", "row 1"))


def test_bad_targets_give_one_line_and_damage_nothing(tmp_path):
    path = tmp_path / "a.wav"
    write_audio(path, tone(), RATE)
    before = path.read_bytes()
    assert "NaN" in one_line(lambda: write_audio(path, np.array([0.0, np.nan]), RATE))
    assert "unknown ending '.xyz'" in one_line(
        lambda: write_audio(tmp_path / "a.xyz", tone(), RATE)
    )
    assert "VORBIS" in one_line(lambda: write_audio(path, tone(), RATE, "VORBIS"))
    assert "11025 Hz" in one_line(lambda: write_audio(tmp_path / "a.opus", tone(), 11025))
    (tmp_path / "file").write_text("")
    assert "cannot be written" in one_line(
        lambda: write_audio(tmp_path / "file" / "a.wav", tone(), RATE)
    )
    with pytest.raises(KeyboardInterrupt), BlockWriter(path, RATE, 1) as out:
        out.write(tone()[:, None])
        raise KeyboardInterrupt
    assert path.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["a.wav", "file"]


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="limits the size of files by setrlimit"
)
@pytest.mark.parametrize("ending", ["wav", "flac"])
def test_a_full_disk_leaves_the_old_file(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    write_audio(path, tone(), RATE)
    before = path.read_bytes()
    code = f"""
import resource, numpy as np
from mfdistill.audio.io import write_audio
from mfdistill.errors import UserError
resource.setrlimit(resource.RLIMIT_FSIZE, (50000, 50000))
try:
    write_audio({str(path)!r}, np.random.default_rng(0).uniform(-1, 1, 400000), 16000)
except UserError as error:
    raise SystemExit(str(error))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (
        done.returncode == 1
        and "cannot be written" in done.stderr
        and len(done.stderr.strip().splitlines()) == 1
    )
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    ("length", "block", "overlap"),
    [(1000, 300, 0), (1000, 300, 50), (900, 300, 0), (100, 300, 50), (551, 300, 50)],
)
def test_blocks_cover_the_file(tmp_path, length, block, overlap):
    path = tmp_path / "a.wav"
    wave = np.arange(2 * length, dtype=np.float32).reshape(length, 2) / (2 * length)
    write_audio(path, wave, RATE, "FLOAT")
    blocks = list(read_blocks(path, block, overlap))
    assert all(len(piece) == block for piece in blocks[:-1])
    joined = np.concatenate([blocks[0], *(piece[overlap:] for piece in blocks[1:])])
    assert np.array_equal(joined, wave)


@pytest.mark.parametrize(
    ("ending", "subtype", "rate"),
    [("flac", "PCM_24", 16000), ("wav", "FLOAT", 44100), ("wav", "PCM_16", 8000)],
)
def test_a_file_processed_in_blocks_keeps_its_shape(tmp_path, ending, subtype, rate):
    source, target = tmp_path / f"in.{ending}", tmp_path / f"out.{ending}"
    wave = tone(3.37, rate, channels=2)
    write_audio(source, wave, rate, subtype)
    longest = 0

    def half(samples):
        nonlocal longest
        longest = max(longest, len(samples))
        return samples / 2

    process_file(source, target, half, RATE, block_s=1.0, overlap_s=0.1)
    before, after = audio_info(source), audio_info(target)
    assert (after.frames, after.sample_rate, after.channels, after.subtype) == (
        before.frames,
        rate,
        2,
        subtype,
    )
    assert longest <= RATE + 1
    result, _ = soundfile.read(target, dtype="float32")
    assert np.abs(result - wave / 2)[rate // 20 : -rate // 20].max() < 2e-3

    process_file(source, source, half, RATE, block_s=1.0, overlap_s=0.1)  # in place
    assert np.array_equal(soundfile.read(source, dtype="float32")[0], result)


def test_short_files_are_processed_whole(tmp_path):
    path = tmp_path / "a.wav"
    for length in (2, 100, 5000):
        write_audio(path, tone()[:length], RATE, "FLOAT")
        process_file(path, tmp_path / "b.wav", lambda samples: -samples, RATE)
        assert np.array_equal(read_audio(tmp_path / "b.wav"), -tone()[:length])


def test_a_failure_inside_a_block_leaves_nothing(tmp_path):
    write_audio(tmp_path / "a.wav", tone(2.0), RATE)
    calls = []

    def fail_later(samples):
        calls.append(1)
        return samples * (np.nan if len(calls) > 1 else 1)

    assert "NaN" in one_line(
        lambda: process_file(tmp_path / "a.wav", tmp_path / "b.wav", fail_later, RATE, 0.5, 0.1)
    )

    def broken(samples):
        raise OSError("a failure of the model, not of the disk")

    with pytest.raises(OSError, match="not of the disk"):
        process_file(tmp_path / "a.wav", tmp_path / "b.wav", broken, RATE)
    assert os.listdir(tmp_path) == ["a.wav"]


def test_mixing_at_a_ratio():
    rng = np.random.default_rng(0)
    clean, noise = tone(), rng.standard_normal(3000).astype(np.float32)
    fitted = degrade.fit_length(noise, len(clean), rng)
    assert fitted.shape == clean.shape and np.isin(fitted, noise).all()
    assert np.array_equal(degrade.fit_length(noise, 100), noise[:100])
    for snr_db in (-5.0, 0.0, 17.5):
        noisy = degrade.mix_at_snr(clean, fitted, snr_db)
        assert noisy.dtype == np.float32
        assert 20 * np.log10(degrade.rms(clean) / degrade.rms(noisy - clean)) == pytest.approx(
            snr_db, abs=1e-3
        )
    assert np.array_equal(degrade.mix_at_snr(clean, np.zeros_like(clean), 5), clean)
    assert degrade.rms(degrade.apply_gain(clean, -6.0206)) == pytest.approx(
        degrade.rms(clean) / 2, rel=1e-4
    )
    quiet, loud = degrade.limit_peak(clean, 4 * clean)
    assert np.abs(loud).max() == pytest.approx(0.99, rel=1e-5) and np.allclose(loud, 4 * quiet)
    with pytest.raises(ValueError, match="length"):
        degrade.mix_at_snr(clean, noise, 0)


def test_reading_from_memory_matches_any_name():
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(), RATE, format="FLAC")
    assert len(decode_audio(buffer.getvalue(), "clip.mp3")) == RATE // 2


def every_coding() -> list[tuple[str, str, str]]:
    endings = {"WAVEX": "wav", "RF64": "wav", "AIFF": "aiff"}
    kinds = ("WAV", "WAVEX", "RF64", "AIFF", "AU", "FLAC", "OGG", "CAF", "W64", "MP3")
    return [
        (kind, subtype, endings.get(kind, kind.lower()))
        for kind in kinds
        for subtype in soundfile.available_subtypes(kind)
    ]


@pytest.mark.parametrize(("kind", "subtype", "ending"), every_coding())
def test_every_coding_is_read_or_one_line(tmp_path, kind, subtype, ending):
    file, tone = tmp_path / f"a.{ending}", (0.3 * np.sin(0.05 * np.arange(16000))).astype("f4")
    try:
        soundfile.write(file, tone, 16000, format=kind, subtype=subtype)
    except (RuntimeError, ValueError):
        if not file.exists():
            pytest.skip("libsndfile cannot write it")
    if subtype == "DWVW_12" or not file.stat().st_size:  # libsndfile writes nothing
        with pytest.raises(UserError, match="no samples|empty file"):
            read_audio(file)
        return
    whole, part = read_audio(file), read_audio(file, start_s=0.25, duration_s=0.5)
    assert 16000 <= len(whole) <= 16000 + 2304 and len(part) == 8000
    assert np.sqrt(np.mean((whole[1000:15000] - tone[1000:15000]) ** 2)) < 0.03
    np.testing.assert_allclose(part, whole[4000:12000], atol=1e-3)
    blocks = np.concatenate([block for block in read_blocks(file, 4000)])[:, 0]
    np.testing.assert_array_equal(blocks, whole)
    process_file(file, tmp_path / f"b.{ending}", lambda wave: wave, 16000)
    assert len(read_audio(tmp_path / f"b.{ending}")) == len(whole)


@pytest.mark.parametrize(
    ("offset", "value", "said"),
    [
        (24, 1, "its header says 1 Hz"),
        (24, 2**31 - 1, "Hz"),
        (22, 60000, "a.wav"),
        (40, 2**30, "truncated"),
    ],
)
def test_headers_that_announce_too_much_allocate_nothing(tmp_path, offset, value, said):
    file = tmp_path / "a.wav"
    soundfile.write(file, np.ones(8000) * 0.1, 8000)
    data = bytearray(file.read_bytes())
    size = 2 if offset == 22 else 4
    data[offset : offset + size] = value.to_bytes(size, "little")
    file.write_bytes(data)
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=said) as caught:
        read_audio(file, 16000)
    assert "a.wav" in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16  # KiB


def test_an_mp3_that_announces_hours_is_refused(tmp_path):
    file = tmp_path / "a.mp3"
    soundfile.write(file, 0.1 * np.random.default_rng(0).standard_normal(16000), 16000)
    data = bytearray(file.read_bytes())
    at = max(data.find(b"Xing"), data.find(b"Info"))
    assert at > 0 and data[at + 7] & 1  # the number of frames is given
    data[at + 8 : at + 12] = (2**31 - 1).to_bytes(4, "big")
    file.write_bytes(data)
    with pytest.raises(UserError, match="promises"):
        audio_info(file)


def test_a_remedy_is_one(tmp_path):
    with pytest.raises(UserError, match="choose another ending") as caught:
        write_audio(tmp_path / "a.opus", np.zeros(100), 44100)
    assert "free some space" not in str(caught.value)
    with pytest.raises(UserError, match="choose another folder or name"):
        write_audio(tmp_path / ("x" * 300 + ".wav"), np.zeros(100), 8000)


def test_odd_names_and_things_that_are_no_files(tmp_path):
    with pytest.raises(UserError, match="check its name"):
        read_audio(tmp_path / ("x" * 300))
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(UserError, match="neither a file nor a folder"):
        read_audio(tmp_path / "pipe.wav")


def test_what_is_above_full_scale_is_told_or_turned_down(tmp_path):
    wave = np.array([0.5, -2.0, 1.0, 1.5], np.float32)
    kept = write_audio(tmp_path / "kept.wav", wave, RATE, "PCM_16")
    assert (kept.peak, kept.clipped, kept.gain) == (2.0, 2, 1.0)
    assert "2 samples, up to 6.0 dB above it" in str(kept.told())
    read, _ = soundfile.read(tmp_path / "kept.wav")
    assert np.allclose(read, [0.5, -1, 1, 1], atol=1e-4)
    limited = write_audio(tmp_path / "limited.wav", wave, RATE, "PCM_16", level="limit")
    assert (limited.clipped, limited.gain) == (0, 0.5) and "6.0 dB" in str(limited.told())
    read, _ = soundfile.read(tmp_path / "limited.wav")
    assert np.allclose(read, wave / 2, atol=1e-4)
    for level in ("keep", "limit"):  # formats that hold it, and files that fit, stay as they are
        floats = write_audio(tmp_path / "f.wav", wave, RATE, "FLOAT", level=level)
        assert (floats.clipped, floats.gain, floats.told()) == (0, 1.0, None)
        assert np.array_equal(soundfile.read(tmp_path / "f.wav", dtype="float32")[0], wave)
        quiet = write_audio(tmp_path / "q.wav", wave / 4, RATE, "PCM_16", level=level)
        assert quiet.told() is None
        assert np.allclose(soundfile.read(tmp_path / "q.wav")[0], wave / 4, atol=1e-4)
    files = {"kept.wav", "limited.wav", "f.wav", "q.wav"}
    assert {path.name for path in tmp_path.iterdir()} == files  # no leftovers


def test_a_long_file_is_turned_down_as_a_whole(tmp_path):
    rng = np.random.default_rng(0)
    wave = 0.2 * rng.uniform(-1, 1, 3 * RATE).astype(np.float32)
    wave[-100] = 0.9
    write_audio(tmp_path / "a.wav", wave, RATE, "PCM_24")
    options = {"block_s": 0.5, "overlap_s": 0.1, "level": "limit"}
    written = process_file(tmp_path / "a.wav", tmp_path / "b.wav", lambda x: 2 * x, RATE, **options)
    assert written.peak == pytest.approx(1.8, abs=1e-5)
    result, _ = soundfile.read(tmp_path / "b.wav")
    # also blocks long before the peak
    assert np.abs(result - wave / 0.9).max() < 1e-5
