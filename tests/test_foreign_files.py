"""Other systems' checkpoints as people have them, and as nobody should: settings with optimisers,
wrapped names, sizes that are lies. Nothing in a file is executed.
"""

from __future__ import annotations

import argparse
import functools
import os
import pathlib
import pickle
import zipfile

import numpy as np
import pytest
import torch

from mfdistill.errors import UserError
from mfdistill.systems.files import bare, read_foreign
from mfdistill.systems.mel_flow import flow_tensors, weights_of

RESOURCE = pytest.importorskip("resource")


class Call:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("zipped", [True, False])
def test_settings_of_trainers_are_values_or_inert(tmp_path, zipped):
    file = tmp_path / "matcha.ckpt"
    settings = {
        "n_vocab": 178,
        "optimizer": functools.partial(torch.optim.Adam, lr=1e-4),
        "scheduler": torch.optim.lr_scheduler.ExponentialLR,
        "sigma": np.float64(0.25),
        "count": np.int32(-7),
        "flag": np.bool_(True),
        "array": np.arange(3),
        "out": pathlib.Path("/runs") / "a",
        "args": argparse.Namespace(lr=0.1, sizes=[1, 2]),
    }
    torch.save(
        {"state_dict": {"x": torch.ones(2)}, "hyper_parameters": settings},
        file,
        _use_new_zipfile_serialization=zipped,
    )
    found = read_foreign(file).values["hyper_parameters"]
    assert found["n_vocab"] == 178 and found["sigma"] == 0.25 and found["count"] == -7
    assert found["flag"] is True and found["out"] == "/runs/a"
    assert found["args"] == {"lr": 0.1, "sizes": [1, 2]}
    for name in ("optimizer", "array"):
        assert type(found[name]).__module__ == "mfdistill.systems.stand_ins"
        assert vars(found[name]) == {} and not callable(found[name])
    assert found["scheduler"] is not torch.optim.lr_scheduler.ExponentialLR
    torch.save({"state_dict": {}, "hyper_parameters": settings["args"]}, file)
    assert read_foreign(file).values["hyper_parameters"]["lr"] == 0.1


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "function", [os.system, os.remove, eval, exec, pickle.loads, getattr, __import__, bytearray]
)
def test_what_is_not_known_is_refused_and_not_run(tmp_path, function, zipped):
    mark = tmp_path / "mark"
    mark.write_text("")
    argument = 10**9 if function is bytearray else str(mark)
    file = tmp_path / "evil.ckpt"
    torch.save(
        {"a": functools.partial(torch.optim.Adam), "x": Call(function, argument)},
        file,
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(UserError, match="is not loaded") as caught:
        read_foreign(file)
    assert "\n" not in str(caught.value) and mark.exists()


def test_wrappers_are_taken_off_names_in_one_place(tmp_path):
    weights = {
        "module.a.weight": 1, "_orig_mod.b": 2, "module._orig_mod.c": 3, "d._fsdp_wrapped_module.e": 4,
        "ema_model.module._orig_mod.f": 5, "g": 6, "module.g": 7, "h.module.i": 8,
    }  # fmt: skip
    tensors = {name: torch.tensor(float(value)) for name, value in weights.items()}
    expected = {
        "a.weight": 1, "b": 2, "c": 3, "d.e": 4, "ema_model.f": 5, "g": 6, "module.g": 7, "h.module.i": 8,
    }  # fmt: skip
    torch.save({"state_dict": tensors}, tmp_path / "x.pt")
    found = read_foreign(tmp_path / "x.pt").tensors("state_dict")
    assert {name: int(value) for name, value in found.items()} == expected
    assert bare({"module.epoch": 3}) == {"module.epoch": 3}  # tensors alone have such names


def test_raw_or_averaged_weights_by_an_option_that_the_error_names(tmp_path):
    def part(value):
        return {"decoder.estimator.x": torch.tensor(value)}

    file = tmp_path / "flow.pt"
    torch.save({"model": part(1.0), "ema": part(2.0)}, file)
    assert float(flow_tensors(file)["decoder.estimator.x"]) == 2
    assert float(flow_tensors(file, "raw")["decoder.estimator.x"]) == 1
    torch.save({"ema": part(2.0)}, file)
    with pytest.raises(UserError, match="weights 'ema' .in --sizes"):
        flow_tensors(file, "raw")
    assert weights_of({"weights": "raw", "dim": 2}) == ({"dim": 2}, "raw")
    with pytest.raises(UserError, match="--sizes"):
        weights_of({"weights": "mean"})


def peak_kib():
    return RESOURCE.getrusage(RESOURCE.RUSAGE_SELF).ru_maxrss


def test_sizes_in_files_are_held_against_the_file(tmp_path):
    file = tmp_path / "x.pt"
    torch.save({"w": torch.zeros(1)}, file)
    packed = tmp_path / "packed.pt"
    with zipfile.ZipFile(file) as before, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in before.namelist():
            new.writestr(name, before.read(name) + (bytes(2**26) if name.endswith("0") else b""))
    begun = peak_kib()
    with pytest.raises(UserError, match="promises"):
        read_foreign(packed)
    torch.save({"w": torch.zeros(1).expand(2**20, 2**14)}, file)
    with pytest.raises(UserError, match="w is larger than what is stored"):
        read_foreign(file)
    deep = b"\x80\x02" + 5000 * b"}X\x01\x00\x00\x00x" + b"}" + 5000 * b"s" + b"."
    with zipfile.ZipFile(file) as before, zipfile.ZipFile(packed, "w") as new:
        for name in before.namelist():
            new.writestr(name, deep if name.endswith("data.pkl") else before.read(name))
    file = packed
    with pytest.raises(UserError, match="nested deeper"):
        read_foreign(file)
    assert peak_kib() - begun < 2**17


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04", b"\x80\x02.", b"\x80\x02]q\x00.", b"no", b"\x80" * 50]
)
def test_what_is_no_checkpoint_is_one_line(tmp_path, data):
    file = tmp_path / "x.ckpt"
    file.write_bytes(data)
    with pytest.raises(UserError) as caught:
        read_foreign(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)
