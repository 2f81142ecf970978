"""A run as a model that comes with the program: weights in half precision, what is needed to use
them, and a card.

    python benchmarks/ship.py enhance runs/enhance-student --limits "Knows read English alone."

The figures of the card are those of the run's own results.json (mfdistill evaluate), or, with
--rows, of recorded rows of a benchmark that are of these weights. They are of the weights before
rounding, unless the run was evaluated in half precision.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from record import KEPT, digest
from tyro.conf import Positional

from mfdistill.checkpoint import load_config, load_tensors, save_folder, write_json, write_text
from mfdistill.commands.push import without_paths
from mfdistill.commands.results import FILE, evaluations, is_model
from mfdistill.errors import UserError
from mfdistill.places import SHIPPED

MOST_BYTES = 1_000_000
_HIDDEN = {
    *("checkpoint", "checkpoint_sha256", "commit", "machine", "claim", "gain", "streamed"),
    *("searched", "rtf", "train_hours", "spectral"),
}
ALSO_KEPT = ("interval", "parent", "data", "training", "version", "objective")


@dataclass(frozen=True)
class Options:
    """Convert a run into a model that comes with the program."""

    name: Positional[str]
    """What it is called."""
    run: Positional[Annotated[str, tyro.conf.arg(metavar="RUN")]]
    """The student's folder."""
    limits: str
    """What it cannot do, in a sentence or two, for the card."""
    recipe: str = ""
    """How it was made, where config.json does not say it all."""
    data: str = ""
    """What it was trained and scored on, in words."""
    license: str = "apache-2.0"
    """Of the weights: the hub's name of it."""
    rows: str | None = None
    """Recorded rows of a benchmark (JSON) to take the figures from."""


def main(options: Options) -> Path:
    """Write the folder; returns it.

    Raises:
        UserError: no student there, or one that is too large.
    """
    source, target = Path(options.run), SHIPPED / options.name
    if not is_model(source):
        raise UserError(f"{source}: holds no model")
    config = load_config(source)
    if config.get("role") != "student":
        raise UserError(f"{source}: holds a {config.get('role')}; students are shipped")
    if config.get("schedule") != [0.0, 1.0]:
        # one step, whatever was searched last
        config["schedule"] = [0.0, 1.0]
    kept = {key: value for key, value in config.items() if key in (*KEPT, *ALSO_KEPT)}
    about = {"limits": options.limits, "recipe": options.recipe, "data": options.data}
    rows = figures(options, source)
    tensors = {key: value.half() for key, value in load_tensors(source).items()}
    save_folder(target, tensors, without_paths({**kept, "about": about}))
    file = target / "model.safetensors"
    if file.stat().st_size > MOST_BYTES:
        raise UserError(f"{file}: {file.stat().st_size} bytes, more than {MOST_BYTES}")
    entry = {"data": None, "split": "test", "rows": rows, "sha256": digest(file)}
    write_json(target / FILE, {"evaluations": [entry] if rows else []})
    from mfdistill.commands.derived import card

    write_text(target / "README.md", card(target, options.name, options.license))
    return target


def figures(options: Options, source: Path) -> list[dict[str, Any]]:
    """Rows of the card: the student at its numbers of steps and what it is compared with, without
    paths.
    """
    if options.rows is None:
        held = evaluations(source)
        rows = held[-1]["rows"] if held else []
    else:
        recorded = json.loads(Path(options.rows).read_text(encoding="utf-8"))
        own = digest(source / "model.safetensors")
        mine = [row for row in recorded if row["checkpoint_sha256"] == own]
        if not mine:
            raise UserError(f"{options.rows}: holds no rows of {source}")
        same = ("task", "sample_rate", "n", "pesq_mode")
        rows = [
            row
            for row in recorded
            if (row in mine or row["model"] in ("unprocessed", "teacher", "regression"))
            and all(row[key] == mine[0][key] for key in same)
            and (row in mine or row["model"] != "teacher" or row["nfe"] in (1, 5, 20))
        ]
    return [{key: value for key, value in row.items() if key not in _HIDDEN} for row in rows]


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
