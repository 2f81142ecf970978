"""The metrics by name."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterable

from mfdistill.errors import UserError
from mfdistill.metrics.asr import wer
from mfdistill.metrics.base import Metric, missing_package
from mfdistill.metrics.models import dnsmos, spksim
from mfdistill.metrics.perceptual import estoi, pesq
from mfdistill.metrics.signal import lsd, sisdr

_DNSMOS_COLUMNS = ("dnsmos_sig", "dnsmos_bak", "dnsmos_ovrl")  # the last one is primary

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("pesq", +1, ("pesq",), pesq, "MOS-LQO", ("pesq",), slow=True),
        Metric("estoi", +1, ("estoi",), estoi, "", ("pystoi",), slow=True),
        Metric("sisdr", +1, ("sisdr",), sisdr, "dB"),
        Metric("lsd", -1, ("lsd",), lsd, "dB"),
        Metric(
            "spksim",
            +1,
            ("spksim",),
            spksim,
            "",
            ("resemblyzer", "webrtcvad", "pkg_resources", "librosa"),
            voice=True,
        ),
        Metric("wer", -1, ("wer",), wer, "", ("jiwer", "whisper")),
        Metric(
            "dnsmos",
            +1,
            _DNSMOS_COLUMNS,
            dnsmos,
            "MOS",
            ("speechmos", "onnxruntime", "librosa", "requests"),
        ),
    )
}


def named(names: Iterable[str]) -> list[Metric]:
    """The metrics called ``names``, in that order, each once, with their packages present.

    Raises:
        UserError: an unknown name (the nearest valid one is named) or a package that is not
            installed.
    """
    found = []
    for name in dict.fromkeys(names):
        if name not in METRICS:
            near = difflib.get_close_matches(name, METRICS, n=1)
            raise UserError(
                f"metric '{name}': unknown; "
                + (f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(METRICS)}")
            )
        metric = METRICS[name]
        for module in metric.modules:
            if importlib.util.find_spec(module) is None:
                raise UserError(missing_package(name, module))
        found.append(metric)
    if not found:
        raise UserError(f"metrics: none given; choose from {', '.join(METRICS)}")
    return found


def direction(column: str) -> int:
    """+1 where a higher ``column`` is better, -1 where a lower one is, 0 for a column of no
    metric.
    """
    return next((metric.direction for metric in METRICS.values() if column in metric.columns), 0)


def unit(column: str) -> str:
    """Unit of a metric's ``column``, '' where it has none."""
    return next((metric.unit for metric in METRICS.values() if column in metric.columns), "")
