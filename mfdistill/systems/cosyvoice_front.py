"""From speech tokens, prompt and speaker to the condition of a CosyVoice flow, and on to the Mel
spectrogram; frozen parts of its file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mfdistill.checkpoint import load_tensors
from mfdistill.companions import companion
from mfdistill.errors import UserError
from mfdistill.networks.conformer import PreLookahead, TokenEncoder, TokenEncoderConfig
from mfdistill.systems.base import no_files
from mfdistill.systems.mel_flow import ESTIMATOR, checkpoint_file, flow_tensors


class TokenFront(nn.Module):
    """What all versions share: the tokens' and the speaker's embeddings, and how a prompt is put
    before. Frozen, in evaluation mode.

    A version gives ``encode``, ``lookahead`` (tokens) and ``ratio`` (Mel frames per token, at 50
    frames a second).
    """

    lookahead = 3
    ratio = 2

    def __init__(self, vocab: int, width: int, speaker: int, mels: int):
        super().__init__()
        self.input_embedding = nn.Embedding(vocab, width)
        self.spk_embed_affine_layer = nn.Linear(speaker, mels)

    @property
    def embedding_dim(self) -> int:
        """Of the speaker's x-vector."""
        return self.spk_embed_affine_layer.in_features

    def encode(
        self, tokens: Tensor, valid: Tensor, context: Tensor | None, streaming: bool | Tensor
    ) -> Tensor:
        """Embedded tokens (b, n, width), zero where not ``valid`` (b, n), and those that follow ->
        mu (b, ratio n, mels).
        """
        raise NotImplementedError

    @torch.no_grad()
    def condition(
        self,
        token: Tensor,
        prompt_token: Tensor,
        prompt_feat: Tensor,
        embedding: Tensor,
        token_len: Tensor | None = None,
        streaming: bool | Tensor = False,
        finalize: bool = True,
    ) -> dict[str, Tensor]:
        """The condition ``{"mu", "mask", "spks", "cond"}`` of a flow for prompt and text together,
        layout (b, mels, n).

        Args:
            token: (b, n) what to say, padded at the end. prompt_token: (b, p) and prompt_feat: (b,
                frames, mels) the prompt's log-Mel.
            embedding: (b, 192) speaker x-vector of any norm.
            token_len: (b,) of ``token``; default all of them.
            streaming: attention by chunks; finalize: False where more tokens follow: the last
                ``lookahead`` are only looked at.

        Raises:
            UserError: no token, a token that the table lacks, a prompt of more frames than all
                tokens give.
        """
        mels = self.spk_embed_affine_layer.out_features
        b, tokens = token.shape[0], torch.cat([prompt_token.expand(token.shape[0], -1), token], 1)
        self._check(tokens, token.shape[1] - (0 if finalize else self.lookahead), prompt_feat, mels)
        lengths = (
            torch.full((b,), token.shape[1], device=token.device)
            if token_len is None
            else token_len.reshape(b)
        )
        valid = (
            torch.arange(tokens.shape[1], device=token.device)[None]
            < (prompt_token.shape[1] + lengths)[:, None]
        )
        embedded = self.input_embedding(tokens.clamp(min=0)) * valid[:, :, None]
        context = None
        if not finalize:
            embedded, context, valid = (
                embedded[:, : -self.lookahead],
                embedded[:, -self.lookahead :],
                valid[:, : -self.lookahead],
            )
        mu = self.encode(embedded, valid, context, streaming).transpose(1, 2).contiguous()
        cond = torch.zeros_like(mu)
        cond[:, :, : prompt_feat.shape[1]] = prompt_feat.transpose(1, 2)
        spks = self.spk_embed_affine_layer(
            F.normalize(embedding.reshape(-1, embedding.shape[-1]), dim=1)
        ).expand(b, -1)
        return {
            "mu": mu,
            "mask": valid.repeat_interleave(self.ratio, 1)[:, None].to(mu.dtype),
            "spks": spks,
            "cond": cond,
        }

    def _check(self, tokens: Tensor, count: int, prompt_feat: Tensor, mels: int) -> None:
        if count < 1:
            raise UserError(
                f"tokens: {max(count, 0)} are left to say; give one or more (and {self.lookahead} more where not finalized)"
            )
        if int(tokens.max()) >= self.input_embedding.num_embeddings:
            size = self.input_embedding.num_embeddings
            raise UserError(
                f"tokens: {int(tokens.max())} is outside this flow's table of {size}; take the tokenizer that belongs to it"
            )
        if prompt_feat.shape[-1] != mels or prompt_feat.shape[1] >= self.ratio * tokens.shape[1]:
            raise UserError(
                f"prompt: a Mel of {tuple(prompt_feat.shape)} does not fit {tokens.shape[1]} tokens with {mels} bands; "
                f"it needs (b, {self.ratio} frames per prompt token, {mels})"
            )


class ConformerFront(TokenFront):
    """CosyVoice 2's and Chatterbox's: a ``TokenEncoder`` and a projection."""

    def __init__(self, vocab: int, speaker: int, mels: int, config: TokenEncoderConfig):
        super().__init__(vocab, config.width, speaker, mels)
        self.lookahead, self.ratio = config.lookahead, config.stride
        self.encoder = TokenEncoder(config)
        self.encoder_proj = nn.Linear(config.width, mels)

    def encode(
        self, tokens: Tensor, valid: Tensor, context: Tensor | None, streaming: bool | Tensor
    ) -> Tensor:
        return self.encoder_proj(self.encoder(tokens, valid, context, streaming))


