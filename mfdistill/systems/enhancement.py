"""What FlowSE, MeanFlowSE and SGMSE checkpoints share, as networks and tasks of ours; their clock,
from 1 at the noise to 0, is flipped here.

A velocity of theirs is minus the network and becomes the network itself on our clock; the score of
SGMSE becomes the velocity of its probability flow. The networks do the rest (``networks.ncsnpp``,
``networks.dcunet``).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mfdistill.audio.features import StftConfig
from mfdistill.config import from_dict, to_dict
from mfdistill.errors import UserError
from mfdistill.networks import build_network
from mfdistill.networks.config import DCUNetConfig, NCSNppConfig
from mfdistill.networks.ouve import ouve_std
from mfdistill.plain import Plain, Section
from mfdistill.systems.base import Opened, check_fit, chosen_weights, no_stream, own_facts
from mfdistill.systems.lightning import EnhancementCheckpoint, read_checkpoint
from mfdistill.tasks import Task, TaskConfig, get_task

_FRAMES = 64  # the originals' inference pads to multiples of it, whatever the network's depth
_NCSNPP = (
    "nf",
    "ch_mult",
    "num_res_blocks",
    "attn_resolutions",
    "image_size",
    "dropout",
    "fourier_scale",
)
_DCUNET = {
    "dcunet_architecture": "architecture",
    "dcunet_norm_type": "norm",
    "dcunet_activation": "activation",
    "dcunet_time_embedding": "time",
    "dcunet_temb_layers_global": "layers_global",
    "dcunet_temb_layers_local": "layers_local",
    "dcunet_temb_activation": "time_activation",
    "dcunet_time_embedding_complex": "complex_time",
    "embed_dim": "embed_dim",
    "fourier_scale": "fourier_scale",
}
_FEATURES = (
    "n_fft",
    "hop_length",
    "window",
    "transform_type",
    "spec_factor",
    "spec_abs_exponent",
    "sr",
    "normalize",
)
_PROCESS = (
    "sigma_min",
    "sigma_max",
    "theta",
    "t_eps",
    "T_rev",
    "scale_by_sigma",
    "divide_by_t",
    "ode",
    "sde",
    "network_scaling",
)
_OWN = ("architecture_table", "backbone", "weights", "use_mfse")
# options of the originals that no published checkpoint changes: (name, the one value there is)
_FIXED = {
    "centered": True,
    "fir": True,
    "skip_rescale": True,
    "resblock_type": "biggan",
    "progressive": "output_skip",
    "conditional": True,
    "progressive_input": "input_skip",
    "progressive_combine": "sum",
    "embedding_type": "fourier",
    "nonlinearity": "swish",
    "dcunet_fix_length": "pad",
    "dcunet_mask_bound": "none",
    "fir_kernel": [1, 3, 3, 1],
}
_TRAINING = re.compile(
    r"(mf_|val_|num_|loss_|use_|l1_|pesq_|c_|ema_|batch|data_|sampler|sigma_data|base_dir|format|dummy|N$|lr$)"
)
_TIME = (("all_modules.0", "fourier"), ("all_modules.1", "linear_1"), ("all_modules.2", "linear_2"))
_DELTA = (("delta_gfproj", "fourier"), ("delta_fc1", "linear_1"), ("delta_fc2", "linear_2"))


def enhancement_kind(names: Collection[str]) -> str | None:
    """The system that a file is of, from the names of its tensors and hyper-parameters, with
    whatever prefixes; None if of none or unclear (bare weights of FlowSE and SGMSE have the same
    names).
    """
    ends = {name.rpartition("dnn.")[2] for name in names}
    if "delta_fc1.weight" in ends:
        return "meanflowse"
    if "fourier_projection_t.W" in ends or "t_r_fuse.linear.weight" in ends:
        return None
    settings = {name.rpartition(".")[2] for name in names if name.startswith("hyper_parameters.")}
    return "flowse" if "ode" in settings else "sgmse" if "sde" in settings else None


def read_enhancement(
    kind: str,
    path: Path,
    config: Section | None,
    streaming: bool,
) -> Opened:
    """A teacher from a checkpoint of ``kind`` (flowse, meanflowse, sgmse): its velocity, and of
    MeanFlowSE the diagonal r = t.

    Args:
        config: names and values of the originals' hyper-parameters (sizes, features, noise), over
            those in the file; ``weights`` is "ema" (the default) or "raw".

    Raises:
        UserError: another kind of file, weights that do not fit the sizes, or options that have no
            counterpart here.
    """
    if streaming:
        raise no_stream(path, kind)
    network, task, description, settings = open_enhancement(kind, path, config)
    saved = {
        "role": "teacher",
        "task": to_dict(task.config),
        "network": description,
        "schedule": None,
        "parent": {"file": str(path), "kind": kind, "weights": settings["weights"]},
    }
    return Opened(network, task, own_facts(network), saved)


def recogniser(kind: str) -> Callable[[Collection[str]], bool]:
    """``System.recognise`` of ``kind``."""
    return lambda names: enhancement_kind(names) == kind


def open_enhancement(
    kind: str, path: Path, config: Section | None = None
) -> tuple[nn.Module, Task, Plain, Plain]:
    """Network with its weights, task, description of the network ("name" and "config") and all
    settings; errors as ``load_enhancement``.
    """
    checkpoint = read_checkpoint(path)
    settings = {**checkpoint.settings, **_checked(config or {}, path)}
    _check_kind(kind, checkpoint, settings)
    weights = settings["weights"] = chosen_weights(settings, path)
    name, sizes = network_sizes(kind, checkpoint.averaged, settings, path)
    network = build_network(name, sizes)
    load_official(network, checkpoint.averaged if weights == "ema" else checkpoint.raw, path, kind)
    return (
        network,
        get_task(task_of(kind, sizes, settings, path)),
        {"name": name, "config": to_dict(sizes)},
        settings,
    )


def network_sizes(
    kind: str, names: Mapping[str, Tensor], settings: Section, path: str | Path
) -> tuple[str, NCSNppConfig | DCUNetConfig]:
    """Name and configuration of the network from hyper-parameters; what they lack is the originals'
    default, ``nf`` that of the file.
    """
    for key, value in _FIXED.items():
        given = settings.get(key)
        if given is not None and (list(given) if isinstance(given, tuple) else given) != value:
            raise UserError(
                f"{path}: {key} = {settings[key]!r} is not supported; only {value!r} is"
            )
    process = (
        settings.get("sde", "ouve") if kind == "sgmse" else settings.get("ode", "flowmatching")
    )
    if process not in ("ouve", "flowmatching"):
        raise UserError(
            f"{path}: process {process!r} has no velocity here; supported are 'flowmatching' and 'ouve'"
        )
    if kind == "sgmse" and settings.get("loss_type", "score_matching") not in (
        "score_matching",
        "denoiser",
    ):
        raise UserError(
            f"{path}: loss_type {settings['loss_type']!r} trains no score; supported are 'score_matching' and 'denoiser'"
        )
    common: Plain = {"t_last": 1 - float(settings.get("t_eps", 0.03))}
    if kind == "sgmse":
        common |= {
            "output": "score",
            **{k: float(settings[k]) for k in ("theta", "sigma_min", "sigma_max") if k in settings},
        }
    backbone = settings.get("backbone") or (
        "dcunet" if "encoders.0.conv.re_module.weight" in names else "ncsnpp"
    )
    if backbone == "dcunet":
        own = {
            ours: settings[theirs]
            for theirs, ours in _DCUNET.items()
            if settings.get(theirs) is not None
        }
        if table := settings.get("architecture_table"):
            own |= {"table": [_row(row) for row in table]}
        return "dcunet", from_dict(DCUNetConfig, {**own, **common}, f"{path}: network")
    if backbone != "ncsnpp":
        raise UserError(
            f"{path}: backbone {backbone!r} is not supported; supported are 'ncsnpp' and 'dcunet'"
        )
    own = {key: settings[key] for key in _NCSNPP if settings.get(key) is not None}
    if "nf" not in own and "all_modules.0.W" in names:
        own["nf"] = len(names["all_modules.0.W"])
    if "image_size" not in own and settings.get("n_fft"):
        own["image_size"] = int(settings["n_fft"]) // 2 + 1
    divided = {"flowse": True, "meanflowse": False}.get(
        kind, bool(settings.get("scale_by_sigma", True))
    )
    own |= {
        "delta": kind == "meanflowse",
        "divide_by_t": bool(settings.get("divide_by_t", divided)),
    }
    return "ncsnpp", from_dict(NCSNppConfig, {**own, **common}, f"{path}: network")


def task_of(
    kind: str, sizes: NCSNppConfig | DCUNetConfig, settings: Section, path: str | Path
) -> TaskConfig:
    """Their front end, level and prior as a task. The level is the noisy file's peak whatever
    ``normalize`` says, as in their inference.
    """
    get = settings.get
    bins = sizes.image_size if isinstance(sizes, NCSNppConfig) else 257
    transform, window = get("transform_type", "exponent"), get("window", "hann")
    if transform not in ("exponent", "log", "none") or window not in ("hann", "sqrthann"):
        raise UserError(f"{path}: transform_type {transform!r} or window {window!r} is not known")
    n_fft = int(get("n_fft") or 2 * (bins - 1))
    stft = StftConfig(
        sample_rate=int(get("sr") or 16000),
        n_fft=n_fft,
        hop=int(get("hop_length") or (n_fft + 2) // 4),
        window="hann" if window == "hann" else "sqrt-hann",
        exponent=float(get("spec_abs_exponent", 0.5)) if transform == "exponent" else 1.0,
        scale=1.0 if transform == "none" else float(get("spec_factor", 0.15)),
        drop_nyquist=False,
        normalized=False,
        compression="log" if transform == "log" else "power",
    )
    if isinstance(sizes, NCSNppConfig) and stft.bins != bins:
        raise UserError(
            f"{path}: n_fft {n_fft} gives {stft.bins} bins, but the network is for image_size {bins}; give both in config"
        )
    if kind == "sgmse":
        sigma_0, sigma_1 = ouve_std(1.0, sizes.theta, sizes.sigma_min, sizes.sigma_max), 0.0
    else:
        sigma_0, sigma_1 = float(get("sigma_max", 0.487)), float(get("sigma_min", 0.0))
    return TaskConfig("enhance", stft, sigma_0, sigma_1, whole_hops=False, frame_multiple=_FRAMES)


def official_names(network: nn.Module) -> dict[str, str]:
    """Ours -> the originals' name (without ``dnn.``) for every tensor of a network or of a
    student's, in the originals' order.
    """

    def official(name: str) -> str:
        delta = any(key.startswith("time_embedding.embedding.") for key in own)
        branches = (
            [("time_embedding.embedding.", _TIME), ("time_embedding.", _DELTA)]
            if delta
            else [("time_embedding.", _TIME)]
        )
        for prefix, pairs in branches:
            for theirs, ours in pairs:
                if name.startswith(f"{prefix}{ours}."):
                    return theirs + name.removeprefix(f"{prefix}{ours}")
        return name

    own = list(network.state_dict())
    pairs = {name: official(name) for name in own}

    def order(name: str) -> tuple[int, int]:
        head = ["output_layer", "delta_gfproj", "delta_fc1", "delta_fc2"]
        top = pairs[name].split(".")
        return (
            (len(head), int(top[1]))
            if top[0] == "all_modules"
            else (head.index(top[0]) if top[0] in head else len(head), 0)
        )

    if not any(name.startswith("all_modules.") for name in own):
        return pairs
    return {name: pairs[name] for name in sorted(own, key=order)}


def load_official(
    network: nn.Module, tensors: Mapping[str, Tensor], path: str | Path, kind: str
) -> None:
    """Load weights by the originals' names.

    Raises:
        UserError: names or shapes differ; tells the first of them and what kind of file it looks
            like.
    """
    own, names = network.state_dict(), official_names(network)
    expected = {theirs: own[ours] for ours, theirs in names.items()}
    check_fit(expected, tensors, path, kind, "dnn.", _looks_like(tensors))
    network.load_state_dict({ours: tensors[theirs] for ours, theirs in names.items()})


def _check_kind(kind: str, checkpoint: EnhancementCheckpoint, settings: Section) -> None:
    names = [*checkpoint.averaged, *(f"hyper_parameters.{key}" for key in settings)]
    found = enhancement_kind(names)
    if (
        found is not None
        and found != kind
        and not (kind == "meanflowse" and "encoders.0.conv.re_module.weight" in checkpoint.averaged)
    ):
        raise UserError(
            f"{checkpoint.path}: is a checkpoint of {found}, not of {kind}; load it with kind '{found}'"
        )


def _looks_like(tensors: Collection[str]) -> str:
    for key, what in (
        ("delta_fc1.weight", "MeanFlowSE (kind meanflowse)"),
        ("fourier_projection_t.W", "COSE, which is not supported"),
        ("t_r_fuse.linear.weight", "MeanSE, which is not supported"),
        ("encoders.0.conv.re_module.weight", "a DCUNet (backbone dcunet)"),
        ("all_modules.0.W", "FlowSE or SGMSE (kinds flowse, sgmse) of other sizes"),
    ):
        if key in tensors:
            return f"it looks like {what}"
    return ""


def _checked(config: Section, path: str | Path) -> Section:
    known = {*_NCSNPP, *_DCUNET, *_FEATURES, *_PROCESS, *_OWN, *_FIXED}
    for key in config:
        if key not in known and not _TRAINING.match(key):
            near = difflib.get_close_matches(key, known, n=1)
            raise UserError(
                f"{path}: config has unknown key '{key}'"
                + (f"; did you mean '{near[0]}'?" if near else "")
            )
    return config


def _row(row: Any) -> list[int]:
    """A row of the originals' architecture tables, its padding "auto" or half the kernel."""
    inputs, outputs, kernel, stride, padding, dilation = row
    padding = [size // 2 for size in kernel] if padding == "auto" else padding
    return [int(value) for value in (inputs, outputs, *kernel, *stride, *padding, *dilation)]
