"""Recipes: what they set, what they say of their cost, and for which teachers they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_tts import F5, f5_file, sizes_file, speech

from mfdistill.cli import main
from mfdistill.commands.parsing import parse
from mfdistill.commands.recipe_table import RECIPES, check_recipe
from mfdistill.errors import UserError


def test_a_recipe_is_its_numbers_and_options_come_on_top() -> None:
    command = parse(["student-distill", "--teacher", "x", "--recipe", "f5-nfe2", "--lr", "1e-5"])
    assert (command.nfe, command.training.lr, command.training.steps) == (2, 1e-5, 10000)
    assert command.checkpoint_activations and command.recipe == "f5-nfe2"
    assert (command.integral.substeps, command.integral.solver) == (4, "midpoint")
    with pytest.raises(UserError, match="this version has f5-nfe3"):
        parse(["student-distill", "--teacher", "x", "--recipe", "f6"])
    with pytest.raises(UserError, match="exclude each other"):
        parse(["student-distill", "--teacher", "x", "--recipe", "f5-nfe2", "--preset", "f5"])


def test_the_cost_is_its_arithmetic() -> None:
    recipe = RECIPES["f5-nfe3"]
    # 4 midpoint steps of two branches; forward, backward as two, and blocks once more
    assert recipe.passes == 4 * 2 * 2 + 3 + 1
    flops = 2 * 337e6 * 4000 * 20 * 10000
    assert recipe.gpu_hours == pytest.approx(flops / 100e12 / 3600)
    assert RECIPES["matcha-nfe2"].passes == 4 * 2 + 3
    for recipe in RECIPES.values():
        assert recipe.values and recipe.data and recipe.watch and recipe.serve


def test_recipes_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in RECIPES)
    assert main(["recipes", "cosyvoice-nfe1"]) == 0
    text = capsys.readouterr().out
    assert "learning rate: 2e-5 (paper: not published)" in text and "counted, not measured" in text
    assert main(["recipes", "nothing"]) == 2


def test_a_recipe_of_another_system_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_recipe(None, "f5", "t")
    check_recipe("f5-nfe3", "f5-unett", "t")
    with pytest.raises(UserError, match="take cosyvoice-nfe2 or cosyvoice-nfe1"):
        check_recipe("f5-nfe3", "cosyvoice3", "t")
    with pytest.raises(UserError, match="leave it out"):
        check_recipe("f5-nfe3", None, "t")
    file, data = f5_file(tmp_path / "ckpt"), speech(tmp_path / "data")
    sizes = sizes_file(tmp_path, F5)
    assert main(["student-distill", "--teacher", str(file), "--sizes", str(sizes), "--data",
                 str(data), "--recipe", "matcha-nfe2", "--out", str(tmp_path / "x")]) == 2  # fmt: skip
    assert "--recipe matcha-nfe2: is for teachers of kind matcha" in capsys.readouterr().err
