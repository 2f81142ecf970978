"""models."""

from __future__ import annotations

from dataclasses import dataclass

from mfdistill.plain import Plain


@dataclass(frozen=True)
class Models:
    """The small models that came with the program: names for restore --model and stream --model, or
    wherever a folder is asked for.
    """


def run(command: Models) -> list[Plain]:
    """Print and return what there is."""
    from rich.console import Console
    from rich.table import Table

    from mfdistill.places import RESTORES, STREAMS, shipped

    table = Table(box=None, pad_edge=False)
    for name in ("name", "what it does", "rate", "latency", "size"):
        table.add_column(name, justify="left" if name[0] in "nw" else "right")
    rows = [about(name) for name in shipped()]
    for row in rows:
        table.add_row(row["name"], row["what"], row["rate"], row["latency"], row["size"])
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"restore takes {RESTORES} and stream {STREAMS} where no model is named; mfdistill info NAME tells more, and the "
        "card beside the weights what it was made of and what it scores",
        soft_wrap=True,
    )
    return rows


def about(name: str) -> Plain:
    """``{"name", "what", "rate", "latency", "size", "card"}`` of a model that came with the
    program.
    """
    from mfdistill.checkpoint import load_config
    from mfdistill.places import SHIPPED
    from mfdistill.tasks import TASKS

    folder = SHIPPED / name
    task = load_config(folder)["task"]
    stft, size = task["stft"], (folder / "model.safetensors").stat().st_size
    rate = stft["sample_rate"]
    total = 1000 * (stft["n_fft"] + stft["hop"]) / rate
    return {
        "name": name,
        "what": TASKS[task["name"]][0].about,
        "rate": f"{rate / 1000:g} kHz",
        "latency": f"{total:g} ms" if stft["causal"] else "whole files",
        "size": f"{size / 1e6:.2f} MB",
        "card": str(folder / "README.md"),
    }
