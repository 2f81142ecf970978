"""Students that are trained without a teacher, and the recipe of MeanFlowSE as a preset of
student-distill. Without torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from mfdistill.commands.options import Corpus, ValidOptions
from mfdistill.distill.objectives.config import MeanFlowConfig
from mfdistill.distill.settings import TrainConfig
from mfdistill.errors import UserError
from mfdistill.networks.config import CompactSizes
from mfdistill.networks.sizes import Backbone, UNetSizes
from mfdistill.plain import Plain

if TYPE_CHECKING:
    from mfdistill.students import Student
    from mfdistill.students.student import Interval

MEANFLOWSE = "meanflowse-vbdmd"


@dataclass(frozen=True)
class ScratchOptions:
    """What a student is where no --teacher says it (--objective meanflow
    --meanflow.teacher-free).
    """

    task: Literal["enhance", "vocode", "phase", "dereverb", "codec", "bandwidth"] = "enhance"
    sample_rate: int = 16000
    features: Literal["own", "meanflowse"] = "own"
    """Of the task's preset, or MeanFlowSE's front end and prior (enhance at 16 kHz)."""
    backbone: Backbone = "compact"
    network: CompactSizes = field(default_factory=CompactSizes)
    unet: UNetSizes = field(default_factory=UNetSizes)


def meanflowse_preset() -> Plain:
    """Fields of ``StudentDistill`` for MeanFlowSE's recipe (arXiv 2509.14858 and its program): see
    docs/meanflowse.md.
    """
    return {
        "preset": MEANFLOWSE,
        "objective": "meanflow",
        "interval": "delta",
        "scratch": ScratchOptions(
            features="meanflowse",
            backbone="ncsnpp",
            unet=UNetSizes(size="published", fourier_scale=16.0, time="log"),
        ),
        "data": Corpus(source="VoiceBank-DEMAND", crop_s=255 * 128 / 16000, gain_db=(0.0, 0.0)),
        "training": TrainConfig(
            out="runs/meanflowse",
            epochs=150,
            batch_size=8,
            lr=1e-4,
            schedule="constant",
            warmup=0,
            weight_decay=0.0,
            betas=(0.9, 0.999),
            grad_clip=0.0,
            ema_decay=0.999,
            valid_epochs=1,
            best_metric="pesq_1",
        ),
        "valid": ValidOptions(valid_files=10, valid_nfe=(1,)),
        "meanflow": MeanFlowConfig(
            teacher_free=True,
            mf_first_order_coef=0.5,
            mf_jvp_impl="fd",
            mf_jvp_eps=1e-3,
            mf_jvp_chunk=1,
            mf_jvp_clip=5.0,
            mf_weight_final=0.25,
            mf_warmup_frac=0.5,
            mf_skip_weight_thresh=0.05,
            mf_r_equals_t_prob=0.1,
            mf_delta_gamma_start=8.0,
            mf_delta_gamma_end=1.0,
            mf_delta_warmup_frac=0.7,
            T_rev=1.0,
            t_eps=0.03,
            time_kind="start-gap",
            min_gap=1e-6,
        ),
    }


def scratch_student(
    scratch: ScratchOptions,
    data: Corpus,
    training: TrainConfig,
    causal: bool,
    nfe: int,
    interval: Interval,
) -> Student:
    """An untrained student, sized by its task and its training data.

    Raises:
        UserError: options that do not fit each other, bad data.
    """
    import torch

    from mfdistill.commands.begun import measured
    from mfdistill.commands.options import TaskOptions, task_config
    from mfdistill.config import to_dict
    from mfdistill.data import open_train
    from mfdistill.distill.setup import fit_network, fit_task
    from mfdistill.networks import NCSNppConfig, build_network
    from mfdistill.students import Student
    from mfdistill.systems.enhancement import task_of
    from mfdistill.tasks import get_task

    if scratch.features == "meanflowse":
        if scratch.task != "enhance" or scratch.sample_rate != 16000:
            raise UserError(
                "--scratch.features meanflowse: is for --scratch.task enhance at 16000 Hz; take 'own'"
            )
        config = task_of("meanflowse", NCSNppConfig(), {}, "--scratch.features")
    else:
        config = task_config(scratch.task, scratch.sample_rate, TaskOptions(), causal)
    task = get_task(fit_task(config, scratch.backbone))
    dataset = open_train(data, task.degradation, task.sample_rate)
    sizes = fit_network(
        task, dataset, scratch.backbone, scratch.network, scratch.unet, measured(training)
    )
    torch.manual_seed(training.seed)
    network = build_network(scratch.backbone, sizes)
    description = {"name": scratch.backbone, "config": to_dict(sizes)}
    name: str = network.time_embedding_name  # type: ignore[assignment]
    return Student(network, name, task, nfe, description, None, interval).train()
