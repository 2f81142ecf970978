"""What a Stream.FM file's shapes and settings say: sizes of the network, front end, spread of the
prior.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mfdistill.audio.features import StftConfig, window
from mfdistill.errors import UserError
from mfdistill.networks.config import CausalNCSNppConfig
from mfdistill.plain import Plain, Section

_SIZES = {field.name for field in dataclasses.fields(CausalNCSNppConfig)}
_FEATURES = {
    "n_fft",
    "hop",
    "hop_length",
    "window",
    "alpha",
    "beta",
    "sampling_rate",
    "sample_rate",
    "sigma_y",
    "sigma_e",
    "sigma_x",
    "normalize_mode",
    "task",
    "predictor",
    "n_mels",
}
_UNUSED = {
    "seed",
    "N",
    "K",
    "source_module",
    "cut_highest_freqs",
    "normalized",
    "f_min",
    "f_max",
    "n_stft",
    "mel_scale",
    "lr",
    "dropout",
}
_WHERE = "pyramid_normconv.conv"


def split_config(config: Section, path: str | Path) -> tuple[Plain, Plain]:
    """(sizes, features and path) out of one mapping.

    Raises:
        UserError: an unknown key; the nearest known one is named.
    """
    sizes, features = {}, {}
    for key, value in config.items():
        if key in _SIZES:
            sizes[key] = value
        elif key in _FEATURES:
            features[key] = value
        elif key not in _UNUSED:
            near = difflib.get_close_matches(key, _SIZES | _FEATURES, n=1)
            raise UserError(
                f"{path}: config has unknown key '{key}'"
                + (f"; did you mean '{near[0]}'?" if near else "")
            )
    return sizes, features


def bins_of(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """``input_freqs`` by the stored window, where there is one."""
    stored = tensors.get("feature_extractor.window_tensor")
    return {} if stored is None else {"input_freqs": len(stored) // 2}


def sizes_of(tensors: Mapping[str, Tensor], given: Section, path: str | Path) -> Plain:
    """The sizes that the shapes tell.

    Raises:
        UserError: a tensor without which they cannot be told is missing.
    """
    try:
        return _sizes(tensors, given)
    except (KeyError, StopIteration) as error:
        raise UserError(
            f"{path}: its weights do not fit kind 'streamfm': lacks {error.args[0] if error.args else 'levels'}"
        ) from error


def _sizes(tensors: Mapping[str, Tensor], given: Section) -> Plain:
    def first_axis(conv: str) -> int:
        name = f"{conv}.pointwise_conv.weight"
        return tensors[name if name in tensors else f"{conv}.weight"].shape[0]

    sizes: Plain = {
        "nf": first_axis("input_layer"),
        "conditional": "temb_modules.gfp.W" in tensors,
    }
    levels, blocks = 0, 0
    while f"down_modules.lvl{levels}_rnb0.CGroupNorm_1.weight" in tensors:
        levels += 1
    while f"down_modules.lvl0_rnb{blocks}.CGroupNorm_1.weight" in tensors:
        blocks += 1
    if not blocks:
        raise KeyError("down_modules.lvl0_rnb0.CGroupNorm_1.weight")
    widths = [
        tensors[f"down_modules.lvl{level}_rnb0.CGroupNorm_1.weight"].shape[0]
        for level in range(levels)
    ]
    sizes |= {
        "ch_mult": [max(1, width // sizes["nf"]) for width in widths],
        "num_res_blocks": blocks,
    }
    sizes["output_channels"] = first_axis(f"up_modules.lvl0_{_WHERE}")
    ranks = [
        value.shape[0]
        // tensors[f"{key.removesuffix('CConv_0.depthwise_conv.weight')}CGroupNorm_0.weight"].shape[
            0
        ]
        for key, value in tensors.items()
        if key.endswith("CConv_0.depthwise_conv.weight")
    ]
    if ranks:
        sizes["decoupled_K"] = ranks[0]
    whole = tensors.get("input_layer.weight")
    inputs = (
        whole.shape[1]
        if whole is not None
        else tensors["input_layer.depthwise_conv.weight"].shape[0] // ranks[0]
    )
    sizes["input_channels"] = inputs
    sizes["input_freqs"] = given.get("input_freqs") or 256
    bands = [
        tensors[f"down_modules.lvl{level}_rnb0.CGroupNorm_0.weight"].shape[1]
        for level in range(levels)
    ]
    sizes["freq_groups"] = bands[0]
    freqs = [int(sizes["input_freqs"]) >> level for level in range(levels)]
    if max(bands) > 1:
        single = [f for f, k in zip(freqs, bands, strict=True) if k == 1]
        several = [f for f, k in zip(freqs, bands, strict=True) if k > 1]
        low, high = max(single, default=0) + 1, min(several)
        sizes["no_freq_groups_below"] = min(max(16, low), high)
    return sizes


def front_end(
    sizes: CausalNCSNppConfig,
    tensors: Mapping[str, Tensor],
    settings: Section,
    path: str | Path,
) -> StftConfig:
    """The features: window and compression as stored, the hop half a window unless ``settings``
    says it.

    Raises:
        UserError: a window that is neither Hann nor its root, or bins that do not fit the
            network's.
    """
    extractor = {
        key.removeprefix("feature_extractor."): value
        for key, value in tensors.items()
        if key.startswith("feature_extractor.")
    }
    stored = extractor.get("window_tensor")
    n_fft = int(settings.get("n_fft") or (2 * sizes.input_freqs if stored is None else len(stored)))
    if n_fft != 2 * sizes.input_freqs:
        raise UserError(
            f"{path}: windows of {n_fft} samples give {n_fft // 2} bins, the network is for {sizes.input_freqs}"
        )
    hop = int(settings.get("hop") or settings.get("hop_length") or n_fft // 2)
    said = settings.get("window")

    def number(key: str, published: float) -> float:
        value = settings.get(key)
        return float(extractor.get(key, published) if value is None else value)

    sample_rate = int(settings.get("sampling_rate") or settings.get("sample_rate") or 16000)
    config = StftConfig(
        sample_rate, n_fft, hop, "sqrt-hann", number("alpha", 0.5), number("beta", 1.0)
    )
    if said is not None:
        return dataclasses.replace(
            config, window="sqrt-hann" if "sqrt" in str(said).lower() else "hann"
        )
    if stored is None:
        return config
    for candidate in (config, dataclasses.replace(config, window="hann")):
        if torch.allclose(window(candidate), stored.float(), atol=1e-4):
            return candidate
    raise UserError(f"{path}: its window is neither Hann nor its root")


def spread_of(settings: Section, tensors: Mapping[str, Tensor], path: str | Path) -> Plain | None:
    """``sigma_0``, ``sigma_1`` and, for spreads per bin, the profile, as in ``TaskConfig``; None
    where nothing is said.

    Raises:
        UserError: spreads per bin that are not proportional at the two ends, or not positive.
    """
    start = next(
        (settings[key] for key in ("sigma_y", "sigma_e") if settings.get(key) is not None),
        tensors.get("sigma_y"),
    )
    if start is None:
        return None
    end = settings.get("sigma_x")
    end = tensors.get("sigma_x", 0.001) if end is None else end
    start, end = (torch.as_tensor(value, dtype=torch.float64).flatten() for value in (start, end))
    if start.numel() == 1 and end.numel() == 1:
        return {"sigma_0": float(start), "sigma_1": float(end)}
    if not bool((start > 0).all()):
        raise UserError(f"{path}: sigma_y has values that are not positive")
    ratio = end / start
    if float(ratio.max() - ratio.min()) > 1e-3 * float(ratio.mean()):
        raise UserError(
            f"{path}: sigma_x and sigma_y are not proportional; such spreads are not supported"
        )
    return {
        "sigma_0": 1.0,
        "sigma_1": float(ratio.mean()),
        "prior_shape": "profile",
        "prior_profile": start.tolist(),
    }
