"""token2mel and text2mel: units, the frame network, samples, vocoders, the commands from training
to synthesize, and their errors.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tiny_tts import f5_file

from mfdistill.audio.features import StftConfig, stft_features
from mfdistill.audio.griffin_lim import griffin_lim
from mfdistill.audio.mel import MelConfig, MelOperator
from mfdistill.audio.pitch import PITCHES, harmonics, mean_pitch, pitch_symbols, pitch_track, sung
from mfdistill.audio.speaker import NoVoice, joined, partial_embeddings, speaker_embedding
from mfdistill.audio.units import (
    COEFFICIENTS,
    DIM,
    coarse_log_mel,
    learn_units,
    nearest_units,
    pack_codebook,
    spread_units,
    unit_centres,
    unit_features,
    unpack_codebook,
)
from mfdistill.checkpoint import save_folder
from mfdistill.cli import main
from mfdistill.commands.synthesize import Synthesize, jobs_of
from mfdistill.config import to_dict
from mfdistill.data.config import DataConfig
from mfdistill.data.espeak import phonemes, synthesise
from mfdistill.data.speech import SpeechSet, learn_task
from mfdistill.data.texts import prepared
from mfdistill.distill.opening import attach_vocoder
from mfdistill.errors import UserError
from mfdistill.flow import total_derivative
from mfdistill.metrics import score_utterances
from mfdistill.metrics.asr import wer
from mfdistill.metrics.base import Undefined
from mfdistill.networks import build_network
from mfdistill.networks.frames_config import FramesConfig
from mfdistill.students import Student
from mfdistill.tasks import default_task, get_task
from mfdistill.tasks.mel import MelTaskConfig, Text2Mel
from mfdistill.teachers import Field
from mfdistill.teachers.folders import load_network, vocoder_place

TEXTS = (
    "the quick brown fox jumps over the lazy dog",
    "she sells sea shells by the sea shore today",
)
TINY = FramesConfig(
    channels=8,
    blocks=2,
    embedding=8,
    symbol=4,
    attention=2,
    heads=2,
    mels=6,
    vocabulary=5,
    speaker=256,
)
QUICK = [
    "--steps",
    "3",
    "--batch-size",
    "2",
    "--warmup",
    "1",
    "--log-every",
    "1",
    "--valid-files",
    "1",
]
SMALL = [
    "--frames.channels",
    "8",
    "--frames.blocks",
    "1",
    "--frames.embedding",
    "8",
    "--frames.symbol",
    "4",
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two speakers for training and one each for validation and test, with texts, spoken by
    espeak-ng.
    """
    root = tmp_path_factory.mktemp("corpus")
    voices = (("train", "en-us"), ("train", "en-gb-scotland"), ("valid", "en-us"), ("test", "en"))
    jobs = [
        {"file": f"{i}-{k}.raw", "voice": voice, "text": text, "rate_wpm": 160, "pitch": 20 + 25 * i, "pitch_range": 50}
        for i, (_, voice) in enumerate(voices) for k, text in enumerate(TEXTS)
    ]  # fmt: skip
    rate = synthesise(jobs, root)  # type: ignore[arg-type]
    lines = ["path\tspeaker\ttext"]
    for i, (split, _) in enumerate(voices):
        for k, text in enumerate(TEXTS):
            raw = root / f"{i}-{k}.raw"
            path = f"clean/{split}/s{i}/{k}.wav"
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(root / path, np.frombuffer(raw.read_bytes(), "<i2"), rate)
            raw.unlink()
            lines.append(f"{path}\ts{i}\t{text}")
    (root / "transcripts.tsv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def test_unit_features_forget_level_colour_and_range() -> None:
    spectrogram = torch.randn(20, 41, dtype=torch.float64)
    wanted = unit_features(spectrogram, 2)
    # the odd frame belongs to the last unit
    assert wanted.shape == (20, DIM)
    coloured = 1.7 * spectrogram + torch.randn(20, 1, dtype=torch.float64)
    torch.testing.assert_close(unit_features(coloured, 2), wanted)


def test_units_find_clusters_and_survive_their_text() -> None:
    centres = 10 * torch.eye(3, DIM)
    owner = torch.arange(300) % 3
    features = centres[owner] + 0.1 * torch.randn(
        300, DIM, generator=torch.Generator().manual_seed(0)
    )
    codebook = unpack_codebook(pack_codebook(learn_units(features, 3)), 1)
    found = nearest_units(features, codebook)
    assert [len(set(found[owner == i, 0].tolist())) for i in range(3)] == [1, 1, 1] and len(
        set(found[:, 0].tolist())
    ) == 3
    means = torch.stack([features[owner == i].mean(0) for i in range(3)])
    torch.testing.assert_close(codebook[0].sort(0)[0], means.sort(0)[0], atol=0.05, rtol=0)
    assert spread_units(torch.tensor([4, 7]), 2, 5).tolist() == [4, 4, 7, 7, 7]
    with pytest.raises(UserError, match="only 300 unit frames"):
        learn_units(features, 301)
    for text, levels in (("not base64!", 1), (pack_codebook(codebook), 2)):
        with pytest.raises(UserError, match="codebook: damaged"):
            unpack_codebook(text, levels)


def test_further_levels_of_units_say_what_the_first_leaves() -> None:
    features = torch.randn(600, DIM, generator=torch.Generator().manual_seed(0))
    codebook = learn_units(features, 16, levels=3)
    units = nearest_units(features, codebook)
    assert (
        units.shape == (600, 3)
        and [int(column.min()) // 16 for column in units.T] == [0, 1, 2]
        and int(units.max()) < 48
    )
    left = [
        float(
            (features - unit_centres(units[:, : k + 1], codebook[: k + 1]))
            .square()[:, :COEFFICIENTS]
            .mean()
        )
        for k in range(3)
    ]
    assert left[0] > left[1] > left[2]
    first = torch.cdist(features, codebook[0]).argmin(1)
    assert torch.equal(units[:, 0], first) and not codebook[1:, :, COEFFICIENTS:].any()


def test_pitch_symbols_keep_the_melody_and_lose_the_singer() -> None:
    rate, stft = 16000, StftConfig(16000, 512, 256, "hann")
    # half an octave up in the middle
    hertz = 150 * 2 ** torch.where(torch.arange(rate) < rate // 2, 0.0, 0.5)
    phase = 2 * torch.pi * hertz.double().cumsum(0) / rate
    wave = sum(torch.sin(k * phase) / k for k in range(1, 9)).float() / 3  # type: ignore[union-attr]
    track = pitch_track(wave, stft, 63)
    voiced = track > 0
    assert track.shape == (63,) and voiced[2:-2].float().mean() > 0.9
    torch.testing.assert_close(track[5:25], torch.full((20,), 150.0), rtol=0.01, atol=0)
    symbols = pitch_symbols(track, 2)
    assert symbols.shape == (31,) and int(symbols.max()) < PITCHES
    # another singer
    assert torch.equal(pitch_symbols(track * 1.7, 2), symbols)
    again = sung(symbols[None], mean_pitch(track)[None])[0]
    first, second = track[:62].unflatten(0, (31, 2)).unbind(1)
    steady = (first > 0) & ((first - second).abs() < 1)
    torch.testing.assert_close(again[steady], first[steady], rtol=0.02, atol=0)
    silent = torch.zeros(8)
    assert (
        not pitch_symbols(silent, 2).any()
        and mean_pitch(silent) == 0
        and not sung(symbols[None], torch.zeros(1, 1)).any()
    )


def test_harmonics_are_where_those_of_a_voice_are() -> None:
    stft = StftConfig(16000, 512, 256, "hann")
    operator = MelOperator(stft, MelConfig(n_mels=80))
    time = torch.arange(16000, dtype=torch.float64) / 16000
    wave = sum(torch.cos(2 * torch.pi * 220 * k * time) for k in range(1, 36)).float()[None] / 36  # type: ignore[union-attr]
    heard = operator.mel(stft_features(wave, stft))[0, :, 20].log()
    comb = harmonics(torch.tensor([[220.0, 0.0]]), operator.filterbank.T, stft)[0]
    torch.testing.assert_close(comb[:, 1], torch.zeros(80), atol=1e-6, rtol=0)
    # above, a band holds several harmonics
    low = slice(2, 30)
    assert np.corrcoef(heard[low], comb[low, 0])[0, 1] > 0.9


def test_units_in_the_voice_they_came_from_give_the_smooth_spectrogram() -> None:
    log_mel = torch.randn(1, 32, 24, dtype=torch.float64) - 3
    # centres of clusters of one frame each
    exact = unit_features(log_mel[0], 1)[None]
    smooth = torch.fft.fft(torch.cat([log_mel, log_mel.flip(1)], 1), dim=1)
    smooth[:, 20:-19] = 0  # cepstra from 20 on left out
    wanted = torch.fft.ifft(smooth, dim=1).real[:, :32]
    torch.testing.assert_close(
        coarse_log_mel(exact, log_mel, torch.ones(1, 1, 24, dtype=torch.float64)), wanted
    )


def condition(b: int, n: int, valid: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    place = torch.arange(n).expand(b, 1, 1, n)
    prompt = (place < 3).float()
    return {
        "y": torch.randn(b, 1, 6, n, generator=generator) * prompt, "prompt": prompt, "mask": (place < valid).float(),
        "units": torch.randint(5, (b, n), generator=generator), "speaker": torch.randn(b, 256, generator=generator) / 16,
    }  # fmt: skip


def filled(network: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network.eval()


def test_fresh_frame_network_answers_for_independent_unit_data() -> None:
    network = build_network("frames", TINY)
    z, t = torch.randn(2, 1, 6, 9), torch.tensor([0.25, 1.0])
    # (2 t - 1) / ((1 - t)^2 + t^2)
    answer = torch.tensor([-0.5 / 0.625, 1.0]).reshape(2, 1, 1, 1) * z
    torch.testing.assert_close(network(z, t, condition(2, 9, 9)), answer)
    said = condition(2, 9, 9)
    several = said | {"units": torch.stack([said["units"], torch.full((2, 9), 4)], -1)}
    with torch.no_grad():
        network.decode.weight.normal_()
        # a unit of several symbols is the sum of their embeddings
        network.symbols.weight[4] = 0
    torch.testing.assert_close(network(z, t, several), network(z, t, said))
    network = build_network("frames", replace(TINY, coarse=True, residual_std=0.0))
    mu = torch.randn(2, 1, 6, 9)
    t = torch.tensor([0.25, 0.5])
    # data that are mu: straight to it from everywhere
    answer = (mu - z) / (1 - t).reshape(2, 1, 1, 1)
    torch.testing.assert_close(network(z, t, condition(2, 9, 9) | {"mu": mu}), answer)


def test_padding_changes_nothing_before_it() -> None:
    network = filled(build_network("frames", TINY))
    z, t, cond = torch.randn(1, 1, 6, 12), torch.tensor([0.3]), condition(1, 12, 8)
    other = z.clone()
    other[..., 8:] = 50.0
    torch.testing.assert_close(network(other, t, cond)[..., :8], network(z, t, cond)[..., :8])
    short = {key: value[..., :8] if key != "speaker" else value for key, value in cond.items()}
    torch.testing.assert_close(network(z[..., :8], t, short), network(z, t, cond)[..., :8])


def test_student_of_frame_network_begins_as_its_teacher_and_has_forward_derivatives() -> None:
    network = filled(build_network("frames", TINY))
    student = Student.from_teacher(Field(network))
    z, t, r, cond = (
        torch.randn(2, 1, 6, 9),
        torch.tensor([0.25, 0.5]),
        torch.tensor([0.75, 1.0]),
        condition(2, 9, 9),
    )
    assert torch.equal(student(z, t, r, cond), network(z, t, cond))
    student, z, t, r = student.double(), z.double(), t.double(), r.double()
    cond = {key: value if key == "units" else value.double() for key, value in cond.items()}
    v = torch.randn_like(z)
    slopes = [
        total_derivative(lambda z, t, r: student(z, t, r, cond), z, t, r, v, method=method)[1]
        for method in ("forward", "central")
    ]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-3, atol=1e-4)


def test_griffin_lim_keeps_magnitudes() -> None:
    config = StftConfig(8000, 256, 128, "hann")
    time = torch.arange(8000) / 8000
    wave = (0.3 * torch.sin(2 * torch.pi * (300 * time + 200 * time**2)))[None]
    z = stft_features(wave, config)
    magnitude = z.square().sum(1, keepdim=True).sqrt()
    # zero phase: what a vocoder is given
    flat = torch.cat([magnitude, torch.zeros_like(magnitude)], 1)
    again = (
        stft_features(griffin_lim(flat, config, 8000), config).square().sum(1, keepdim=True).sqrt()
    )
    start = (
        stft_features(griffin_lim(flat, config, 8000, iterations=0), config)
        .square()
        .sum(1, keepdim=True)
        .sqrt()
    )
    assert (again - magnitude).norm() < 0.1 * magnitude.norm() < 0.5 * (start - magnitude).norm()


def test_speaker_embeddings_are_kept_and_joined(corpus: Path, tmp_path: Path) -> None:
    wave, rate = soundfile.read(corpus / "clean/train/s0/0.wav", dtype="float32")
    parts = partial_embeddings(wave, rate, tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 1
    np.testing.assert_array_equal(partial_embeddings(wave, rate, tmp_path), parts)
    np.testing.assert_allclose(joined(parts), speaker_embedding(wave, rate), atol=1e-6)
    with pytest.raises(NoVoice, match="silent"):
        speaker_embedding(np.zeros(16000, np.float32), 16000)


def test_voices_are_compared_with_the_prompt_where_there_is_one(corpus: Path) -> None:
    one, other = (
        soundfile.read(corpus / f"clean/train/{s}/0.wav", dtype="float32") for s in ("s0", "s1")
    )
    a, b = one[0], other[0][: len(one[0])]
    a = a[: len(b)]
    rows = score_utterances([("x", a, b), ("y", a, b, one[0])], ["spksim", "lsd"], one[1])
    assert rows[1]["spksim"] > 0.95 > rows[0]["spksim"] and rows[0]["lsd"] == rows[1]["lsd"]


def test_samples_are_functions_of_their_index_and_their_parts_add_up(corpus: Path) -> None:
    data = DataConfig(source=str(corpus), crop_s=1.0)
    task = get_task(learn_task(data, default_task("token2mel", 8000), 8))  # type: ignore[arg-type]
    first, again = SpeechSet(data, task), SpeechSet(data, task)  # type: ignore[arg-type]
    assert len(first) == len(again) > 4
    for i in range(len(first)):
        for key, value in first[i].items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(again[i][key])), key
        torch.testing.assert_close(first[i]["prompt"] + first[i]["loss_mask"], first[i]["mask"])
        # 62 hops of 128, and a frame
        assert first[i]["units"].shape == (63, 3) and first[i]["loss_mask"].sum() > 0
    batch = task.batch(
        {
            key: torch.stack([first[i][key] for i in range(2)]) if key != "index" else [0, 1]
            for key in first[0]
        },
        "cpu",
    )
    assert batch["z_1"].shape == (2, 1, 80, 63)
    assert torch.equal(batch["cond"]["y"], batch["z_1"] * batch["cond"]["prompt"])
    whole = torch.cat(
        [
            task.target(torch.from_numpy(first.clean[i])[None] * first._about(i).gain).flatten(0, 2)
            for i in range(4)
        ],
        -1,
    )
    torch.testing.assert_close(whole.mean(-1), torch.zeros(80), atol=1e-3, rtol=0)
    torch.testing.assert_close(whole.std(-1), torch.ones(80), atol=1e-3, rtol=0)


def test_text_is_spread_evenly_and_unknown_characters_are_told(corpus: Path) -> None:
    data = DataConfig(source=str(corpus), crop_s=5.0)
    config = learn_task(data, default_task("text2mel", 8000), 8, aligned=False)  # type: ignore[arg-type]
    task = Text2Mel(config)
    assert config.alphabet == "".join(sorted(set("".join(TEXTS)))) and not config.gaussians
    symbols = task.spread("the", 7)
    assert symbols.tolist() == [config.alphabet.index(c) + 1 for c in "ttthhee"]
    sample = SpeechSet(data, task)[0]
    assert (
        set(sample["units"][sample["mask"][0, 0] == 0].tolist()) == {0} and "speaker" not in sample
    )
    with pytest.raises(UserError, match="'é' is not in this model's vocabulary"):
        task.encode("café")
    with pytest.raises(UserError, match="lasts 0.5 s or less"):
        SpeechSet(replace(data, crop_s=0.5), task)


def test_recordings_have_their_text_where_it_is_said(corpus: Path) -> None:
    data = DataConfig(source=str(corpus), crop_s=5.0)
    config = learn_task(data, default_task("text2mel", 8000), 8)  # type: ignore[arg-type]
    task, speech = Text2Mel(config), SpeechSet(data, Text2Mel(config))
    sample = speech[0]
    i = speech.recording(0)
    text = str(speech.texts[i])
    valid = sample["mask"][0, 0] == 1
    found = task.condition(sample["clean"][None, : (int(valid.sum()) - 1) * speech.hop], text)
    assert torch.equal(sample["units"][valid], found["units"][0])
    assert set(sample["units"][~valid].tolist()) <= {0}
    # every symbol once, in its order, silence around
    runs = torch.unique_consecutive(found["units"][0])
    once = torch.unique_consecutive(task.encode(text))
    assert [s for s in runs.tolist() if s] == [s for s in once.tolist() if s]
    # more symbols than frames: each gets what there is of it
    assert len(task.aligned(torch.randn(80, 4), text)) == 4
    frames = task.usual(text)
    assert len(frames) == len(text) + 2 and frames.min() >= 1
    usual = {s: task.spread(text, 1000).tolist().count(s) for s in set(runs.tolist())}
    for s, n in usual.items():
        share = frames[task.encode(text).numpy() == s].sum() / frames.sum()
        assert abs(n - 1000 * share) <= 1 + (task.encode(text) == s).sum()


def test_bad_alignments_are_told(corpus: Path) -> None:
    data = DataConfig(source=str(corpus), crop_s=5.0)
    config = learn_task(data, default_task("text2mel", 8000), 8)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="task.gaussians: damaged"):
        Text2Mel(replace(config, gaussians="x" + config.gaussians[1:-2]))
    for durations in ((), config.durations[:-1]):
        with pytest.raises(UserError, match="three numbers for each of"):
            replace(config, durations=durations)


def test_phonemes_of_espeak() -> None:
    assert phonemes(["Good morning", "Good, morning?"], "en") == [
        "ɡˈʊd mˈɔːnɪŋ",
        "ɡˈʊd , mˈɔːnɪŋ ?",
    ]
    # the figures of a number and the quotes end no clause
    assert [text[-1] for text in phonemes(["3.5 is 'it'.", "3.5 (it)", "so!"], "en")] == list(".t!")
    learnt = MelTaskConfig(name="text2mel", text="phonemes", language="en")
    assert prepared(["Good, morning?"], learnt) == ["ɡˈʊd , mˈɔːnɪŋ ?"]
    # a model that was trained before there were marks
    older = replace(learnt, alphabet=" ɡˈʊdmɔːnɪŋ")
    assert prepared(["Good, morning?"], older) == ["ɡˈʊd mˈɔːnɪŋ"]
    with pytest.raises(UserError, match="no language"):
        phonemes(["x"], "no such tongue")


def test_token2mel_from_training_to_synthesis(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    train = [
        "teacher-train",
        "--task",
        "token2mel",
        "--sample-rate",
        "8000",
        "--data",
        str(corpus),
        "--data.crop-s",
        "1",
        "--out",
        "t",
    ]
    assert main([*train, "--speech.units", "8", "--speech.levels", "3", *QUICK, *SMALL]) == 0
    assert main(["teacher-train", "--config", "t/config.json", "--out", "t2", "--steps", "3"]) == 0
    # goes on from t, with its units
    more = ["--init", "t", "--temperature", "0.5", "--out", "t3"]
    assert main([*train[:-1], "t3", *more, *QUICK]) == 0
    first, second, third = (
        json.loads((tmp_path / name / "config.json").read_text()) for name in ("t", "t2", "t3")
    )
    assert (
        first["task"] == second["task"]
        and first["network"] == second["network"] == third["network"]
    )
    assert third["task"] == first["task"] | {"temperature": 0.5} and third["parent"]["init"] == "t"
    assert main(["student-distill", "--teacher", "t", "--out", "s", *QUICK]) == 0
    search = [
        "os3-search",
        "--student",
        "s",
        "--nfe",
        "2",
        "--metric",
        "spksim",
        "--limit",
        "1",
        "--iterations",
        "1",
    ]
    assert main([*search, "--starts", "sway"]) == 0
    schedule = json.loads((tmp_path / "s/config.json").read_text())["schedule"]
    assert len(schedule) == 3
    evaluate = [
        "evaluate",
        "--student",
        "s",
        "--limit",
        "1",
        "--metrics",
        "lsd",
        "spksim",
        "--teacher-nfe",
        "2",
        "--student-nfe",
        "1",
    ]
    assert main([*evaluate, "--out", "e", "--audio", "0"]) == 0
    rows = json.loads((tmp_path / "e/evaluation.json").read_text())
    assert [row["model"] for row in rows] == [
        "unprocessed",
        "teacher",
        "student",
        "student",
    ] and all(row["lsd"] > 0 for row in rows)

    prompt, source = (str(corpus / f"clean/test/s3/{k}.wav") for k in (0, 1))
    say = ["synthesize", "s", "--prompt", prompt, "--tokens-from", source]
    assert main([*say, "--out", "a.wav"]) == 0
    made, rate = soundfile.read("a.wav")
    assert (
        rate == 8000
        and abs(len(made) / rate - soundfile.info(source).duration) < 0.02
        and np.abs(made).max() > 0
    )
    assert main([*say, "--out", "a.wav"]) == 2 and "already there" in capsys.readouterr().err
    assert main([*say, "--out", "b.wav", "--schedule", *map(str, schedule)]) == 0
    # the student's own schedule is what it is run with
    np.testing.assert_array_equal(soundfile.read("b.wav")[0], made)
    (tmp_path / "list.tsv").write_text(
        f"prompt\ttokens_from\tout\n{prompt}\t{source}\tgood.wav\n{prompt}\tmissing.wav\tbad.wav\n"
    )
    assert main(["synthesize", "s", "--list", "list.tsv", "--out", "many", "--nfe", "1"]) == 2
    assert (tmp_path / "many/good.wav").is_file() and not (tmp_path / "many/bad.wav").exists()
    assert "1 of 2 rows" in capsys.readouterr().err

    soundfile.write("short.wav", made[:2000], rate)
    soundfile.write("silent.wav", np.zeros(16000), rate)
    for wrong, told in (("short.wav", "1 s or more"), ("silent.wav", "silent")):
        assert (
            main(["synthesize", "s", "--prompt", wrong, "--tokens-from", source, "--out", "c.wav"])
            == 2
        )
        assert told in capsys.readouterr().err
    assert main(["synthesize", "s", "--prompt", prompt, "--text", "hello", "--out", "c.wav"]) == 2
    assert "--tokens-from" in capsys.readouterr().err
    assert (
        main([*say, "--out", "c.wav", "--vocoder", "t"]) == 2
        and "needs vocode" in capsys.readouterr().err
    )
    assert (
        main(["restore", "s", source, "d.wav"]) == 2
        and "mfdistill synthesize" in capsys.readouterr().err
    )


def test_text2mel_from_training_to_synthesis(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    train = [
        "teacher-train",
        "--task",
        "text2mel",
        "--sample-rate",
        "8000",
        "--data",
        str(corpus),
        "--data.crop-s",
        "5",
        "--out",
        "t",
    ]
    assert main([*train, "--frames.attention", "1", "--frames.heads", "2", *QUICK, *SMALL]) == 0
    assert main(["student-distill", "--teacher", "t", "--out", "s", *QUICK]) == 0
    evaluate = [
        "evaluate",
        "--student",
        "s",
        "--limit",
        "1",
        "--metrics",
        "lsd",
        "--teacher-nfe",
        "1",
        "--student-nfe",
        "1",
    ]
    assert main([*evaluate, "--out", "e", "--audio", "0"]) == 0
    say = [
        "synthesize",
        "s",
        "--prompt",
        str(corpus / "clean/test/s3/0.wav"),
        "--prompt-text",
        TEXTS[0],
    ]
    assert main([*say, "--text", TEXTS[0], "--out", "a.wav"]) == 0
    length, given = (
        soundfile.info("a.wav").duration,
        soundfile.info(corpus / "clean/test/s3/0.wav").duration,
    )
    # the same text takes the same time
    assert abs(length - given) < 0.05
    for text, told in (("", "empty"), ("naïve", "'ï' is not in this model's vocabulary")):
        assert main([*say, "--text", text, "--out", "b.wav"]) == 2
        assert told in capsys.readouterr().err
    assert (
        main([*say, "--text", " ".join([TEXTS[0]] * 20), "--out", "b.wav"]) == 2
        and "split it" in capsys.readouterr().err
    )


def test_a_vocoder_that_is_none_is_told_as_such(tmp_path: Path) -> None:
    task = get_task(default_task("text2mel", 8000))
    for path, told in (
        ("nowhere", "no such file or folder"),
        (str(f5_file(tmp_path)), "text-to-speech flow \\(kind f5\\)"),
    ):
        with pytest.raises(UserError, match=f"^vocoder {path}: .*{told}.*or griffin-lim$"):
            attach_vocoder(task, path=path)


def test_a_vocoder_travels_with_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative folder is one from here, or else one from the model's folder; what is trained from
    the model finds it from here.
    """
    (tmp_path / "models" / "vocoder").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    model = tmp_path / "models" / "speaks"
    task = replace(MelTaskConfig(name="text2mel", alphabet="ab"), vocoder="../vocoder")
    sizes = {"channels": 8, "blocks": 1, "embedding": 8, "symbol": 4, "mels": task.n_mels, "vocabulary": 3, "speaker": 0}  # fmt: skip
    weights = build_network("frames", sizes).state_dict()
    sections = {"role": "teacher", "task": to_dict(task), "network": {"name": "frames", "config": sizes}}  # fmt: skip
    save_folder(model, weights, sections)
    given = Path("../models/speaks")
    assert load_network(given, "teacher")[1].vocoder_name == "../models/vocoder"
    (tmp_path / "vocoder").mkdir()
    assert load_network(given, "teacher")[1].vocoder_name == "../vocoder"
    assert vocoder_place(model, "griffin-lim") == "griffin-lim"


def test_lists_are_read_strictly(tmp_path: Path) -> None:
    file = tmp_path / "list.jsonl"
    for text, told in (
        ("", "has no rows"),
        ("nonsense\n", "not valid JSON"),
        ('{"promt": "a.wav"}\n', "unknown column 'promt'"),
        ('{"prompt": "a.wav", "text": " "}\n', "row 1: text: empty"),
        ('{"text": "hello"}\n', "prompt: missing"),
        (
            '{"prompt": "a.wav", "text": "x", "tokens_from": "b.wav"}\n',
            "either a text or a recording",
        ),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=told):
            jobs_of("many", str(file), vars(Synthesize("s")))
    file.write_text('{"prompt": "a.wav", "text": "hello", "prompt_text": "well"}\n')
    (job,) = jobs_of("many", str(file), vars(Synthesize("s")))
    assert (
        job.prompt == str(tmp_path / "a.wav")
        and job.out == Path("many/0001.wav")
        and job.prompt_text == "well"
    )


def test_word_errors_are_counted_between_transcripts(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jiwer", reason="extra asr")
    said = {1: "Four score, and seven years!", 2: "for score and years ago", 3: " ... "}
    monkeypatch.setattr("mfdistill.metrics.asr.sphinx", lambda wave: said[int(wave[0])])
    monkeypatch.setattr("mfdistill.metrics.asr._TEXTS", {})
    one, two, silent = (np.full(800, float(i), np.float32) for i in said)
    # one word replaced, one left out, one added, of five
    assert wer(two, one, 16000) == {"wer": 0.6}
    assert wer(one, one, 16000) == {"wer": 0.0}
    with pytest.raises(Undefined, match="no words"):
        wer(one, silent, 16000)
