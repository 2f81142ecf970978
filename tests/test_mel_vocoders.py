"""From other systems' log-Mel spectrograms to sound: Griffin-Lim, and Vocos from a folder or the
hub.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mfdistill.audio.griffin_lim import mel_griffin_lim
from mfdistill.audio.speech_mel import speech_log_mel
from mfdistill.distill.mel_vocoder import open_mel_vocoder
from mfdistill.errors import UserError
from mfdistill.systems.table import mel_task

CONFIG = """
feature_extractor:
  class_path: vocos.feature_extractors.MelSpectrogramFeatures
  init_args: {sample_rate: 24000, n_fft: 1024, hop_length: 256, n_mels: 100, padding: center}
backbone:
  class_path: vocos.models.VocosBackbone
  init_args: {input_channels: 100, dim: 8, intermediate_dim: 16, num_layers: 1}
head:
  class_path: vocos.heads.ISTFTHead
  init_args: {dim: 8, n_fft: 1024, hop_length: 256, padding: center}
"""


def chirp(seconds: float = 1.0) -> Tensor:
    t = torch.arange(round(seconds * 24000)) / 24000
    tones = sum(torch.sin(2 * torch.pi * (k * (130 * t + 40 * t * t))) / k for k in range(1, 30))
    return 0.1 * tones[None]  # type: ignore[index]


@pytest.mark.parametrize(("name", "bound"), [("f5", 0.25), ("cosyvoice3", 0.3)])
def test_griffin_lim_gives_back_the_spectrogram(name: str, bound: float) -> None:
    config = mel_task(name).config.mel
    mel = speech_log_mel(chirp(), config)
    wave = mel_griffin_lim(mel, config)
    assert wave.shape == (1, (mel.shape[2] - 1) * config.hop)
    # its frames' middles are half a hop after the multiples of the hop
    if config.scale == "slaney":
        wave = torch.nn.functional.pad(wave, (config.hop // 2, config.hop // 2))
    again = speech_log_mel(wave, config)
    loud = mel[..., 2:-2] > -3
    assert (again[..., 2 : mel.shape[2] - 2] - mel[..., 2:-2])[loud].abs().mean() < bound
    assert torch.equal(mel_griffin_lim(mel, config, 4), mel_griffin_lim(mel, config, 4))
    assert [mel_griffin_lim(mel[..., :n], config).shape[1] for n in (2, 3)] == [
        config.hop,
        2 * config.hop,
    ]


def test_statistics_of_the_task_are_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    task, mel = mel_task("matcha", mel_mean=-5.0, mel_std=2.0), torch.randn(1, 80, 9)
    torch.testing.assert_close(
        open_mel_vocoder("griffin-lim", task)(mel),
        open_mel_vocoder("griffin-lim", mel_task("matcha"))(mel * 2 - 5),
    )


class FakeVocos(nn.Module):
    """As the package's class is used."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(1))

    @classmethod
    def from_hparams(cls, config: str) -> FakeVocos:
        return cls()

    def decode(self, features: Tensor) -> Tensor:
        return features[:, 0, :-1].repeat_interleave(256, 1) * self.scale


def installed(monkeypatch: pytest.MonkeyPatch, there: bool = True) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: there or None if name == "vocos" else real(name, *rest),
    )
    module: Any = types.ModuleType("vocos")
    module.Vocos = FakeVocos
    monkeypatch.setitem(sys.modules, "vocos", module)


def vocos_folder(root: Path, config: str = CONFIG, weights: Any = None) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "config.yaml").write_text(config)
    torch.save(
        {"scale": torch.full((1,), 3.0)} if weights is None else weights, root / "pytorch_model.bin"
    )
    return root


def test_vocos_from_a_folder_and_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed(monkeypatch)
    folder, task, mel = vocos_folder(tmp_path / "vocos"), mel_task("f5"), torch.randn(1, 100, 6)
    wave = open_mel_vocoder(str(folder), task)(mel)
    torch.testing.assert_close(wave, 3 * mel[:, 0, :-1].repeat_interleave(256, 1))
    asked = []

    def download(name: str, file: str) -> str:
        asked.append(name)
        return str(folder / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    for name in ("vocos", None):  # the default, where the package is installed
        assert torch.equal(open_mel_vocoder(name, task)(mel), wave)
    assert asked == ["charactr/vocos-mel-24khz"] * 4 and capsys.readouterr().err == ""
    assert open_mel_vocoder(None, mel_task("cosyvoice2"))(torch.zeros(1, 80, 6)).shape == (
        1,
        5 * 480,
    )
    assert "Griffin-Lim" in capsys.readouterr().err

    def offline(name: str, file: str) -> str:
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    with pytest.raises(UserError, match=r"could not be fetched \(no network\); give the folder"):
        open_mel_vocoder(None, task)


def test_without_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed(monkeypatch, there=False)
    for name in ("vocos", str(vocos_folder(tmp_path))):
        with pytest.raises(
            UserError,
            match=r"not installed; pip install 'vocos'.*, or --vocoder griffin-lim",
        ):
            open_mel_vocoder(name, mel_task("f5"))
    open_mel_vocoder(None, mel_task("f5"))
    assert "pip install 'vocos'" in capsys.readouterr().err
    open_mel_vocoder("griffin-lim", mel_task("f5"))
    assert capsys.readouterr().err == ""


def test_vocos_that_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch)
    task = mel_task("f5")
    with pytest.raises(UserError, match="neither 'griffin-lim' nor 'vocos'"):
        open_mel_vocoder(str(tmp_path), task)
    with pytest.raises(UserError, match="100 bands at 24000 Hz"):
        open_mel_vocoder("vocos", mel_task("cosyvoice2"))
    for number, (old, new, told) in enumerate((
        ("n_mels: 100", "n_mels: 80", "is for 80 bands"),
        ("padding: center}\nbackbone", "padding: same}\nbackbone", "another scale or framing"),
        ("vocos.heads.ISTFTHead", "os.system", "names the class os.system"),
        ("MelSpectrogramFeatures", "EncodecFeatures", "no Mel spectrogram"),
        ("head:", "tail:", "no configuration of Vocos"),
    )):  # fmt: skip
        with pytest.raises(UserError, match=told):
            open_mel_vocoder(
                str(vocos_folder(tmp_path / str(number), CONFIG.replace(old, new))), task
            )
    with pytest.raises(UserError, match="does not load as Vocos"):
        open_mel_vocoder(
            str(vocos_folder(tmp_path / "weights", weights={"other": torch.zeros(1)})), task
        )


def test_the_installed_vocos(tmp_path: Path) -> None:
    vocos = pytest.importorskip("vocos", reason="extra vocos")
    (tmp_path / "config.yaml").write_text(CONFIG)
    model = vocos.Vocos.from_hparams(str(tmp_path / "config.yaml")).eval()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    wave, mel = chirp(0.5), mel_task("f5").config.mel
    torch.testing.assert_close(
        model.feature_extractor(wave),
        speech_log_mel(wave, mel).clamp(min=-16.1),
        atol=1e-3,
        rtol=1e-3,
    )
    features = speech_log_mel(wave, mel)
    made = open_mel_vocoder(str(tmp_path), mel_task("f5"))(features)
    assert made.shape == (1, (features.shape[2] - 1) * 256)
    with torch.no_grad():
        torch.testing.assert_close(made, model.decode(features))
