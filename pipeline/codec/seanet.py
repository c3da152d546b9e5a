"""SEANet encoder of the `encodec` package, faster on a CPU: same weights, same numbers but for rounding.

The package computes a layer for a whole note, then the next layer. At the sample rate that is megabytes a layer, read
from and written to memory. Here a note goes through the first layers in pieces that stay in the CPU's cache. The
convolutions are causal, so a piece needs only each layer's last few inputs of the piece before. The LSTM, which spends
its time on reading its weights, takes all notes at once.

Between the layers a note is (time, channel). In this order a convolution is a matrix product on its input as it lies in
memory, so nothing is reordered before or after it. Knows nothing of codebooks or weights files.
"""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear, pad

PIECE_VALUES = 300_000  # in a piece at its widest layer: 1.2 MB, and far longer than a convolution's kernel
SMALL_KERNEL = 100_000  # weights; each call reorders its kernel first, so a larger one is called once a note

History = dict["CausalConvolution", Tensor]  # the last inputs in the piece before, after ELU


class CPUEncoder:
    """A SEANetEncoder without weight norm, its weights copied in the order and precision of the computation."""

    def __init__(self, encoder: Any, dtype: torch.dtype = torch.float32) -> None:
        layers = [layer for layer in encoder.model if not isinstance(layer, nn.ELU)]  # one before each but the first
        lstm = next(index for index, layer in enumerate(layers) if hasattr(layer, "lstm"))
        in_pieces = next((index for index in range(lstm) if _largest_kernel(layers[index]) > SMALL_KERNEL), lstm)
        hop = int(encoder.hop_length)
        self.piece = PIECE_VALUES // (encoder.n_filters * hop) * hop  # samples
        first = CausalConvolution(layers[0], torch.float32, has_elu=False)  # samples have more bits than a bfloat16
        steps = [first, *(_prepare(layer, dtype) for layer in layers[1:lstm])]
        self.in_pieces, self.whole = steps[:in_pieces], steps[in_pieces:]
        self.lstm = layers[lstm] if dtype == torch.float32 else deepcopy(layers[lstm]).to(dtype)
        self.last = _prepare(layers[lstm + 1], dtype)
        self.dtype = dtype

    def __call__(self, samples: Tensor) -> Tensor:
        """(note, sample) -> latents, (note, channel, frame), both float32."""
        notes = torch.stack([self._before_lstm(note[:, None]) for note in samples])  # (note, frame, channel)
        notes = self.lstm(notes.transpose(1, 2)).transpose(1, 2)
        return torch.stack([self.last(note.contiguous(), {}).T for note in notes]).float()

    def _before_lstm(self, note: Tensor) -> Tensor:
        """(sample, 1) -> (frame, channel)."""
        history: History = {}
        parts = []
        for x in torch.split(note, self.piece):
            for step in self.in_pieces:
                x = step(x, history).to(self.dtype)
            parts.append(x)
        x = torch.cat(parts)
        for step in self.whole:
            x = step(x, {}).to(self.dtype)
        return x


