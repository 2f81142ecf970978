"""F5-TTS checkpoints (DiT and UNetT, arXiv 2410.06885) as teachers: guidance, prior, and weights
out of its files.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mfdistill.config import from_dict, to_dict
from mfdistill.errors import UserError
from mfdistill.flow import time_per_sample
from mfdistill.networks.dit_config import F5Config, F5UNetTConfig
from mfdistill.networks.f5 import F5Network
from mfdistill.tasks.foreign import foreign_task
from mfdistill.teachers.foreign import Foreign, mismatches, read_foreign
from mfdistill.teachers.guidance import Rule, guide, strength_of
from mfdistill.teachers.mel_flow import looks_like

GUIDANCE = 2.0
MIXER = "time_embed_mixer.weight"  # what a student's file has more than its teacher's
_CONFIGS: dict[str, type[F5Config] | type[F5UNetTConfig]] = {
    "f5": F5Config,
    "f5-unett": F5UNetTConfig,
}
_BOOKKEEPING = ("initted", "step", "update")


class F5Teacher:
    """A velocity network of ``(b, n, mels)`` with F5-TTS's guidance (see ``protocol.Teacher``).

    Args:
        network: ``network(z_t, t, cond) -> v`` as ``networks.f5.F5Network``; put into evaluation
            mode and left there.
        guidance_strength: s in ``v_cond + s (v_cond - v_null)``, F5-TTS's ``cfg_strength``; in the
            notation of others a scale of ``1 + s``. The null branch has neither prompt nor text,
            but knows the text's length where the network masks its padding. Below 1e-5 in magnitude
            it is not computed. ``cond["guidance"]`` (b,) replaces it, sample by sample, where it is
            computed.
        packed: both branches in one call of 2 b samples, as the original does; False: two calls,
            which need less memory.
        config: as in a folder's ``config.json``; ``Student.from_teacher`` takes the network's name
            and sizes from it.

    ``guidance_rule`` is how the branches are combined (``teachers.guidance.guide``).
    """

    guidance_rule: Rule = "cfg"

    def __init__(
        self,
        network: nn.Module,
        guidance_strength: float = 0.0,
        packed: bool = True,
        config: Mapping[str, Any] | None = None,
    ):
        self.network = network.eval()
        self.time_embedding: str = network.time_embedding_name  # type: ignore[assignment]
        self.guidance_strength, self.packed = guidance_strength, packed
        self.config: dict[str, Any] = dict(config or {})
        sizes = getattr(network, "config", None)
        self.task = (
            None
            if sizes is None
            else foreign_task(
                "f5-unett" if isinstance(sizes, F5UNetTConfig) else "f5", sizes.mel_dim
            )
        )

    @property
    def branches(self) -> int:
        """Network evaluations per velocity."""
        return 1 if abs(self.guidance_strength) < 1e-5 else 2

    @torch.no_grad()
    def velocity(self, z_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """``v(z_t, t)``; z_t (b, n, mels), t (b,), (1,) or 0-d, ``cond`` as
        ``networks.f5.F5Network``.
        """
        b = z_t.shape[0]
        t = time_per_sample(t, z_t)
        if self.branches == 1:
            return self.network(z_t, t, cond)
        kept, dropped = (torch.full((b,), drop, device=z_t.device) for drop in (False, True))
        if self.packed:
            both = {
                key: torch.cat([value, value]) for key, value in cond.items() if value is not None
            }
            both |= {
                key: torch.cat([cond.get(key, kept), dropped])
                for key in ("drop_audio", "drop_text")
            }
            v_cond, v_null = self.network(torch.cat([z_t, z_t]), torch.cat([t, t]), both).chunk(2)
        else:
            v_cond = self.network(z_t, t, cond)
            v_null = self.network(z_t, t, {**cond, "drop_audio": dropped, "drop_text": dropped})
        mask = cond.get("mask")
        strength = strength_of(cond, self.guidance_strength)
        return guide(
            v_cond,
            v_null,
            strength,
            self.guidance_rule,
            None if mask is None else mask[..., None].to(v_cond),
        )

    def prior(self, cond: Mapping[str, Tensor], generator: torch.Generator | None = None) -> Tensor:
        """``z_0`` in the shape of ``cond["cond"]``: normal noise, drawn sample by sample for its
        valid frames, 0 on the others.
        """
        like, mask = cond["cond"], cond.get("mask")
        b, n, mels = like.shape
        lengths = [n] * b if mask is None else mask.sum(1).tolist()
        return noise(lengths, mels, n, generator=generator, like=like)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> F5Teacher:
        self.network.to(device=device, dtype=dtype)
        return self


def noise(
    lengths: Collection[int],
    mels: int = 100,
    frames: int | None = None,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    like: Tensor | None = None,
) -> Tensor:
    """F5-TTS's noise of inference (b, frames, mels): each sample's own ``length`` frames and zeros
    after them, whatever the batch.

    Args:
        frames: None: the longest.
        seed: start every sample's draw at this seed, on the CPU, as the original's ``seed`` does
            there.
        generator: otherwise draw from it.
        like: gives device and dtype.
    """
    out = torch.zeros(len(lengths), max(lengths, default=0) if frames is None else frames, mels)
    out = out if like is None else out.to(like)
    for row, length in enumerate(lengths):
        source = generator if seed is None else torch.Generator().manual_seed(seed)
        device = out.device if source is None else source.device
        out[row, :length] = torch.randn(
            length, mels, generator=source, device=device, dtype=out.dtype
        ).to(out.device)
    return out


def load_f5(
    kind: str,
    path: Path,
    device: torch.device | str = "cpu",
    config: Mapping[str, Any] | None = None,
    guidance_strength: float | None = None,
    streaming: bool = False,
) -> F5Teacher:
    """A teacher from an F5-TTS checkpoint of ``kind`` "f5" (DiT) or "f5-unett" (UNetT, E2-TTS).

    Args:
        path: a published ``.safetensors`` or a training file ``.pt``.
        config: sizes and switches where they are not those of F5TTS_v1_Base or E2TTS_Base
            (``F5Config``, ``F5UNetTConfig``; the file holds none), and ``weights``: "ema" (the
            default) or "raw", which only training files have.
        guidance_strength: None is F5-TTS's 2 (a scale of 3).

    Raises:
        UserError: another kind of file, weights that do not fit the sizes, no such weights, or
            streaming, which it does not have.
    """
    if streaming:
        raise UserError(
            f"{path}: kind {kind} has no streaming form (it attends to all frames); leave streaming out"
        )
    given = dict(config or {})
    weights = given.pop("weights", "ema")
    if weights not in ("ema", "raw"):
        raise UserError(f"{path}: weights {weights!r} is not one of 'ema', 'raw'")
    sizes = from_dict(_CONFIGS[kind], given, f"{path}: config")
    with torch.device("meta"):  # published sizes take seconds and 1.3 GB to fill at random
        network = F5Network(sizes)
    tensors = f5_tensors(read_foreign(checkpoint_of(path)), weights)
    if MIXER in tensors:
        raise UserError(
            f"{path}: has {MIXER}, so it is a student of two times; load it with load_student(kind='{kind}')"
        )
    fit_weights(network.transformer, tensors, path, kind)
    strength = GUIDANCE if guidance_strength is None else float(guidance_strength)
    description = {"name": kind.replace("-", "_"), "config": to_dict(sizes)}
    saved = {
        "role": "teacher",
        "kind": kind,
        "network": description,
        "guidance_strength": strength,
        "schedule": None,
    }
    return F5Teacher(
        network.to(device),
        strength,
        config={**saved, "parent": {"file": str(path), "kind": kind, "weights": weights}},
    )


def f5_tensors(file: Foreign, weights: str = "ema") -> dict[str, Tensor]:
    """The transformer's tensors by its own names: those of the moving average ("ema") or the
    trained ones ("raw"), without prefixes, bookkeeping, and the Mel front end's buffers that old
    files have.

    Raises:
        UserError: the file lacks the one asked for.
    """
    averaged, raw, flat = (
        file.tensors("ema_model_state_dict"),
        file.tensors("model_state_dict"),
        file.tensors(),
    )
    if any(name.startswith("ema_model.") for name in flat):
        averaged = flat
    elif not averaged and not raw:
        raw = flat
        # an export of either: which one it does not say
        averaged = flat if weights == "ema" else {}
    found = averaged if weights == "ema" else raw
    if not averaged and not raw:
        raise UserError(
            f"{file.path}: has no weights where F5-TTS has them; {looks_like(file.names())}"
        )
    if not found:
        other = (
            "the moving average only; ask for weights 'ema' (in --sizes), or leave it out"
            if averaged
            else 'trained weights only; ask for them: --sizes FILE with {"weights": "raw"}'
        )
        raise UserError(f"{file.path}: has {other}")
    tensors = {
        name.removeprefix("ema_model.").removeprefix("module."): value
        for name, value in found.items()
    }
    tensors = {
        name: value
        for name, value in tensors.items()
        if name not in _BOOKKEEPING and not name.startswith("mel_spec.")
    }
    return {name.removeprefix("transformer."): value for name, value in tensors.items()}


def is_f5(names: Collection[str]) -> bool:
    """An F5-TTS DiT."""
    return _has(names, "text_embed.text_embed.weight") and _has(
        names, "transformer_blocks.0.attn_norm.linear.weight"
    )


def is_f5_unett(names: Collection[str]) -> bool:
    """An F5-TTS UNetT."""
    return _has(names, "text_embed.text_embed.weight") and _has(names, "layers.0.2.to_q.weight")


def _has(names: Collection[str], leaf: str) -> bool:
    return any(name == leaf or name.endswith(f"transformer.{leaf}") for name in names)


def checkpoint_of(path: Path) -> Path:
    """The file itself, or the one checkpoint of a folder."""
    if not path.is_dir():
        return path
    files = sorted(
        file
        for file in path.iterdir()
        if file.suffix in (".safetensors", ".pt") and not file.name.startswith(".")
    )
    if len(files) != 1:
        raise UserError(
            f"{path}: has {len(files)} checkpoints (.safetensors, .pt); name one of them"
        )
    return files[0]


def fit_weights(module: nn.Module, tensors: Mapping[str, Tensor], path: Path, kind: str) -> None:
    """Give a module its weights; it may be one without storage.

    Raises:
        UserError: names or shapes differ; tells the first of them, what kind of file it looks like,
            and its sizes.
    """
    wrong = mismatches(module.state_dict(), tensors)
    if wrong:
        raise UserError(
            f"{path}: its weights do not fit kind '{kind}' and these sizes: {wrong[0]} ({len(wrong)} such); {looks_like(tensors)}"
            f"{_sizes(tensors)}; give its sizes in config (--sizes), or the right kind"
        )
    module.to_empty(device="cpu").load_state_dict(dict(tensors))


def _sizes(tensors: Mapping[str, Tensor]) -> str:
    """The sizes that can be told from weights, for messages."""
    proj, table = tensors.get("proj_out.weight"), tensors.get("text_embed.text_embed.weight")
    if proj is None or table is None or proj.ndim != 2 or table.ndim != 2:
        return ""
    blocks = {
        name.split(".")[1]
        for name in tensors
        if name.startswith(("transformer_blocks.", "layers."))
    }
    return (
        f" of dim {proj.shape[1]}, depth {len(blocks)}, mel_dim {proj.shape[0]}, "
        f"text_num_embeds {table.shape[0] - 1}, text_dim {table.shape[1]}"
    )
