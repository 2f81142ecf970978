"""Model card of a checkpoint folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mfdistill.report.tables import cell, markdown_table, shown_columns

_TASKS = {
    "enhance": "speech enhancement (noisy speech in, clean speech out)",
    "vocode": "vocoding (Mel spectrogram in, waveform out)",
    "phase": "phase retrieval (STFT magnitudes in, waveform out)",
    "dereverb": "dereverberation (reverberant speech in, dry speech out)",
    "codec": "post-filter of a speech codec (decoded speech in, speech as it was coded out)",
    "bandwidth": "bandwidth extension (band-limited speech in, full-band speech out)",
}
_BOOKKEEPING = {"checkpoint_sha256", "commit", "machine", "checkpoint", "claim", "failed"}
_STATED = {"task", "network", "pesq_mode", "sample_rate", "split"}  # once, above the table
_RUN = ("steps", "batch_size", "lr", "ema_decay", "seed", "mixed_precision")


def model_card(config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]] = ()) -> str:
    """Markdown (with the hub's YAML header) from a folder's ``config.json`` and rows of evaluation.
    It states only what these hold.

    Args:
        config: ``{"role", "task", "network": {"name", "config"}, "objective", "schedule",
            "training", "parent"}``; any may be missing.
        rows: as ``evaluate`` writes them; without rows the card says that there are no
            measurements.
    """
    role = str(config.get("role") or "model")
    task = config.get("task") or {}
    name, network = task.get("name", "speech"), config.get("network") or {}
    stft = task.get("stft") or {}
    header = [
        "---",
        "library_name: mfdistill",
        "tags:",
        "- speech",
        f"- {name}",
        f"- {role}",
        "- flow-matching",
    ]
    header += ["- meanflow", "---"] if role == "student" else ["---"]

    own = next((row for row in rows if row.get("model") == role and row.get("params")), {})
    facts = [
        ("Task", _TASKS.get(name, name)),
        ("Network", network.get("name")),
        ("Parameters", cell(own, "params") if own else ""),
        ("Predictor in front", ((config.get("predictor") or {}).get("network") or {}).get("name")),
        ("Sample rate", _hertz(stft.get("sample_rate"))),
        ("Objective", _objective(config.get("objective"))),
        ("Schedule", _schedule(config)),
        ("Distilled from", _parent(config.get("parent"))),
    ]
    training = config.get("training") or {}
    facts += [
        (
            "Training",
            ", ".join(f"{key} {training[key]}" for key in _RUN if training.get(key) is not None),
        )
    ]

    lines = [*header, "", f"# {name} {role}", "", _summary(role), "", "| | |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in facts if value]
    lines += ["", "## Use", "", *_usage(role, name), "", "## Results", ""]
    lines += _results(rows) if rows else ["Not evaluated yet: run `mfdistill evaluate`.", ""]
    return "\n".join(lines)


def _summary(role: str) -> str:
    if role == "student":
        return (
            "A MeanFlow student: it predicts the average velocity `u(z_t, t, r)` and makes speech in one to three network evaluations. "
            "Trained with mfdistill."
        )
    if role == "teacher":
        return (
            "A conditional-flow-matching teacher: it predicts the velocity `v(z_t, t)` and is integrated from t = 0 to 1. "
            "Trained with mfdistill."
        )
    if role == "solver":
        return "A learned few-step solver for one flow-matching teacher. Trained with mfdistill."
    return "A network trained with mfdistill."


def _usage(role: str, task: str) -> list[str]:
    if role == "solver":
        return ["```", "mfdistill restore TEACHER in.wav out.wav --solver SOLVER", "```"]
    if role == "student" and task == "enhance":
        return ["```", "mfdistill restore STUDENT noisy.wav restored.wav --nfe 1", "```"]
    if role == "student":
        code = [
            "from mfdistill.students import load_student, sample",
            "",
            'student = load_student("STUDENT")',
        ]
        return ["```python", *code, "z_1 = sample(student, z_0, cond)  # the schedule above", "```"]
    code = [
        "from mfdistill.teachers import load_teacher",
        "",
        'teacher = load_teacher("TEACHER")',
        "v = teacher.velocity(z_t, t, cond)",
    ]
    return (
        ["```python", *code, "```"]
        if role == "teacher"
        else ["A baseline for comparison, loaded by `mfdistill evaluate`."]
    )


def _results(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    def common(key: str) -> Any:
        values = {row.get(key) for row in rows}
        return values.pop() if len(values) == 1 else None

    said = []
    if common("n"):
        said.append(
            f"{common('n')} utterances"
            + (f" of the {common('split')} split" if common("split") else "")
        )
    if common("pesq_mode"):
        said.append(
            {"wb": "wide-band PESQ (P.862.2)", "nb": "narrow-band PESQ (P.862.1)"}.get(
                common("pesq_mode"), ""
            )
        )
    if any(key.endswith("_ci95") for row in rows for key in row):
        said.append("± is a 95 % confidence interval over utterances")
    hidden = _BOOKKEEPING | _STATED | ({"n"} if common("n") else set())
    columns = [column for column in shown_columns(rows) if column not in hidden]
    return [
        *([("; ".join(part for part in said if part)) + ".", ""] if said else []),
        markdown_table(rows, columns),
    ]


def _hertz(value: Any) -> str:
    return f"{value} Hz" if value else ""


def _objective(value: Any) -> str:
    if isinstance(value, Mapping):
        plain = {
            key: item
            for key, item in value.items()
            if key != "name" and isinstance(item, (int, float, str))
        }
        settings = ", ".join(f"{key} {item}" for key, item in plain.items())
        return str(value.get("name", "")) + (f" ({settings})" if settings else "")
    return str(value) if value else ""


def _schedule(config: Mapping[str, Any]) -> str:
    times = config.get("schedule")
    return f"`[{', '.join(f'{t:g}' for t in times)}]` ({len(times) - 1} NFE)" if times else ""


def _parent(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(
            f"{key} {item}" for key, item in value.items() if isinstance(item, (int, float, str))
        )
    return str(value) if value else ""
