"""Teachers that turn noise into a Mel spectrogram (CosyVoice, Matcha-TTS): guidance, priors, the
training pair, estimators out of files.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mfdistill.errors import UserError
from mfdistill.flow import time_per_sample
from mfdistill.tasks.foreign import foreign_task
from mfdistill.teachers.foreign import mismatches, read_foreign, walk_tensors
from mfdistill.teachers.guidance import Rule, guide, strength_of

ESTIMATOR = "decoder.estimator."
MIXER = "time_embed_mixer.weight"
_CONDITION = ("mu", "spks", "cond")  # what the null branch has zeros for; mask and streaming stay
_FIXED_FRAMES = 15000


class MelTeacher:
    """A velocity network of ``(b, mels, n)`` with CosyVoice's guidance (see ``protocol.Teacher``).

    Args:
        network: ``network(z_t, t, cond) -> v`` with ``time_embedding_name``; put into evaluation
            mode and left there.
        guidance_strength: s in ``(1 + s) v_cond - s v_null``, CosyVoice's ``inference_cfg_rate``;
            in the notation of others a scale of ``1 + s``. 0 does not compute the null branch.
            ``cond["guidance"]`` (b,) replaces it, sample by sample, where it is computed.
        config: as in a folder's ``config.json``; ``Student.from_teacher`` takes the network's name
            and sizes from it.
        fixed_noise: the prior is always the beginning of CosyVoice's one buffer (``fixed_noise``),
            so that chunks of a stream agree. For
            distillation leave it False: a student that has seen one noise only knows no other.
        temperature: the prior's standard deviation.

    ``guidance_rule`` is how the branches are combined (``teachers.guidance.guide``).
    """

    guidance_rule: Rule = "cfg"

    def __init__(
        self,
        network: nn.Module,
        guidance_strength: float = 0.0,
        config: Mapping[str, Any] | None = None,
        fixed_noise: bool = False,
        temperature: float = 1.0,
    ):
        self.network = network.eval()
        self.time_embedding: str = network.time_embedding_name  # type: ignore[assignment]
        self.guidance_strength = guidance_strength
        self.config: dict[str, Any] = dict(config or {})
        self.fixed_noise = fixed_noise
        self.temperature = temperature
        kind, bands = (
            self.config.get("kind"),
            getattr(getattr(network, "estimator", None), "bands", None),
        )
        self.task = None if kind is None or bands is None else foreign_task(kind, bands)

    @property
    def branches(self) -> int:
        """Network evaluations per velocity."""
        return 2 if self.guidance_strength else 1

    @torch.no_grad()
    def velocity(self, z_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """``v(z_t, t)``; z_t (b, mels, n), t (b,), (1,) or 0-d. With guidance both branches are one
        call of 2 b samples.
        """
        b, s = z_t.shape[0], self.guidance_strength
        t = time_per_sample(t, z_t)
        if not s:
            return self.network(z_t, t, cond)
        v_cond, v_null = self.network(
            torch.cat([z_t, z_t]), torch.cat([t, t]), _with_null(cond, b)
        ).chunk(2)
        mask = cond.get("mask")
        valid = None if mask is None else mask.reshape(b, 1, -1).to(v_cond)
        return guide(v_cond, v_null, strength_of(cond, s), self.guidance_rule, valid)

    def prior(self, cond: Mapping[str, Tensor], generator: torch.Generator | None = None) -> Tensor:
        """``z_0`` (b, mels, n) in the shape of ``cond["mu"]``: fresh noise, or the fixed one.

        Raises:
            UserError: fixed noise for more frames than its buffer has.
        """
        mu = cond["mu"]
        if self.fixed_noise:
            return fixed_noise(mu.shape[-1], mu.shape[1]).to(mu).expand_as(mu) * self.temperature
        device = generator.device if generator is not None else mu.device
        return (
            torch.randn(mu.shape, generator=generator, device=device, dtype=mu.dtype).to(mu.device)
            * self.temperature
        )

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> MelTeacher:
        self.network.to(device=device, dtype=dtype)
        return self


def _with_null(cond: Mapping[str, Tensor], b: int) -> dict[str, Tensor]:
    """The condition of 2 b samples, the second half null."""
    out = {}
    for key, value in cond.items():
        if key in _CONDITION:
            out[key] = torch.cat([value, torch.zeros_like(value)])
        else:  # one value for all samples stays one
            out[key] = torch.cat([value, value]) if value.ndim and value.shape[0] == b else value
    return out


@lru_cache(maxsize=2)
def _noise_buffer(mels: int) -> Tensor:
    return torch.randn(1, mels, _FIXED_FRAMES, generator=torch.Generator().manual_seed(0))


def fixed_noise(frames: int, mels: int = 80) -> Tensor:
    """CosyVoice's noise of inference (1, mels, frames): the beginning of ``randn(1, 80, 15000)`` at
    seed 0, on the CPU.

    Raises:
        UserError: more frames than the buffer has (300 s).
    """
    if frames > _FIXED_FRAMES:
        raise UserError(
            f"fixed noise: {frames} frames, but CosyVoice's buffer has {_FIXED_FRAMES}; split the text, or use fresh noise"
        )
    return _noise_buffer(mels)[:, :, :frames]


def training_pair(
    z_1: Tensor, noise: Tensor, t: Tensor, sigma_min: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """State ``(1 - (1 - sigma_min) t) noise + t z_1`` and target ``z_1 - (1 - sigma_min) noise`` of
    CosyVoice's and Matcha's training (sigma_min 1e-6 and 1e-4); z_1, noise (b, mels, n), t (b,).
    """
    time = t.reshape(-1, 1, 1)
    return (1 - (1 - sigma_min) * time) * noise + time * z_1, z_1 - (1 - sigma_min) * noise


def masked_error(estimate: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """CosyVoice's loss: squared error per valid value, 0-d; estimate, target (b, mels, n), mask (b,
    1, n).
    """
    return ((estimate - target) * mask).square().sum() / (mask.sum() * target.shape[1])


def checkpoint_file(place: Path) -> Path:
    """The file of a model folder (``flow.pt`` or ``flow.safetensors``), or ``place`` itself.

    Raises:
        UserError: a folder with neither.
    """
    if not place.is_dir():
        return place
    for name in ("flow.pt", "flow.safetensors"):
        if (place / name).is_file():
            return place / name
    raise UserError(
        f"{place}: has neither flow.pt nor flow.safetensors; name the checkpoint itself"
    )


def weights_of(config: Mapping[str, Any] | None) -> tuple[dict[str, Any], str]:
    """Sizes, and which weights are asked for: "ema" (moving averages, where a file has them), or
    "raw".

    Raises:
        UserError: another word.
    """
    sizes = dict(config or {})
    weights = sizes.pop("weights", "ema")
    if weights not in ("ema", "raw"):
        raise UserError(f"weights {weights!r:.40} is not one of 'ema', 'raw' (--sizes)")
    return sizes, weights


def flow_tensors(path: Path, weights: str = "ema") -> dict[str, Tensor]:
    """The tensors of a flow file by the names of CosyVoice's ``flow.pt`` (``decoder.estimator.*``
    and the front end), without what stands before them in other files (``flow.``, a section of a
    training file); the file may also hold a bare estimator. Where it has moving averages and raw
    weights, ``weights`` ("ema" or "raw") chooses.

    Raises:
        UserError: unreadable, no such estimator in it, or no raw weights where they are asked for.
    """
    file = read_foreign(path)
    found = dict(walk_tensors(file.values))
    prefixes = sorted(
        {name[: name.index(ESTIMATOR)] for name in found if ESTIMATOR in name}, key=len
    )
    averaged = [prefix for prefix in prefixes if "ema" in re.split(r"[._]", prefix)]
    raw = [prefix for prefix in prefixes if prefix not in averaged]
    if averaged and not raw and weights == "raw":
        raise UserError(
            f"{path}: has moving averages only; ask for weights 'ema' (in --sizes), or leave it out"
        )
    if prefixes:
        prefixes = (averaged or raw) if weights == "ema" else raw
        return {
            name.removeprefix(prefixes[0]): value
            for name, value in found.items()
            if name.startswith(prefixes[0])
        }
    if any(name.startswith(("time_mlp.", "time_embed.")) for name in found):
        return {ESTIMATOR + name: value for name, value in found.items()}
    raise UserError(f"{path}: has no tensors named {ESTIMATOR}*; {looks_like(file.names())}")


def estimator_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of ``flow_tensors`` that are the estimator's, by its own names."""
    return {
        name.removeprefix(ESTIMATOR): value
        for name, value in tensors.items()
        if name.startswith(ESTIMATOR)
    }


