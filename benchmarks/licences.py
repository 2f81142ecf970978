"""The licences of what an installation holds: ``python benchmarks/licences.py`` writes
``docs/licences.md`` from the metadata of the packages that are installed here.
"""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from email.message import Message
from pathlib import Path
from typing import cast

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PAGE = Path(__file__).resolve().parents[1] / "docs" / "licences.md"
_ABOUT = """# Licences

mfdistill is Apache-2.0 (`LICENSE`). This table is of the packages that it needs, with all extras of `make setup`, by their own metadata;
made by `python benchmarks/licences.py`. CUDA libraries, which a GPU build of torch brings, have NVIDIA's own terms. espeak-ng, which the
wheel espeakng-loader carries, is GPL-3; it is called in a process of its own and only makes the embedded corpus and phonemes.

| package | version | licence |
|---|---|---|
"""


def needed() -> list[str]:
    """Names of what mfdistill and its extra 'all' need here, and what those need in turn."""
    found: dict[str, None] = {}
    waiting = [("mfdistill", "all")]
    done = set(waiting)
    while waiting:
        name, extra = waiting.pop()
        try:
            lines = own(extra) if name == "mfdistill" else importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        if name != "mfdistill":
            found[canonicalize_name(name)] = None
        for requirement in map(Requirement, lines):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                for wanted in {"", *requirement.extras}:
                    job = (requirement.name, wanted)
                    if job not in done:
                        done.add(job)
                        waiting.append(job)
    return sorted(found)


def own(extra: str) -> list[str]:
    """What ``pyproject.toml`` asks for."""
    project = tomllib.loads((PAGE.parents[1] / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *project["optional-dependencies"].get(extra, ())]


def licence(name: str) -> str:
    """As short as its metadata allow."""
    about = cast(Message, importlib.metadata.metadata(name))
    classified = [
        line.split(" :: ")[-1]
        for line in about.get_all("Classifier") or []
        if line.startswith("License :: ") and line != "License :: OSI Approved"
    ]
    text = (
        about.get("License-Expression")
        or ", ".join(classified)
        or about.get("License")
        or "not said"
    )
    return re.sub(r"\s+", " ", text).replace("|", "/")[:70]


def page() -> str:
    """The page."""
    rows = []
    for name in needed():
        if name.startswith(("nvidia-", "cuda-")):
            continue
        rows.append(f"| {name} | {importlib.metadata.version(name)} | {licence(name)} |")
    return _ABOUT + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
