"""The `encodec` package's SEANet, faster: the same modules and weights, and the same numbers but for rounding.

The package computes a layer for all of a note, then the next. At the rate of samples that is megabytes to a layer,
which go to memory and back. Here a note goes through the first layers in pieces that stay in a CPU's cache: the
convolutions are causal, so all that a piece needs of the one before is each layer's last few inputs. The LSTM, whose
time goes into reading its weights, sees all notes at once.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, elu, elu_, pad

VALUES = 300_000  # a piece, counted where there are most: 1.2 MB, and far more than a convolution looks back
SMALL_KERNEL = 100_000  # weights; each call puts a kernel in order first, so a larger one is called once a note


def encode_in_pieces(encoder: Any, samples: Tensor) -> Tensor:
    """What a SEANetEncoder without weight norm gives: (note, 1, sample) -> (note, channel, frame)."""
    layers = list(encoder.model)
    lstm = next(place for place, layer in enumerate(layers) if hasattr(layer, "lstm"))
    whole = next((place for place in range(lstm) if _largest_kernel(layers[place]) > SMALL_KERNEL), lstm)
    hop = int(encoder.hop_length)
    piece = VALUES // (encoder.n_filters * hop) * hop  # samples
    notes = []
    for note in torch.split(samples, 1):
        before: dict[nn.Module, Tensor] = {}  # a convolution's last inputs
        parts = [_through(layers[:whole], part, before) for part in torch.split(note, piece, dim=2)]
        notes.append(_through(layers[whole:lstm], torch.cat(parts, dim=2), {}))
    x = torch.cat(notes)
    for layer in layers[lstm:]:
        x = layer(x)
    return x


def pad1d(x: Tensor, paddings: tuple[int, int], mode: str = "zero", value: float = 0.0) -> Tensor:
    """`encodec.modules.conv.pad1d`: the same values, (note, channel, sample) -> (note, channel, left + sample + right).

    The package calls torch's reflection padding even where there is nothing to pad, and then it is a slow copy.
    """
    left, right = paddings
    if left == right == 0:
        return x
    if mode != "reflect":
        return pad(x, paddings, "constant" if mode == "zero" else mode, value)
    short = max(0, max(left, right) + 1 - x.shape[-1])  # a reflection needs more samples than it adds
    x = pad(x, (0, short))
    end = x.shape[-1]
    reflected = (x[..., 1 : left + 1].flip(-1), x, x[..., end - 1 - right : end - 1].flip(-1))
    return torch.cat(reflected, -1)[..., : left + end + right - short]


def _through(layers: list[Any], x: Tensor, before: dict[nn.Module, Tensor]) -> Tensor:
    """One note's next piece through some layers: (1, channel, sample) -> (1, channel, sample)."""
    for layer in layers:
        if hasattr(layer, "shortcut"):  # a residual block; the last convolution of both its ways is one sample long
            narrow = elu_(_convolve(layer.block[1], elu(x), before))
            way, around = layer.block[3].conv.conv, layer.shortcut.conv.conv
            x = torch.addmm((way.bias + around.bias)[:, None], around.weight[..., 0], x[0])
            x = torch.addmm(x, way.weight[..., 0], narrow[0])[None]
        elif isinstance(layer, nn.ELU):
            x = elu_(x)
        else:
            x = _convolve(layer, x, before)
    return x


def _convolve(layer: Any, x: Tensor, before: dict[nn.Module, Tensor]) -> Tensor:
    """A piece through an SConv1d. Where its note begins and ends, it is reflected, as the package has it."""
    convolution = layer.conv.conv
    [length], [stride] = convolution.kernel_size, convolution.stride
    right = -x.shape[2] % stride  # only a note's last piece ends in a part of a stride
    if layer in before:
        x = pad1d(torch.cat([before[layer], x], dim=2), (0, right), "reflect")
    else:
        x = pad1d(x, (length - stride, right), "reflect")
    before[layer] = x[..., x.shape[2] - (length - stride) :]
    return conv1d(x, convolution.weight, convolution.bias, stride)


def _largest_kernel(layer: nn.Module) -> int:
    return max((weight.numel() for weight in layer.parameters()), default=0)
