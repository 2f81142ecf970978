"""What synthesize is to speak: its options, or the rows of a list."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mfdistill.plain import Plain, Section

ASKED = ("tokens_from", "text", "prompt_text", "tokens", "prompt_tokens", "speaker")
"""What says what is spoken, and the prompt; a model takes some of them (``Task.takes``)."""
FILES = ("prompt", "tokens_from", "tokens", "prompt_tokens", "speaker")
FIELDS = (
    "prompt",
    "tokens_from",
    "text",
    "prompt_text",
    "tokens",
    "prompt_tokens",
    "speaker",
    "out",
)


@dataclass(frozen=True)
class Job:
    """One utterance."""

    prompt: str
    out: Path
    tokens_from: str | None = None
    text: str | None = None
    prompt_text: str | None = None
    tokens: str | None = None
    prompt_tokens: str | None = None
    speaker: str | None = None
    where: str = ""
    """Its place in the list, for messages."""


def jobs_of(out: str | None, listed: str | None, options: Section) -> list[Job]:
    """What is to be spoken into ``out``: what ``options`` say, or a ``listed`` file's rows.

    Raises:
        UserError: options that are missing or exclude each other, or a damaged list.
    """
    from mfdistill.errors import UserError

    if out is None:
        raise UserError("--out: name the file to write (with --list: the folder)")
    if listed is None:
        return [job_of({**options, "out": None}, Path(out), "", "--")]
    if any(options[name] is not None for name in FIELDS[:-1]):
        raise UserError(
            "--list: holds the prompts, texts and recordings itself; leave these options out"
        )
    file, jobs = Path(listed), []
    for number, row in enumerate(read_list(file), start=1):
        paths = {name: str(file.parent / row[name]) for name in FILES if row.get(name)}
        place = Path(out) / (row.get("out") or f"{number:04d}.wav")
        jobs.append(job_of({**row, **paths}, place, f"row {number}", f"{file}, row {number}: "))
    return jobs


def job_of(values: Section, out: Path, where: str, prefix: str) -> Job:
    """One utterance from its fields; empty ones count as missing, but an empty text is told as
    such.
    """
    from mfdistill.errors import UserError

    given = {name: values.get(name) or None for name in FIELDS if name != "out"}
    text, spoken = (
        values.get("text"),
        [name for name in ("text", "tokens_from", "tokens") if given[name]],
    )
    if text is not None and not str(text).strip() and spoken in ([], ["text"]):
        raise UserError(f"{prefix}text: empty; give some words")
    if not given["prompt"]:
        raise UserError(f"{prefix}prompt: missing; name a recording of the voice")
    if len(spoken) != 1:
        raise UserError(
            f"{prefix}text: give either a text or a recording with tokens-from (CosyVoice: speech tokens with tokens)"
        )
    words: Plain = {name: None if value is None else str(value) for name, value in given.items()}
    return Job(out=out, where=where, **words)


def read_list(file: Path) -> list[dict[str, str]]:
    """The rows of a TSV or JSONL list.

    Raises:
        UserError: no such file, no rows, an unknown column, or a line that is no JSON object.
    """
    from mfdistill.errors import UserError
    from mfdistill.reading import parse_json, read_lines, read_rows

    if not file.is_file():
        raise UserError(f"{file}: no such file; --list wants a TSV or JSONL file")
    rows: list[dict[str, str]] = []
    if file.suffix in (".jsonl", ".json"):
        for number, line in read_lines(file):
            row = parse_json(line, f"{file}, line {number}", "write an object per line")
            if not isinstance(row, dict):
                raise UserError(
                    f"{file}, line {number}: {line[:40]!r} is no JSON object; write one per line"
                )
            if wrong := [name for name, value in row.items() if isinstance(value, (list, dict))]:
                raise UserError(f"{file}, line {number}: {wrong[0]} must be a text or a number")
            rows.append({name: "" if value is None else str(value) for name, value in row.items()})
    else:
        rows = read_rows(file, ())
    if not rows:
        raise UserError(
            f"{file}: has no rows; write a header ({', '.join(FIELDS)}) and a row per utterance"
        )
    for name in (name for row in rows for name in row):
        if name not in FIELDS:
            raise UserError(
                f"{file}: unknown column {name!r}; the columns are {', '.join(FIELDS)}, separated by tabs"
            )
    return rows
