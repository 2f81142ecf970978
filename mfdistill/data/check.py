"""What is wrong with a corpus: everything is decoded once, and nothing is changed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np

from mfdistill.audio.fingerprint import alike, fingerprint
from mfdistill.audio.io import is_silent
from mfdistill.data.config import DataConfig
from mfdistill.data.sources import SPLITS, open_rows
from mfdistill.data.waves import decode, header
from mfdistill.errors import UserError
from mfdistill.plain import Plain

FATAL = ("unreadable", "not finite", "pair lengths", "pair rates")
"""Findings that stop a training run, or are skipped with --on-bad-file skip."""
CLIPPED = 1e-4  # of the samples, in runs of three or more at full scale
MISALIGNED_S, NOT_A_PAIR = 0.0005, 0.05
_ALIGN_S = 10.0  # of a pair that are compared


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with one recording (or with two)."""

    kind: str
    split: str
    name: str
    detail: str


@dataclass
class Report:
    """What ``check_corpus`` found; ``files`` and ``seconds`` by split."""

    findings: list[Finding] = field(default_factory=list)
    files: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)

    @property
    def counts(self) -> Counter[str]:
        return Counter(finding.kind for finding in self.findings)


def check_corpus(
    config: DataConfig, sample_rate: int, tell: Callable[[str], None] = lambda name: None
) -> Report:
    """Decode every recording of every split.

    Raises:
        UserError: the corpus is not understood at all (as ``data.open_train``).
    """
    report, rates = Report(), Counter[int]()
    read: dict[str, tuple[str, int]] = {}  # split, rate
    contents: dict[bytes, list[str]] = defaultdict(list)
    prints: dict[str, np.ndarray] = {}
    for split in SPLITS:
        table = open_rows(config, split, noisy=True)
        for row in _rows(table):
            name = str(row["name"])
            tell(name)
            report.files[split] += 1
            waves = {}
            for column in ("clean", "noisy"):
                if column in row:
                    wave, rate = _checked(report, row[column], split, name, column)
                    if wave is not None:
                        waves[column] = wave, rate
            if len(waves) == 2:
                _check_pair(report, split, name, *waves["clean"], *waves["noisy"])
            if "clean" not in waves:
                continue
            wave, rate = waves["clean"]
            where = f"{split}: {name}"
            rates[rate] += 1
            read[where] = split, rate
            report.seconds[split] += len(wave) / rate
            if not is_silent(wave):
                contents[blake2b(np.round(wave * 32768).astype("<i4").tobytes()).digest()].append(
                    where
                )
                prints[where] = fingerprint(wave, rate)
    usual = rates.most_common(1)[0][0] if rates else sample_rate
    for where, (split, rate) in read.items():
        if rate != usual or rate < sample_rate:
            lacks = f", less than the {sample_rate} Hz of the task" if rate < sample_rate else ""
            told = f"{rate} Hz, most have {usual}{lacks}"
            report.findings.append(Finding("rate", split, where.partition(": ")[2], told))
    _check_copies(report, read, contents, prints)
    return report


def _rows(table: Any) -> Iterator[Plain]:
    return (table[i] for i in range(len(table)))


def _checked(
    report: Report, cell: Any, split: str, name: str, column: str
) -> tuple[np.ndarray | None, int]:
    """A recording at its own rate; None where it cannot be read."""

    def found(kind: str, detail: str) -> None:
        report.findings.append(Finding(kind, split, name, f"{column}: {detail}"))

    try:
        _, rate = header(cell, f"{column} of '{name}'")
        wave = decode(cell, f"{column} of '{name}'", rate)
    except UserError as error:
        found("not finite" if "NaN or infinity" in str(error) else "unreadable", str(error))
        return None, 0
    if is_silent(wave):
        found("silent", "nothing above -80 dBFS")
    elif (share := clipped_share(wave)) > CLIPPED:
        found("clipped", f"{100 * share:.2f} % of the samples are cut off at full scale")
    return wave, rate


def clipped_share(wave: np.ndarray) -> float:
    """Of the samples ``(s,)``: those in runs of three or more at the highest level, where that is
    near full scale.
    """
    peak = np.abs(wave).max()
    if peak < 0.89:  # -1 dBFS
        return 0.0
    at = np.abs(wave) >= 0.9999 * peak
    runs = at[:-2] & at[1:-1] & at[2:]
    return float(np.convolve(runs, np.ones(3), "full").clip(max=1).sum() / wave.size)


def _check_pair(
    report: Report,
    split: str,
    name: str,
    clean: np.ndarray,
    rate: int,
    noisy: np.ndarray,
    other: int,
) -> None:
    def found(kind: str, detail: str) -> None:
        report.findings.append(Finding(kind, split, name, detail))

    if rate != other:
        found("pair rates", f"clean {rate} Hz, noisy {other} Hz")
    elif len(clean) != len(noisy):
        found("pair lengths", f"clean {len(clean)} samples, noisy {len(noisy)}")
    if rate != other or is_silent(clean) or is_silent(noisy):
        return
    lag, best, here = alignment(clean, noisy, rate)
    if best < NOT_A_PAIR:
        found("not a pair", f"their correlation is {best:.3f} at most")
    elif abs(lag) > MISALIGNED_S * rate and best > 1.2 * abs(here):
        found("misaligned", f"noisy is {1000 * lag / rate:+.2f} ms late ({lag} samples)")


def alignment(clean: np.ndarray, noisy: np.ndarray, rate: int) -> tuple[int, float, float]:
    """``(lag, best, here)``: by how many samples the second is later, and their normalised
    correlation there and as they are.
    """
    size = min(len(clean), len(noisy), round(_ALIGN_S * rate))
    a, b = clean[:size].astype(np.float64), noisy[:size].astype(np.float64)
    length = 1 << (2 * size - 1).bit_length()
    spectrum = np.fft.rfft(b, length) * np.fft.rfft(a, length).conj()
    values = np.fft.irfft(spectrum, length) / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-20)
    place = int(np.abs(values).argmax())
    lag = place if place <= length // 2 else place - length
    return lag, float(abs(values[place])), float(values[0])


def _check_copies(
    report: Report,
    read: dict[str, tuple[str, int]],
    contents: dict[bytes, list[str]],
    prints: dict[str, np.ndarray],
) -> None:
    same = {tuple(sorted(pair)) for group in contents.values() for pair in _pairs(group)}
    for kind, pairs in (("duplicate", same), ("near duplicate", set(alike(prints)) - same)):
        for one, two in sorted(pairs):
            splits = read[one][0], read[two][0]
            told = "in another split" if splits[0] != splits[1] else "in the same split"
            report.findings.append(
                Finding(kind, splits[1], two.partition(": ")[2], f"of {one}, {told}")
            )


def _pairs(group: list[str]) -> list[tuple[str, str]]:
    return [(group[0], other) for other in group[1:]]
