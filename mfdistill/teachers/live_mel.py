"""Teachers from a CosyVoice, Chatterbox or their kin in the user's own process: nothing is
rebuilt, its module is copied and called.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mfdistill.errors import UserError
from mfdistill.systems.mel_flow import mel_facts
from mfdistill.tasks import Task
from mfdistill.teachers.field import Field


def live_mel_flow(
    module: nn.Module,
    guidance_strength: float | None = None,
    streaming: bool = False,
    task: Task | None = None,
) -> Field:
    """A teacher from a module of theirs: a flow (``.decoder.estimator``), a decoder
    (``.estimator``) or the estimator.

    The estimator is called as ``estimator(x, mask, mu, t, spks, cond)``, with ``streaming`` where
    it takes that; the user's is not touched.

    Args:
        guidance_strength: as ``Field``'s; None is the decoder's ``inference_cfg_rate``, 0
            where it has none.
        task: of its Mel spectrogram and prior (``systems.table.mel_task``), which a student
            that is saved needs.

    Raises:
        UserError: no estimator that embeds its time as theirs do, one that is a student, or
            streaming without that argument.
    """
    decoder = getattr(module, "decoder", module)
    estimator = getattr(decoder, "estimator", decoder)
    strength = (
        getattr(decoder, "inference_cfg_rate", 0.0)
        if guidance_strength is None
        else guidance_strength
    )
    name = type(estimator).__name__
    if getattr(estimator, "meanflow", False):
        raise UserError(
            f"{name}: is a student of two times; load its file with load_student(kind='chatterbox')"
        )
    network = LiveEstimator(copy.deepcopy(estimator))
    if streaming and not network.takes_streaming:
        raise UserError(
            f"{name}: takes no 'streaming', so it has no streaming form here; leave it out"
        )
    network.streaming = streaming
    return Field(network, task, facts=mel_facts(network), guidance_strength=float(strength))


class LiveEstimator(nn.Module):
    """``network(z_t, t, cond)`` around an estimator of theirs; **changed in place** where it has
    two modules for time.

    Its state-dict names below ``estimator.`` stay the official ones, so that students can be
    exported.
    """

    def __init__(self, estimator: nn.Module):
        super().__init__()
        self.estimator = estimator
        self.streaming = False
        self.chunks = self.takes_streaming = (
            "streaming" in inspect.signature(estimator.forward).parameters
        )
        if hasattr(estimator, "time_mlp") and hasattr(estimator, "time_embeddings"):
            estimator.time_mlp = _Fused(estimator.time_embeddings, estimator.time_mlp)  # type: ignore[arg-type]
            estimator.time_embeddings = nn.Identity()
            self.time_embedding_name = "estimator.time_mlp"
        elif hasattr(estimator, "time_embed"):
            self.time_embedding_name = "estimator.time_embed"
        else:
            raise UserError(
                f"{type(estimator).__name__}: has neither time_mlp with time_embeddings nor time_embed, so it is no estimator "
                "of CosyVoice, Chatterbox or their kin"
            )

    def forward(self, z_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """z_t (b, mels, n), t (b,) or (b, 2) stacked; ``cond`` as
        ``networks.mel_unet.MelUNet``'s, all parts given.

        Raises:
            UserError: ``streaming`` differs within the batch.
        """
        mask = cond.get("mask")
        mask = z_t.new_ones(z_t.shape[0], 1, z_t.shape[2]) if mask is None else mask.to(z_t.dtype)
        streaming = torch.as_tensor(cond.get("streaming", self.streaming))
        if bool(streaming.any()) != bool(streaming.all()):
            raise UserError(
                "streaming: differs within the batch, which a live module cannot do; take one value for all samples"
            )
        options = {"streaming": bool(streaming.any())} if self.takes_streaming else {}
        return self.estimator(
            z_t, mask, cond["mu"], t, cond.get("spks"), cond.get("cond"), **options
        )


class _Fused(nn.Module):
    """t (b,) -> (b, width) by two modules of theirs; the names of the second's weights stay."""

    def __init__(self, features: nn.Module, network: nn.Module):
        super().__init__()
        self.parts = [features, network]  # no submodules themselves, the second's children are
        for name, child in network.named_children():
            self.add_module(name, child)

    def forward(self, t: Tensor) -> Tensor:
        features, network = self.parts
        dtype = next(network.parameters()).dtype
        return network(features(t.to(torch.promote_types(t.dtype, torch.float32))).to(dtype))
