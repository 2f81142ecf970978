"""What a search leaves behind: ``o3s.json``, ``o3s.png`` and the schedule in ``config.json``."""

from __future__ import annotations

import logging
import math
from pathlib import Path

from mfdistill.checkpoint import load_config, write_config, write_json
from mfdistill.config import to_dict
from mfdistill.plain import Plain
from mfdistill.search.config import SearchConfig
from mfdistill.search.development import Scorer
from mfdistill.search.o3s import SearchResult

log = logging.getLogger(__name__)


def record(result: SearchResult, scorer: Scorer, config: SearchConfig) -> Plain:
    """What ``o3s.json`` holds of the search itself: ``score`` is maximised, ``value`` is the metric
    in its own sign, and null stands for minus infinity.
    """
    begun = {e.start: e for e in result.evaluations if e.coordinate == 0}
    return {
        "nfe": config.nfe,
        "schedule": list(result.schedule),
        "score": _finite(result.score),
        "value": _finite(scorer.direction * result.score),
        "metric": config.metric,
        "column": scorer.column,
        "direction": scorer.direction,
        "start": result.start,
        "starts": [
            {
                "name": name,
                "from": list(begun[name].schedule),
                "from_score": _finite(begun[name].score),
                "schedule": list(schedule),
                "score": _finite(score),
            }
            for name, schedule, score in result.ends
        ],
        "unimodal": result.unimodal,
        "warnings": list(result.warnings),
        "requests": len(result.evaluations),
        "scored": result.scored,
        "config": to_dict(config),
        "evaluations": [
            {
                "schedule": list(e.schedule),
                "score": _finite(e.score),
                "start": e.start,
                "sweep": e.sweep,
                "coordinate": e.coordinate,
                "cached": e.cached,
            }
            for e in result.evaluations
        ],
    }


def write(folder: Path, found: Plain) -> None:
    """``o3s.json``, ``o3s.png``, the same by their number of steps, and the schedule into
    ``config.json`` if there is one.

    Raises:
        UserError: a file cannot be written.
    """
    from mfdistill.report import o3s_plot

    for name in (f"o3s-{found['nfe']}", "o3s"):
        write_json(folder / f"{name}.json", found)
        o3s_plot(found, folder / f"{name}.png")
    # last: the schedule is only there with its search beside it
    if (folder / "config.json").is_file():
        config = load_config(folder)
        schedules = {**config.get("schedules", {}), str(found["nfe"]): found["schedule"]}
        ordered = dict(sorted(schedules.items(), key=lambda item: int(item[0])))
        write_config(folder, {**config, "schedule": found["schedule"], "schedules": ordered})
    log.info("O3S: schedule %s written to %s", found["schedule"], folder)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
