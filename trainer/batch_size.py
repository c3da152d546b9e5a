"""The number of notes that are sampled at once: as many as fit into the free memory of the device.

Each note has its own random stream, so this changes no sample. Knows no labels and no codes.
"""

from pathlib import Path

import torch

from trainer.frame_step import TOGETHER
from trainer.model import NoteModel

MEMINFO = Path("/proc/meminfo")  # Linux
SHARE = 0.8  # of the free memory: the rest is for what is not counted here
LARGEST_BLOCK = 32  # a CPU's cache has whole blocks of so many positions and features
BYTES_A_LOGIT = 80  # and of its copies: probabilities, sorted, their order, summed in float64
BYTES_A_TOKEN = 2 * (8 + 8 + 4)  # code, uniform and likelihood, in the batch and in the result


def notes_at_once(model: NoteModel, length: int, is_guided: bool, most: int) -> int:
    """From one to `most` notes of `length` tokens. The model is where it samples, in its dtype."""
    device = model.offsets.device
    free = free_memory(device)
    if free is None:
        return most
    window = window_bytes(model)
    if device.type == "cuda":  # feeds a window's positions to so many rows at a time
        free, window = free - TOGETHER * window, 0
    rows = 2 if is_guided else 1
    logits = (model.vocabulary.codebook_size + model.vocabulary.has_end) * BYTES_A_LOGIT
    note = rows * (cache_bytes(model) + window + logits) + length * BYTES_A_TOKEN
    return max(1, min(most, int(SHARE * free) // note))


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process can still have; None where the system does not say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu" or not MEMINFO.exists():
        return None
    fields = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
    available = fields.get("MemAvailable")
    return int(available.split()[0]) * 1024 if available else None


def cache_bytes(model: NoteModel) -> int:
    """Of the keys and values of one row, at the most."""
    block = LARGEST_BLOCK if model.offsets.device.type == "cpu" else 1
    positions = -(-model.positions // block) * block
    total = 0
    for (_, attn, _), projection in zip(model.net.attn_layers.layers[::2], _keys(model), strict=True):
        width = len(projection) // attn.heads
        total += attn.heads * positions * (width + -(-width // block) * block) * projection.element_size()
    return total


def window_bytes(model: NoteModel) -> int:
    """Of the activations of one row when all positions of the window are fed at once: those of one layer."""
    inner, width = _keys(model)[0].shape
    features = 2 * 4 * width + 3 * 3 * inner  # feed-forward before and after GELU; queries, keys, values, their copies
    return model.positions * features * torch.float32.itemsize


def _keys(model: NoteModel) -> list[torch.Tensor]:
    """The key projections, (head and feature, width), a layer each."""
    return [attn.to_k.weight for _, attn, _ in model.net.attn_layers.layers[::2]]
