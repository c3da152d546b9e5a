"""Precision of the codec's encoder: float32, the reference, or bfloat16, faster on processors with units for it.

In bfloat16 the encoder's convolutions and LSTM have 8 significant bits; the search for the nearest code stays in
float32. A few codes in a hundred change, so the precision is one of a set's settings.
"""

import torch
from torch import Tensor

from pipeline.codec.loaded import LoadedCodec
from pipeline.codec.model import EnCodec


class BFloat16EnCodec(EnCodec):
    """Codec that encodes in bfloat16 and decodes in float32."""

    encoder_dtype = torch.bfloat16

    def latents(self, samples: Tensor) -> Tensor:
        """(note, sample) -> (note, channel, frame) float32."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type != "cpu"):
            return super().latents(samples).float()


def with_precision(codec: LoadedCodec, precision: str) -> LoadedCodec:
    """Return a codec of the same weights that encodes in `precision`; only `EnCodec` has another than float32."""
    if precision == "float32" or not isinstance(codec, EnCodec):
        return codec
    return BFloat16EnCodec(codec.spec, codec.device, codec.model)
