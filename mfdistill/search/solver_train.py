"""Training a learned solver behind a frozen teacher."""

from __future__ import annotations

from torch import Tensor, nn

from mfdistill.flow import noise
from mfdistill.plain import Batch
from mfdistill.search.config import SolverConfig
from mfdistill.search.learned import LearnedSolver, sample_learned
from mfdistill.search.solver_losses import WaveLoss, log_stft_loss, pesq_loss, speech_feature_loss
from mfdistill.tasks import Restoration
from mfdistill.teachers.field import Field

STARTS = {1: "euler", 2: "midpoint", 3: "ralston3", 4: "rk4_3over8", 5: "rk5_ralston3_ralston2"}
"""Methods that training starts from, by their evaluations; the last two are the published ones."""


def start(config: SolverConfig) -> LearnedSolver:
    """The solver that training begins with: near the classical method of as many stages, or near
    equal Euler steps.
    """
    return LearnedSolver.from_tableau(
        config.start or STARTS.get(config.nfe, f"{config.nfe}xeuler"), config.b_min, config.c_max
    )


class SolverObjective(nn.Module):
    """``log_stft L_log-STFT + speech L_speech + pesq L_PESQ + penalty``, of the waveform that one
    step of the solver from 0 to 1 makes, against the clean one made again from its features.
    Gradients go through all evaluations; the network stays as it is.

    Attributes:
        model: the solver, which is trained. teacher: not a module, so that it is neither optimised
            nor saved.
    """

    def __init__(
        self,
        solver: LearnedSolver,
        teacher: Field,
        task: Restoration,
        config: SolverConfig,
        seed: int = 0,
    ):
        super().__init__()
        self.model = solver
        self.teacher, self.task, self.config, self.seed = teacher, task, config, seed
        teacher.network.requires_grad_(False)
        self.losses: dict[str, tuple[float, WaveLoss]] = {
            "log_stft": (
                config.log_stft,
                lambda made, clean: log_stft_loss(made, clean, task.sample_rate),
            )
        }
        if config.speech_model is not None:
            self.losses["speech"] = (
                config.speech,
                speech_feature_loss(config.speech_model, task.sample_rate, config.speech_layer),
            )
        if config.pesq > 0:
            self.losses["pesq"] = config.pesq, pesq_loss(task.sample_rate)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        x, cond = batch["z_1"].float(), batch["cond"]
        eps = noise(self.seed, batch["index"], "noise", x.shape[1:], device=x.device, dtype=x.dtype)
        z_1 = sample_learned(
            lambda z, t: self.teacher.network(z, t, cond),
            self.task.path.prior(cond, eps),
            self.model,
        )
        length = (x.shape[-1] - 1) * self.task.config.stft.hop
        made, clean = (self.task.waveform(z, length) for z in (z_1, x))
        parts = {name: loss(made, clean) for name, (_, loss) in self.losses.items()}
        penalty = self.model.penalty(self.config.a_min, self.config.a_max, self.config.penalty)
        total = sum(
            (weight * parts[name] for name, (weight, _) in self.losses.items()), start=penalty
        )
        logs = {name: part.detach() for name, part in parts.items()} | {"penalty": penalty.detach()}
        return total, logs | {"loss": total.detach()}
