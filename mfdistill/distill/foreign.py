"""From recordings, texts and speech tokens to the states and conditions of other systems' Mel
flows; front ends frozen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mfdistill.errors import UserError
from mfdistill.flow import uniform
from mfdistill.tasks.foreign import ForeignTask, pad_frames

if TYPE_CHECKING:
    from mfdistill.systems.cosyvoice_front import TokenFront


class ForeignBatches:
    """What ``distill.batch.make_batch`` takes in a task's place: micro-batches of
    ``data.tts.TTSSet`` to batches of an objective.

    Args:
        front: CosyVoice's frozen front end, where features are speech tokens.
        streaming_share: of batches whose condition says "streaming"; one flag per batch, seen by
            teacher and student alike.
        guidance: range of the strength that a batch's samples are drawn from, for students that are
            told it; None: not told.
        seed: of these draws.
    """

    def __init__(
        self,
        task: ForeignTask,
        front: TokenFront | None = None,
        streaming_share: float = 0.0,
        guidance: tuple[float, float] | None = None,
        seed: int = 0,
    ):
        self.task, self.front, self.streaming_share, self.guidance, self.seed = (
            task,
            front,
            streaming_share,
            guidance,
            seed,
        )
        self.config, self.path, self.sample_rate = task.config, task.path, task.sample_rate
        self.predictor = task.predictor

    @torch.no_grad()
    def batch(self, raw: Mapping[str, Any], device: torch.device | str) -> dict[str, Any]:
        """As ``distill.batch.make_batch``: "z_1" (b, n, mels) or (b, mels, n), "cond", "loss_mask",
        "index".

        Raises:
            UserError: tokens without a front end, or tokens that it does not know.
        """
        frames, index = raw["frames"].to(device), raw["index"].to(device)
        n = int(raw["frames"].max())
        valid = torch.arange(n, device=device) < frames[:, None]
        x = self._mel(raw, n).to(device) * valid[:, None]
        mask = raw["loss_mask"].to(device)
        if self.task.frames_first:
            x = x.transpose(1, 2).contiguous()
            cond = {
                "cond": torch.where(mask.bool(), torch.zeros_like(x), x),
                "text": raw["text"].to(device),
            }
            # one sample has no mask in F5-TTS's sampler, which is not the same as a mask of ones
            if len(x) > 1:
                cond["mask"] = valid
        else:
            cond = self._condition(raw, n, valid, x, device)
        if self.guidance is not None:
            low, high = self.guidance
            cond["guidance"] = (
                low + (high - low) * uniform(self.seed, index, "guidance", device=device)[:, 0]
            )
        return {"z_1": x, "cond": cond, "loss_mask": mask, "index": index}

    def _mel(self, raw: Mapping[str, Any], n: int) -> Tensor:
        """(b, mels, n), zeros where there is no audio."""
        if "mel" in raw:
            return pad_frames(raw["mel"], n)
        none = torch.zeros(self.config.mel.n_mels, 0)
        rows = zip(raw["clean"], raw["samples"].tolist(), strict=True)
        return pad_frames([self.task.mel(wave[:size]) if size else none for wave, size in rows], n)

    def _condition(
        self, raw: Mapping[str, Any], n: int, valid: Tensor, x: Tensor, device: torch.device | str
    ) -> dict[str, Tensor]:
        b, cond = len(x), {}
        streaming = False
        if self.streaming_share:
            streaming = bool(
                uniform(self.seed, raw["index"][:1], "streaming") < self.streaming_share
            )
            cond["streaming"] = torch.full((b,), streaming, device=device)
        if "mu" in raw:
            each = self.config.frames_per_mu
            spread = [mu.repeat_interleave(each, 1) for mu in raw["mu"]] if each > 1 else raw["mu"]
            cond["mu"] = pad_frames(spread, n).to(device) * valid[:, None]
            cond |= {"spks": raw["spks"].to(device)} if "spks" in raw else {}
        else:
            if self.front is None:
                raise UserError(
                    "--tts.front: no front end is there to embed the speech tokens; name CosyVoice's flow file"
                )
            lengths = raw["frames"].to(device) // self.front.ratio
            tokens = raw["tokens"].to(device)[:, : int(lengths.max())]
            nothing = x.new_zeros(b, 0, x.shape[1])
            made = self.front.condition(
                tokens, tokens[:, :0], nothing, raw["embedding"].to(device), lengths, streaming
            )
            cond |= {"mu": made["mu"] * valid[:, None], "spks": made["spks"]}
        if self.task.inputs.prompted:
            cond["cond"] = self.task.shown(x, raw["prompt"].to(device))
        return {**cond, "mask": valid[:, None].to(x.dtype)}
