"""Students with MeanFlowSE's architecture as a checkpoint that its own programs load."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mfdistill.errors import UserError
from mfdistill.networks.config import NCSNppConfig
from mfdistill.networks.delta import DeltaEmbedding
from mfdistill.parts import part_of
from mfdistill.students.student import Student
from mfdistill.teachers.enhancement import official_names

_MODULE = "flowmse.data_module"


def export_meanflowse(student: Student, path: str | Path) -> Path:
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
    names = official_names(student.network)
    tensors = {
        f"dnn.{theirs}": student.network.state_dict()[ours].detach().cpu().clone()
        for ours, theirs in names.items()
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
    }
    if target.suffix != ".ckpt":
        raise UserError(f"{target}: MeanFlowSE reads .ckpt files; give the file that ending")
    settings = _settings(student)
    part = part_of(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _class_reference() as data_module:
            torch.save(
                {
                    **checkpoint,
                    "hparams_name": "kwargs",
                    "hyper_parameters": {**settings, "data_module_cls": data_module},
                },
                part,
            )
        part.replace(target)
    except (OSError, RuntimeError) as error:
        part.unlink(missing_ok=True)
        raise UserError(
            f"{target}: cannot be written ({error}); free some space or name another file"
        ) from error
    return target


def _settings(student: Student) -> dict[str, Any]:
    sizes: Any = getattr(student.network, "config", None)
    task = student.task
    embedding: Any = getattr(student.network, "time_embedding", None)
    for wrong, what in (
        (not isinstance(sizes, NCSNppConfig), "its network is not NCSN++"),
        (
            not isinstance(embedding, DeltaEmbedding),
            "it embeds the interval otherwise; distil with --interval delta",
        ),
        (getattr(sizes, "divide_by_t", False), "its output is divided by time"),
        (getattr(sizes, "output", "velocity") != "velocity", "its network is a score"),
        (getattr(sizes, "time", "log") != "log", "its time is not logarithmic"),
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
