"""Settings of the objectives, without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from mfdistill.errors import UserError
from mfdistill.flow.config import IntervalConfig, Solver

MOST_SUBSTEPS = 1000


@dataclass(frozen=True)
class IntegralConfig:
    """Objective ``integral``."""

    substeps: int = 4
    """Equal steps of the teacher inside [t, r]."""
    solver: str = "midpoint"
    """Of those steps, a method or a composition such as 2xmidpoint+1xeuler@0.2; at equal cost
    midpoint is far less biased than Euler.
    """
    interval: IntervalConfig = field(default_factory=IntervalConfig)
    targets_per_rollout: int = 1
    """Targets taken from each rollout. The first spans all of [t, r]; the others span two random
    times of its grid, which costs the teacher nothing.
    """
    state: Literal["data", "rollout"] = "data"
    """z_t from the path through real data, or reached by the teacher from fresh noise (as many
    substeps again; needs no clean data).
    """
    spectral: float = 0.0
    """Weight of a magnitude loss on what the student reaches at r = 1 (audio.spectral_loss); 0 =
    none. A short student cannot follow the teacher in every phase, and the mean square alone lets
    it fade where it is unsure.
    """
    spectral_target: Literal["data", "teacher"] = "data"
    """Compared with the clean speech, or with what the teacher reaches."""
    teacher_precision: Literal["weights", "run", "bf16"] = "weights"
    """The teacher's evaluations in the precision of its weights, or in --mixed-precision: with
    bf16 half the time on a processor that has it, and targets that are about 0.5 % off. 'bf16' also
    holds its matrices in bf16, which halves the memory of the teacher.
    """
    teacher_rows: int = 0
    """The teacher is evaluated on so many utterances of a micro-batch at once, for less memory; 0
    is all.
    """

    def __post_init__(self) -> None:
        if self.spectral < 0:
            raise UserError(f"--integral.spectral {self.spectral}: must be 0 or more")
        if self.spectral_target not in ("data", "teacher"):
            raise UserError(
                f"--integral.spectral-target {self.spectral_target}: is not one of data, teacher"
            )
        if self.teacher_precision not in ("weights", "run", "bf16"):
            raise UserError(
                f"--integral.teacher-precision {self.teacher_precision}: is not one of weights, run, bf16"
            )
        if self.teacher_rows < 0:
            raise UserError(f"--integral.teacher-rows {self.teacher_rows}: must be 0 or more")
        for name in ("substeps", "targets_per_rollout"):
            if not 1 <= getattr(self, name) <= MOST_SUBSTEPS:
                raise UserError(
                    f"--integral.{name.replace('_', '-')} {getattr(self, name)}: must lie between 1 and {MOST_SUBSTEPS}"
                )
        if self.solver not in get_args(Solver):
            from mfdistill.flow import tableau

            if abs(sum(tableau(self.solver).b) - 1) > 1e-6:
                raise UserError(
                    f"--integral.solver {self.solver}: stops before the end of its step; let its fractions sum to 1"
                )

    def check_adapter(self, adapter: bool) -> None:
        """Raise ``UserError`` where a student of low-rank deltas would lose precision."""
        if adapter and self.teacher_precision == "bf16":
            raise UserError(
                "--integral.teacher-precision bf16: a student of --lora.rank computes with the teacher's own weights, which it "
                "would round; take 'run'"
            )


@dataclass(frozen=True)
class MeanFlowConfig:
    """Objective ``meanflow``; names with ``mf_`` are MeanFlowSE's, the defaults are not (its recipe
    is regression in disguise).
    """

    teacher_free: bool = False
    """v is the conditional velocity ``z_1 - z_0`` instead of the teacher's."""
    mf_first_order_coef: float = 1.0
    """c of the identity; only 1 has the average velocity as its fixed point (MeanFlowSE: 0.5)."""
    loss_type: Literal["mse", "mae"] = "mse"
    """Mean over the bins of ``|error|^2`` or of ``|error|`` (MeanFlowSE: half their sum)."""
    mf_jvp_impl: Literal[
        "forward", "forward-graph", "double-backward", "central", "fd", "autograd", "auto"
    ] = "forward"
    """How the total derivative is taken (see ``flow.total_derivative``). MeanFlowSE's names: "fd"
    (central, its step is ``mf_jvp_eps`` times the mean size of state and velocity), "autograd"
    (double-backward), "auto" (forward, or fd where torch cannot; it says which).
    """
    mf_jvp_eps: float = 1e-4
    """Step of "central" and "fd" (MeanFlowSE: 1e-3)."""
    mf_jvp_chunk: int = 0
    """Samples whose derivative is taken at once, 0 = all; saves memory, changes nothing else."""
    mf_jvp_clip: float = 0.0
    """Largest norm of one sample's derivative over all bins, 0 = no clip (MeanFlowSE: 5, which
    binds everywhere).
    """
    mf_weight_final: float = 1.0
    """w of ``(1 - w) L_cfm + w L_mf`` (MeanFlowSE: 0.25)."""
    mf_warmup_frac: float = 0.0
    """Share of the run in which w rises from 0."""
    mf_skip_weight_thresh: float = 0.0
    """Below this w the loss is L_cfm alone, at full weight."""
    mf_r_equals_t_prob: float = 0.1
    """Share of samples with r = t."""
    mf_delta_gamma_start: float = 1.0
    """r = t + U^gamma (1 - t): gamma at the start of the run; short intervals first (MeanFlowSE:
    8); 1 and 1 = off.
    """
    mf_delta_gamma_end: float = 1.0
    """gamma after ``mf_delta_warmup_frac`` of the run."""
    mf_delta_warmup_frac: float = 0.7
    """Share of the run over which gamma moves."""
    T_rev: float = 1.0
    """Intervals start at ``1 - T_rev`` or later."""
    t_eps: float = 0.0
    """Intervals end at ``1 - t_eps`` (MeanFlowSE: 0.03, and yet it samples to 1)."""
    time_kind: Literal["uniform", "logit-normal", "start-gap"] = "uniform"
    """Distribution of (t, r), as in ``flow.IntervalConfig`` (MeanFlowSE: "start-gap")."""
    time_mean: float = -0.4
    """Of the logit-normal."""
    time_std: float = 1.0
    """Of the logit-normal."""
    p_full: float = 0.0
    """Share of whole intervals (0, 1)."""
    min_gap: float = 1e-3
    """Smallest r - t of an interval that is no anchor."""
    tangent_normalise: bool = False
    """Divide each sample's residual by its root mean square plus ``tangent_normalise_eps`` (sCM,
    arXiv 2410.11081). Moves the fixed point where v is noisy (teacher_free).
    """
    tangent_normalise_eps: float = 0.1
    tangent_warmup_frac: float = 0.0
    """Share of the run in which c rises from 0."""
    adaptive_power: float = 0.0
    """p of the weight ``1 / (error + adaptive_eps)^p`` per sample; 0 = plain mean square."""
    adaptive_eps: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 <= self.mf_weight_final <= 1:
            raise UserError(
                f"meanflow mf_weight_final: {self.mf_weight_final} must lie between 0 and 1"
            )
        for name in (
            "mf_jvp_clip",
            "mf_jvp_chunk",
            "mf_warmup_frac",
            "tangent_warmup_frac",
            "adaptive_power",
        ):
            if getattr(self, name) < 0:
                raise UserError(f"meanflow {name}: {getattr(self, name)} must be 0 or more")

    @property
    def interval(self) -> IntervalConfig:
        return IntervalConfig(
            kind=self.time_kind,
            mean=self.time_mean,
            std=self.time_std,
            p_equal=self.mf_r_equals_t_prob,
            p_full=self.p_full,
            anneal_start=self.mf_delta_gamma_start,
            anneal_end=self.mf_delta_gamma_end,
            anneal_fraction=self.mf_delta_warmup_frac,
            min_gap=self.min_gap,
            t_max=1 - self.t_eps,
            t_min=1 - self.T_rev,
        )
