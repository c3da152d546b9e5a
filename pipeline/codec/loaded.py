"""A loaded codec, whichever it is: samples <-> codes.

Knows nothing of weights, audio files or token layout.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipeline.codec.spec import codec_spec, is_hugging_face
from shards import device as devices
from shards.note import Codec


@dataclass(eq=False)
class LoadedCodec(ABC):
    """A codec on its device."""

    spec: Codec  # describes it in manifests and token files
    device: torch.device

    @abstractmethod
    def encode(self, samples: Tensor) -> Tensor:
        """Encode (note, sample) float32 at `spec.sample_rate` -> (note, codebook, frame) int64, samples / hop frames.

        A part of a hop at the end counts as a frame.
        """

    @abstractmethod
    def latents(self, samples: Tensor) -> Tensor:
        """Run the encoder, without quantization: (note, sample) -> (note, channel, frame)."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """Decode (note, codebook, frame) -> (note, sample) float32, frames * hop samples."""


def load_codec(
    name: str,
    bandwidth: float | None = None,
    weights: Path | None = None,
    device: str = "cpu",
    spec: Codec | None = None,
) -> LoadedCodec:
    """Load a codec on `device`.

    `bandwidth` and `weights` as in `codec_spec`. `spec`: from there, so that the weights are not hashed again.

    Raises:
        CodecError: an unknown codec, or weights that are missing, damaged or of another model.
        UserError: a device that this machine does not have.
    """
    target = resolve_device(device)
    spec = spec or codec_spec(name, bandwidth, weights)
    if is_hugging_face(name):
        from pipeline.codec.hugging_face import load_hugging_face

        return load_hugging_face(spec, weights, target)
    from pipeline.codec.model import load_encodec

    return load_encodec(spec, weights, target)


def resolve_device(name: str) -> torch.device:
    """Find the device that `--device` names on this machine. Raises UserError.

    auto is never MPS: before torch 2.13 the search for the nearest code was wrong there.
    """
    has_mps = name != "auto" and torch.backends.mps.is_available()
    return torch.device(devices.resolve_device(name, torch.cuda.device_count(), has_mps))
