"""A stream's hop as an ONNX graph with explicit state inputs and outputs, and its runner in
onnxruntime.

Inputs: ``samples (1, hop)``, ``noise (1, 2, f, 1)`` (complex Gaussian of variance 1), the state's
tensors by name. Outputs: ``output (1, hop)`` and ``next_<name>``. A stream starts with zeros.
Sample rate, hop, window, offset and evaluations are in the metadata.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mfdistill.audio.framing import latency
from mfdistill.errors import UserError
from mfdistill.extras import needed
from mfdistill.networks.int8 import has_int8
from mfdistill.students.step import StreamStep, frozen_copy

OPSET = 17


def onnx_bytes(step: StreamStep) -> bytes:
    """The graph of one hop of one stream (of a ``StreamStep`` with ``matrix``), in single
    precision.

    Raises:
        UserError: the package ``onnx`` is missing, the step uses Fourier transforms that a graph
            does not have, or layers in eight bits.
    """
    onnx = needed("onnx", "ONNX export")
    if step.dft is None:
        raise UserError("ONNX export: the step must be made with matrix=True")
    if has_int8(step):
        raise UserError(
            "ONNX export: this network has layers in eight bits, which are torch's own; export the one that it was made of"
        )
    own = frozen_copy(step).to("cpu", torch.float32)
    names, state = own.names, tuple(tensor.to("cpu", torch.float32) for tensor in step.initial(1))
    noise = torch.zeros(1, 2, step.stft.bins, 1)
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # the tracer's, on shapes that are fixed here, and its deprecation: of the graphs that its
        # successor writes (dynamo=True, torch 2.15.0 with onnxscript 0.7.2, optimised or not),
        # those of one evaluation are right, those of two are off by 1e3 and more
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Apart(own),
            (torch.zeros(1, step.stft.hop), noise, *state),
            file,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=OPSET,
            do_constant_folding=False,
            input_names=["samples", "noise", *names],
            output_names=["output", *(f"next_{name}" for name in names)],
        )
    model = onnx.load_from_string(file.getvalue())
    facts = latency(step.stft)
    about = {
        "sample_rate": facts.sample_rate,
        "hop": facts.hop,
        "n_fft": step.stft.n_fft,
        "offset": facts.offset,
        "evaluations": len(step.plan.b),
        "task": step.task.config.name,
    }
    onnx.helper.set_model_props(model, {key: str(value) for key, value in about.items()})
    return model.SerializeToString()


class _Apart(nn.Module):
    """What is traced: no output is a view of another or of an input."""

    def __init__(self, step: StreamStep):
        super().__init__()
        self.step = step

    def forward(self, new: Tensor, noise: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor.clone() for tensor in self.step(new, noise, *state))


class OnnxStep:
    """A graph of ``onnx_bytes`` in onnxruntime: ``step(samples, noise, *state) -> [output,
    *state]`` of arrays.

    Raises:
        UserError: no such file, or not such a graph; onnxruntime is not installed.
    """

    def __init__(self, model: bytes | str | Path, threads: int = 1):
        onnxruntime = needed("onnxruntime", "--runner onnx")
        from onnxruntime.capi import onnxruntime_pybind11_state as errors  # type: ignore[attr-defined]

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if not isinstance(model, bytes) and not Path(model).is_file():
            raise UserError(f"{model}: no such file")
        try:
            source: Any = model if isinstance(model, bytes) else str(model)
            self.session = onnxruntime.InferenceSession(
                source, options, providers=["CPUExecutionProvider"]
            )
        except (
            errors.Fail,
            errors.InvalidGraph,
            errors.InvalidProtobuf,
            errors.InvalidArgument,
            errors.NotImplemented,
        ) as error:
            raise UserError(
                f"ONNX: not a model that onnxruntime reads ({str(error).splitlines()[0]})"
            ) from error
        inputs = self.session.get_inputs()
        self.names = [item.name for item in inputs]
        self.shapes = [tuple(item.shape) for item in inputs]
        self.about: dict[str, str] = dict(self.session.get_modelmeta().custom_metadata_map)
        if self.names[:2] != ["samples", "noise"] or "hop" not in self.about:
            raise UserError("ONNX: not a stream that 'mfdistill stream --export' wrote")

    def initial(self) -> list[np.ndarray]:
        """The state at the start of a stream."""
        return [np.zeros(shape, np.float32) for shape in self.shapes[2:]]

    def __call__(self, *arrays: np.ndarray) -> list[np.ndarray]:
        return self.session.run(None, dict(zip(self.names, arrays, strict=True)))  # type: ignore[return-value]

    def tensors(self, *given: Tensor) -> tuple[Tensor, ...]:
        """The same of tensors, in single precision."""
        arrays = self(*(tensor.detach().to("cpu", torch.float32).numpy() for tensor in given))
        return tuple(torch.from_numpy(array).to(given[0]) for array in arrays)