class LookaheadFront(TokenFront):
    """CosyVoice 3's: a look at the tokens that follow, then every token ``ratio`` times."""

    def __init__(self, vocab: int, speaker: int, mels: int, inner: int, lookahead: int):
        super().__init__(vocab, mels, speaker, mels)
        self.lookahead = lookahead
        self.pre_lookahead_layer = PreLookahead(mels, inner, lookahead)

    def encode(
        self, tokens: Tensor, valid: Tensor, context: Tensor | None, streaming: bool | Tensor
    ) -> Tensor:
        return self.pre_lookahead_layer(tokens, context).repeat_interleave(self.ratio, 1)


def load_front(path: str | Path, device: torch.device | str = "cpu", chunk: int = 25) -> TokenFront:
    """The front end in a flow file (``flow.pt``, ``flow.safetensors``, ``s3gen*.safetensors``) or
    an imported folder, in evaluation mode, frozen.

    Args:
        chunk: tokens per chunk in streaming form (CosyVoice 2); everything else is read from the
            file.

    Raises:
        UserError: a file without a front end, or with one of another system.
    """
    file, tensors = _front_tensors(Path(path))
    front = (
        _lookahead_front(tensors)
        if _LOOKAHEAD in tensors
        else _conformer_front(tensors, file, chunk)
    )
    own = front.state_dict()
    wrong = next(
        (name for name in own if name not in tensors or tensors[name].shape != own[name].shape),
        None,
    )
    if wrong is not None:
        raise UserError(
            f"{file}: its front end lacks {wrong}, or has it in another shape; is it a CosyVoice flow?"
        )
    front.load_state_dict({name: tensors[name] for name in own})
    return front.requires_grad_(False).eval().to(device)


FRONT = "front.safetensors"
"""A front end alone, in folders that ``teacher-import`` writes."""
_LOOKAHEAD = "pre_lookahead_layer.conv1.weight"


def front_bytes(front: TokenFront) -> bytes:
    """A front end as the safetensors file ``FRONT``."""
    from safetensors.torch import save

    tensors = {name: value.cpu().contiguous() for name, value in front.state_dict().items()}
    return save(tensors, {"format": "pt"})


def has_front(path: str | Path) -> bool:
    """Whether a flow file or folder holds a front end."""
    place = Path(path)
    # a folder of ours that was imported without one
    if (place / "config.json").is_file() and companion(place, FRONT) is None:
        return False
    return "input_embedding.weight" in _front_tensors(place)[1]


def _front_tensors(path: Path) -> tuple[Path, dict[str, Tensor]]:
    if path.is_dir() and (own := companion(path, FRONT)) is not None:
        return own, load_tensors(own)
    file = checkpoint_file(path)
    return file, {
        name: value for name, value in flow_tensors(file).items() if not name.startswith(ESTIMATOR)
    }


def _lookahead_front(tensors: Mapping[str, Tensor]) -> LookaheadFront:
    inner, mels, kernel = tensors[_LOOKAHEAD].shape
    table, affine = (
        tensors.get(f"{name}.weight") for name in ("input_embedding", "spk_embed_affine_layer")
    )
    return LookaheadFront(
        1 if table is None else len(table),
        192 if affine is None else affine.shape[1],
        mels,
        inner,
        kernel - 1,
    )


def _conformer_front(tensors: Mapping[str, Tensor], file: Path, chunk: int) -> ConformerFront:
    def size(name: str) -> torch.Size:
        if name not in tensors:
            raise UserError(
                f"{file}: has no {name}, so it has no front end of CosyVoice 2; give the whole flow file"
            )
        return tensors[name].shape

    (vocab, width), (mels, speaker) = (
        size("input_embedding.weight"),
        size("spk_embed_affine_layer.weight"),
    )
    config = TokenEncoderConfig(
        width=width,
        heads=size("encoder.up_encoders.0.self_attn.pos_bias_u")[0],
        inner=size("encoder.up_encoders.0.feed_forward.w_1.weight")[0],
        blocks=_count(tensors, "encoder.encoders."),
        up_blocks=_count(tensors, "encoder.up_encoders."),
        lookahead=size("encoder.pre_lookahead_layer.conv1.weight")[2] - 1,
        stride=(size("encoder.up_layer.conv.weight")[2] - 1) // 2,
        chunk=chunk,
    )
    return ConformerFront(vocab, speaker, mels, config)


def _count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    return len(
        {name.removeprefix(prefix).split(".")[0] for name in tensors if name.startswith(prefix)}
    )


def front_file(place: Path, network: nn.Module, given: Path | None) -> dict[str, bytes]:
    """``front.safetensors`` out of a flow file or folder; nothing where it has none."""
    no_files(place, network, given)
    return {FRONT: front_bytes(load_front(place))} if has_front(place) else {}


def before_tokens(place: Path) -> str:
    """Where the tokens' front end is."""
    there = "speech tokens and speaker, in it"
    return there if has_front(place) else "none in it: features mu and spks, or --tts.front FILE"
