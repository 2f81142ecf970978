"""STFT features: the reference's numbers, an exact inverse, causal framing that sees nothing
later.
"""

import json

import pytest
import torch

from mfdistill.audio.features import (
    StftConfig,
    compress,
    expand,
    frames,
    inverse_features,
    padded_length,
    stft_features,
    window,
)
from mfdistill.audio.mel import (
    LOG_FLOOR,
    MelConfig,
    MelOperator,
    hertz_to_mel,
    log_mel,
    mel_filterbank,
    mel_to_hertz,
)
from mfdistill.config import from_dict, to_dict
from mfdistill.errors import UserError

NARROW = StftConfig(sample_rate=8000, n_fft=256, hop=128)
NCSNPP = StftConfig(
    n_fft=510, hop=128, window="hann", normalized=False, drop_nyquist=False, scale=0.15
)
# at these there is energy up to Nyquist, so the exact round trip keeps that bin
WHOLE = [
    StftConfig(drop_nyquist=False),
    StftConfig(drop_nyquist=False, causal=True),
    StftConfig(drop_nyquist=False, window="hann", hop=128, causal=True),
    StftConfig(
        sample_rate=48000,
        n_fft=1022,
        hop=320,
        window="hann",
        exponent=0.667,
        scale=0.065,
        drop_nyquist=False,
    ),
    StftConfig(drop_nyquist=False, exponent=1.0),
    NCSNPP,
]


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def noise(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("config", WHOLE)
def test_round_trip_is_exact(config):
    wave = noise(2, config.hop * 20, dtype=torch.float64)
    z = stft_features(wave, config)
    assert z.shape == (2, 2, config.bins, frames(wave.shape[1], config))
    assert relative(inverse_features(z, config, wave.shape[1]), wave) < 1e-12
    assert (
        relative(
            inverse_features(stft_features(wave.float(), config), config, wave.shape[1]),
            wave.float(),
        )
        < 2e-6
    )


@pytest.mark.parametrize("length", [257, 1000, 5000, 5119])
def test_lengths_that_are_no_multiple_of_the_hop(length):
    config = StftConfig(drop_nyquist=False)
    wave = noise(1, length, dtype=torch.float64)
    assert relative(inverse_features(stft_features(wave, config), config, length), wave) < 1e-9


def test_only_the_nyquist_bin_is_lost():
    config = NARROW
    tone = torch.cos(torch.arange(4096, dtype=torch.float64) * torch.pi * 0.4)[None]
    alternating = torch.cos(torch.arange(4096, dtype=torch.float64) * torch.pi)[None]
    assert stft_features(tone, config).shape == (1, 2, 128, 33)
    interior = slice(256, -256)  # reflection makes a kink at the ends, which has energy at Nyquist
    assert (
        relative(
            inverse_features(stft_features(tone, config), config, 4096)[:, interior],
            tone[:, interior],
        )
        < 1e-4
    )
    # its two bins: Nyquist, and the side lobes of the window just below
    assert (
        inverse_features(stft_features(alternating, config), config, 4096)[:, interior].abs().max()
        < 0.6
    )


def test_compression_of_known_values():
    config = StftConfig(exponent=0.5, scale=0.15)
    spectrum = torch.tensor([[[[4.0]], [[0.0]]], [[[0.0]], [[-9.0]]], [[[0.0]], [[0.0]]]])
    z = compress(spectrum, config)
    assert torch.allclose(z.flatten(), torch.tensor([0.3, 0.0, 0.0, -0.45, 0.0, 0.0]))
    assert torch.allclose(expand(z, config), spectrum)
    tiny = torch.full((1, 2, 1, 1), 1e-11, dtype=torch.float64)
    assert torch.allclose(expand(compress(tiny, config), config), tiny, rtol=1e-9, atol=0)


def test_gradients_are_finite_at_silence():
    wave = torch.zeros(1, 2048, requires_grad=True)
    z = stft_features(wave, StftConfig())
    assert not z.any()
    (z.sum() + inverse_features(z, StftConfig(), 2048).sum()).backward()
    assert wave.grad is not None and torch.isfinite(wave.grad).all()


@pytest.mark.parametrize(
    "config", [StftConfig(causal=True), StftConfig(n_fft=510, hop=128, causal=True)]
)
def test_causal_frames_see_nothing_later(config):
    wave = noise(1, 4096)
    z = stft_features(wave, config)
    k = 7
    changed = wave.clone()
    changed[:, (k + 1) * config.hop :] += 1.0
    after = stft_features(changed, config)
    assert torch.equal(after[..., : k + 1], z[..., : k + 1])
    assert not torch.equal(after[..., k + 1], z[..., k + 1])


def test_causal_equals_centred_except_at_the_ends():
    wave = noise(1, 256 * 12)
    causal, centred = (stft_features(wave, StftConfig(causal=flag)) for flag in (True, False))
    assert relative(causal[..., 1:-1], centred[..., 1:-1]) < 1e-6
    assert relative(causal[..., :1], centred[..., :1]) > 0.1


def test_batch_and_precision():
    wave = noise(3, 4096)
    assert torch.allclose(
        stft_features(wave, NCSNPP)[1:2], stft_features(wave[1:2], NCSNPP), atol=1e-6
    )
    assert stft_features(wave.bfloat16(), NCSNPP).dtype == torch.float32


def test_padded_length():
    config = StftConfig()
    assert [padded_length(n, config) for n in (1, 512, 513, 32512)] == [512, 512, 768, 32512]
    assert stft_features(torch.zeros(1, padded_length(1, config)), config).shape[3] == 3


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="padded_length"):
        stft_features(torch.zeros(1, 100), StftConfig())
    with pytest.raises(ValueError, match="batch, samples"):
        stft_features(torch.zeros(100), StftConfig())
    with pytest.raises(ValueError, match="frames"):
        inverse_features(torch.zeros(1, 2, 256, 4), StftConfig(), 2048)
    for key, value in {
        "hop": 300,
        "n_fft": 511,
        "sample_rate": 0,
        "exponent": 0.0,
        "window": "kaiser",
    }.items():
        with pytest.raises(UserError, match=key):
            StftConfig(**{key: value})
    assert from_dict(StftConfig, json.loads(json.dumps(to_dict(NCSNPP)))) == NCSNPP


