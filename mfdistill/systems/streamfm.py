"""Stream.FM's checkpoints (arXiv 2512.19442) as teachers: Lightning files of the flow, of predictor
and flow in one, of a learned solver around a flow, or bare weights of the backbone.

A file says most of its sizes by its shapes; the rest is the published models' unless ``config``
says otherwise. Nothing is flipped: their t = 1 is the clean end too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from mfdistill.config import from_dict, to_dict
from mfdistill.errors import UserError
from mfdistill.networks.causal_layers import freeze_norms
from mfdistill.networks.causal_ncsnpp import CausalNCSNpp
from mfdistill.networks.config import CausalNCSNppConfig
from mfdistill.networks.predictor import Predictor
from mfdistill.plain import Section
from mfdistill.systems.base import SIZES, Misfit, Opened, System, check_fit, own_facts
from mfdistill.systems.files import Foreign, read_foreign, walk_tensors
from mfdistill.systems.streamfm_sizes import bins_of, front_end, sizes_of, split_config, spread_of
from mfdistill.tasks import Task, TaskConfig, Vocode, get_task


def read_streamfm(path: Path, config: Section | None, streaming: bool) -> Opened:
    """A teacher from a Stream.FM file.

    Args:
        config: what the file does not say, over what it does: sizes (``nf``, ``ch_mult``,
            ``num_res_blocks``, ``input_channels``, ``input_freqs``, ``down_dilation``,
            ``no_freq_groups_below``, ...), front end (``n_fft``, ``hop``, ``window``, ``alpha``,
            ``beta``, ``sampling_rate``), path (``sigma_y`` or ``sigma_e``, ``sigma_x``,
            ``normalize_mode``), ``task`` (one of ``tasks.TASKS``) and its ``n_mels``, ``predictor``
            (a file, for bare weights with 6 channels).

    Raises:
        UserError: another kind of file, a predictor by itself, weights that do not fit the sizes,
            or an unknown key of ``config``.
    """
    foreign = read_foreign(path)
    tensors = flat_tensors(foreign)
    sizes, features = split_config(config or {}, path)
    network = build(section(tensors, "dnn."), {**bins_of(tensors), **sizes}, path)
    if not network.config.conditional:
        raise UserError(
            f"{path}: is a predictor by itself, without time; it belongs in front of a flow: load the flow's file"
        )
    found = None
    if within := section(tensors, "initial_predictor.dnn."):
        found = build(within, {"input_freqs": network.config.input_freqs}, path)
    elif features.get("predictor"):
        found = load_predictor(features["predictor"])
    if found is not None and network.config.input_channels != 6:
        raise UserError(
            f"{path}: has a predictor before a flow of {network.config.input_channels} channels; supported are those of 6 "
            "(state, estimate, input)"
        )
    predictor = None if found is None else in_front(found, features.get("predictor") or path)
    task = task_of(network.config, tensors, foreign, features, predictor, path)
    saved = {
        "role": "teacher",
        "task": None if task is None else to_dict(task.config),
        "network": {"name": "causal_ncsnpp", "config": to_dict(network.config)},
        "schedule": None,
        "parent": {"file": str(path), "kind": "streamfm"},
        **({} if predictor is None else {"predictor": predictor.description}),
    }
    if predictor is not None:
        predictor.streaming = streaming
    return Opened(network, task, own_facts(network), saved)


def load_predictor(
    path: str | Path, device: torch.device | str = "cpu", config: Section | None = None
) -> CausalNCSNpp:
    """The predictor ``y -> e`` in a predictor's file or in that of predictor and flow, frozen.

    Raises:
        UserError: no predictor in the file, or weights that do not fit the sizes.
    """
    tensors = flat_tensors(read_foreign(path))
    sizes, _ = split_config(config or {}, path)
    network = build(
        section(tensors, "initial_predictor.dnn.") or section(tensors, "dnn."),
        {**bins_of(tensors), **sizes},
        path,
    )
    if network.config.conditional:
        raise UserError(f"{path}: is a flow, not a predictor")
    return network.to(device)


def in_front(network: CausalNCSNpp, source: str | Path) -> Predictor:
    """A predictor's network, which answers e itself, where a flow's predictor stands."""
    section = {"name": "causal_ncsnpp", "config": to_dict(network.config)}
    return Predictor(network, {"network": section, "prior_mean": "zero", "source": str(source)})


def flat_tensors(foreign: Foreign) -> dict[str, Tensor]:
    """The tensors of a Lightning file, a learned solver's wrapped flow, or bare weights (put under
    ``dnn.``).
    """
    inner = foreign.values.get("state_dict")
    tensors = dict(walk_tensors(inner if isinstance(inner, Mapping) else foreign.values))
    if any(key.startswith("wrapped_model.") for key in tensors):
        tensors = section(tensors, "wrapped_model.")
    if not any(key.startswith("dnn.") for key in tensors):
        tensors = {f"dnn.{key}": value for key, value in tensors.items()}
    return tensors


def section(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix, without it."""
    return {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }


