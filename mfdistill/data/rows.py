"""A table in memory with as much of the interface of a Hugging Face data set as rows of speech
need.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Table(Protocol):
    """What is read of `Rows` and of ``datasets.Dataset`` alike."""

    @property
    def column_names(self) -> list[str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any) -> Any:
        """A column by its name, a row as a dictionary by its number."""
        ...

    def select(self, indices: Any) -> Any: ...

    def select_columns(self, column_names: Any) -> Any: ...


class Rows:
    """Columns of equal length; the values are not copied."""

    def __init__(self, columns: Mapping[str, Sequence[Any]]) -> None:
        self._columns = dict(columns)
        if len({len(column) for column in self._columns.values()}) > 1:
            raise ValueError("columns of different lengths")

    @property
    def column_names(self) -> list[str]:
        return list(self._columns)

    def __len__(self) -> int:
        return len(next(iter(self._columns.values()), ()))

    def __getitem__(self, key: str | int) -> Any:
        if isinstance(key, str):
            return self._columns[key]
        if not -len(self) <= key < len(self):
            raise IndexError(f"row {key} of {len(self)}")
        return {name: column[key] for name, column in self._columns.items()}

    def select(self, indices: Sequence[int]) -> Rows:
        """The rows of these numbers, in their order."""
        return Rows({name: [column[i] for i in indices] for name, column in self._columns.items()})

    def select_columns(self, column_names: Sequence[str]) -> Rows:
        return Rows({name: self._columns[name] for name in column_names})
