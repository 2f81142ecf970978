"""A foreign system in one file: checkpoints that hold a compact network under the prefix
"tone.".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mfdistill.checkpoint import write_tensors
from mfdistill.config import to_dict
from mfdistill.networks import CompactConfig, build_network
from mfdistill.systems.base import Opened, System, TwoTimes, check_fit, no_stream, own_facts
from mfdistill.systems.files import read_foreign
from mfdistill.tasks import default_task, get_task

SIZES = CompactConfig(freqs=128, channels=4, blocks=1, embedding=8, recurrent=0)


def recognise(names: Collection[str]) -> bool:
    return any(name.startswith("tone.") for name in names)


def read(path: Path, config: Mapping[str, Any] | None, streaming: bool) -> Opened:
    if streaming:
        raise no_stream(path, "tone")
    tensors = {
        name.removeprefix("tone."): value for name, value in read_foreign(path).tensors().items()
    }
    network, task = build_network("compact", SIZES), get_task(default_task("phase", 8000))
    check_fit(network.state_dict(), tensors, path, "tone", "tone.")
    network.load_state_dict(tensors)
    saved = {
        "role": "teacher",
        "task": to_dict(task.config),
        "network": {"name": "compact", "config": to_dict(SIZES)},
        "schedule": None,
        "parent": {"file": str(path), "kind": "tone"},
    }
    return Opened(network, task, own_facts(network), saved)


def write(student: TwoTimes, path: str | Path, base: str | Path | None = None) -> None:
    state = student.network.state_dict()
    write_tensors(Path(path), {f"tone.student.{name}": value for name, value in state.items()})


SYSTEMS = {"tone": System("tone", recognise, read, layouts={"tone": write})}