def test_mel_scale_and_filterbank():
    hertz = torch.tensor([0.0, 200.0, 1000.0, 6400.0], dtype=torch.float64)
    assert torch.allclose(
        hertz_to_mel(hertz), torch.tensor([0.0, 3.0, 15.0, 42.0], dtype=torch.float64)
    )
    assert torch.allclose(mel_to_hertz(hertz_to_mel(hertz)), hertz)
    for stft, mels in (
        (StftConfig(), 80),
        (NARROW, 40),
        (StftConfig(sample_rate=24000, n_fft=1024, hop=256), 100),
    ):
        bank = mel_filterbank(stft, MelConfig(mels))
        assert bank.shape == (stft.bins, mels) and (bank >= 0).all()
        assert (bank.sum(0) > 0).all(), "a band without a bin"
        # unit area: the sum over bins times their spacing
        area = bank.sum(0) * stft.sample_rate / 2 / (stft.bins - 1)
        assert (area - 1).abs().median() < 0.05
    with pytest.raises(UserError, match="f_max"):
        mel_filterbank(NARROW, MelConfig(f_max=8000.0))


@pytest.mark.parametrize("stft", [StftConfig(window="hann"), NARROW, NCSNPP])
def test_mel_operator_gives_zero_phase_with_the_same_mel(stft):
    operator = MelOperator(stft, MelConfig(40))
    z = stft_features(noise(2, 4096), stft)
    y = operator(z)
    assert y.shape == z.shape and not y[:, 1].any() and (y[:, 0] >= 0).all()
    assert operator.mel(y).shape == (2, 40, z.shape[3])
    # the mirrored negative values are the difference
    assert relative(operator.mel(y), operator.mel(z)) < 0.1
    linear = torch.linalg.multi_dot([operator.filterbank.T, operator.inverse.T, operator.mel(z)[0]])
    assert relative(linear, operator.mel(z)[0]) < 1e-4


def test_log_mel():
    silence = log_mel(torch.zeros(1, 4096), NARROW)
    assert silence.shape == (1, 80, 33) and torch.allclose(silence, torch.tensor(LOG_FLOOR).log())
    wave = noise(1, 4096)
    louder = log_mel(10 * wave, NARROW) - log_mel(wave, NARROW)
    assert torch.allclose(louder.median(), torch.tensor(10.0).log(), atol=1e-3)


def golden(shared, name):
    from safetensors.torch import load_file

    folder = shared / "golden" / "streamfm"
    entry = next(
        case
        for case in json.loads((folder / "manifest.json").read_text())["files"]
        if case["file"] == name
    )
    return load_file(folder / name), entry["tolerance"]


def compare(ours, theirs, tolerance):
    assert ours.shape == theirs.shape
    assert relative(ours, theirs) <= tolerance["rel_l2"]
    assert float((ours - theirs).abs().max() / theirs.abs().max()) <= tolerance["max_over_max"]


@pytest.mark.parametrize(("tag", "shape"), [("sqrt512", "sqrt-hann"), ("hann512", "hann")])
def test_features_match_the_reference(shared, tag, shape):
    case, tolerance = golden(shared, "features.safetensors")
    config, y = StftConfig(window=shape), case["y"][:, 0]

    def stored(name):
        return torch.stack([case[f"{tag}.{name}_re"][:, 0], case[f"{tag}.{name}_im"][:, 0]], 1)

    compare(window(config), case[f"{tag}.window"], tolerance)
    compare(stft_features(y, config), stored("Y"), tolerance)
    compare(inverse_features(stored("Y"), config, 5000), case[f"{tag}.y_back"][:, 0], tolerance)
    compare(
        inverse_features(stored("Ymod"), config, 5000), case[f"{tag}.ymod_back"][:, 0], tolerance
    )
    causal = stft_features(y, StftConfig(window=shape, causal=True))
    compare(causal[..., : 5000 // 256], stored("Y_causal"), tolerance)


def test_mel_operator_matches_the_reference(shared):
    case, tolerance = golden(shared, "mel.safetensors")
    config = StftConfig(window="hann")
    operator = MelOperator(config)
    x = torch.stack([case["X_re"][:, 0], case["X_im"][:, 0]], 1)
    compare(stft_features(case["y"][:, 0], config), x, tolerance)
    compare(operator.filterbank, case["fb"], tolerance)
    compare(operator.inverse, case["pinv"], tolerance)
    compare(operator.mel(x), case["mel"][:, 0], tolerance)
    # another LAPACK may round the pseudo-inverse differently: the manifest's looser bound
    compare(operator(x)[:, 0], case["Y_real"][:, 0], {"rel_l2": 1e-4, "max_over_max": 1e-3})
    compare(inverse_features(operator(x), config, 4096), case["y_from_Y"][:, 0], tolerance)
