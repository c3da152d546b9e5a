"""Floating-point operations of a training step, and the most of them that a device makes a second.

Their ratio is the model FLOPs utilization (Chowdhery et al., 2022, PaLM, appendix B): the share of the device's
arithmetic that a training uses. Knows nothing of losses and files.
"""

import time
from functools import cache

import numpy as np
import torch

from trainer.config import ModelConfig
from trainer.model import NoteModel

PEAK_SIZES = {"cpu": 512, "mps": 2048, "cuda": 4096}  # rows of the matrices whose product is timed
PEAK_PRODUCTS = {"cpu": 1, "mps": 4, "cuda": 8}  # in a row, so that a GPU's start does not count
PEAK_REPEATS = 3  # the fastest of them counts: other work only ever adds time


class TrainFlops:
    """The operations of forward and backward.

    Each weight of a matrix costs a multiplication and an addition forward and twice that backward, at each position
    that uses it; a layer's attention 12 times its inner width for each pair of positions (Kaplan et al., 2020,
    https://arxiv.org/abs/2001.08361, section 2.1; Chowdhery et al., 2022, https://arxiv.org/abs/2204.02311, appendix
    B, which counts the pairs that the causal mask hides too). Embeddings, norms, softmax, the optimizer and padding
    count nothing.
    """

    def __init__(self, model: NoteModel, config: ModelConfig) -> None:
        """config: of the model."""
        self._codebooks = model.vocabulary.codebooks
        decoder = sum(weight.numel() for weight in model.net.attn_layers.parameters() if weight.ndim == 2)
        hidden = sum(weight.numel() for weight in model.hidden_matrices())  # the decoder's and the depth head's
        heads = sum(weight.numel() for weight in model.heads.parameters()) * self._codebooks // len(model.heads)
        positions = self._codebooks // model.group  # of a frame
        self._frame = 6 * (decoder * positions + hidden - decoder + heads)
        self._pair = 12 * config.depth * config.heads * config.head_width * positions**2  # of frames

    def of(self, lengths: np.ndarray) -> float:
        """Those of notes of these lengths, (note,) tokens."""
        frames = lengths / self._codebooks
        return float((self._frame * frames + self._pair * frames**2).sum())


@cache
def measure_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Time products of large square matrices: operations a second. Some hundredths of a second."""
    size, products = PEAK_SIZES.get(device.type, 512), PEAK_PRODUCTS.get(device.type, 1)
    random = torch.Generator(device).manual_seed(0)  # zeros would let some GPUs run faster
    matrix = torch.randn(size, size, device=device, dtype=dtype, generator=random)
    product = torch.empty_like(matrix)
    times = []
    for _ in range(1 + PEAK_REPEATS):
        start = time.perf_counter()
        for _ in range(products):
            torch.mm(matrix, matrix, out=product)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        times.append(time.perf_counter() - start)
    return products * 2 * size**3 / min(times[1:])
