"""Exports of a package that load their module when they are first asked for, so that settings come
without torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def exports(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's ``__getattr__``: ``modules`` maps the name of a submodule to the names it exports,
    separated by spaces.
    """
    places = {
        name: f"{package}.{module}" for module, names in modules.items() for name in names.split()
    }

    def get(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(places[name]), name)

    return get
