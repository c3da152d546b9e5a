"""Initial weights of a small EnCodec.

SEANet's default initialisation shrinks activations layer by layer, and the decoded waveform stays at zero for thousands
of steps. Here each layer preserves the scale of its input: convolutions are orthogonal (Saxe et al., 2014,
https://arxiv.org/abs/1312.6120), residual blocks start near the identity, and each convolution between them is scaled
on one batch of notes so that all outputs have the same deviation (Mishkin and Matas, 2016,
https://arxiv.org/abs/1511.06422). Knows nothing of losses and steps.
"""

from typing import Any

import torch
from torch import Tensor, nn

DEVIATION = 0.7  # of each layer's output
QUIET = 0.1  # further factor of the residual branches and of the last layer, whose output is the waveform


@torch.no_grad()
def initialise(model: Any, notes: Tensor) -> None:
    """Set the weights of an encoder and a decoder without weight norm, layer by layer, on notes, (note, sample)."""
    x = notes[:, None]
    for layer in [*model.encoder.model, *model.decoder.model]:
        convolutions = [module for module in layer.modules() if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d))]
        for convolution in convolutions:
            nn.init.orthogonal_(convolution.weight)
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)
        if hasattr(layer, "shortcut"):  # a residual block
            nn.init.dirac_(layer.shortcut.conv.conv.weight)
            layer.block[-1].conv.conv.weight.mul_(QUIET)
        elif convolutions:
            convolutions[0].weight.mul_(DEVIATION / layer(x).std())
        x = layer(x)
    convolutions[0].weight.mul_(QUIET)