def load_estimator(
    module: nn.Module, tensors: Mapping[str, Tensor], path: str | Path, kind: str
) -> None:
    """Load weights strictly; ``tensors`` by the names of ``module``; errors as
    ``check_estimator``.
    """
    check_estimator(module.state_dict(), tensors, path, kind)
    module.load_state_dict(dict(tensors))


def check_estimator(
    own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: str | Path, kind: str
) -> None:
    """See that a file's tensors are those of a network, ``own``.

    Raises:
        UserError: names or shapes differ; tells the first of them and what kind of file it looks
            like.
    """
    wrong = mismatches(own, tensors)
    if wrong:
        raise UserError(
            f"{path}: its weights do not fit kind '{kind}' and these sizes: {wrong[0]} ({len(wrong)} such); "
            f"{looks_like([ESTIMATOR + name for name in tensors])}; give its sizes in config (--sizes), or the right kind"
        )


def looks_like(names: Collection[str]) -> str:
    """What the names of tensors say about a file, for messages."""
    from mfdistill.teachers.load import recognise_tensors

    kind = recognise_tensors(names)
    return f"it looks like kind {kind}" if kind else "it looks like a file of another program"


def is_cosyvoice2(names: Collection[str]) -> bool:
    """CosyVoice 2's flow: the causal U-Net (layer norms), one time."""
    return _has(names, "down_blocks.0.0.block1.block.2.weight") and not is_chatterbox(names)


def is_chatterbox(names: Collection[str]) -> bool:
    """A U-Net with the mixer of two times."""
    return _has(names, MIXER) and not _has(names, "input_embed.proj.weight")


def is_matcha(names: Collection[str]) -> bool:
    """Matcha-TTS's decoder: group norms; CosyVoice 1 has them too, and speech tokens."""
    return _has(names, "down_blocks.0.0.block1.block.1.weight") and not any(
        "input_embedding.weight" in name for name in names
    )


def _has(names: Collection[str], leaf: str) -> bool:
    return any(name == leaf or name.endswith(ESTIMATOR + leaf) for name in names)
