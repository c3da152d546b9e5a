"""Sampling: tokens a second of the tutorial's loop, of x-transformers' cached generate, and of the trainer.

Beside those of the trainer: the bytes that it has to read, all weights and the used part of the cache once a step, a
second, as a share of those of a sum over much memory, by as many threads. Weights that stay in a processor's cache make
it more than all.
"""

import sys
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from x_transformers import AutoregressiveWrapper, Decoder, TransformerWrapper

from trainer.batch_size import cache_bytes
from trainer.config import ModelConfig
from trainer.cpu.generate import NOTES_PER_THREAD
from trainer.generate import generate, prepare
from trainer.model import NoteModel
from trainer.runtime import resolve_device
from trainer.sampling import Sampling
from trainer.vocabulary import Vocabulary

NOTES, TOKENS = 64, 600
MANY = 1_024  # notes, on a GPU
MEMORY = 1 << 29  # bytes to read, far more than fit into a CPU's caches
WIDTH, DEPTH, HEADS = 256, 6, 4  # 5.25 M parameters


@dataclass(frozen=True)
class Row:
    """A way to sample some clips, and the bytes that it has to read, where they are known."""

    name: str
    notes: int
    way: Callable[[], object]
    bytes_read: float = 0


def main() -> None:
    device = resolve_device("auto")
    layers = Decoder(dim=WIDTH, depth=DEPTH, heads=HEADS, rotary_pos_emb=True)
    net = TransformerWrapper(num_tokens=1024, max_seq_len=TOKENS, attn_layers=layers).to(device).eval()
    same = model(device, "token", shared=True)
    half = model(device, "token", shared=True, dtype=torch.bfloat16)
    half_net = deepcopy(net).bfloat16()
    frame = model(device, "frame", shared=False)
    for notes in (1, NOTES):  # the trainer's loops are compiled once and cached on disk
        ours(same, notes, device, tokens=2)
        ours(half, notes, device, tokens=2)
        ours(frame, notes, device, tokens=2)

    def trainer(name: str, net: NoteModel, notes: int) -> Row:
        name = f"trainer{name}, {'one clip' if notes == 1 else f'{notes:,} clips'}"
        return Row(name, notes, lambda: ours(net, notes, device), step_bytes(net, notes) / net.group * TOKENS)

    rows: list[Row] = [
        Row("the tutorial's loop, one clip", 1, lambda: tutorial(net, device)),
        Row("cached generate, one clip", 1, lambda: cached(net, 1, device)),
        trainer("", same, 1),
        Row(f"cached generate, {NOTES} clips", NOTES, lambda: cached(net, NOTES, device)),
        trainer("", same, NOTES),
        Row(f"cached generate in bfloat16, {NOTES} clips", NOTES, lambda: cached(half_net, NOTES, device)),
        trainer(" in bfloat16", half, 1),
        trainer(" in bfloat16", half, NOTES),
        trainer(", a position a frame", frame, NOTES),
    ]
    if device.type == "cuda":
        rows += [trainer("", same, MANY), trainer(" in bfloat16", half, MANY)]
    seconds: dict[str, list[float]] = {row.name: [] for row in rows}
    bandwidths = {row.name: bandwidth(device, row.notes) for row in rows if row.bytes_read}
    own, others = ([row for row in rows if bool(row.bytes_read) == is_own] for is_own in (True, False))
    for row in [*own, *others, *own]:  # before and after the others, which take minutes
        synchronize(device)
        start = time.perf_counter()
        row.way()
        synchronize(device)
        seconds[row.name].append(time.perf_counter() - start)
    speeds = []
    for row in rows:
        mean = sum(seconds[row.name]) / len(seconds[row.name])
        speeds.append(row.notes * TOKENS / mean)
        most = bandwidths.get(row.name)
        share = f"  {row.bytes_read / mean / most:>4.0%} of {most / 1e9:,.0f} GB/s" if most else ""
        sys.stdout.write(f"{row.name:<45} {speeds[-1]:>9,.0f} tokens/s{share}\n")
    loop, cached_single, single, cached_many, many, cached_half, half_single, half_many, frames = speeds[:9]
    sys.stdout.write(
        f"against cached generate in float32: {single / cached_single:.1f} for one clip, "
        f"{many / cached_many:.1f} for {NOTES}; "
        f"in bfloat16 {half_single / cached_single:.1f} and {half_many / cached_many:.1f}\n"
        f"against cached generate in bfloat16: {half_many / cached_half:.1f}\n"
        f"against the tutorial's loop: {many / loop:.0f}, in bfloat16 {half_many / loop:.0f}, "
        f"with a position a frame {frames / loop:.0f}\n"
    )


@torch.inference_mode()
def tutorial(net: nn.Module, device: torch.device) -> None:
    """The whole prefix through the model again for each token, one clip at a time."""
    generated = [0]
    for _ in range(TOKENS):
        logits = net(torch.tensor([generated], device=device))[:, -1]
        generated.append(int(torch.multinomial(logits.softmax(-1), 1)))


@torch.inference_mode()
def cached(net: TransformerWrapper, notes: int, device: torch.device) -> Tensor:
    start = torch.zeros((notes, 1), dtype=torch.long, device=device)
    return AutoregressiveWrapper(net).generate(start, TOKENS, cache_kv=True, filter_kwargs={"frac_num_tokens": 1.0})


def ours(model: NoteModel, notes: int, device: torch.device, tokens: int = TOKENS) -> Tensor:
    labels = torch.empty((notes, 0), dtype=torch.long, device=device)
    uniforms = torch.rand(notes, tokens, dtype=torch.float64, device=device)
    return generate(model, labels, uniforms, Sampling())[0]


def step_bytes(net: NoteModel, notes: int) -> float:
    """Bytes of the weights between embeddings and codes, and of the keys and values that a step reads on average."""
    parts = [net.net.attn_layers, net.heads, *([net.within.steps] if net.within is not None else [])]
    weights = sum(parameter.nbytes for part in parts for parameter in part.parameters())
    return weights + notes * cache_bytes(net) * (net.positions + 1) / (2 * net.positions)


def bandwidth(device: torch.device, notes: int) -> float:
    """Bytes a second of a sum of MEMORY, the best of five, by as many threads as sample so many notes."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(before, notes // NOTES_PER_THREAD)))
    numbers = torch.ones(MEMORY // torch.float32.itemsize, device=device)
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        float(numbers.sum())
        best = max(best, MEMORY / (time.perf_counter() - start))
    torch.set_num_threads(before)
    return best


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def model(device: torch.device, position: str, shared: bool, dtype: torch.dtype = torch.float32) -> NoteModel:
    shape = ModelConfig(width=WIDTH, depth=DEPTH, heads=HEADS, position=position, shared_vocabulary=shared)
    net = NoteModel(shape, Vocabulary(2, 1024, shared), TOKENS).to(device).eval()
    prepare(net, dtype)
    return net
