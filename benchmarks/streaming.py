"""What a hop of a stream costs: networks, numbers of evaluations and runners side by side, on one
thread.

    python benchmarks/streaming.py

Every system is timed twice over the same noise: as fast as it goes, and paced, where hop k may
start when its samples would have been recorded. ``cpu_`` columns are the thread's own CPU time:
what the hop costs, without what other programs took of the core meanwhile. Weights are random (they
do not change the time). Rows are written as they are measured; those of other systems are kept.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any, Literal

import torch
import tyro
from record import HERE, commit, into, machine, recorded

from mfdistill.checkpoint import write_json
from mfdistill.metrics.hops import HopClock
from mfdistill.networks import build_network
from mfdistill.report import markdown_table
from mfdistill.students import Student
from mfdistill.students.streaming import StreamRestorer
from mfdistill.tasks import default_task, get_task
from mfdistill.teachers.field import Field

NETWORKS: dict[str, dict[str, Any]] = {
    "compact": {"causal": True},
    "causal_ncsnpp": {"nf": 32, "num_res_blocks": 1, "norm": "subband_grouped_framenorm"},
}
KEY = ("network", "framing", "sample_rate", "nfe", "runner")


@dataclass(frozen=True)
class Options:
    """Time the hops of streams."""

    networks: tuple[Literal["compact", "causal_ncsnpp"], ...] = ("compact", "causal_ncsnpp")
    framings: tuple[Literal["32/16", "16/8"], ...] = ("32/16", "16/8")
    nfe: tuple[int, ...] = (1, 5)
    runners: tuple[Literal["eager", "compile", "cuda-graph", "onnx"], ...] = (
        "onnx",
        "eager",
        "compile",
    )
    sample_rate: Literal[8000, 16000] = 16000
    hops: int = 400
    """Timed hops of each run, after 20 to warm up."""
    minutes: float = 0.0
    """Also stream so many minutes of noise, silence and denormal samples through the compact
    network at one evaluation.
    """


def main(options: Options) -> None:
    """All systems."""
    torch.set_num_threads(1)
    for network in options.networks:
        for framing in options.framings:
            for nfe in options.nfe:
                for runner in options.runners:
                    record(measure(options, network, framing, nfe, runner))
    if options.minutes > 0:
        record(endure(options))
    draw()
    rows = [
        row
        for row in json.loads((HERE / "results" / "streaming.json").read_text())
        if "cpu_p50_ms" in row
    ]
    rows = [
        row | {"system": f"{row['network']}, {row['framing']} ms, {row['runner']}"} for row in rows
    ]
    columns = {
        "system": "",
        "nfe": "NFE",
        "cpu_p50_ms": "CPU p50",
        "cpu_p99_ms": "CPU p99",
        "p50_ms": "wall p50",
        "p95_ms": "wall p95",
    }
    columns |= {
        "p99_ms": "wall p99",
        "max_ms": "wall max",
        "rtf": "RTF",
        "paced_p99_ms": "paced p99",
        "paced_underruns": "underruns",
    }
    page(
        "streaming.json",
        sorted(rows, key=lambda row: (row["network"] != "compact", row["system"], row["nfe"])),
        columns | STATIC,
    )


STATIC = {"state_bytes": "state, bytes", "cold_start_s": "cold start, s"}


def page(name: str, rows: list[dict[str, Any]], columns: dict[str, str]) -> None:
    """Put the table between its marks in docs/streaming.md."""
    where = "; ".join(dict.fromkeys(row["machine"] for row in rows))
    into(
        HERE.parent / "docs" / "streaming.md",
        name,
        f"{markdown_table(rows, columns)}\n\nMeasured on: {where}.\n",
    )


def make_student(network: str, framing: str, sample_rate: int) -> Student:
    """An untrained causal student for phase retrieval."""
    task = get_task(default_task("phase", sample_rate, causal=True, framing=framing))
    bins = task.config.stft.bins
    torch.manual_seed(0)
    if network == "compact":
        sizes = {
            **NETWORKS[network],
            "freqs": bins,
            "mean": task.path.mean,
            "shape": task.path.shape,
            "sigma_0": task.path.sigma_0,
        }
    else:
        sizes = {**NETWORKS[network], "input_freqs": bins}
    return Student.from_teacher(Field(build_network(network, sizes), task)).eval()


def measure(options: Options, network: str, framing: str, nfe: int, runner: Any) -> dict[str, Any]:
    """One system's row."""
    student = make_student(network, framing, options.sample_rate)
    hop = student.task.config.stft.hop  # type: ignore[union-attr]
    wave = 0.1 * torch.randn((options.hops + 20) * hop, generator=torch.Generator().manual_seed(0))
    start = time.perf_counter()
    restorer = StreamRestorer(student, nfe, gain="peak", runner=runner, fold=True)
    restorer.push(wave[:hop])
    cold = time.perf_counter() - start
    row: dict[str, Any] = {
        "network": network,
        "framing": framing,
        "sample_rate": options.sample_rate,
        "nfe": nfe,
        "runner": runner,
        "params": sum(value.numel() for value in student.parameters()),
        "state_bytes": restorer.state_bytes,
        "cold_start_s": round(cold, 3),
        **{f"latency_{name}_ms": value for name, value in restorer.latency.ms().items()},
    }
    for paced in (False, True):
        restorer.reset()
        restorer.push(wave[: 20 * hop])
        clock = HopClock(hop / options.sample_rate, paced)
        for k in range(20, options.hops + 20):
            clock.run(lambda k=k: restorer.push(wave[k * hop : (k + 1) * hop]))
        row |= {
            ("paced_" if paced else "") + name: round(value, 4)
            for name, value in clock.summary().items()
            if name != "hops"
        }
    return row | {"hops": options.hops, "commit": commit(), "machine": machine()}


