"""What is known of a run that is to be resumed. Without torch."""

from __future__ import annotations

from pathlib import Path

from mfdistill.checkpoint import load_config
from mfdistill.distill.settings import TrainConfig
from mfdistill.plain import Plain


def measured(training: TrainConfig) -> float | None:
    """``residual_std`` of the run to be resumed, if there is one."""
    network = begun(training).get("network") or {}
    return (network.get("config") or {}).get("residual_std")


def begun(training: TrainConfig) -> Plain:
    """The sections of the run to be resumed, from its first step on: what was measured on the data
    is measured once, whatever becomes of the data. Empty where there is no such run.
    """
    from mfdistill.distill.state import find_state

    if not training.resume:
        return {}
    if (Path(training.out) / "config.json").is_file():
        return load_config(training.out)
    found = find_state(Path(training.out))
    identity = {} if found is None else found.info.get("identity")
    return identity if isinstance(identity, dict) else {}
