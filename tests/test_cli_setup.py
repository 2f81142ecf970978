"""What the commands measure and share: preconditioning from data, task options, scores in utterance
order.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cli_corpus import make_corpus

from mfdistill.commands.options import TaskOptions, task_config
from mfdistill.data import DataConfig, open_eval, open_train
from mfdistill.distill.inference import restore
from mfdistill.distill.setup import fit_network_config
from mfdistill.distill.validation import score_system
from mfdistill.errors import UserError
from mfdistill.networks import CompactSizes
from mfdistill.tasks import default_task, get_task


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    return DataConfig(
        source=str(make_corpus(tmp_path_factory.mktemp("setup") / "corpus")), crop_s=0.5
    )


@pytest.mark.parametrize("name", ["enhance", "vocode"])
def test_residual_std_is_what_it_says(name: str, data: DataConfig) -> None:
    task = get_task(default_task(name, 8000))
    dataset = open_train(data, task.degradation, 8000)
    config = fit_network_config(task, dataset, CompactSizes(channels=4), count=2, batch_size=4)
    items = [dataset[i] for i in range(8)]  # type: ignore[index]
    clean, degraded = (torch.stack([item[key] for item in items]) for key in ("clean", "degraded"))
    gain = task.gain(degraded)
    x, y = task.target(clean * gain), task.condition(degraded * gain)["y"]
    residual = (x - y if task.path.mean == "y" else x).square().sum(1).mean()
    expected = (residual / (y.square().sum(1) + task.path.floor**2).mean()).sqrt()
    assert config.residual_std == pytest.approx(float(expected), rel=6e-3)  # three digits
    assert config.channels == 4 and config.freqs == task.config.stft.bins == 128
    assert (config.sigma_0, config.sigma_1, config.floor) == (
        task.path.sigma_0,
        task.path.sigma_1,
        task.path.floor,
    )
    assert (config.mean, config.shape) == (task.path.mean, task.path.shape)
    assert fit_network_config(task, dataset, residual_std=0.5).residual_std == 0.5
    with pytest.raises(UserError, match="band-stride"):
        fit_network_config(task, dataset, CompactSizes(band_stride=3))


def test_task_options_change_the_preset() -> None:
    options = TaskOptions(sigma_0=0.7, n_fft=510, hop=128, prior_mean="zero", exponent=0.3)
    config = task_config("enhance", 16000, options)
    assert (config.sigma_0, config.stft.n_fft, config.stft.hop, config.stft.exponent) == (
        0.7,
        510,
        128,
        0.3,
    )
    assert config.sigma_1 == default_task("enhance").sigma_1
    causal = task_config("phase", 16000, TaskOptions(), True, "16/8")
    assert (causal.stft.causal, causal.stft.n_fft, causal.stft.hop) == (True, 256, 128)


def test_restoring_is_exact_where_the_model_is(data: DataConfig) -> None:
    """A model that returns its condition gives back what the task's degradation gives, at the level
    of the input.
    """
    task = get_task(default_task("vocode", 8000))
    utterances = open_eval(data, "test", False, 8000)
    assert len(utterances) == 4

    def echo(z_0: torch.Tensor, cond: dict[str, torch.Tensor], steps: object) -> torch.Tensor:
        assert z_0.shape == cond["y"].shape
        return cond["y"]

    wave = utterances[1]["degraded"]
    torch.testing.assert_close(restore(task, echo, wave), task.degrade(wave[None])[0])  # type: ignore[arg-type]
    rows = score_system(lambda wave, index: wave * (index + 1), utterances, ["sisdr"], 8000)
    assert [row["utterance"] for row in rows] == [0, 1, 2, 3] and all(
        row["sisdr"] == 100 for row in rows
    )


def test_noise_depends_on_seed_and_utterance_alone(data: DataConfig) -> None:
    task = get_task(replace(default_task("enhance", 8000), sigma_0=0.5))
    wave = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    one, same, seed, other = (
        restore(task, lambda z_0, cond, steps: z_0, wave, 1, *args)
        for args in ((0, 0), (0, 0), (1, 0), (0, 1))
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, seed) and not torch.equal(one, other)
