"""Systems, tasks, objectives and metrics from a file of yours: ``mfdistill --extend FILE COMMAND
...``.

The file is a Python module with plain tables, any of::

    SYSTEMS = {"name": systems.base.System(...)}
    TASKS = {"name": (class, preset)}           # preset(stft) -> TaskConfig
    OBJECTIVES = {"name": (config class, class)}  # class(student, teacher, path, settings, seed)
    METRICS = {"name": metrics.Metric(...)}

Nothing in a checkpoint ever names such a file: it is run because you name it.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mfdistill.config import from_dict
from mfdistill.errors import UserError
from mfdistill.plain import Plain

TABLES = ("SYSTEMS", "TASKS", "OBJECTIVES", "METRICS")


def extend(file: str) -> None:
    """Add the tables of ``file`` to those of this program.

    Raises:
        UserError: no such file, one without a table, or a name that is there already.
    """
    from mfdistill.distill.objectives.catalog import OBJECTIVES
    from mfdistill.metrics import METRICS
    from mfdistill.systems.table import SYSTEMS
    from mfdistill.tasks.task import TASKS

    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    if spec is None or spec.loader is None or not Path(file).is_file():
        raise UserError(f"--extend {file}: no such Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    found = {name: vars(module)[name] for name in TABLES if name in vars(module)}
    if not found:
        raise UserError(f"--extend {file}: has none of the tables {', '.join(TABLES)}")
    tables: dict[str, Plain] = {
        "SYSTEMS": SYSTEMS,
        "TASKS": TASKS,
        "OBJECTIVES": OBJECTIVES,
        "METRICS": METRICS,
    }
    for table, rows in found.items():
        for name, row in rows.items():
            if name in tables[table]:
                raise UserError(
                    f"--extend {file}: {table} has a row '{name}' already; call it otherwise"
                )
            tables[table][name] = row


def objective_settings(name: str, command: object, own: Sequence[str]) -> Any:
    """The settings of an objective: the command's section of that name, or, of one of --extend,
    ``own`` (NAME=VALUE) over its defaults.

    Raises:
        UserError: no such objective, or settings that it does not have.
    """
    from mfdistill.distill.objectives.catalog import OBJECTIVES

    if name not in OBJECTIVES:
        raise UserError(f"--objective {name}: unknown; this version has: {', '.join(OBJECTIVES)}")
    section = vars(command).get(name)
    if section is not None:
        if own:
            raise UserError(
                f"--own {own[0]}: is for objectives of --extend; give --{name}.{own[0]}"
            )
        return section
    values = {}
    for text in own:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--own {text}: needs NAME=VALUE")
        try:
            values[key] = json.loads(value)
        except ValueError:
            values[key] = value
    return from_dict(OBJECTIVES[name][0], values, f"--objective {name}")
