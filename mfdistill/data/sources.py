"""Every source as a table with the same columns: ``name``, ``speaker``, ``text``, ``clean`` and,
where there is, ``noisy``. Hub ids and parquet files are read by the package ``datasets``.

The audio columns hold undecoded ``{"bytes", "path"}``; ``mfdistill.data.waves`` decodes them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mfdistill.data.config import DataConfig
from mfdistill.data.folders import ALIASES, Row, folder_rows, hold_out, noise_files, stable_hash
from mfdistill.data.rows import Rows, Table
from mfdistill.errors import UserError
from mfdistill.extras import needed
from mfdistill.plain import Plain
from mfdistill.walk import files_below

_COLUMNS = {
    "name": ("name", "id", "file"),
    "speaker": ("speaker", "speaker_id"),
    "text": ("text", "transcription", "transcript"),
}
SPLITS = ("train", "valid", "test")
_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")


def open_rows(config: DataConfig, split: str, noisy: bool) -> Table:
    """The utterances of ``split``; ``noisy``: with a column of degraded twins where the source has
    them.

    Raises:
        UserError: the source is missing, empty, incomplete or has other columns.
    """
    source = config.source
    if source == "embedded":
        from mfdistill.data.embedded import embedded_corpus

        source = str(embedded_corpus())
    if is_table(source):
        rows = _table_rows(source, config, split, noisy)
    else:
        names = {part: config.split(part) for part in SPLITS}
        rows = _in_memory(folder_rows(Path(source).expanduser(), split, names, noisy))
    if config.max_files is not None and config.max_files < len(rows):
        hashes = [stable_hash(str(name)) for name in rows["name"]]
        rows = rows.select(
            sorted(sorted(range(len(rows)), key=hashes.__getitem__)[: config.max_files])
        )
    return rows


def open_noises(config: DataConfig, split: str) -> Table:
    """The noises that are mixed into ``split``: columns ``name`` and ``clean`` (here: the noise).

    Raises:
        UserError: no noise was named and there is none beside the speech.
    """
    if config.noise == "embedded" or (config.noise is None and config.source == "embedded"):
        from mfdistill.data.embedded import embedded_noises

        folder = embedded_noises()
    elif config.noise is not None:
        folder = Path(config.noise).expanduser()
    else:
        folder = Path(config.source).expanduser() / "noise"
        if not folder.is_dir():
            lack = "has neither noisy recordings nor a folder 'noise'"
            raise UserError(
                f"{config.source}: {lack}; name a folder of noises with --data.noise, or 'embedded' for synthetic ones"
            )
    files = noise_files(folder, split)
    return _in_memory(
        [
            {"name": file.stem, "speaker": "", "text": None, "clean": str(file), "noisy": None}
            for file in files
        ]
    )


def is_table(source: str) -> bool:
    """True for a parquet file, a folder with parquet files, or a hub id: what
    ``datasets.load_dataset`` reads.

    A name below a folder that is here ("runs/x" beside a folder "runs") is no hub id, but a local
    name, right or mistyped.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return bool(files_below(path, {".parquet"}))
    if path.suffix == ".parquet":
        return True
    return (
        not path.exists()
        and not path.parent.is_dir()
        and _HUB_ID.match(source) is not None
        and not source.startswith(".")
    )


