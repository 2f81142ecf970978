"""Critics beside a student: what they are shown, what they and the student minimise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mfdistill.distill.finishing.config import CriticConfig
from mfdistill.distill.objectives.base import Batch, Logs
from mfdistill.distill.players import Player
from mfdistill.flow import interpolate, noise, normal, uniform
from mfdistill.networks.critics import (
    SIZES,
    Judgement,
    MelCritic,
    WaveCritics,
    critic_loss,
    deceit_loss,
    matching_loss,
)
from mfdistill.tasks import Task


class Adversary(nn.Module):
    """Critics for the features of ``task``: of their signals, or, for Mel tasks, of their states
    with noise beside the condition.

    ``seed`` is that of the weights and of all draws.
    """

    def __init__(self, task: Task, config: CriticConfig, seed: int = 0):
        super().__init__()
        self.task: Any = task
        self.config, self.seed = config, seed
        sizes = SIZES[config.size]
        with torch.random.fork_rng(devices=[]):  # nothing else draws differently beside critics
            torch.manual_seed(seed)
            self.critics: nn.Module = (
                MelCritic(sizes, ["y", "prompt", "mask", *(["mu"] if self.task.voiced else [])])
                if not task.restores
                else WaveCritics(sizes, task.sample_rate)
            )

    @property
    def player(self) -> Player:
        config = self.config
        return Player(self.critics, config.lr, (config.beta, 0.99), config.grad_clip)

    def forward(self, z_1: Tensor, batch: Batch, deceive: bool) -> tuple[Tensor, Tensor, Logs]:
        """What the critics minimise and what the student minimises, () each, for what the student
        reached, features ``z_1``: the one with gradients of the critics' weights only, the other,
        where ``deceive`` says so, of ``z_1`` only.
        """
        config = self.config
        with torch.autocast(z_1.device.type, enabled=False):
            real, fake = self._shown(z_1.float(), batch)
            on_real = self._judge(real.requires_grad_(config.r1 > 0), batch)
            critic = critic_loss(config.loss, on_real, self._judge(fake.detach(), batch))
            logs = {"critic": critic.detach()}
            if config.r1:
                penalty = _squared_slope(on_real, real)
                critic = critic + config.r1 / 2 * penalty
                logs["r1"] = penalty.detach()
            if not deceive:
                return critic, torch.zeros_like(critic), logs
            weights = {name: value.detach() for name, value in self.critics.named_parameters()}
            on_fake = self._judge(fake, batch, weights)
            deceit = deceit_loss(config.loss, on_fake)
            matching = matching_loss(on_real, on_fake)
            logs |= {"deceit": deceit.detach(), "matching": matching.detach()}
            return critic, deceit + config.matching * matching, logs

    def weight(self, step: int) -> float:
        """Of the student's loss at an update: 0 in the warm-up, then rising."""
        done = step - self.config.warmup
        share = 0.0 if done < 0 else min(1.0, (done + 1) / max(1, self.config.ramp))
        return self.config.weight * share

    def _shown(self, z_1: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Real and generated ones, with the same noise: signals (b, s), or states (b, 1, mels, n)
        at random times of the path, generated only where frames count.
        """
        x, index = batch["z_1"].float(), batch["index"]
        if not self.task.restores:
            mask = batch.get("loss_mask")
            z_1 = z_1 if mask is None else torch.where(mask > 0, z_1, x)
            eps = noise(self.seed, index, "critic-noise", x.shape[1:], x.device)
            z_0 = replace(self.task.path, temperature=1.0).prior(batch["cond"], eps)
            t = self._times(batch, x.device)
            return interpolate(z_0, x, t), interpolate(z_0, z_1, t)
        length = (x.shape[-1] - 1) * self.task.config.stft.hop
        with torch.no_grad():
            real = self.task.waveform(x, length)
        fake = self.task.waveform(z_1, length)
        if self.config.noise:
            level = self.config.noise * real.square().mean(1, keepdim=True).sqrt()
            eps = level * normal(self.seed, index, "critic-noise", real.shape[1:], real.device)
            real, fake = real + eps, fake + eps
        return real, fake

    def _times(self, batch: Batch, device: Any) -> Tensor:
        return uniform(self.seed, batch["index"], "critic-times", device=device)[:, 0]

    def _judge(
        self, shown: Tensor, batch: Batch, weights: Mapping[str, Tensor] | None = None
    ) -> Judgement:
        given: tuple[Any, ...] = (shown,)
        if not self.task.restores:
            given = (shown, self._times(batch, shown.device), batch["cond"])
        if weights is None:
            return self.critics(*given)
        return functional_call(self.critics, dict(weights), given)


def _squared_slope(judged: Judgement, real: Tensor) -> Tensor:
    """Mean over samples of ``|d score / d real|^2``, the score the mean over parts and positions
    (R1, arXiv 1801.04406).
    """
    total = torch.stack([score.flatten(1).mean(1) for score, _ in judged]).mean(0).sum()
    (slope,) = torch.autograd.grad(total, real, create_graph=True)
    return slope.square().flatten(1).sum(1).mean()
