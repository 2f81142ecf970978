"""The scripts in ``examples/``, and what a network of one's own is told."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

import mfdistill as mf
from mfdistill.errors import UserError

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_flow_in_the_plane(tmp_path: Path) -> None:
    teacher, student = example("flow_2d").main(tmp_path / "run")
    # one step of the teacher lands in the middle, 1 away
    assert teacher < 0.12 and student < 0.25
    with pytest.raises(UserError, match="network=NETWORK"):
        mf.load_student(tmp_path / "run")


def test_mel_network(tmp_path: Path) -> None:
    module = example("mel_network")
    z_1 = module.main(tmp_path / "run", steps=3)
    assert z_1.shape == (16, 8, 24) and bool(z_1.isfinite().all())
    with pytest.raises(UserError, match=r"must map times \(b,\) to \(b, d\)"):
        mf.Student.from_teacher(mf.Field(module.MelNetwork(), time_embedding="time"))


def test_prior_of_your_own_has_the_std_that_was_given() -> None:
    task = mf.OwnTask(std=2.0)
    assert task.prior_like(torch.empty(100_000)).std() == pytest.approx(2.0, rel=0.02)
    eps = torch.randn(100_000) * 0.5**0.5
    assert task.path.prior({}, eps).std() == pytest.approx(2.0, rel=0.02)


def test_names_are_complete_and_lazy() -> None:
    assert {"load_teacher", "load_student", "sample", "train", "__version__"} <= set(dir(mf))
    assert all(getattr(mf, name) is not None for name in dir(mf))
    code = "import sys, mfdistill; assert 'torch' not in sys.modules; dir(mfdistill); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=EXAMPLES.parent)
    assert (Path(mf.__file__).parent / "py.typed").is_file()


def test_an_index_is_optional_for_an_objective_alone() -> None:
    from mfdistill.distill.batch import make_batch

    made = make_batch(mf.OwnTask(), {"z_1": torch.zeros(3, 2)}, "cpu")
    assert made["index"].shape == (3,) and made["cond"] == {}
    given = make_batch(mf.OwnTask(), {"z_1": torch.zeros(3, 2), "index": torch.arange(3)}, "cpu")
    assert torch.equal(given["index"], torch.arange(3))
    assert isinstance(nn.Identity(), nn.Module)
