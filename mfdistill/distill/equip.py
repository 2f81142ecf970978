"""What a text-to-speech flow reads: a vocabulary, or the front end that embeds speech tokens; both
travel with its checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from mfdistill.companions import companion
from mfdistill.data.transcripts import Vocabulary
from mfdistill.data.tts_config import TTSOptions
from mfdistill.errors import UserError
from mfdistill.systems.base import FieldFacts
from mfdistill.systems.cosyvoice_front import FRONT, front_bytes, has_front, load_front
from mfdistill.systems.f5 import VOCAB
from mfdistill.tasks import Task
from mfdistill.tasks.base import Draws
from mfdistill.tasks.foreign import ForeignTask

Device = torch.device | str


def equip(
    task: Task, network: nn.Module, place: Path, device: Device, options: TTSOptions | None = None
) -> None:
    """Give a task what it reads, from beside a checkpoint, or as ``options`` say; does nothing for
    tasks that read neither texts of a vocabulary nor speech tokens.

    Args:
        network: of teacher or student. place: the checkpoint. options: of a distillation.

    Raises:
        UserError: a vocabulary that is not there or of another size, a front end of other bands.
    """
    read = _READERS.get(str(task.speaks))
    if read is not None:
        read(task, network, place, device, options)


def ready_to_train(
    task: Task,
    network: nn.Module,
    facts: FieldFacts,
    place: Path,
    device: Device,
    options: TTSOptions,
    guidance: tuple[float, float] | None,
    seed: int,
) -> None:
    """``equip``, and say what is drawn for the task's batches: the streaming form, where the field
    streams by chunks, and each sample's guidance out of a range, for students that are told it.
    """
    equip(task, network, place, device, options)
    share = options.streaming_share if facts.streams == "chunks" else 0.0
    task.draws = Draws(share, guidance, seed)


def vocabulary_file(place: Path, options: TTSOptions | None) -> Path:
    """The vocabulary that ``options`` name, or that lies beside a checkpoint.

    Raises:
        UserError: neither is there.
    """
    if options is not None and options.vocab is not None:
        return Path(options.vocab)
    found = companion(place if place.is_dir() else place.parent, VOCAB)
    if found is None:
        remedy = "put the checkpoint's there" if options is None else "give it with --tts.vocab"
        raise UserError(f"{place}: has no {VOCAB}, so texts cannot be read; {remedy}")
    return found


def _vocabulary(
    task: ForeignTask, network: nn.Module, place: Path, device: Device, options: TTSOptions | None
) -> None:
    vocabulary = Vocabulary.read(vocabulary_file(place, options))
    vocabulary.check(network.config.text_num_embeds)  # type: ignore[union-attr, arg-type]
    task.vocabulary = vocabulary
    task.companions = {VOCAB: ("\n".join(vocabulary.symbols) + "\n").encode()}


def _front(
    task: ForeignTask, network: nn.Module, place: Path, device: Device, options: TTSOptions | None
) -> None:
    named = None if options is None else options.front
    where = Path(named or place)
    if named is None and not has_front(where):
        return  # features are then mu
    front = load_front(where, device)
    bands, own = front.spk_embed_affine_layer.out_features, task.config.mel.n_mels
    if bands != own:
        raise UserError(f"{where}: its front end is for {bands} Mel bands, the model has {own}")
    task.front = front
    task.companions = {FRONT: front_bytes(front)}


_READERS: dict[str, Callable[..., None]] = {"text": _vocabulary, "tokens": _front}
"""By ``Task.speaks``."""
