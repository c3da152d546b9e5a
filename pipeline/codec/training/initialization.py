"""The weights a small EnCodec starts training from.

SEANet's default initialisation shrinks activations layer by layer, and the decoded waveform stays at zero for thousands
of steps. Here every layer passes its input on at full strength: convolutions are orthogonal (Saxe et al., 2014,
https://arxiv.org/abs/1312.6120), residual blocks start near the identity, and each convolution between them is scaled
on one batch of notes so that all outputs have the same deviation (Mishkin and Matas, 2016,
https://arxiv.org/abs/1511.06422).
"""

from typing import Any

import torch
from torch import Tensor, nn

DEVIATION = 0.7  # of what each layer puts out
QUIET = 0.1  # further factor of what starts small: the residual branches, and the last layer, whose output is sound


@torch.no_grad()
def initialise(model: Any, notes: Tensor) -> None:
    """Set the weights of an encoder and a decoder without weight norm, layer by layer, on (note, sample)."""
    x = notes[:, None]
    for layer in [*model.encoder.model, *model.decoder.model]:
        convolutions = [module for module in layer.modules() if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d))]
        for convolution in convolutions:
            nn.init.orthogonal_(convolution.weight)
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)
        if hasattr(layer, "shortcut"):  # a residual block: (narrow, widen) and the shortcut around them
            nn.init.dirac_(layer.shortcut.conv.conv.weight)
            layer.block[-1].conv.conv.weight.mul_(QUIET)
        elif convolutions:
            convolutions[0].weight.mul_(DEVIATION / layer(x).std())
        x = layer(x)
    convolutions[0].weight.mul_(QUIET)