def load_table(
    source: str, config: DataConfig, split: str, streaming: bool
) -> tuple[Any, list[str]]:
    """``(data set, missing)``: the table's part called ``split``, or its training part when
    ``split`` is one of the ``missing`` ones.

    Raises:
        UserError: it cannot be found or read, or has no such split.
    """
    datasets = needed("datasets", source)
    from datasets.exceptions import DatasetsError

    path = Path(source).expanduser()
    options: Plain = {"streaming": streaming}
    if path.is_file():
        target, options["data_files"] = "parquet", {config.train_split: str(path)}
    elif path.suffix == ".parquet":
        raise UserError(f"{source}: no such file; name a parquet file, a folder or a hub id")
    else:
        target = str(path) if path.is_dir() else source
    try:
        parts = datasets.load_dataset(target, config.subset, **options)
    except (DatasetsError, OSError, ValueError) as error:
        if target == source and not path.exists():
            advice = (
                "is no folder here and cannot be read from the hub",
                "check the name, the network and your login",
            )
        else:
            advice = "cannot be read", "name a parquet file or a folder of them"
        raise UserError(f"{source}: {advice[0]} ({_first_line(error)}); {advice[1]}") from error
    found: dict[str, str] = {}
    for part in SPLITS:
        wanted = config.split(part)
        for alias in (wanted, *ALIASES[part]) if wanted == part else (wanted,):
            if alias in parts:
                found.setdefault(part, alias)
    missing = [part for part in SPLITS if part not in found]
    if "train" in missing and split not in found:
        lack = f"has no split '{config.split(split)}', only {', '.join(map(str, parts))}"
        raise UserError(f"{source}: {lack}; name one with --data.{split}-split")
    return parts[found.get(split, found.get("train", ""))], missing


def uniform_columns(table: Any, config: DataConfig, noisy: bool, source: str) -> Any:
    """Audio columns called ``clean`` and ``noisy``, undecoded; name, speaker and text where there
    are any; of a data set or a stream.

    Raises:
        UserError: the audio columns are not there.
    """
    import datasets

    columns = list(table.features or next(iter(table), {}))
    wanted = {config.clean_column: "clean"}
    if config.clean_column not in columns:
        raise UserError(
            f"{source}: has no column '{config.clean_column}', only {', '.join(columns)}; name one with --data.clean-column"
        )
    if noisy and config.noisy_column in columns:
        wanted[config.noisy_column] = "noisy"
    for new, olds in _COLUMNS.items():
        old = next((old for old in olds if old in columns and old not in wanted), None)
        if old is not None:
            wanted[old] = new
    # first of all, and all of them: a stream would decode what is dropped later
    for column in columns:
        audio = table.features is not None and isinstance(table.features[column], datasets.Audio)
        if audio or wanted.get(column) in ("clean", "noisy"):
            table = table.cast_column(column, _undecoded())
    table = table.select_columns(list(wanted))
    return table.rename_columns({old: new for old, new in wanted.items() if old != new})


def _table_rows(source: str, config: DataConfig, split: str, noisy: bool) -> Table:
    table, missing = load_table(source, config, split, streaming=False)
    table = uniform_columns(table, config, noisy, source)
    if len(table) == 0:
        raise UserError(f"{source}: its split '{config.split(split)}' is empty")
    names = (
        [str(name) for name in table["name"]]
        if "name" in table.column_names
        else [f"{i:06d}" for i in range(len(table))]
    )
    speakers = (
        [str(speaker) for speaker in table["speaker"]]
        if "speaker" in table.column_names
        else [""] * len(table)
    )
    texts = (
        [str(text) for text in table["text"]]
        if "text" in table.column_names
        else [None] * len(table)
    )
    if split in missing or split == "train":
        rows: list[Row] = [
            {"name": str(i), "speaker": speaker} for i, speaker in enumerate(speakers)
        ]
        chosen = [int(str(row["name"])) for row in hold_out(rows, split, missing, source)]
    else:
        chosen = list(range(len(table)))
    audio = table.select_columns(
        [column for column in ("clean", "noisy") if column in table.column_names]
    )
    return (
        audio.add_column("name", names)
        .add_column("speaker", speakers)
        .add_column("text", texts)
        .select(chosen)
    )


def _undecoded() -> Plain:
    """Type of an audio column. Not ``Audio(decode=False)``: that wants torchcodec wherever a stream
    or a list passes through.
    """
    import datasets

    return {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}


def _in_memory(rows: list[Row]) -> Rows:
    columns: dict[str, list[Any]] = {
        column: [row[column] for row in rows] for column in ("name", "speaker", "text")
    }
    columns["clean"] = [{"bytes": None, "path": row["clean"]} for row in rows]
    if rows and rows[0]["noisy"] is not None:
        columns["noisy"] = [{"bytes": None, "path": row["noisy"]} for row in rows]
    return Rows(columns)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
