"""Arithmetic of the codec's encoder: float32, the reference, or bfloat16, faster where the processor has units for it.

In bfloat16 the encoder's convolutions and LSTM keep 8 bits of each number; finding the nearest code stays in float32.
A few codes in a hundred become others, so the precision is part of a set's settings.
"""

import torch
from torch import Tensor

from pipeline.codec.model import EnCodec


class BFloat16EnCodec(EnCodec):
    """A codec that encodes in bfloat16; it decodes as ever."""

    def latents(self, samples: Tensor) -> Tensor:
        """(note, sample) -> (note, channel, frame) float32."""
        with torch.autocast(self.device.type, torch.bfloat16):
            return super().latents(samples).float()


def with_precision(codec: EnCodec, precision: str) -> EnCodec:
    """The same codec, encoding in that precision."""
    return codec if precision == "float32" else BFloat16EnCodec(codec.model, codec.spec, codec.device)
