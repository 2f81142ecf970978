"""Sizes of ZipVoice, under its own names; the defaults are the published model."""

from __future__ import annotations

from dataclasses import dataclass

from mfdistill.config import check_ranges
from mfdistill.errors import UserError
from mfdistill.networks.config import DEEPEST, WIDEST


@dataclass(frozen=True)
class ZipVoiceConfig:
    """ZipVoice (123 M parameters): the section "model" of its ``model.json``."""

    fm_decoder_downsampling_factor: tuple[int, ...] = (1, 2, 4, 2, 1)
    """By which the frames of each stack are fewer."""
    fm_decoder_num_layers: tuple[int, ...] = (2, 2, 4, 4, 4)
    fm_decoder_cnn_module_kernel: tuple[int, ...] = (31, 15, 7, 15, 31)
    fm_decoder_feedforward_dim: int = 1536
    fm_decoder_num_heads: int = 4
    fm_decoder_dim: int = 512
    text_encoder_num_layers: int = 4
    text_encoder_feedforward_dim: int = 512
    text_encoder_cnn_module_kernel: int = 9
    text_encoder_num_heads: int = 4
    text_encoder_dim: int = 192
    query_head_dim: int = 32
    value_head_dim: int = 12
    pos_head_dim: int = 4
    pos_dim: int = 48
    time_embed_dim: int = 192
    text_embed_dim: int = 192
    feat_dim: int = 100
    """Mel bands."""
    vocab_size: int = 360
    """Of its tokens; read from the file's table where it is not given."""
    pad_id: int = 0
    """The symbol after a text's last one."""
    guidance: bool = False
    """It is told its guidance beside the time (ZipVoice-Distill)."""

    def __post_init__(self) -> None:
        where = "network 'zipvoice'"
        widths = (
            "fm_decoder_feedforward_dim", "fm_decoder_dim", "text_encoder_feedforward_dim", "text_encoder_dim",
            "query_head_dim", "value_head_dim", "pos_head_dim", "pos_dim", "time_embed_dim", "text_embed_dim", "feat_dim",
        )  # fmt: skip
        check_ranges(
            self, f"{where}: ", **{name: (1, WIDEST) for name in widths}, vocab_size=(1, 2**22), pad_id=(0, 2**22),
            fm_decoder_num_heads=(1, 1024), text_encoder_num_heads=(1, 1024), text_encoder_num_layers=(1, DEEPEST),
            fm_decoder_num_layers=(1, DEEPEST), fm_decoder_downsampling_factor=(1, 256),
            fm_decoder_cnn_module_kernel=(1, 4095), text_encoder_cnn_module_kernel=(1, 4095),
        )  # fmt: skip
        stacks = {
            len(self.fm_decoder_downsampling_factor),
            len(self.fm_decoder_num_layers),
            len(self.fm_decoder_cnn_module_kernel),
        }
        if len(stacks) != 1 or stacks == {0}:
            raise UserError(
                f"{where}: fm_decoder_downsampling_factor, _num_layers and _cnn_module_kernel need one number per stack"
            )
        kernels = (*self.fm_decoder_cnn_module_kernel, self.text_encoder_cnn_module_kernel)
        if any(kernel % 2 == 0 for kernel in kernels):
            raise UserError(f"{where}: kernels {kernels} must be odd")
        if self.pos_dim % 2 or self.time_embed_dim % 2:
            raise UserError(f"{where}: pos_dim and time_embed_dim must be even")
        if self.pad_id >= self.vocab_size:
            raise UserError(
                f"{where}: pad_id {self.pad_id} is not in the vocabulary of {self.vocab_size}"
            )