class Convolution:
    """A convolution without padding: weight, (output, channel, time)."""

    def __init__(self, weight: Tensor, bias: Tensor, stride: int, dtype: torch.dtype) -> None:
        self.length, self.stride = weight.shape[2], stride
        self.weight = weight.to(dtype).transpose(1, 2).contiguous()  # (output, time, channel)
        self.bias = bias.to(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """(time, channel) -> (time, output)."""
        channels = x.shape[1]
        if x.dtype == torch.float32 and channels > 1:  # MKL's float32 product is half as fast on AMD as oneDNN's layer
            image, kernel = x[None, None].permute(0, 3, 1, 2), self.weight[:, None].permute(0, 3, 1, 2)
            return conv2d(image, kernel, self.bias, (1, self.stride)).permute(0, 2, 3, 1)[0, 0]
        count = (len(x) - self.length) // self.stride + 1
        windows = x.as_strided((count, self.length * channels), (self.stride * channels, 1))
        return linear(windows, self.weight.flatten(1), self.bias)


class CausalConvolution:
    """ELU and an SConv1d, with the package's reflection padding at both ends of a note."""

    def __init__(self, layer: Any, dtype: torch.dtype, has_elu: bool = True) -> None:
        convolution = layer.conv.conv
        self.convolve = Convolution(convolution.weight, convolution.bias, convolution.stride[0], dtype)
        self.has_elu = has_elu

    def __call__(self, x: Tensor, history: History) -> Tensor:
        """Run the next piece of a note: (time, channel) -> (time / stride, output)."""
        left = self.convolve.length - self.convolve.stride
        right = -len(x) % self.convolve.stride  # only the last piece of a note ends within a stride
        before = history.get(self, x[:0])
        rows = x.new_empty(len(before) + len(x), x.shape[1])
        rows[: len(before)] = before
        if self.has_elu:
            _elu(x, rows[len(before) :])
        else:
            rows[len(before) :] = x
        rows = _reflect(rows, left - len(before), right, dim=0)
        history[self] = rows[len(rows) - left :].clone()
        return self.convolve(rows)


class ResidualBlock:
    """A SEANetResnetBlock; both of its branches end in a kernel of size 1, and here in one product."""

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        self.hidden = CausalConvolution(layer.block[1], dtype)
        last, shortcut = layer.block[3].conv.conv, layer.shortcut.conv.conv
        # a moment of both inputs counts as some moments of `last.in_channels`: torch would leave a kernel of 1 to MKL
        weight = torch.cat([last.weight, shortcut.weight], dim=1).view(shortcut.out_channels, -1, last.in_channels)
        self.convolve = Convolution(weight.transpose(1, 2), last.bias + shortcut.bias, weight.shape[1], dtype)

    def __call__(self, x: Tensor, history: History) -> Tensor:
        hidden = self.hidden(x, history)
        both = torch.cat([_elu(hidden, torch.empty_like(hidden)), x], dim=1)
        return self.convolve(both.view(-1, hidden.shape[1]))


def pad1d(x: Tensor, paddings: tuple[int, int], mode: str = "zero", value: float = 0.0) -> Tensor:
    """Replace `encodec.modules.conv.pad1d`: same values, (note, channel, sample) -> (note, channel, padded sample).

    The package calls torch's reflection padding even with nothing to pad, which is then a slow copy.
    """
    if mode == "reflect":
        return _reflect(x, *paddings, dim=2)
    return pad(x, paddings, "constant" if mode == "zero" else mode, value) if any(paddings) else x


def _reflect(x: Tensor, left: int, right: int, dim: int) -> Tensor:
    """Pad a dimension; what has too few values to reflect gets zeros at its end first."""
    if left == right == 0:
        return x
    short = max(0, max(left, right) + 1 - x.shape[dim])  # a reflection needs more values than it adds
    if short:
        zeros = x.new_zeros([short if index == dim else size for index, size in enumerate(x.shape)])
        x = torch.cat([x, zeros], dim)
    end = x.shape[dim]
    reflected = (x.narrow(dim, 1, left).flip(dim), x, x.narrow(dim, end - 1 - right, right).flip(dim))
    return torch.cat(reflected, dim).narrow(dim, 0, left + end + right - short)


def _elu(x: Tensor, out: Tensor) -> Tensor:
    from pipeline.codec.elu import elu  # imports numba, which decoding does not need

    return elu(x, out)


def _prepare(layer: Any, dtype: torch.dtype) -> CausalConvolution | ResidualBlock:
    return ResidualBlock(layer, dtype) if hasattr(layer, "shortcut") else CausalConvolution(layer, dtype)


def _largest_kernel(layer: nn.Module) -> int:
    return max((weight.numel() for weight in layer.parameters()), default=0)
