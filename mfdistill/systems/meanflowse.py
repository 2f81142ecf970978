"""MeanFlowSE checkpoints (arXiv 2509.14858): as teachers, as students, and students of that
architecture back in its layout.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from mfdistill.checkpoint import write_pickle
from mfdistill.errors import UserError
from mfdistill.networks.delta import DeltaEmbedding
from mfdistill.networks.ncsnpp import NCSNpp
from mfdistill.plain import Plain, Section
from mfdistill.systems.base import Opened, System, TwoTimes, no_stream, own_facts
from mfdistill.systems.enhancement import (
    official_names,
    open_enhancement,
    read_enhancement,
    recogniser,
)
from mfdistill.systems.lightning import read_checkpoint

_MODULE = "flowmse.data_module"


def read_student(path: Path, config: Section | None, streaming: bool) -> Opened:
    """A student from a MeanFlowSE checkpoint: ``u(z, t, r)`` is its network at ``1 - t`` and ``d =
    r - t``.

    The schedule is its recommended single step, from ``1 - T_rev`` to 1; ``flow.meanflowse_times``
    gives its other grids.

    Raises:
        UserError: another kind of file, weights that do not fit the sizes, or options that have no
            counterpart here.
    """
    if streaming:
        raise no_stream(path, "meanflowse")
    network, task, description, settings = open_enhancement("meanflowse", path, config)
    if description["name"] != "ncsnpp":
        raise UserError(
            f"{path}: a network without a second time is no student; load it as a teacher"
        )
    start = 1 - float(settings.get("T_rev") or 1)
    parent = {"file": str(path), "kind": "meanflowse", "weights": settings["weights"]}
    saved = {"role": "student", "network": description, "parent": parent}
    return Opened(network, task, own_facts(network), saved, schedule=[start, 1.0], interval="delta")


def export_meanflowse(student: TwoTimes, path: str | Path, base: str | Path | None = None) -> Path:
    """Write ``student`` as a Lightning checkpoint (``.ckpt``) in MeanFlowSE's layout;
    ``load_student`` reads it too.

    Weights stand in ``state_dict`` and as the averages; ``hyper_parameters`` hold sizes, features
    and noise, and the class of the data module by its name in MeanFlowSE's package, as its loader
    expects.

    Raises:
        UserError: the student has parts that MeanFlowSE does not (another network, ``divide_by_t``,
            another embedding of the interval or of time, a prior that is not flat), or the file
            cannot be written.
    """
    target = Path(path)
    if base is not None:
        raise UserError("--base: layout meanflowse takes no other tensors; leave it out")
    if target.suffix != ".ckpt":
        raise UserError(f"{target}: MeanFlowSE reads .ckpt files; give the file that ending")
    settings, own = _settings(student), student.network.state_dict()
    tensors = {
        f"dnn.{theirs}": own[ours].detach().cpu().clone()
        for ours, theirs in official_names(student.network).items()
    }
    checkpoint = {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": "1.9.5",
        "state_dict": tensors,
        "ema": {
            "decay": 0.999,
            "num_updates": 1,
            "shadow_params": [value.clone() for value in tensors.values()],
            "collected_params": None,
        },
        "hparams_name": "kwargs",
    }
    with _class_reference() as data_module:
        write_pickle(
            target,
            {**checkpoint, "hyper_parameters": {**settings, "data_module_cls": data_module}},
        )
    return target


def _settings(student: TwoTimes) -> Plain:
    network, task = student.network, student.task
    if not isinstance(network, NCSNpp):
        raise UserError("export: not possible as MeanFlowSE: its network is not NCSN++")
    sizes = network.config
    for wrong, what in (
        (
            not isinstance(network.time_embedding, DeltaEmbedding),
            "it embeds the interval otherwise; distil with --interval delta",
        ),
        (sizes.divide_by_t, "its output is divided by time"),
        (sizes.output != "velocity", "its network is a score"),
        (sizes.time != "log", "its time is not logarithmic"),
        (
            task is None or task.config.prior_shape != "flat" or task.config.prior_mean != "y",
            "its prior is not flat around y",
        ),
        (
            task is not None
            and (
                task.config.stft.normalized
                or task.config.stft.drop_nyquist
                or task.config.stft.causal
            ),
            "other features",
        ),
    ):
        if wrong:
            raise UserError(f"export: not possible as MeanFlowSE: {what}")
    assert task is not None
    stft = task.config.stft
    return {
        "backbone": "ncsnpp",
        "ode": "flowmatching",
        **{
            "lr": 1e-4,
            "ema_decay": 0.999,
            "t_eps": round(1 - sizes.t_last, 6),
            "T_rev": 1 - student.schedule[0],
            "loss_abs_exponent": 0.5,
        },
        **{"num_eval_files": 10, "loss_type": "mse", "use_mfse": True, "use_mf_sampler": True},
        "sigma_min": task.config.sigma_1,
        "sigma_max": task.config.sigma_0,
        **{
            "base_dir": "",
            "format": "default",
            "batch_size": 2,
            "num_frames": 256,
            "num_workers": 4,
            "dummy": False,
            "normalize": "noisy",
        },
        "n_fft": stft.n_fft,
        "hop_length": stft.hop,
        "window": "hann" if stft.window == "hann" else "sqrthann",
        "transform_type": "log" if stft.compression == "log" else "exponent",
        "spec_factor": stft.scale,
        "spec_abs_exponent": stft.exponent,
        **{
            key: getattr(sizes, key)
            for key in ("nf", "num_res_blocks", "image_size", "dropout", "fourier_scale")
        },
        "ch_mult": list(sizes.ch_mult),
        "attn_resolutions": list(sizes.attn_resolutions),
    }


@contextmanager
def _class_reference() -> Iterator[type]:
    """A class that is pickled as the name of MeanFlowSE's data module; nothing of that package is
    imported.
    """
    stand_in = type("SpecsDataModule", (), {"__module__": _MODULE})
    package, module = types.ModuleType(_MODULE.partition(".")[0]), types.ModuleType(_MODULE)
    module.SpecsDataModule = stand_in  # type: ignore[attr-defined]
    kept = {name: sys.modules.get(name) for name in (package.__name__, _MODULE)}
    sys.modules.update({package.__name__: package, _MODULE: module})
    try:
        yield stand_in
    finally:
        for name, before in kept.items():
            if before is None:
                del sys.modules[name]
            else:
                sys.modules[name] = before


def trained_role(place: Path) -> str:
    """A file trained without its MeanFlow term has an instantaneous velocity only."""
    return "student" if read_checkpoint(place).settings.get("use_mfse", True) else "teacher"


MEANFLOWSE = System(
    "meanflowse",
    recogniser("meanflowse"),
    partial(read_enhancement, "meanflowse"),
    read_student,
    {"meanflowse": export_meanflowse},
    label="MeanFlowSE",
    role=trained_role,
)
