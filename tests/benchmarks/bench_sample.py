"""Sampling: tokens a second of the tutorial's loop, of x-transformers' cached generate, and of the trainer."""

import sys
import time
from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn
from x_transformers import AutoregressiveWrapper, Decoder, TransformerWrapper

from trainer.config import ModelConfig
from trainer.generate import generate, prepare
from trainer.model import NoteModel
from trainer.runtime import resolve_device
from trainer.sampling import Sampling
from trainer.vocabulary import Vocabulary

NOTES, TOKENS = 64, 600
WIDTH, DEPTH, HEADS = 256, 6, 4  # 5.25 M parameters


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
    rows: list[tuple[str, int, Callable[[], object]]] = [
        ("the tutorial's loop, one clip", TOKENS, lambda: tutorial(net, device)),
        ("cached generate, one clip", TOKENS, lambda: cached(net, 1, device)),
        ("trainer, one clip", TOKENS, lambda: ours(same, 1, device)),
        (f"cached generate, {NOTES} clips", NOTES * TOKENS, lambda: cached(net, NOTES, device)),
        (f"trainer, {NOTES} clips", NOTES * TOKENS, lambda: ours(same, NOTES, device)),
        (f"cached generate in bfloat16, {NOTES} clips", NOTES * TOKENS, lambda: cached(half_net, NOTES, device)),
        ("trainer in bfloat16, one clip", TOKENS, lambda: ours(half, 1, device)),
        (f"trainer in bfloat16, {NOTES} clips", NOTES * TOKENS, lambda: ours(half, NOTES, device)),
        (f"trainer, a position a frame, {NOTES} clips", NOTES * TOKENS, lambda: ours(frame, NOTES, device)),
    ]
    speeds = []
    for name, tokens, way in rows:
        start = time.perf_counter()
        way()
        speeds.append(tokens / (time.perf_counter() - start))
        sys.stdout.write(f"{name:<45} {speeds[-1]:>8,.0f} tokens/s\n")
        sys.stdout.flush()
    loop, cached_single, single, cached_many, many, cached_half, half_single, half_many, frames = speeds
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


def model(device: torch.device, position: str, shared: bool, dtype: torch.dtype = torch.float32) -> NoteModel:
    shape = ModelConfig(width=WIDTH, depth=DEPTH, heads=HEADS, position=position, shared_vocabulary=shared)
    net = NoteModel(shape, Vocabulary(2, 1024, shared), TOKENS).to(device).eval()
    prepare(net, dtype)
    return net
