"""What computes one hop of a stream: PyTorch as it is, compiled, as a CUDA graph, or onnxruntime;
the numbers agree to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from mfdistill.errors import UserError
from mfdistill.students.step import StreamStep, frozen_copy

RunnerName = Literal["eager", "compile", "cuda-graph", "onnx"]
Runner = Callable[..., tuple[Tensor, ...]]
"""``(new, noise, *state) -> (output, *state)``, as ``StreamStep.forward``; all but the eager one
take one hop.
"""


def make_runner(name: RunnerName, step: StreamStep, batch: int = 1) -> Runner:
    """The runner ``name`` of ``step`` for ``batch`` streams.

    Raises:
        UserError: an unknown runner, a CUDA graph without a GPU, or onnx for more than one stream
            or without its packages.
    """
    if name not in RUNNERS:
        raise UserError(
            f"stream: runner {name!r} is unknown; known are: {', '.join(get_args(RunnerName))}"
        )
    return RUNNERS[name](step, batch)


def _compiled(step: StreamStep, batch: int) -> Runner:
    run = torch.compile(frozen_copy(step), dynamic=False)

    def hop(*tensors: Tensor) -> tuple[Tensor, ...]:
        # not inference tensors, which guards of compiled code tell from others
        with torch.inference_mode(False), torch.no_grad():
            return run(*(tensor.clone() if tensor.is_inference() else tensor for tensor in tensors))

    state = step.initial(batch)
    # the state's strides are others after the first hop
    for _ in range(2):
        _, *state = hop(*_blank(step, batch), *state)
    return hop


def _blank(step: StreamStep, batch: int) -> tuple[Tensor, Tensor]:
    """Samples and noise of one hop."""
    like = {"dtype": step.dtype, "device": step.device}
    return torch.zeros(batch, step.stft.hop, **like), torch.zeros(
        batch, 2, step.stft.bins, 1, **like
    )


class CudaGraph:
    """One hop as one launch: inputs are copied to where the graph was recorded, outputs from there.

    Raises:
        UserError: the model is not on a GPU.
    """

    def __init__(self, step: StreamStep, batch: int):
        if step.device.type != "cuda":
            raise UserError(
                "stream: runner 'cuda-graph' needs a CUDA GPU with the model on it; use 'compile' or 'onnx' on a CPU"
            )
        run = frozen_copy(step)
        self.inputs = [*_blank(step, batch), *(tensor.clone() for tensor in step.initial(batch))]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        # libraries set themselves up before anything is recorded
        with torch.no_grad(), torch.cuda.stream(side):
            for _ in range(3):
                run(*self.inputs)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(self.graph):
            self.outputs = run(*self.inputs)

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        for own, given in zip(self.inputs, tensors, strict=True):
            own.copy_(given)
        self.graph.replay()
        return tuple(tensor.clone() for tensor in self.outputs)


def _onnx(step: StreamStep, batch: int) -> Runner:
    from mfdistill.students.onnx import OnnxStep, onnx_bytes

    if batch != 1:
        raise UserError(
            f"stream: runner 'onnx' takes one stream, not {batch}; use 'eager' or 'compile'"
        )
    return OnnxStep(onnx_bytes(step)).tensors


RUNNERS: dict[str, Callable[[StreamStep, int], Runner]] = {
    "eager": lambda step, batch: step,
    "compile": _compiled,
    "cuda-graph": CudaGraph,
    "onnx": _onnx,
}
