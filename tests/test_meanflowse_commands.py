"""MeanFlowSE from the command line: networks of every size and task, the recipe, its checkpoints as
students, export.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from cli_corpus import make_corpus, voice

from mfdistill.checkpoint import load_config, load_tensors, save_folder
from mfdistill.cli import main
from mfdistill.commands.parsing import parse
from mfdistill.distill.settings import TrainConfig, in_steps
from mfdistill.errors import UserError
from mfdistill.networks.sizes import SIZES, UNetSizes, unet_config
from mfdistill.students import load_student

QUICK = [
    "--batch-size",
    "2",
    "--log-every",
    "1",
    "--valid-files",
    "1",
    "--valid-metrics",
    "sisdr",
    "--best-metric",
    "None",
]
UNETS = {
    "ncsnpp": [
        "--unet.nf",
        "16",
        "--unet.ch-mult",
        "1",
        "1",
        "1",
        "1",
        "--unet.num-res-blocks",
        "1",
    ],
    "dcunet": [],
    "causal_ncsnpp": ["--unet.nf", "8", "--unet.ch-mult", "1", "2"],
}
# four levels: the attention in the middle sees every remaining pixel
TINY = [word.replace("--unet", "--scratch.unet") for word in UNETS["ncsnpp"]]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_corpus(tmp_path_factory.mktemp("meanflowse") / "corpus")


@pytest.fixture(scope="module")
def recipe(corpus: Path) -> Path:
    """The preset with a tiny network, one epoch."""
    out = corpus.parent / "recipe"
    small = ["--data.crop-s", "0.25", "--epochs", "1", *TINY, *QUICK]
    assert (
        main(
            [
                "student-distill",
                "--preset",
                "meanflowse-vbdmd",
                "--data",
                str(corpus),
                "--out",
                str(out),
                *small,
            ]
        )
        == 0
    )
    return out


PAIRS = [
    ("ncsnpp", "vocode"),
    ("ncsnpp", "enhance"),
    ("dcunet", "vocode"),
    ("causal_ncsnpp", "enhance"),
]


@pytest.mark.parametrize(("backbone", "task"), PAIRS)
def test_every_network_trains_distils_and_restores(
    backbone: str, task: str, corpus: Path, tmp_path: Path
) -> None:
    data = ["--task", task, "--sample-rate", "8000", "--data", str(corpus), "--data.crop-s", "0.25"]
    steps = [*QUICK, "--steps", "2", "--warmup", "1", "--valid-nfe", "1"]
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    command = ["teacher-train", "--backbone", backbone, *UNETS[backbone], *data, *steps]
    command += ["--out", str(teacher)]
    assert main(command) == 0
    assert load_config(teacher)["network"]["name"] == backbone
    assert main(["student-distill", "--teacher", str(teacher), "--out", str(student), *steps]) == 0
    source = corpus / "clean" / "test" / "test0" / "0.wav"
    assert main(["restore", str(student), str(source), str(tmp_path / "out.wav")]) == 0
    assert np.isfinite(soundfile.read(tmp_path / "out.wav")[0]).all()
    again = parse(
        [
            "teacher-train",
            "--config",
            str(teacher / "config.json"),
            "--out",
            str(tmp_path / "again"),
        ]
    )
    assert again.backbone == backbone and again.unet == parse(command).unet


@pytest.mark.parametrize("backbone", list(SIZES))
def test_named_sizes(backbone: str) -> None:
    for size in SIZES[backbone]:
        config = unet_config(backbone, UNetSizes(size=size), 256)
        assert config.fourier_scale == 1.0  # published frequencies would make every derivative huge
    with pytest.raises(UserError, match="has no such number"):
        unet_config(
            backbone, UNetSizes(**{"architecture": "x"} if backbone != "dcunet" else {"nf": 8}), 256
        )


def test_the_recipe_is_the_published_one(corpus: Path) -> None:
    """Every knob of the specification's table, as the preset sets it."""
    command = parse(["student-distill", "--preset", "meanflowse-vbdmd", "--data", str(corpus)])
    training, knobs = command.training, command.meanflow
    assert (
        training.lr,
        training.ema_decay,
        training.batch_size,
        training.epochs,
        training.valid_epochs,
    ) == (1e-4, 0.999, 8, 150, 1)
    assert (training.schedule, training.betas, training.weight_decay) == (
        "constant",
        (0.9, 0.999),
        0,
    )
    assert (training.grad_clip, training.warmup) == (0, 0)
    assert (
        knobs.mf_weight_final,
        knobs.mf_warmup_frac,
        knobs.mf_skip_weight_thresh,
        knobs.mf_r_equals_t_prob,
    ) == (0.25, 0.5, 0.05, 0.1)
    assert (knobs.mf_delta_gamma_start, knobs.mf_delta_gamma_end, knobs.mf_delta_warmup_frac) == (
        8,
        1,
        0.7,
    )
    assert (knobs.mf_first_order_coef, knobs.mf_jvp_clip, knobs.mf_jvp_eps) == (0.5, 5, 1e-3)
    assert (knobs.mf_jvp_chunk, knobs.mf_jvp_impl) == (1, "fd")
    assert (knobs.T_rev, knobs.t_eps, knobs.teacher_free, knobs.time_kind) == (
        1,
        0.03,
        True,
        "start-gap",
    )
    assert round(command.data.crop_s * 16000) == 255 * 128
    assert command.data.source == str(corpus)
    sizes = unet_config("ncsnpp", command.scratch.unet, 256)
    assert (sizes.nf, sizes.ch_mult, sizes.fourier_scale, sizes.time) == (
        128,
        (1, 1, 2, 2, 2, 2, 2),
        16.0,
        "log",
    )  # type: ignore[union-attr]


