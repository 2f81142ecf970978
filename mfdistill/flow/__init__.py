"""Straight paths, random draws, (t, r) sampling, ODE solvers and total derivatives; imports torch only."""

from mfdistill.flow.derivative import METHODS, total_derivative
from mfdistill.flow.draws import noise, normal, uniform
from mfdistill.flow.paths import CHANNEL_STD, GaussianPath, batch_time, expand_time, interpolate, noise_like
from mfdistill.flow.solvers import SOLVERS, jump, schedule, solve, stages, sway, trajectory
from mfdistill.flow.times import IntervalConfig, TimeConfig, annealed_gamma, sample_interval, sample_time

__all__ = [
    "CHANNEL_STD",
    "METHODS",
    "SOLVERS",
    "GaussianPath",
    "IntervalConfig",
    "TimeConfig",
    "annealed_gamma",
    "batch_time",
    "expand_time",
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
    "total_derivative",
    "trajectory",
    "uniform",
]
