"""Arithmetic of the codec's encoder: float32, the reference, or bfloat16, faster where the processor has units for it.

In bfloat16 the encoder's convolutions and LSTM keep 8 bits of each number; finding the nearest code stays in float32.
A few codes in a hundred become others, so the precision is part of a set's settings.
"""

from typing import Any

import torch
from torch import Tensor

from pipeline.codec import EnCodec


class BFloat16EnCodec(EnCodec):
    """A codec that encodes in bfloat16; it decodes as ever."""

    @torch.inference_mode()
    def encode(self, samples: Tensor) -> Tensor:
        """(note, sample) float32 -> (note, codebook, frame) int64."""
        model: Any = self.model  # an encodec.EncodecModel
        with torch.autocast(self.device.type, torch.bfloat16):
            latent = model.encoder(samples.to(self.device)[:, None])  # (note, channel, frame)
        codes: Tensor = model.quantizer.encode(latent.float(), model.frame_rate, model.bandwidth)
        return codes.transpose(0, 1)  # the package has codebooks first


def with_precision(codec: EnCodec, precision: str) -> EnCodec:
    """The same codec, encoding in that precision."""
    return codec if precision == "float32" else BFloat16EnCodec(codec.model, codec.spec, codec.device)