def test_the_recipe_runs_and_is_recorded(recipe: Path) -> None:
    config = load_config(recipe)
    stft = config["task"]["stft"]
    assert (stft["n_fft"], stft["hop"], stft["exponent"], stft["scale"]) == (510, 128, 0.5, 0.15)
    assert (
        config["task"]["sigma_0"] == 0.487
        and config["interval"] == "delta"
        and config["parent"] is None
    )
    # 6 recordings in batches of 2
    assert config["training"]["steps"] == 3 and config["training"]["valid_every"] == 3
    again = parse(["student-distill", "--config", str(recipe / "config.json")])
    assert again.teacher is None and again.meanflow.mf_jvp_clip == 5 and again.scratch.unet.nf == 16
    lines = [json.loads(line) for line in (recipe / "log.jsonl").read_text().splitlines()]
    assert any(line["kind"] == "valid" and "sisdr_1" in line for line in lines)


def test_exported_student_loads_everywhere(
    recipe: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mf.ckpt"
    assert main(["export", str(recipe), str(file), "--layout", "meanflowse"]) == 0
    own, foreign = load_student(recipe), load_student(file)
    for name, value in own.network.state_dict().items():
        assert torch.equal(value, foreign.network.state_dict()[name]), name
    assert main(["info", str(file)]) == 0
    assert "meanflowse" in capsys.readouterr().out
    assert main(["export", str(recipe), str(file)]) == 2  # already there
    assert main(["export", str(recipe), str(tmp_path / "x.ckpt"), "--layout", "nonsense"]) == 2
    search = [
        "--metric",
        "sisdr",
        "--nfe",
        "2",
        "--limit",
        "1",
        "--iterations",
        "1",
        "--data",
        str(corpus),
    ]
    # a file cannot hold a schedule
    assert main(["os3-search", "--student", str(file), *search]) == 2
    assert (
        main(["os3-search", "--student", str(file), "--out", str(tmp_path / "searched"), *search])
        == 0
    )
    assert len(load_config(tmp_path / "searched")["schedule"]) == 3
    assert load_tensors(tmp_path / "searched").keys() == load_tensors(recipe).keys()


def test_batches_equal_single_files(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files of different lengths but the same number of frames, restored together, each as if
    alone; finished ones are skipped.
    """
    source = tmp_path / "in"
    source.mkdir()
    for i, seconds in enumerate((0.9, 0.8, 0.3)):
        soundfile.write(source / f"{i}.wav", voice(i, seconds, 16000), 16000, subtype="FLOAT")
    for batch in ("1", "3"):
        assert (
            main(["restore", str(recipe), str(source), str(tmp_path / batch), "--batch", batch])
            == 0
        )
    for i in range(3):
        one, many = (
            soundfile.read(tmp_path / batch / f"{i}.wav", dtype="float32")[0]
            for batch in ("1", "3")
        )
        np.testing.assert_allclose(many, one, atol=1e-5)
    (tmp_path / "3" / "1.wav").unlink()
    stamp = (tmp_path / "3" / "0.wav").stat().st_mtime_ns
    assert main(["restore", str(recipe), str(source), str(tmp_path / "3"), "--batch", "3"]) == 0
    assert (tmp_path / "3" / "1.wav").is_file() and (
        tmp_path / "3" / "0.wav"
    ).stat().st_mtime_ns == stamp
    # whose branch for r - t has moved from 0, so that the samplers differ
    trained = tmp_path / "trained"
    tensors = load_tensors(recipe)
    weight = "network.time_embedding.linear_2.weight"
    tensors[weight] = torch.randn(tensors[weight].shape, generator=torch.Generator().manual_seed(0))
    save_folder(trained, tensors, load_config(recipe))
    for name in ("euler", "displacement"):
        assert (
            main(
                [
                    "restore",
                    str(trained),
                    str(source),
                    str(tmp_path / name),
                    "--sampler",
                    name,
                    "--nfe",
                    "2",
                ]
            )
            == 0
        )
    a, b = (soundfile.read(tmp_path / name / "0.wav")[0] for name in ("euler", "displacement"))
    assert not np.array_equal(a, b)


def test_epochs_count_recordings() -> None:
    class Data:
        clean = range(11)

    config = in_steps(TrainConfig(epochs=3, valid_epochs=2, batch_size=4), Data())
    assert (config.steps, config.valid_every) == (9, 6)
    with pytest.raises(UserError, match="stream"):
        in_steps(TrainConfig(epochs=1), object())
    assert in_steps(TrainConfig(), object()) == TrainConfig()
