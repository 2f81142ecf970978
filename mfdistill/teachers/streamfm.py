"""Stream.FM's checkpoints (arXiv 2512.19442) as teachers: Lightning files of the flow, of predictor
and flow in one, of a learned solver around a flow, or bare weights of the backbone.

A file says most of its sizes by its shapes; the rest is the published models' unless ``config``
says otherwise. Nothing is flipped: their t = 1 is the clean end too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mfdistill.config import from_dict, to_dict
from mfdistill.errors import UserError
from mfdistill.networks.causal_layers import freeze_norms
from mfdistill.networks.causal_ncsnpp import CausalNCSNpp
from mfdistill.networks.config import CausalNCSNppConfig
from mfdistill.tasks import Task, TaskConfig, get_task
from mfdistill.teachers.cfm import CFMTeacher
from mfdistill.teachers.foreign import Foreign, read_foreign, walk_tensors
from mfdistill.teachers.predictor import Predictor
from mfdistill.teachers.streamfm_sizes import bins_of, front_end, sizes_of, split_config, spread_of


class StreamFMTeacher(CFMTeacher):
    """A causal flow, with the predictor in front of it where it has one (see ``protocol.Teacher``).

    A condition without the predictor's estimate ``e`` is completed by the predictor; ``complete``
    does it once for many evaluations.

    Attributes:
        predictor: ``y -> e``; None if there is none.
    """

    def __init__(
        self,
        network: CausalNCSNpp,
        task: Task | None,
        config: Mapping[str, Any],
        predictor: Predictor | None,
        streaming: bool = False,
    ):
        super().__init__(network, task, config, streaming)
        self.predictor = predictor
        if predictor is not None:
            predictor.streaming = streaming

    def complete(self, cond: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``cond`` with the estimate ``e`` (b, 2, f, n) of ``y``, where there is a predictor and it
        is missing.
        """
        if self.predictor is None or "e" in cond:
            return dict(cond)
        return {**cond, "e": self.predictor(cond)}

    def velocity(self, z_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """``v(z_t, t)``; z_t (b, 2, f, n), t (b,), (1,) or 0-d.

        Raises:
            UserError: the network needs ``e``, which is neither given nor to be had.
        """
        return super().velocity(z_t, t, self.complete(cond))

    def prior(self, cond: Mapping[str, Tensor], generator: torch.Generator | None = None) -> Tensor:
        """``z_0`` (b, 2, f, n): ``y``, or the predictor's ``e``, with complex noise."""
        if self.task is None:
            raise UserError(
                "this file does not say its prior's spread; load it with config={'sigma_y': ...} (0.05 with a predictor, "
                "0.35 for dereverberation and codecs, 0.25 for phase and vocoding)"
            )
        return super().prior(self.complete(cond), generator)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> StreamFMTeacher:
        super().to(device, dtype)
        if self.predictor is not None:
            self.predictor.to(device=device, dtype=dtype)
        return self


def load_streamfm(
    path: Path,
    device: torch.device | str = "cpu",
    config: Mapping[str, Any] | None = None,
    guidance_strength: float | None = None,
    streaming: bool = False,
) -> StreamFMTeacher:
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
    if guidance_strength:
        raise UserError(
            f"{path}: trained without a null condition, so guidance strength {guidance_strength} has no meaning; leave it out"
        )
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
        found = load_predictor(features["predictor"], device)
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
    return StreamFMTeacher(network, task, saved, predictor, streaming).to(device)


def load_predictor(
    path: str | Path, device: torch.device | str = "cpu", config: Mapping[str, Any] | None = None
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


def build(
    tensors: Mapping[str, Tensor], given: Mapping[str, Any], path: str | Path
) -> CausalNCSNpp:
    """A backbone with frozen norms and the sizes of its weights, ``given`` ones first, in
    evaluation mode.

    Raises:
        UserError: names or shapes differ (the first is named, and what the file looks like), or
            numbers that are not finite.
    """
    if "pyramid_downsample.fir_kernel" not in tensors:
        raise UserError(
            f"{path}: is no Stream.FM file: it lacks pyramid_downsample.fir_kernel; it looks like {looks_like(tensors)}"
        )
    sizes = from_dict(
        CausalNCSNppConfig, {**sizes_of(tensors, given, path), **given}, f"{path}: config"
    )
    network = CausalNCSNpp(sizes)
    own = network.state_dict()
    wrong = [f"lacks {key}" for key in own if key not in tensors]
    wrong += [f"has {key}, which the network does not" for key in tensors if key not in own]
    wrong += [
        f"{key} is {tuple(tensors[key].shape)} where the network has {tuple(value.shape)}"
        for key, value in own.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    if wrong:
        raise UserError(
            f"{path}: its weights do not fit kind 'streamfm' and these sizes: {wrong[0]} ({len(wrong)} such); it looks like "
            f"{looks_like(tensors)}; give its sizes in config"
        )
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
    features: Mapping[str, Any],
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
    if bank is not None and hasattr(task, "mel"):
        task.mel.filterbank, task.mel.inverse = bank, tensors["post_Y_fn.pseudoinverse"]  # type: ignore[attr-defined]
    return task


def is_streamfm(names: Collection[str]) -> bool:
    """Whether a file's tensors are called like Stream.FM's, with whatever prefixes."""
    ends = ("pyramid_downsample.fir_kernel", "bottleneck_modules.rnb1.CGroupNorm_0.running_var")
    return all(any(name.endswith(end) for name in names) for end in ends)


def looks_like(names: Collection[str]) -> str:
    """What a file's tensors tell of its kind, for error messages."""
    from mfdistill.teachers.load import recognise_tensors

    kind = recognise_tensors(names)
    if kind == "streamfm":
        return "a Stream.FM file of other sizes"
    return "a file of another program" if kind is None else f"kind '{kind}'"
