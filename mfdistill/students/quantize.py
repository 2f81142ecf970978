"""Eight-bit weights and activations for CPUs: ranges measured while a model runs, then layers
replaced.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mfdistill.errors import UserError
from mfdistill.networks.causal_ncsnpp import CausalNCSNpp
from mfdistill.networks.compact import CompactNet
from mfdistill.networks.int8 import layers_of, put_int8


def quantizable(network: nn.Module) -> list[str]:
    """Names of the layers that are computed in eight bits: the convolutions and wide linear layers
    inside, neither those of the time (once per call), nor the first, whose inputs have very
    different ranges, nor those whose output is the answer.

    Raises:
        UserError: another network.
    """
    if isinstance(network, CompactNet):
        return layers_of(
            network, lambda name, _: name.startswith("blocks.") and "modulation" not in name
        )
    if isinstance(network, CausalNCSNpp):
        kept = ("temb_modules", "Dense_0", "pyramid_normconv", "input_layer")
        return layers_of(network, lambda name, _: not any(part in name for part in kept))
    raise UserError(
        f"int8: {type(network).__name__} has no eight-bit form here; a compact network and a causal_ncsnpp have"
    )


@torch.no_grad()
def quantize(network: nn.Module, run: Callable[[nn.Module], Any]) -> tuple[nn.Module, list[str]]:
    """An eight-bit copy of a network and the names of its layers.

    Args:
        run: called with a copy of the network, must use it as it will be used, on data like those
            to come: the least and greatest value at every layer while it runs are the ranges.

    Raises:
        UserError: another network, or one that is in eight bits already.
    """
    names = quantizable(network)
    if not names:
        raise UserError(
            "int8: no layer left that could be computed in eight bits; begin with the whole network"
        )
    watched = copy.deepcopy(network).float().eval()
    seen: dict[str, list[float]] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
            now = [
                float(given[0].min()),
                float(given[0].max()),
                float(made.min()),
                float(made.max()),
            ]
            old = seen.get(name, now)
            seen[name] = [
                min(old[0], now[0]),
                max(old[1], now[1]),
                min(old[2], now[2]),
                max(old[3], now[3]),
            ]

        return hook

    hooks = [watched.get_submodule(name).register_forward_hook(watch(name)) for name in names]
    run(watched)
    for hook in hooks:
        hook.remove()
    if missing := [name for name in names if name not in seen]:
        raise UserError(f"int8: the layer {missing[0]} was never used while ranges were measured")
    put_int8(
        watched,
        names,
        {name: (values[0], values[1], values[2], values[3]) for name, values in seen.items()},
    )
    return watched, names
