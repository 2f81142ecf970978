"""Errors of a flow measured in its data estimate, and weights of quiet bins."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cli_corpus import QUICK, SMALL, make_corpus
from torch import Tensor, nn

from mfdistill.checkpoint import load_config
from mfdistill.cli import main
from mfdistill.commands.saved import saved_command
from mfdistill.commands.teacher_train import TeacherTrain
from mfdistill.distill.objectives import CFMObjective
from mfdistill.distill.objectives.base import end_points
from mfdistill.distill.objectives.cfm import data_estimate, quiet_weights
from mfdistill.errors import UserError
from mfdistill.flow import GaussianPath, interpolate, sample_time, uniform


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, z: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        return self.w * z + cond["y"]


def batch(b: int = 5) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(b, 2, 3, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    return {"z_1": x, "cond": {"y": y}, "index": torch.arange(b)}


@pytest.mark.parametrize("shape", ["flat", "magnitude"])
def test_it_is_the_square_of_the_data_estimates_error(shape: str) -> None:
    path, given = GaussianPath(0.7, 0.05, shape=shape), batch()  # type: ignore[arg-type]
    x, cond = given["z_1"], given["cond"]
    z_0, z_1 = end_points(path, given, 0)
    t = sample_time(CFMObjective(Net(), path).times, uniform(0, given["index"], "times"))  # type: ignore[arg-type]
    z_t, m = interpolate(z_0, z_1, t), cond["y"]  # type: ignore[index]
    # the true velocity has the true data as its estimate
    torch.testing.assert_close(data_estimate(path, z_t, t, z_1 - z_0, m), x, atol=1e-6, rtol=0)  # type: ignore[arg-type]
    x_hat = data_estimate(path, z_t, t, Net()(z_t, t, cond), m)  # type: ignore[arg-type]
    wanted = (x_hat - x).square().sum(1).mean()  # type: ignore[operator]
    loss, _ = CFMObjective(Net(), path, predict="data")(given)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    plain, _ = CFMObjective(Net(), path)(given)
    assert plain.item() != pytest.approx(loss.item(), rel=0.1)
    with pytest.raises(UserError):
        CFMObjective(Net(), GaussianPath(0.0), predict="data")


def test_weights_of_quiet_bins() -> None:
    x = torch.zeros(1, 2, 2, 1)
    x[0, 0, 0, 0], x[0, 1, 1, 0] = 0.3, 0.1
    # energies 0.09 and 0.01: at power 1/2 as 1 to 3, of mean 1
    torch.testing.assert_close(quiet_weights(x, 0.5, 0.0).flatten(), torch.tensor([0.5, 1.5]))
    path, given = GaussianPath(0.7, floor=1e-9), batch()
    given["z_1"] = torch.ones(5, 2, 3, 4, dtype=torch.float64)  # all alike: weights of 1
    plain, weighted = (CFMObjective(Net(), path, quiet=q)(given)[0] for q in (0.0, 0.7))
    assert weighted.item() == pytest.approx(plain.item(), rel=1e-6)


def test_as_a_user_gives_it(tmp_path: Path) -> None:
    corpus = ["--data", str(make_corpus(tmp_path / "corpus")), "--data.crop-s", "0.5"]
    out = tmp_path / "teacher"
    options = ["--predict", "data", "--quiet-bins", "0.25", "--valid-files", "0", "--steps", "1"]
    command = ["teacher-train", "--sample-rate", "8000", "--out", str(out), *corpus, *SMALL]
    assert main([*command, *QUICK, *options]) == 0
    config = load_config(out)
    assert (config["objective"]["predict"], config["objective"]["quiet"]) == ("data", 0.25)
    again = saved_command(config, TeacherTrain, str(out))
    assert (again.predict, again.quiet) == ("data", 0.25)
    student = ["student-distill", "--teacher", str(out), "--out", str(tmp_path / "student")]
    assert main([*student, *QUICK, "--valid-files", "0", "--steps", "1"]) == 0
    assert main([*command, "--objective", "regression", "--predict", "data"]) == 2
