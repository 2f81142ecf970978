"""Model card of a checkpoint folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mfdistill.plain import Row
from mfdistill.report.schedules import comparison_rows, comparison_where
from mfdistill.report.tables import cell, header, markdown_table, shown_columns


@dataclass(frozen=True)
class Said:
    """What a model's task and system say of themselves: what goes in and comes out, options of
    ``synthesize`` that ask for something, and the licence of the weights that it is made from (the
    hub's name, and words).
    """

    about: str = ""
    example: str = ""
    restores: bool = True
    licence: tuple[str, str] | None = None


_BOOKKEEPING = {"checkpoint_sha256", "commit", "machine", "checkpoint", "claim", "failed"}
_STATED = {"task", "network", "pesq_mode", "sample_rate", "split"}  # once, above the table
_RUN = ("steps", "batch_size", "lr", "ema_decay", "seed", "mixed_precision")


def model_card(
    config: Row,
    rows: Sequence[Row] = (),
    where: str | None = None,
    evaluations: Sequence[Row] = (),
    searches: Sequence[Row] = (),
    license: str | None = None,
    said: Said = Said(),
) -> str:
    """Markdown (with the hub's YAML header) from a folder's ``config.json``, evaluations and
    searches. It states only what these hold.

    Args:
        config: ``{"role", "task", "network": {"name", "config"}, "objective", "schedule",
            "training", "parent", "data", "version"}``; any may be missing.
        rows: of one evaluation, as ``evaluate`` writes them.
        where: the folder or hub id that the commands of the card name.
        evaluations: ``{"data", "split", "rows", "dropped"}`` of several; without any (and without
            ``rows``) the card says that there are no measurements.
        searches: as ``o3s.json`` holds them.
        license: hub name of a licence that the owner chose. said: by task and system.
    """
    role = str(config.get("role") or "model")
    task = config.get("task") or {}
    name, network = task.get("name", "speech"), config.get("network") or {}
    stft = task.get("stft") or {}
    evaluations = [*evaluations, *([{"rows": rows}] if rows else [])]
    lines = [*_header(role, name, license, said), "", f"# {name} {role}", "", _summary(role), ""]
    measured = [row for entry in evaluations for row in entry["rows"]]
    own = next((row for row in measured if row.get("model") == role and row.get("params")), {})
    training = config.get("training") or {}
    facts = [
        ("Task", said.about or name),
        ("Network", network.get("name")),
        ("Parameters", cell(own, "params") if own else ""),
        ("Predictor in front", ((config.get("predictor") or {}).get("network") or {}).get("name")),
        ("Sample rate", _hertz(stft.get("sample_rate") or (task.get("mel") or {}).get("sample_rate"))),
        ("Latency as a stream", _latency(stft)),
        ("Objective", _objective(config.get("objective"))),
        ("Schedule", _schedule(config)),
        ("Distilled from", _parent(config.get("parent"))),
        ("Data", (config.get("about") or {}).get("data") or _data(config.get("data"))),
        ("Training", ", ".join(f"{key} {training[key]}" for key in _RUN if training.get(key) is not None)),
        ("Made by", f"mfdistill {config['version']}" if config.get("version") else ""),
        ("Repeated by", _repeat(role, where) if training and where else ""),
    ]  # fmt: skip
    lines += ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in facts if value)]
    lines += ["", "## Use", "", *_usage(role, where or "MODEL", stft, said), "", "## Licence", ""]
    lines += [_licence(config, license, said), ""]
    about = config.get("about") or {}
    for key, title in (("recipe", "How it was made"), ("limits", "Limits")):
        lines += [f"## {title}", "", str(about[key]), ""] if about.get(key) else []
    if searches:
        lines += ["## Schedules", "", *(line for found in searches for line in _search(found))]
    lines += ["## Results", ""]
    for entry in evaluations:
        lines += _results(entry)
    if not evaluations:
        lines += ["Not evaluated yet: run `mfdistill evaluate`.", ""]
    return "\n".join(lines)


def _header(role: str, name: str, license: str | None, said: Said) -> list[str]:
    known = license or (said.licence or (None,))[0]
    lines = ["---", "library_name: mfdistill", *([f"license: {known}"] if known else [])]
    lines += [f"pipeline_tag: {'audio-to-audio' if said.restores else 'text-to-speech'}"]
    lines += ["tags:", "- speech", f"- {name}", f"- {role}", "- flow-matching"]
    return [*lines, *(["- meanflow"] if role == "student" else []), "---"]


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


def _usage(role: str, where: str, stft: Row, said: Said) -> list[str]:
    """Commands and code that run as they stand in a folder with ``noisy.wav``, ``voice.wav`` or
    ``said.wav`` in it.
    """
    if role == "solver":
        return [
            "```sh",
            f"mfdistill restore TEACHER noisy.wav restored.wav --solver {where}",
            "```",
        ]
    if said.example:
        return ["```sh", f"mfdistill synthesize {where} {said.example} --out spoken.wav", "```"]
    if not said.restores:
        return ["From Python: `load_student` and `sample` (docs/foreign-tts.md)."]
    lines = ["```sh", f"mfdistill restore {where} noisy.wav restored.wav"]
    if stft.get("causal"):
        lines += [f"mfdistill stream noisy.wav streamed.wav --student {where}"]
    code = [
        "import soundfile",
        "import torch",
        "",
        "from mfdistill.distill.inference import restore",
        "from mfdistill.distill.opening import open_model",
        "",
        f'model = open_model("{where}")',
        f'wave, rate = soundfile.read("noisy.wav", dtype="float32")  # one channel at {stft.get("sample_rate", "its")} Hz',
        "restored = restore(model.task, model.endpoint, torch.from_numpy(wave))",
        'soundfile.write("from_python.wav", restored.numpy(), rate)',
    ]
    return [*lines, "```", "", "```python", *code, "```"]


def _licence(config: Row, license: str | None, said: Said) -> str:
    parent = config.get("parent")
    kind = (parent.get("kind") if isinstance(parent, Mapping) else None) or config.get("kind")
    source = str((config.get("data") or {}).get("source") or "")
    words = [f"These weights are under {license}." if license else ""]
    if said.licence is not None:
        words.append(
            f"They are made from weights of another system, whose licence they inherit: {said.licence[1]}."
        )
    elif kind and kind != "cfm":
        words.append(
            f"They are made from weights of another system ({kind}), whose licence they inherit; see where those came from."
        )
    if source and source != "embedded":
        words.append(f"They were trained on {source}; what its owner says of models holds.")
    if source == "embedded":
        words.append(
            "They were trained on speech that espeak-ng synthesised, and on synthetic noises; no recording is in them."
        )
    words.append("The program mfdistill is Apache-2.0.")
    return " ".join(word for word in words if word)


def _repeat(role: str, where: str | None) -> str:
    command = {"student": "student-distill", "solver": "solver-train"}.get(role, "teacher-train")
    return f"`mfdistill {command} --config {where}/config.json --out NEW`"


def _search(found: Row) -> list[str]:
    column = header(str(found.get("column") or found["metric"]))
    times = ", ".join(f"{t:.4g}" for t in found["schedule"])
    lines = [f"`[{times}]`, {found['nfe']} NFE, placed by O3S on {column} of {found['n']} utterances."]  # fmt: skip
    if not found.get("comparison"):
        return [*lines, ""]
    rows = comparison_rows(found)
    where = comparison_where(found["comparison"])
    return [*lines, f"Beside schedules that cost no search, {where}:", "", markdown_table(rows)]


def _results(entry: Row) -> list[str]:
    rows = entry["rows"]

    def common(key: str) -> Any:
        values = {row.get(key) for row in rows}
        return values.pop() if len(values) == 1 else None

    said = []
    if common("n"):
        data = f" of {entry['data']}," if entry.get("data") else " of"
        said.append(
            f"{common('n')} utterances"
            + (f"{data} the {common('split')} split" if common("split") else "")
        )
    if common("pesq_mode") and any("pesq" in row for row in rows):
        said.append(
            {"wb": "wide-band PESQ (P.862.2)", "nb": "narrow-band PESQ (P.862.1)"}.get(
                common("pesq_mode"), ""
            )
        )
    if any(key.endswith("_ci95") for row in rows for key in row):
        said.append("± is a 95 % confidence interval over utterances")
    if entry.get("dropped"):
        said.append("schedules that a later search replaced are left out; evaluate again for them")
    hidden = _BOOKKEEPING | _STATED | ({"n"} if common("n") else set())
    columns = [column for column in shown_columns(rows) if column not in hidden]
    return [
        *([("; ".join(part for part in said if part)) + ".", ""] if said else []),
        markdown_table(rows, columns),
    ]


def _data(value: object) -> str:
    if not isinstance(value, Mapping):
        return ""
    noise = f", noises: {value['noise']}" if value.get("noise") else ""
    return f"{value.get('source')}{noise}"


def _latency(stft: Row) -> str:
    if not stft.get("causal"):
        return ""
    rate, n_fft, hop = stft["sample_rate"], stft["n_fft"], stft["hop"]
    return (
        f"{1000 * n_fft / rate:g} ms, {1000 * (n_fft + hop) / rate:g} ms with a hop for computing"
    )


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


def _schedule(config: Row) -> str:
    times = config.get("schedule")
    return f"`[{', '.join(f'{t:g}' for t in times)}]` ({len(times) - 1} NFE)" if times else ""


def _parent(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(
            f"{key} {str(item)[:12] if key == 'sha256' else item}"
            for key, item in value.items()
            if isinstance(item, (int, float, str))
        )
    return str(value) if value else ""
