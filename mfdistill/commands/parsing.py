"""From the words of a command line to the dataclass of one command, by tyro. Imports no torch.

Options come from, the later before the earlier: the command's defaults; the data of the checkpoint
that it starts from; ``--config runs/x/config.json``; the command line.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import re
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Union

import tyro

from mfdistill.checkpoint import load_config
from mfdistill.commands.compare import Compare
from mfdistill.commands.completion import Completion
from mfdistill.commands.compress import Compress
from mfdistill.commands.data import Data
from mfdistill.commands.degrade import Degrade
from mfdistill.commands.demo import Demo
from mfdistill.commands.evaluate import Evaluate
from mfdistill.commands.export import Export
from mfdistill.commands.extend import extend
from mfdistill.commands.info import Info
from mfdistill.commands.merge import Merge
from mfdistill.commands.models import Models
from mfdistill.commands.options import corpus
from mfdistill.commands.os3_search import OS3Search
from mfdistill.commands.push import Push
from mfdistill.commands.recipe_table import recipe_fields
from mfdistill.commands.recipes import Recipes
from mfdistill.commands.restore import Restore
from mfdistill.commands.resume import Resume
from mfdistill.commands.saved import saved_command
from mfdistill.commands.short_help import overview, short_help
from mfdistill.commands.solver_train import SolverTrain
from mfdistill.commands.stream import Stream
from mfdistill.commands.student_distill import StudentDistill
from mfdistill.commands.student_finish import StudentFinish
from mfdistill.commands.synthesize import Synthesize
from mfdistill.commands.table import TRAINED
from mfdistill.commands.teacher_import import TeacherImport
from mfdistill.commands.teacher_train import TeacherTrain
from mfdistill.commands.tts_options import preset
from mfdistill.config import check_finite, from_dict
from mfdistill.data.tts_config import TTSOptions
from mfdistill.errors import UserError
from mfdistill.plain import Plain
from mfdistill.version import __version__

COMMANDS: dict[str, type] = {
    "teacher-train": TeacherTrain,
    "teacher-import": TeacherImport,
    "student-distill": StudentDistill,
    "student-finish": StudentFinish,
    "os3-search": OS3Search,
    "solver-train": SolverTrain,
    "evaluate": Evaluate,
    "compare": Compare,
    "restore": Restore,
    "stream": Stream,
    "synthesize": Synthesize,
    "degrade": Degrade,
    "data": Data,
    "compress": Compress,
    "demo": Demo,
    "merge": Merge,
    "recipes": Recipes,
    "export": Export,
    "models": Models,
    "info": Info,
    "resume": Resume,
    "push": Push,
    "completion": Completion,
}
ALIASES = {"o3s-search": "os3-search"}
CHECKPOINTS = {
    "student-distill": ("teacher",), "solver-train": ("teacher",), "compress": ("model",), "os3-search": ("student",),
    "evaluate": ("student", "teacher", "regression"), "student-finish": ("student", "regression", "teacher"),
}  # fmt: skip
"""Options that name a checkpoint; the data of the first one given are the default."""
_STYLE = (
    tyro.conf.CascadeSubcommandArgs,
    tyro.conf.OmitSubcommandPrefixes,
    tyro.conf.PositionalMetavarFromFieldName,
)


def parse(arguments: list[str]) -> Any:
    """The command's dataclass.

    Raises:
        UserError: no such command, option or value. SystemExit: help, version or a completion
            script was asked for.
    """
    while arguments[:1] == ["--extend"]:
        if len(arguments) < 2:
            raise UserError("--extend: name a Python file (docs/extending.md)")
        extend(arguments[1])
        arguments = arguments[2:]
    if not arguments:
        arguments = ["--help"]
    if arguments[0] == "--version":
        sys.stdout.write(f"mfdistill {__version__}\n")
        raise SystemExit(0)
    name = ALIASES.get(arguments[0], arguments[0])
    if name not in COMMANDS and name not in ("-h", "--help"):
        raise UserError(
            f"{name}: no such command; "
            + _nearest(name, [*COMMANDS, *ALIASES], ", ".join(COMMANDS))
        )
    rest = arguments[1:]
    if {"-h", "--help"} & {name, *rest}:
        text = overview(COMMANDS) if name[0] == "-" else short_help(name, COMMANDS[name])
        if text is not None:
            sys.stdout.write(text)
            raise SystemExit(0)
    rest = ["--help" if word == "--help-all" else word for word in rest]
    default = _default(name, rest) if not {"-h", "--help"} & set(rest) else None
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            command, unknown = _tyro([name, *rest], {name: default} if default is not None else {})
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UserError(_one_line(told.getvalue(), name)) from None
    if unknown:
        raise UserError(_unknown(name, unknown[0]))
    if isinstance(command, Completion):  # of this file's own table
        sys.stdout.write(completion_script(command.shell))
        raise SystemExit(0)
    check_finite(command)
    return command


def completion_script(shell: str) -> str:
    """tyro's, with file names where no command or option fits."""
    told = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(told):
        _tyro(["--tyro-print-completion", shell], {})
    return told.getvalue().replace("complete -F _tyro", "complete -o default -F _tyro")


