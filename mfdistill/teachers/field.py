"""The teacher: a frozen velocity field on our clock (t = 0 prior, t = 1 data), with what is
declared of it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mfdistill.errors import UserError
from mfdistill.flow import time_per_sample
from mfdistill.networks.memory import frame_by_frame
from mfdistill.plain import Plain, Section
from mfdistill.systems.base import FieldFacts, both_branches, own_facts
from mfdistill.tasks import Task
from mfdistill.tasks.mel_prior import mask_like
from mfdistill.teachers.guidance import Rule, guide, strength_of

_NONE = 1e-5  # a guidance strength of smaller magnitude is none, as in F5-TTS


class Field:
    """A velocity field; not an ``nn.Module``, so that it is never optimised, wrapped or saved with
    a student.

    Args:
        network: ``network(z_t, t, cond) -> v``, the velocity without guidance; ``t`` is (b,), or
            (b, 2) stacked [t, r] once the module that embeds time was replaced. Put into evaluation
            mode and left there.
        task: what it is for, and its prior; None where a file does not say it.
        facts: what is declared of it; None: as ``systems.base.own_facts``.
        config: as in a folder's ``config.json``; ``Student.from_teacher`` takes the network's name
            and sizes from it.
        guidance_strength: s in ``v_cond + s (v_cond - v_null)``; a *scale* of others is ``1 + s``.
            Without it the null branch is not computed; with it ``cond["guidance"]`` (b,) replaces
            it, sample by sample.
        packed: both branches in one call of 2 b samples; False: two calls, which need less memory.
        streaming: in its streaming form, frame by frame with a state; the numbers are the same to
            rounding.
        time_embedding: dotted name of the module inside ``network`` that maps (b,) times to (b, d);
            None: what the network says itself (``time_embedding_name``).

    ``guidance_rule`` is how the branches are combined (``teachers.guidance.guide``).

    Raises:
        UserError: guidance without a null condition, or a network without the time embedding.
    """

    def __init__(
        self,
        network: nn.Module,
        task: Task | None = None,
        config: Section | None = None,
        streaming: bool = False,
        *,
        facts: FieldFacts | None = None,
        guidance_strength: float = 0.0,
        guidance_rule: Rule = "cfg",
        packed: bool = True,
        time_embedding: str | None = None,
    ):
        self.network = network.eval()
        self.time_embedding: str = time_embedding or str(network.time_embedding_name)
        self.task = task
        self.facts = own_facts(network) if facts is None else facts
        self.config: Plain = dict(config or {})
        self.guidance_strength, self.packed = guidance_strength, packed
        self.guidance_rule: Rule = guidance_rule
        self.streaming = streaming
        if self.branches > 1 and self.facts.null is None:
            raise UserError(
                f"trained without a null condition, so guidance strength {guidance_strength} has no meaning; leave it out"
            )

    @property
    def branches(self) -> int:
        """Network evaluations per velocity: 2 with guidance."""
        return 1 if abs(self.guidance_strength) < _NONE else 2

    @torch.no_grad()
    def velocity(self, z_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """``v(z_t, t)`` in the shape of ``z_t`` (b, ...), guidance applied, without gradient; t
        (b,), (1,) or 0-d. A predictor in front is run where ``cond`` lacks its estimate.
        """
        t = time_per_sample(t, z_t)
        if self.task is not None:
            cond = self.task.completed(dict(cond))
        if self.streaming:
            return frame_by_frame(self.network, z_t, t, cond)
        if self.branches == 1:
            return self.network(z_t, t, cond)
        assert self.facts.null is not None
        b = z_t.shape[0]
        given, null = self.facts.null(cond, t)
        if self.packed:
            v_cond, v_null = self.network(
                torch.cat([z_t, z_t]), torch.cat([t, t]), both_branches(given, null, b)
            ).chunk(2)
        else:
            v_cond, v_null = self.network(z_t, t, cond), self.network(z_t, t, null)
        strength, mask = strength_of(cond, self.guidance_strength), mask_like(cond, v_cond)
        if self.facts.weight is not None:
            strength = self.facts.weight(t) * strength
        return guide(v_cond, v_null, strength, self.guidance_rule, mask, self.facts.unit)

    def guide_by(
        self,
        strength: float | None,
        told: tuple[float, float] | None = None,
        rule: Rule = "cfg",
    ) -> None:
        """Change its guidance: ``strength`` (None: as it is), or, for a student that is ``told`` a
        strength out of a range, that of each sample's condition.

        Raises:
            UserError: trained without a null condition.
        """
        if (strength or told) and self.facts.null is None:
            raise UserError(
                "this teacher was trained without a null condition, so guidance has no meaning; leave it out"
            )
        self.guidance_rule = rule
        if told is not None:
            # the null branch is computed; every sample's own strength is in its condition
            self.guidance_strength = told[1]
        elif strength is not None:
            self.guidance_strength = strength

    def prior(self, cond: Mapping[str, Tensor], generator: torch.Generator | None = None) -> Tensor:
        """``z_0``, a draw of the task's prior.

        Raises:
            UserError: without a task there is none.
        """
        if self.task is None:
            raise UserError(
                "this teacher has no task, so it has no prior: build it with one, or load its file with "
                "config={'sigma_y': ...}, the prior's spread that it does not say"
            )
        return self.task.prior(cond, generator)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Field:
        """Move the weights in place (Accelerate does not know of them); returns itself."""
        self.network.to(device=device, dtype=dtype)
        if self.task is not None:
            self.task.to(device, dtype)
        return self
