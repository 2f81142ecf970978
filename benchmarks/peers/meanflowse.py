"""MeanFlowSE's own training step and sampler beside ours: same weights, batch, machine and process,
alternating.

    python benchmarks/peers/meanflowse.py --src <clone>/MeanFLowSE --out
    benchmarks/results/peer_meanflowse.json

``--src`` is the folder with the original's package ``flowmse``; nothing of it is in this
repository. Its missing dependencies are replaced
by the least that it calls: its CUDA extensions are never compiled (CPU tensors take its native
branch), ``pytorch_lightning`` becomes plain ``nn.Module``, ``torch_ema`` an object that is never
updated. Neither side's step contains the average.

Training steps (gradient and Adam; objective and its knobs equal, JVP not clipped away by either):
    original            its network, its step (``mf_jvp_impl=autograd``: double backward)
    original-step       its step on our network with torch's own layers
    our-step            our step on that network: value, tangent and graph in one pass
    ours                our step on our network as it runs by default (fused operations)
Seconds are those of the processor's time of one thread on a CPU, since other work may share the
machine, else of the wall clock.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mfdistill.checkpoint import write_json
from mfdistill.distill.objectives import MeanFlowConfig, MeanFlowObjective
from mfdistill.flow import GaussianPath, total_derivative
from mfdistill.networks import build_network
from mfdistill.students import Student, given, sample
from mfdistill.systems.enhancement import official_names

STEPS = ("original", "original-step", "our-step", "ours")
KNOBS: dict[str, Any] = dict(mf_weight_final=0.25, mf_r_equals_t_prob=0.1, mf_first_order_coef=0.5)


def shim() -> None:
    """Stand-ins for what the original imports and the machine lacks."""
    import torch.utils.cpp_extension

    torch.utils.cpp_extension.load = lambda *args, **options: None  # type: ignore[assignment]
    sys.dont_write_bytecode = True
    for name, contents in (
        ("pytorch_lightning", {"LightningModule": _Module, "LightningDataModule": _Module}),
        ("torch_ema", {"ExponentialMovingAverage": _NoAverage}),
    ):
        try:
            __import__(name)
        except ImportError:
            module = types.ModuleType(name)
            module.__dict__.update(contents)
            sys.modules[name] = module


class _Module(nn.Module):
    def save_hyperparameters(self, *args: Any, **options: Any) -> None: ...


class _NoAverage:
    collected_params = None

    def __init__(self, *args: Any, **options: Any): ...

    def to(self, *args: Any, **options: Any) -> None: ...


class Adapter(nn.Module):
    """Our network under the original's signature: complex (b, 2, f, n), its clock."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor, d: Tensor) -> Tensor:
        z, y = (torch.cat([part.real, part.imag], 1) for part in (x[:, :1], x[:, 1:]))
        u = self.network(z, torch.stack([1 - t, 1 - t + d], -1), {"y": y})
        return torch.complex(u[:, :1], u[:, 1:])


class Bench:
    """Both programs with the same weights and one batch."""

    def __init__(self, options: argparse.Namespace):
        shim()
        sys.path.insert(0, str(Path(options.src).resolve()))
        from flowmse.data_module import SpecsDataModule  # type: ignore[import-not-found]
        from flowmse.model import VFModel  # type: ignore[import-not-found]

        torch.manual_seed(0)
        self.options, self.device = options, torch.device(options.device)
        sizes: dict[str, Any] = dict(
            nf=options.nf, ch_mult=tuple(options.ch_mult), num_res_blocks=options.blocks
        )
        knobs = dict(KNOBS, use_mfse=True, mf_jvp_impl="autograd", mf_jvp_clip=1e9)
        self.original = VFModel(
            "ncsnpp",
            "flowmatching",
            data_module_cls=SpecsDataModule,
            base_dir="unused",
            **knobs,
            **sizes,
        )
        self.original.log = lambda *args, **more: None
        self.original._progress = lambda: 1.0
        if sys.modules["pytorch_lightning"].LightningModule is _Module:
            nn.Module.train(self.original, True)
        # both start with an output of nearly 0, which would hide every difference
        with torch.no_grad():
            for p in self.original.dnn.parameters():
                p += 0.02 * torch.randn_like(p)
        network = build_network("ncsnpp", {**sizes, "delta": True})
        theirs = dict(self.original.dnn.state_dict())
        network.load_state_dict(
            {name: theirs[other] for name, other in official_names(network).items()}
        )
        self.student = Student(network, "time_embedding", interval="delta").train()
        nn.Module.to(self.original, self.device)
        self.student.to(self.device)
        self.own_network, self.adapter = self.original.dnn, Adapter(self.student.network)
        if options.channels_last:
            self.student.to(memory_format=torch.channels_last)
        shape = options.batch, 1, 256, options.frames
        clean, noisy = (
            0.1 * torch.randn(shape, dtype=torch.complex64, device=self.device) for _ in range(2)
        )
        self.clean, self.noisy = clean, noisy
        real = [torch.cat([x.real, x.imag], 1) for x in (clean, noisy)]
        self.batch = {
            "z_1": real[0],
            "cond": {"y": real[1]},
            "index": torch.arange(options.batch),
            "progress": 1.0,
        }
        config = MeanFlowConfig(
            teacher_free=True, t_eps=0.03, time_kind="start-gap", min_gap=1e-6, **KNOBS
        )
        self.objective: nn.Module = MeanFlowObjective(
            self.student, None, GaussianPath(0.487, 0.0), config
        )
        if options.compile:
            self.objective = torch.compile(self.objective)  # type: ignore[assignment]

    def step(self, name: str) -> None:
        """Gradients of one batch."""
        self.student.network.fuse = name == "ours"  # type: ignore[assignment]
        self.student.zero_grad(set_to_none=True)
        self.original.zero_grad(set_to_none=True)
        if name.startswith("original"):
            self.original.dnn = self.own_network if name == "original" else self.adapter
            loss = self.original._step((self.clean, self.noisy), 0)
        else:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.bf16):
                loss = self.objective(self.batch)[0]
        loss.backward()
        self.original.dnn = self.own_network

    def inference(self, ours: bool) -> Tensor:
        """One-step sample from the same prior noise, on the original's axes."""
        self.student.network.fuse = True  # type: ignore[assignment]
        torch.manual_seed(1)
        with torch.no_grad():
            if not ours:
                from flowmse.sampling import get_white_box_solver  # type: ignore[import-not-found]

                solver = get_white_box_solver(
                    "euler_mf",
                    self.original.ode,
                    self.original,
                    self.noisy,
                    self.noisy,
                    t_eps=0.0,
                    N=1,
                )
                return solver()[0]
            z = self.original.ode.prior_sampling(self.noisy.shape, self.noisy)[0]
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.bf16):
                x = sample(
                    self.student, torch.cat([z.real, z.imag], 1), self.batch["cond"], 1
                ).float()
            return torch.complex(x[:, :1], x[:, 1:])

    def jvp(self, kind: str) -> Tensor:
        z = self.batch["z_1"]
        t, r = (
            torch.full((len(z),), 0.3, device=z.device),
            torch.full((len(z),), 0.9, device=z.device),
        )
        self.student.network.fuse = kind in ("ours", "forward fused")  # type: ignore[assignment]
        u_fn = given(self.student, self.batch["cond"])
        if kind == "double-backward":
            return total_derivative(u_fn, z, t, r, z, "double-backward")[1]
        with torch.no_grad():
            if kind.startswith("forward"):
                return u_fn(z, t, r)
            if kind == "torch.func.jvp":
                return torch.func.jvp(lambda z, t: u_fn(z, t, r), (z, t), (z, torch.ones_like(t)))[
                    1
                ]
            return total_derivative(u_fn, z, t, r, z)[1]


def clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def alternate(
    runs: dict[str, Callable[[], Any]], repeats: int, device: torch.device
) -> dict[str, float]:
    """Median seconds of each, one run of each in turn, after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(repeats + 1):
        for name, run in runs.items():
            start = clock(device)
            run()
            if i:
                seconds[name].append(clock(device) - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak(bench: Bench, name: str) -> float:
    """Bytes that one step needs beyond what weights, batch and program hold; on a CPU in a process
    of its own.
    """
    if bench.device.type == "cuda":
        bench.step(name)  # the libraries' workspaces
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        bench.step(name)
        return torch.cuda.max_memory_allocated() - before
    # before the first backward here, whose threads would not survive it
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=_measure, args=(bench, name, send))
    child.start()
    send.close()
    used = receive.recv()
    child.join()
    return used


def _measure(bench: Bench, name: str, send: Any) -> None:
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    bench.step(name)
    send.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)


def compare(options: argparse.Namespace) -> dict[str, Any]:
    bench = Bench(options)
    memory = {name: peak(bench, name) for name in STEPS}
    a, b = bench.inference(False), bench.inference(True)
    exact = bench.jvp("torch.func.jvp")
    errors = {
        "inference": float((a - b).norm() / (a - bench.noisy).norm()),
        "jvp": float((bench.jvp("ours") - exact).norm() / exact.norm()),
    }
    steps = alternate(
        {name: lambda name=name: bench.step(name) for name in STEPS}, options.repeats, bench.device
    )
    kinds = ("forward", "forward fused", "ours", "torch.func.jvp", "double-backward")
    jvp = alternate(
        {kind: lambda kind=kind: bench.jvp(kind) for kind in kinds}, options.repeats, bench.device
    )
    both = {"original": False, "ours": True}
    inference = alternate(
        {name: lambda ours=ours: bench.inference(ours) for name, ours in both.items()},
        options.repeats,
        bench.device,
    )
    settings = {key: value for key, value in vars(options).items() if key not in ("src", "out")}
    return {
        "settings": settings | {"parameters": sum(p.numel() for p in bench.student.parameters())},
        "machine": f"{options.device}, {torch.get_num_threads()} thread(s), torch {torch.__version__}",
        "load_average": os.getloadavg()[0],
        "step_seconds": steps,
        "step_peak_bytes": memory,
        "inference_seconds": inference,
        "jvp_seconds": jvp,
        "relative_error": errors,
        "ratios": {
            "step, same network": steps["our-step"] / steps["original-step"],
            "step, with faster network": steps["ours"] / steps["original"],
            "memory, same network": memory["our-step"] / memory["original-step"],
            "memory, with faster network": memory["ours"] / memory["original"],
            "inference": inference["ours"] / inference["original"],
            "jvp in forwards: ours": jvp["ours"] / jvp["forward fused"],
            "jvp in forwards: ours, in torch's own": jvp["ours"] / jvp["forward"],
            "jvp in forwards: torch.func.jvp": jvp["torch.func.jvp"] / jvp["forward"],
            "jvp in forwards: double backward": jvp["double-backward"] / jvp["forward"],
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--src", required=True, help="folder that contains the original's package flowmse"
    )
    parser.add_argument("--out", default="benchmarks/results/peer_meanflowse.json")
    parser.add_argument("--nf", type=int, default=128)
    parser.add_argument("--ch-mult", type=int, nargs="+", default=[1, 1, 2, 2, 2, 2, 2])
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--frames", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--bf16", action="store_true", help="our side under autocast; the error is in the result"
    )
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
    result = compare(options)
    write_json(Path(options.out), result)
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
