"""Text, tables and JSON that people and other programs wrote: what is wrong with them is one line
that names the file.
"""

from __future__ import annotations

import codecs
import csv
import errno
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mfdistill.errors import UserError
from mfdistill.plain import Plain

MOST_BYTES = 2**30  # a text larger than this is none
_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def read_text(file: Path, most_bytes: int = MOST_BYTES) -> str:
    """A file of UTF-8, with or without a byte order mark.

    Raises:
        UserError: missing, unreadable, larger than ``most_bytes``, or in another encoding; the line
            and the encoding it looks like are named.
    """
    try:
        size = file.stat().st_size
        if size > most_bytes:
            raise UserError(f"{file}: {size} bytes, too large for a text; name another file")
        data = file.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise UserError(f"{file}: cannot be read ({reason(error)}); check the name") from error
    mark = next((mark for mark in _MARKS if data.startswith(mark)), None)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        looks = "UTF-16" if b"\0" in data[:1000] else "Latin-1 or Windows-1252"
        at = data.count(b"\n", 0, error.start) + 1
        raise _encoding(file, at, _MARKS[mark] if mark else looks) from error
    if "\0" in text:
        at = text.count("\n", 0, text.index("\0")) + 1
        raise _encoding(file, at, "UTF-16" if len(text) > 1 else "binary data")
    return text


def read_lines(file: Path) -> list[tuple[int, str]]:
    """The lines of a text with their numbers, empty ones left out (errors as ``read_text``).

    Only line feeds end a line (``str.splitlines`` also knows separators that stand in texts).
    """
    lines = re.split(r"\r\n|\n|\r", read_text(file))
    return [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def read_rows(file: Path, needed: tuple[str, ...], delimiter: str = "\t") -> list[dict[str, str]]:
    """A table with a header; fields of a table between tabs are taken as they are, others may be
    quoted. Further columns are kept, cells that the end of a line lacks are empty.

    Raises:
        UserError: as ``read_text``; a column of ``needed`` is missing or named twice, or a line has
            more cells than the header.
    """
    lines = read_lines(file)
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    columns: list[str] = []
    rows: list[dict[str, str]] = []
    csv.field_size_limit(2**24)
    reader = csv.reader([line for _, line in lines], delimiter=delimiter, quoting=quoting)
    try:
        for cells in reader:
            number = lines[reader.line_num - 1][0]
            if not columns:
                columns = [cell.strip() for cell in cells]
                lack = [name for name in needed if columns.count(name) != 1]
                if lack:
                    raise UserError(
                        f"{file}, line {number}: needs one column '{lack[0]}' and has {', '.join(columns)[:80]}; "
                        f"write a header with {_between(needed, delimiter)}"
                    )
                continue
            if len(cells) > len(columns):
                raise UserError(
                    f"{file}, line {number}: has {len(cells)} cells, its header {len(columns)}; correct the line"
                )
            rows.append(dict(zip(columns, cells + [""] * len(columns), strict=False)))
    except csv.Error as error:
        raise UserError(
            f"{file}: no table ({error}); write {_between(needed, delimiter)}"
        ) from error
    if needed and not columns:
        raise UserError(f"{file}: empty; write {_between(needed, delimiter)}")
    return rows


def read_json(file: Path, what: str, most_bytes: int = 2**26) -> Plain:
    """A file that holds one JSON object.

    Args:
        what: the remedy, such as "restore it or train again".

    Raises:
        UserError: as ``read_text``; no JSON, or something other than an object.
    """
    value = parse_json(read_text(file, most_bytes), str(file), what)
    if not isinstance(value, dict):
        raise UserError(f"{file}: holds {_kind(value)}, not a JSON object; {what}")
    return value


def parse_json(text: str, where: str, what: str) -> Any:
    """``json.loads`` whose errors, nesting too deep among them, are one line."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not valid JSON ({reason(error)}); {what}") from error


@contextmanager
def parsing(where: str | Path, remedy: str) -> Iterator[None]:
    """Around the call of a parser that is not ours: whatever it raises about a file becomes one
    line. What such parsers raise on damaged files is not told by their documentation (IndexError,
    struct.error, RecursionError, ...), so all exceptions count; none is passed over.

    Raises:
        UserError: "``where``: cannot be read (reason); ``remedy``".
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{where}: cannot be read ({reason(error)}); {remedy}") from error


def reason(error: BaseException) -> str:
    """The first line of what an exception says; its name where it says nothing."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, KeyError) and error.args:
        return f"no {error.args[0]!r}"[:200]
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def disk_remedy(error: BaseException) -> str:
    """What helps where a file cannot be written: space only where there is none."""
    number = error.errno if isinstance(error, OSError) else None
    full = number in (errno.ENOSPC, errno.EDQUOT) or "No space" in str(error)
    return "free some space or name another folder" if full else "name another folder"


def _kind(value: object) -> str:
    return {list: "a list", str: "a text", type(None): "null"}.get(type(value), f"{value!r}"[:40])


def _between(needed: tuple[str, ...], delimiter: str) -> str:
    between = "tabs" if delimiter == "\t" else f"'{delimiter}'"
    return f"the columns {' and '.join(needed)} between {between}"


def _encoding(file: Path, line: int, looks: str) -> UserError:
    return UserError(
        f"{file}, line {line}: not UTF-8, it looks like {looks}; save it as UTF-8 (iconv -f ... -t UTF-8)"
    )
