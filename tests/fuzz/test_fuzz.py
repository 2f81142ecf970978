"""Mutated inputs of every loader: read, or refused in one line; never a traceback, a hang, or
memory that the file sets. ``FUZZ_CASES`` cases each (a few by default; ``benchmarks/fuzz.py`` runs
and records many).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from loaders import LOADERS, run_case

from mfdistill.errors import UserError

CASES = int(os.environ.get("FUZZ_CASES", "12"))


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.filterwarnings("ignore")
def test_mutated_inputs_are_read_or_refused_in_one_line(name: str, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    loader = LOADERS[name]
    seeds = loader.seeds(tmp_path)
    refused = 0
    for seed in seeds:  # what is not mutated works, or the mutations say nothing
        try:
            loader.call(seed, tmp_path)
        except UserError:
            refused += 1
    assert refused == (3 if name == "tables" else 0)  # UTF-16, Latin-1, commas between cells
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wrong = {
        number: said
        for number in range(CASES)
        if (said := run_case(loader, seeds, number, tmp_path)) not in ("read", "refused")
    }
    assert not wrong
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19  # KiB


def test_the_cases_are_mutations(tmp_path: Path) -> None:
    import random

    loader = LOADERS["wav"]
    seeds = loader.seeds(tmp_path)
    made = {loader.mutate(seeds[0], random.Random(number)) for number in range(50)}
    assert len(made) > 40 and seeds[0] not in made
