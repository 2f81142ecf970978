"""A teacher out of f5-tts's ``CFM``, or its transformer, that lives in the user's own process.

Nothing is imported from that package: what is needed is that the module is called as theirs is. A
student of such a teacher is trained inside the module's own code; its time embedding is replaced,
nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from mfdistill.errors import UserError
from mfdistill.systems.f5 import GUIDANCE, f5_facts
from mfdistill.teachers.field import Field


class LiveF5(nn.Module):
    """``network(z_t, t, cond) -> v`` around f5-tts's DiT, UNetT or MMDiT; ``cond`` as
    ``networks.f5.F5Network``, prompts and texts being dropped for all samples or for none, as it
    can do no other.
    """

    time_embedding_name = "transformer.time_embed"

    def __init__(self, transformer: nn.Module):
        super().__init__()
        self.transformer = transformer

    def forward(self, z_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        drop = {
            name: _one(cond.get(key), key)
            for name, key in (("drop_audio_cond", "drop_audio"), ("drop_text", "drop_text"))
        }
        # never its cache: a second text would get the first one's embedding
        return self.transformer(
            x=z_t,
            cond=cond["cond"],
            text=cond["text"],
            time=t,
            mask=cond.get("mask"),
            cache=False,
            **drop,
        )


def live_f5(module: nn.Module, guidance_strength: float | None = None) -> Field:
    """A teacher from f5-tts's ``CFM`` or its ``transformer``, which is put into evaluation mode;
    guidance as ``load_teacher`` of kind f5, but in two calls.

    Raises:
        UserError: a module of another kind.
    """
    transformer = getattr(module, "transformer", module)
    if not isinstance(transformer, nn.Module) or not hasattr(transformer, "time_embed"):
        raise UserError(
            f"{type(module).__name__}: has no transformer with a time_embed; give f5-tts's CFM or its transformer"
        )
    # what a cached call leaves behind cannot be copied, and a student is a copy
    transformer.__dict__.pop("_cache_local", None)
    strength = GUIDANCE if guidance_strength is None else float(guidance_strength)
    network = LiveF5(transformer)
    return Field(network, facts=f5_facts(network), guidance_strength=strength, packed=False)


def _one(flag: Tensor | None, name: str) -> bool:
    if flag is None:
        return False
    if bool(flag.any()) != bool(flag.all()):
        raise UserError(
            f"{name}: differs within the batch, which this module cannot do; take one value for all samples"
        )
    return bool(flag.any())