def _tyro(arguments: list[str], defaults: Plain) -> tuple[Any, list[str]]:
    choices = tuple(
        Annotated[
            cls,
            tyro.conf.subcommand(name, **{"default": defaults[name]} if name in defaults else {}),
        ]
        for name, cls in COMMANDS.items()
    )
    about = "Turn conditional-flow-matching speech teachers into one- to three-step MeanFlow students. A command's options: COMMAND --help."
    return tyro.cli(
        Union[choices],  # type: ignore[arg-type]  # noqa: UP007
        prog="mfdistill", description=about, args=arguments, config=_STYLE, return_unknown_args=True,
    )  # fmt: skip


def _default(name: str, rest: list[str]) -> Any:
    """The command as a repeated run or the checkpoint's data make it; None where neither is
    named.
    """
    cls = COMMANDS[name] if name in COMMANDS else None
    if (path := _value(rest, "config")) is not None and cls is not None and cls in TRAINED:
        if (name_ := _value(rest, "preset")) is not None and name == "student-distill":
            raise UserError(
                f"--preset {name_}: --config {path} repeats the numbers of its own run; leave one of them out"
            )
        made: Any = saved_command(load_config(path), cls, path)
        return replace(made, config=path)
    defaults = {} if cls is None else {item.name: item.default for item in fields(cls)}
    chosen = _chosen(rest) if "preset" in defaults else {}
    for option in CHECKPOINTS.get(name, ()):
        path = _value(rest, option) or defaults[option]
        if cls is not None and isinstance(path, str) and Path(path, "config.json").is_file():
            saved = load_config(path)
            made = {option: path, "data": corpus(saved.get("data"), path)}
            if "tts" in defaults and saved.get("tts"):
                made["tts"] = from_dict(TTSOptions, saved["tts"], f"{path}: tts")
            return cls(**{**made, **chosen})
    if chosen and cls is not None:
        return cls(teacher=_value(rest, "teacher"), **chosen)
    return None


def _chosen(rest: list[str]) -> Plain:
    """What --preset or --recipe sets.

    Raises:
        UserError: both, or no such one.
    """
    named, recipe = _value(rest, "preset"), _value(rest, "recipe")
    if named is not None and recipe is not None:
        raise UserError("--preset and --recipe exclude each other: give one of them")
    if recipe is not None:
        return recipe_fields(recipe)
    return {} if named is None else preset(named)


def _value(arguments: list[str], option: str) -> str | None:
    """What ``--option VALUE`` or ``--option=VALUE`` says, the last time."""
    found = None
    for place, word in enumerate(arguments):
        if word == f"--{option}" and place + 1 < len(arguments):
            found = arguments[place + 1]
        elif word.startswith(f"--{option}="):
            found = word.split("=", 1)[1]
    return found


def _one_line(box: str, name: str) -> str:
    """The text of the box in which tyro tells an error, up to its rule."""
    words = []
    for line in box.splitlines()[1:]:
        text = line.strip(" │╰╯╭╮")
        if re.fullmatch(r"─+", text):
            break
        words.append(text)
    return f"{re.sub(r'  +', ' ', ' '.join(words)).strip() or box.strip()}; see mfdistill {name} --help"


def _unknown(name: str, word: str) -> str:
    if not word.startswith("-"):
        return f"{word}: not expected here; see mfdistill {name} --help"
    text = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(text):
        _tyro([name, "--help"], {})
    options = sorted(set(re.findall(r"--[a-z][\w.-]*", text.getvalue())))
    return f"{word}: no such option of {name}; " + _nearest(
        word.split("=")[0].replace("_", "-"), options, f"see mfdistill {name} --help"
    )


def _nearest(word: str, known: Sequence[str], otherwise: str) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]}?" if near else otherwise
