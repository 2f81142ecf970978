"""Straight paths, random draws, (t, r) sampling, ODE solvers and total derivatives; imports torch only."""

from mfdistill.flow.draws import noise, normal, uniform
from mfdistill.flow.paths import CHANNEL_STD, GaussianPath, expand_time, interpolate, noise_like

__all__ = ["CHANNEL_STD", "GaussianPath", "expand_time", "interpolate", "noise", "noise_like", "normal", "uniform"]