def endure(options: Options) -> dict[str, Any]:
    """Noise, silence, denormals in turn, 20 s each: levels and times of the first and the last
    round.
    """
    student = make_student("compact", "32/16", options.sample_rate)
    restorer = StreamRestorer(student, 1, gain=1.0, runner="onnx", fold=True)
    rate, hop = options.sample_rate, restorer.stft.hop
    noise = 0.1 * torch.randn(20 * rate // hop * hop, generator=torch.Generator().manual_seed(0))
    kinds = {"noise": noise, "silence": noise * 0, "denormal": noise.sign() * 1e-40}
    rounds = max(2, round(60 * options.minutes / 60))
    facts: list[dict[str, dict[str, float]]] = []
    for _ in range(rounds):
        facts.append({})
        for kind, wave in kinds.items():
            clock = HopClock(hop / rate)
            out = torch.cat(
                [clock.run(lambda part=part: restorer.push(part)) for part in wave.split(hop)]
            )
            summary = clock.summary()
            levels = {"rms": float(out.square().mean().sqrt()), "highest": float(out.abs().max())}
            facts[-1][kind] = {**levels, "cpu_p50_ms": summary["cpu_p50_ms"]}
    return {
        "network": "compact",
        "framing": "32/16",
        "sample_rate": rate,
        "nfe": 1,
        "runner": "endurance",
        "minutes": rounds,
        "first_round": facts[0],
        "last_round": facts[-1],
        "highest": max(f[k]["highest"] for f in facts for k in kinds),
        "state_bytes": restorer.state_bytes,
        "commit": commit(),
        "machine": machine(),
    }


def record(row: dict[str, Any]) -> None:
    """Put a row into the recorded result, in the place of an older one of the same system."""
    file = HERE / "results" / "streaming.json"
    old = recorded(file)
    write_json(file, [other for other in old if any(other[key] != row[key] for key in KEY)] + [row])


def draw() -> None:
    """CPU time per hop against the hop, as bars."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [
        row
        for row in json.loads((HERE / "results" / "streaming.json").read_text())
        if "cpu_p50_ms" in row
    ]
    rows.sort(key=lambda row: row["cpu_p50_ms"] / row["latency_hop_ms"])
    names = [
        f"{row['network']} {row['framing']} ms, NFE {row['nfe']}, {row['runner']}" for row in rows
    ]
    figure, axes = pyplot.subplots(figsize=(8, 1 + 0.3 * len(rows)))
    for shift, column, label in (
        (0.2, "cpu_p50_ms", "median"),
        (-0.2, "cpu_p99_ms", "99th percentile"),
    ):
        axes.barh(
            [k + shift for k in range(len(rows))],
            [row[column] / row["latency_hop_ms"] for row in rows],
            0.4,
            label=label,
        )
    axes.axvline(1, color="black", lw=0.8)
    axes.set(
        yticks=range(len(rows)),
        yticklabels=names,
        xlabel="CPU time per hop / duration of a hop (one thread)",
        xscale="log",
    )
    axes.legend()
    figure.savefig(HERE / "results" / "streaming.png", dpi=120, bbox_inches="tight")


if __name__ == "__main__":
    main(tyro.cli(Options))
