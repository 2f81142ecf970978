"""Help that fits a screen: the options that people use, with the defaults of the dataclasses and
the first sentence that is written under each field. ``--help-all`` shows every option.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import re
import textwrap
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_WIDTH = 80
_COLUMN = 27
_TRAINING = {
    "--out": "training.out", "--steps": "training.steps", "--batch-size": "training.batch_size", "--lr": "training.lr",
    "--mixed-precision": "training.mixed_precision", "--resume": "training.resume", "--overwrite": "training.overwrite",
    "--time-limit-hours": "training.time_limit_hours",
}  # fmt: skip
_DATA = {"--data": "data.source", "--data.noise": "data.noise"}
_VALID = {"--valid-metrics": "valid.valid_metrics"}
SHORT: dict[str, dict[str, dict[str, str]]] = {
    "teacher-train": {
        "what": {"--task": "task", "--sample-rate": "sample_rate", "--causal": "causal", "--objective": "objective",
                 "--backbone": "backbone", "--config": "config"},
        "data": _DATA, "training": _TRAINING | _VALID,
    },
    "student-distill": {
        "what": {"--teacher": "teacher", "--objective": "objective", "--causal": "causal", "--preset": "preset",
                 "--integral.spectral": "integral.spectral", "--config": "config"},
        "data": _DATA, "training": _TRAINING | _VALID,
    },
    "student-finish": {
        "what": {"--student": "student", "--regression": "regression", "--config": "config"},
        "data": _DATA, "training": _TRAINING | _VALID,
    },
    "os3-search": {
        "what": {"--student": "student", "--nfe": "search.nfe", "--metric": "search.metric", "--limit": "search.limit",
                 "--iterations": "search.iterations", "--workers": "search.workers", "--out": "out"},
        "data": {"--data": "data.source"},
    },
    "evaluate": {
        "what": {"--student": "student", "--teacher": "teacher", "--regression": "regression", "--metrics": "metrics",
                 "--student-nfe": "student_nfe", "--teacher-nfe": "teacher_nfe", "--limit": "limit", "--against": "against",
                 "--audio": "audio", "--workers": "workers", "--out": "out"},
        "data": {"--data": "data.source", "--split": "split"},
    },
    "restore": {
        "what": {"MODEL (may be left out)": "model", "IN": "source", "OUT": "target", "--model": "shipped"},
        "how": {"--nfe": "nfe", "--schedule": "schedule", "--solver": "solver", "--batch": "batch", "--seed": "seed",
                "--overwrite": "overwrite"},
    },
    "stream": {
        "what": {"IN": "source", "OUT": "target", "--student, --model": "student", "--verify": "verify", "--export": "export"},
        "how": {"--nfe": "nfe", "--runner": "runner", "--paced": "paced", "--gain": "gain"},
    },
    "synthesize": {
        "what": {"STUDENT": "model", "--prompt": "prompt", "--prompt-text": "prompt_text", "--text": "text",
                 "--tokens-from": "tokens_from", "--out": "out", "--list": "list"},
        "how": {"--nfe": "nfe", "--vocoder": "vocoder", "--guidance": "guidance", "--speed": "speed", "--seed": "seed"},
    },
}  # fmt: skip
"""By command and group, options and where their fields are."""
GROUPS = {
    "try it": ("demo", "models", "restore", "stream", "synthesize"),
    "train": ("teacher-train", "teacher-import", "student-distill", "student-finish", "resume", "compress", "solver-train"),
    "judge": ("os3-search", "evaluate", "compare", "info"),
    "other": ("recipes", "data", "degrade", "merge", "export", "push", "completion"),
}  # fmt: skip
SUMMARIES = {
    "demo": "the whole chain in minutes, on a corpus made on this machine",
    "models": "the small models that came with the program",
    "restore": "files through a model: noisy.wav clean.wav, or folders",
    "stream": "a causal model hop by hop, on files or a microphone",
    "synthesize": "a text, units or tokens in the voice of a prompt",
    "teacher-train": "a flow-matching teacher, or a regression network",
    "teacher-import": "another system's checkpoint as a folder of ours",
    "student-distill": "a teacher into a student of one to three steps",
    "student-finish": "a student's one- or two-step sampler by losses on audio",
    "resume": "a run, from its folder alone; a finished one for more",
    "compress": "a smaller copy of a model, or one in eight bits",
    "solver-train": "a few-step Runge-Kutta solver for a teacher",
    "os3-search": "where a student's steps belong, by a metric",
    "evaluate": "teacher, student and regression network on a test set",
    "compare": "one page of several runs side by side",
    "merge": "adapter weights into a whole model",
    "info": "what a checkpoint is, or what is installed here",
    "data": "check a corpus before hours are spent on it",
    "degrade": "a task's degraded speech made of clean speech",
    "export": "a student as another system's checkpoint",
    "push": "a model to the hub",
    "completion": "of commands and options, for bash or zsh",
    "recipes": "of student-distill, for other systems' teachers",
}
_INHERITED = {
    "student-distill": "what the teacher was trained on",
    "student-finish": "what the student was trained on",
    "os3-search": "what the student was trained on",
    "evaluate": "what the student was trained on",
}
"""What ``--data`` is where it is not given."""


def overview(commands: Mapping[str, type]) -> str:
    """What ``mfdistill --help`` says."""
    lines = ["usage: mfdistill COMMAND [options]", ""]
    about = (
        "Turn conditional-flow-matching speech teachers into one- to three-step MeanFlow students."
    )
    lines += [*textwrap.wrap(about, _WIDTH), ""]
    listed = {name for names in GROUPS.values() for name in names}
    groups = {**GROUPS, "more": tuple(name for name in commands if name not in listed)}
    for group, names in groups.items():
        own = [name for name in names if name in commands]
        lines += [f"{group}:"] if own else []
        for name in own:
            lines.append(
                f"  {name:17s} {SUMMARIES.get(name) or _first(str(commands[name].__doc__))}"
            )
    return "\n".join(
        [
            *lines,
            "",
            "A command's options: mfdistill COMMAND --help; for scripts: --json, --quiet",
            "",
        ]
    )


def short_help(name: str, cls: type) -> str | None:
    """What ``mfdistill NAME --help`` says; None where the whole help is short enough."""
    if name not in SHORT:
        return None
    lines = [f"usage: mfdistill {name} [options]        (every option: --help-all)", ""]
    lines += [*textwrap.wrap(_plain(" ".join((inspect.getdoc(cls) or "").split())), _WIDTH), ""]
    for group, options in SHORT[name].items():
        lines.append(f"{group}:")
        for option, path in options.items():
            lines += _option(name, cls, option, path)
    return "\n".join([*lines, ""])


def _option(name: str, cls: type, option: str, path: str) -> list[str]:
    owner, field, default = _at(cls, path)
    words = _first(_docs(owner).get(field, ""))
    if option == "--data":
        told = _INHERITED.get(name, "embedded")
        words = "embedded, a folder, a table or a hub id."
    else:
        told = _value(default)
    words = _plain(words or _choices(owner, field)).rstrip(".,")
    words = f"{words} ({told})" if told else words
    body = textwrap.wrap(words, _WIDTH - _COLUMN)[:3] or [""]
    head = f"  {option}"
    if len(head) >= _COLUMN:
        return [head, *(" " * _COLUMN + line for line in body)]
    return [head.ljust(_COLUMN) + body[0], *(" " * _COLUMN + line for line in body[1:])]


def _choices(owner: type, field: str) -> str:
    hint = typing.get_type_hints(owner).get(field)
    return ", ".join(str(value) for value in typing.get_args(hint))


def _at(cls: type, path: str) -> tuple[type, str, Any]:
    """Class and name of the field at ``path``, and its default as the command has it."""
    *outer, last = path.split(".")
    owner, value = cls, dataclasses.MISSING
    for part in outer:
        value = _default(owner, part) if value is dataclasses.MISSING else getattr(value, part)
        owner = type(value)
    found = _default(owner, last) if value is dataclasses.MISSING else getattr(value, last)
    return owner, last, found


def _default(cls: type, name: str) -> Any:
    field = {item.name: item for item in dataclasses.fields(cls)}[name]
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _value(default: Any) -> str:
    if default is None or default is dataclasses.MISSING or default is False or default == ():
        return ""
    if isinstance(default, (tuple, list)):
        return " ".join(str(item) for item in default)
    return f"{default:g}" if isinstance(default, float) else str(default)


@functools.cache
def _docs(cls: type) -> dict[str, str]:
    """The text under each field of a dataclass and of what it inherits."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        tree = ast.parse(Path(str(inspect.getsourcefile(base))).read_text(encoding="utf-8"))
        body = next(
            node.body
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef) and node.name == base.__name__
        )
        for item, after in zip(body, body[1:], strict=False):
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                text = after.value if isinstance(after, ast.Expr) else None
                if isinstance(text, ast.Constant) and isinstance(text.value, str):
                    found[item.target.id] = " ".join(text.value.split())
    return found


def _first(text: str) -> str:
    """The first sentence, up to a semicolon."""
    return re.split(r"(?<=[.])\s|;", " ".join(text.split()), maxsplit=1)[0]


def _plain(text: str) -> str:
    return text.replace("``", "")
