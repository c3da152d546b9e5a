"""The codec's encoder run by OpenVINO, an optional package that is faster than torch on Intel's and AMD's processors.

Compiled for notes of one length, in one thread. Finding the nearest code, and decoding, stay with torch.
"""

import importlib
import warnings
from typing import Any

import torch
from torch import Tensor

from pipeline.codec import CodecError, EnCodec

HINTS = {"float32": "f32", "bfloat16": "bf16"}  # OpenVINO's names; without bfloat16 units it may go on in float32


class OpenVinoEnCodec(EnCodec):
    """A codec that encodes by OpenVINO, in a precision of `HINTS`."""

    def __init__(self, codec: EnCodec, precision: str) -> None:
        """Raises CodecError if OpenVINO is not installed, or the codec is not on the CPU."""
        super().__init__(codec.model, codec.spec, codec.device)
        if codec.device.type != "cpu":
            raise CodecError(f"backend openvino: runs on the CPU, not on {codec.device}; use --backend torch")
        try:
            self._openvino: Any = importlib.import_module("openvino")
        except ImportError as error:
            raise CodecError("backend openvino: not installed; pip install openvino, or use --backend torch") from error
        self._hint = HINTS[precision]
        self._requests: dict[tuple[int, ...], Any] = {}  # shape -> compiled encoder

    def latents(self, samples: Tensor) -> Tensor:
        """(note, sample) float32 -> (note, channel, frame) float32."""
        waves = samples[:, None]  # (note, channel, sample)
        if waves.shape not in self._requests:
            self._requests[waves.shape] = self._compile(waves.shape)
        [latents] = self._requests[waves.shape].infer([waves.numpy()]).values()
        return torch.from_numpy(latents)

    def _compile(self, shape: tuple[int, ...]) -> Any:
        model: Any = self.model
        with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the tracer: that it is old, that the graph fits one length only
            graph = self._openvino.convert_model(model.encoder, example_input=torch.zeros(shape), input=list(shape))
        options = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": self._hint}
        return self._openvino.Core().compile_model(graph, "CPU", options).create_infer_request()
