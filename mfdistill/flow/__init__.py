"""Straight paths, random draws, (t, r) sampling, ODE solvers and total derivatives; imports torch
only, and that when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mfdistill.flow.config import IntervalConfig, Solver, TimeConfig
from mfdistill.lazy import exports

if TYPE_CHECKING:
    from mfdistill.flow.derivative import METHODS, total_derivative
    from mfdistill.flow.draws import noise, normal, uniform
    from mfdistill.flow.paths import (
        CHANNEL_STD,
        GaussianPath,
        batch_time,
        expand_time,
        interpolate,
        noise_like,
        time_per_sample,
    )
    from mfdistill.flow.solvers import SOLVERS, jump, schedule, solve, stages, sway, trajectory
    from mfdistill.flow.speech_grids import EPSS, cosine_times, f5_times
    from mfdistill.flow.tableaus import TABLEAUS, Tableau, along, tableau, tableau_step
    from mfdistill.flow.times import annealed_gamma, sample_interval, sample_time

__all__ = [
    "CHANNEL_STD",
    "EPSS",
    "METHODS",
    "SOLVERS",
    "GaussianPath",
    "IntervalConfig",
    "Solver",
    "TABLEAUS",
    "Tableau",
    "TimeConfig",
    "along",
    "annealed_gamma",
    "batch_time",
    "cosine_times",
    "expand_time",
    "f5_times",
    "interpolate",
    "jump",
    "noise",
    "noise_like",
    "normal",
    "sample_interval",
    "sample_time",
    "schedule",
    "solve",
    "stages",
    "sway",
    "tableau",
    "tableau_step",
    "time_per_sample",
    "total_derivative",
    "trajectory",
    "uniform",
]

__getattr__ = exports(
    __name__,
    {
        "derivative": "METHODS total_derivative",
        "draws": "noise normal uniform",
        "paths": "CHANNEL_STD GaussianPath batch_time expand_time interpolate noise_like time_per_sample",
        "solvers": "SOLVERS jump schedule solve stages sway trajectory",
        "speech_grids": "EPSS cosine_times f5_times",
        "tableaus": "TABLEAUS Tableau along tableau tableau_step",
        "times": "annealed_gamma sample_interval sample_time",
    },
)
