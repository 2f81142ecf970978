"""Frozen dataclasses to JSON and back; an unknown key is an error that names the nearest valid
one.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from mfdistill.errors import UserError

T = typing.TypeVar("T")
LARGEST = 10.0**15  # of the numbers in configurations and options
MOST_VALUES = 65536  # of a list in them


def to_dict(config: Any) -> dict[str, Any]:
    """Plain JSON-ready dictionary of a (nested) dataclass; tuples become lists."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def from_dict(cls: type[T], data: Mapping[str, Any], where: str = "config") -> T:
    """Build the dataclass ``cls`` from a mapping; missing keys take their defaults.

    Raises:
        UserError: on a key that ``cls`` does not have or a value of the wrong type; ``where`` names
            the file or section.
    """
    if not isinstance(data, Mapping):
        raise UserError(f"{where}: expected a section of keys, got {_said(data)}")
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls) if field.init]  # type: ignore[arg-type]
    for key in data:
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"valid keys: {', '.join(names)}"
            raise UserError(f"{where}: unknown key '{key}'; {hint}")
    return cls(**{key: _typed(hints[key], value, f"{where}.{key}") for key, value in data.items()})


def _typed(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        errors = []
        for option in (o for o in options if o is not type(None)):
            try:
                return _typed(option, value, where)
            except UserError as error:
                errors.append(str(error))
        raise UserError(errors[0] if errors else f"{where}: must be null, got {_said(value)}")
    if origin is typing.Literal:
        allowed = typing.get_args(hint)
        if value not in allowed:
            raise UserError(f"{where}: {value!r} is not one of {', '.join(map(repr, allowed))}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{where}: expected a list, got {_said(value)}")
        inner = typing.get_args(hint)
        kinds = [inner[0]] * len(value) if len(inner) == 2 and inner[1] is Ellipsis else list(inner)
        if len(kinds) != len(value):
            raise UserError(f"{where}: expected {len(kinds)} values, got {len(value)}")
        return tuple(_typed(kind, item, where) for kind, item in zip(kinds, value, strict=True))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if dataclasses.is_dataclass(value):
            return value
        if not isinstance(value, Mapping):
            raise UserError(f"{where}: expected a section of keys, got {_said(value)}")
        return from_dict(hint, value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(max(min(value, LARGEST), -LARGEST))
    if hint in (int, float, str, bool) and (
        not isinstance(value, hint) or (hint is int and isinstance(value, bool))
    ):
        raise UserError(f"{where}: expected {hint.__name__}, got {_said(value)}")
    if isinstance(value, (int, float)) and not abs(value) < LARGEST:
        raise UserError(f"{where}: {_said(value)} is no plausible number")
    return value


def _said(value: object) -> str:
    """A value in a message; a file may hold long ones."""
    text = repr(value) if not isinstance(value, int) or abs(value) < LARGEST else "a huge number"
    return text if len(text) <= 60 else text[:57] + "..."


def check_ranges(config: Any, where: str, **limits: tuple[float, float]) -> None:
    """Raise ``UserError`` unless every named field of a dataclass (every number of a tuple) is
    finite and lies between its two limits. What a file or option says must not set how much memory
    is taken.
    """
    for name, (low, high) in limits.items():
        value = getattr(config, name)
        for number in value if isinstance(value, (tuple, list)) else (value,):
            if number is not None and not low <= number <= high:
                above = (
                    f"be at most {high:g}"
                    if low == -math.inf
                    else f"lie between {low:g} and {high:g}"
                )
                raise UserError(f"{where}{name} {_said(number)}: must {above}")
        if isinstance(value, (tuple, list)) and len(value) > MOST_VALUES:
            raise UserError(f"{where}{name}: {len(value)} values; {MOST_VALUES} are the most")


def check_finite(config: Any, where: str = "--") -> None:
    """Raise ``UserError`` where a (nested) dataclass of options holds a number that is not finite
    or absurdly large.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            check_finite(value, where)
            continue
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, (int, float)) and not abs(number) < LARGEST:
                raise UserError(
                    f"{where}{field.name.replace('_', '-')} {_said(number)}: is no plausible number"
                )


LOWEST_RATE, HIGHEST_RATE = 8000, 48000


def check_sample_rate(rate: int) -> None:
    """Raise ``UserError`` unless tasks have presets at a rate in Hz."""
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise UserError(
            f"--sample-rate {rate}: must lie between {LOWEST_RATE} and {HIGHEST_RATE} Hz"
        )
