"""recipes."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from tyro.conf import Positional

from mfdistill.commands.recipe_table import RECIPES, Recipe
from mfdistill.errors import UserError


@dataclass(frozen=True)
class Recipes:
    """List the recipes of student-distill --recipe, or show one: every number with the paper's
    beside it, its cost, data, what to watch, and serving.
    """

    name: Positional[str | None] = None
    """The recipe to show."""


def run(command: Recipes) -> list[str]:
    """Write the list or the recipe to the standard output; returns the names shown.

    Raises:
        UserError: no such recipe.
    """
    if command.name is None:
        for recipe in RECIPES.values():
            sys.stdout.write(
                f"{recipe.name:16} {recipe.nfe} step{'s'[: recipe.nfe > 1]} of {', '.join(recipe.kinds)}; "
                f"about {recipe.gpu_hours:.1f} GPU hours, counted\n"
            )
        sys.stdout.write(
            "mfdistill recipes NAME shows one; student-distill --recipe NAME runs it\n"
        )
        return list(RECIPES)
    if command.name not in RECIPES:
        raise UserError(f"{command.name}: no such recipe; there are {', '.join(RECIPES)}")
    sys.stdout.write(shown(RECIPES[command.name]))
    return [command.name]


def shown(recipe: Recipe) -> str:
    """A recipe as text."""
    values = "".join(
        f"  {value.setting}: {value.ours} (paper: {value.paper}); {value.why}\n"
        for value in recipe.values
    )
    return (
        f"{recipe.name}: {recipe.nfe} evaluations, for teachers of {', '.join(recipe.kinds)}\n{values}"
        f"  cost: {recipe.gpu_hours:.1f} GPU hours = 2 FLOP x {recipe.parameters_m:g} M parameters x "
        f"{recipe.batch_frames} frames x {recipe.passes:g} passes x {recipe.training.steps} updates / 100 TFLOP/s; "
        "counted, not measured\n"
        f"  data: {recipe.data}\n  watch: {recipe.watch}\n  serve: {recipe.serve}\n"
        f"  run: mfdistill student-distill --teacher TEACHER --data FOLDER --recipe {recipe.name} --out runs/student\n"
    )
