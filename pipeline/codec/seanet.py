"""SEANet encoder of the `encodec` package, faster on a CPU: same modules and weights, same numbers but for rounding.

The package computes a layer for a whole note, then the next layer. At the sample rate that is megabytes a layer, read
from and written to memory. Here a note goes through the first layers in pieces that stay in the CPU's cache. The
convolutions are causal, so a piece needs only each layer's last few inputs of the piece before. The LSTM, which spends
its time on reading its weights, takes all notes at once. Knows nothing of codebooks or weights files.
"""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, elu, elu_, pad

PIECE_VALUES = 300_000  # in a piece at its widest layer: 1.2 MB, and far longer than a convolution's kernel
SMALL_KERNEL = 100_000  # weights; each call reorders its kernel first, so a larger one is called once a note
NARROW = 32  # channels; with fewer, oneDNN 3.12's strided bfloat16 convolution is wrong on AMX (and saves no time)


def encode_in_pieces(encoder: Any, samples: Tensor) -> Tensor:
    """Run a SEANetEncoder without weight norm: (note, 1, sample) -> latents, (note, channel, frame).

    Under autocast to bfloat16, layers that read fewer than `NARROW` channels stay in float32.
    """
    layers = list(encoder.model)
    lstm = next(index for index, layer in enumerate(layers) if hasattr(layer, "lstm"))
    in_pieces = next((index for index in range(lstm) if _largest_kernel(layers[index]) > SMALL_KERNEL), lstm)
    hop = int(encoder.hop_length)
    piece = PIECE_VALUES // (encoder.n_filters * hop) * hop  # samples
    notes = []
    for note in torch.split(samples, 1):
        history: dict[nn.Module, Tensor] = {}
        parts = [_run_layers(layers[:in_pieces], part, history) for part in torch.split(note, piece, dim=2)]
        notes.append(_run_layers(layers[in_pieces:lstm], torch.cat(parts, dim=2), {}))
    x = torch.cat(notes)
    for layer in layers[lstm:]:
        x = layer(x)
    return x


def pad1d(x: Tensor, paddings: tuple[int, int], mode: str = "zero", value: float = 0.0) -> Tensor:
    """Replace `encodec.modules.conv.pad1d`: same values, (note, channel, sample) -> (note, channel, padded sample).

    The package calls torch's reflection padding even with nothing to pad, which is then a slow copy.
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


def _run_layers(layers: list[Any], x: Tensor, history: dict[nn.Module, Tensor]) -> Tensor:
    """Run the next piece of one note through some layers: (1, channel, sample) -> (1, channel, sample).

    `history`: convolution -> its last inputs in the piece before, updated in place.
    """
    is_mixed = torch.is_autocast_enabled("cpu")
    for layer in layers:
        is_float32 = is_mixed and x.shape[1] < NARROW
        if is_float32:
            x = x.float()
        with torch.autocast("cpu", enabled=False) if is_float32 else nullcontext():
            if hasattr(layer, "shortcut"):  # a residual block, whose branches both end in a kernel of size 1
                hidden = _elu_in_place(_convolve(layer.block[1], _elu(x), history))
                last, shortcut = layer.block[3].conv.conv, layer.shortcut.conv.conv
                x = torch.addmm((last.bias + shortcut.bias)[:, None], shortcut.weight[..., 0], x[0])
                x = torch.addmm(x, last.weight[..., 0], hidden[0])[None]
            else:
                x = _elu_in_place(x) if isinstance(layer, nn.ELU) else _convolve(layer, x, history)
    return x


def _convolve(layer: Any, x: Tensor, history: dict[nn.Module, Tensor]) -> Tensor:
    """Run a piece through an SConv1d, with the package's reflection padding at both ends of the note."""
    convolution = layer.conv.conv
    [length], [stride] = convolution.kernel_size, convolution.stride
    right = -x.shape[2] % stride  # only the last piece of a note ends within a stride
    if layer in history:
        x = pad1d(torch.cat([history[layer], x], dim=2), (0, right), "reflect")
    else:
        x = pad1d(x, (length - stride, right), "reflect")
    history[layer] = x[..., x.shape[2] - (length - stride) :]
    return conv1d(x, convolution.weight, convolution.bias, stride)


def _elu(x: Tensor) -> Tensor:
    return _elu_table(x, torch.empty_like(x)) if x.dtype == torch.bfloat16 else elu(x)


def _elu_in_place(x: Tensor) -> Tensor:
    return _elu_table(x, x) if x.dtype == torch.bfloat16 else elu_(x)


def _elu_table(x: Tensor, out: Tensor) -> Tensor:
    from pipeline.codec.bfloat16_elu import fast_elu  # imports numba

    return fast_elu(x, out)


def _largest_kernel(layer: nn.Module) -> int:
    return max((weight.numel() for weight in layer.parameters()), default=0)