def build(tensors: Mapping[str, Tensor], given: Section, path: str | Path) -> CausalNCSNpp:
    """A backbone with frozen norms and the sizes of its weights, ``given`` ones first, in
    evaluation mode.

    Raises:
        UserError: names or shapes differ (the first is named, and what the file looks like), or
            numbers that are not finite.
    """
    if "pyramid_downsample.fir_kernel" not in tensors:
        text = f"{path}: is no Stream.FM file: it lacks pyramid_downsample.fir_kernel"
        raise Misfit(text, SIZES, list(tensors))
    sizes = from_dict(
        CausalNCSNppConfig, {**sizes_of(tensors, given, path), **given}, f"{path}: config"
    )
    network = CausalNCSNpp(sizes)
    check_fit(network.state_dict(), tensors, path, "streamfm", "dnn.")
    for key, value in tensors.items():
        if not bool(torch.isfinite(value).all()):
            raise UserError(f"{path}: {key} has values that are not finite; the file is damaged")
    network.load_state_dict(dict(tensors))
    freeze_norms(network)
    return network.eval()


def task_of(
    sizes: CausalNCSNppConfig,
    tensors: Mapping[str, Tensor],
    foreign: Foreign,
    features: Section,
    predictor: Predictor | None,
    path: str | Path,
) -> Task | None:
    """Front end, level and prior of the file as a task; None where the file does not say the
    prior's spread and ``features`` neither.
    """
    said = foreign.values.get("hyper_parameters")
    settings = {**(said if isinstance(said, Mapping) else {}), **features}
    spread = spread_of(settings, tensors, path)
    if spread is None:
        return None
    bank = tensors.get("post_Y_fn.mel_scale.fb")
    name = features.get("task") or ("enhance" if bank is None else "vocode")
    mode = settings.get("normalize_mode") or "noisy"
    if mode not in ("noisy", "none"):
        raise UserError(f"{path}: normalize_mode {mode!r} is not one of 'noisy', 'none'")
    numbers = {
        "name": name,
        "stft": to_dict(front_end(sizes, tensors, settings, path)),
        "prior_mean": "e" if sizes.input_channels == 6 else "y",
        "normalise": "peak" if mode == "noisy" else "none",
        "whole_hops": False,
        **spread,
    }
    if bank is not None or features.get("n_mels"):
        numbers["n_mels"] = int(features["n_mels"]) if bank is None else bank.shape[1]
    config = from_dict(TaskConfig, numbers, f"{path}: task")
    task = get_task(config, predictor)
    if bank is not None and isinstance(task, Vocode):
        task.mel.filterbank, task.mel.inverse = bank, tensors["post_Y_fn.pseudoinverse"]
    return task


def is_streamfm(names: Collection[str]) -> bool:
    """Whether a file's tensors are called like Stream.FM's, with whatever prefixes."""
    ends = ("pyramid_downsample.fir_kernel", "bottleneck_modules.rnb1.CGroupNorm_0.running_var")
    return all(any(name.endswith(end) for name in names) for end in ends)


STREAMFM = System("streamfm", is_streamfm, read_streamfm, label="Stream.FM")
