"""Training: tokens a second of the tutorial's loop and of the trainer's step, same model, batch and tokens, in turn."""

import sys
import time
from collections.abc import Callable

import torch
from torch import nn
from x_transformers import Decoder, TransformerWrapper

from trainer.config import ModelConfig, TrainConfig
from trainer.model import NoteModel
from trainer.optim import make_optimizers
from trainer.runtime import resolve_device, resolve_dtype
from trainer.vocabulary import Vocabulary

NOTES, TOKENS = 16, 600
WIDTH, DEPTH, HEADS = 256, 6, 4  # 5.25 M parameters
REPEATS = 3  # the best of them counts: the machine's noise only ever adds


def main() -> None:
    device = resolve_device("auto")
    dtype = resolve_dtype("auto", device)
    codes = torch.randint(1024, (NOTES, TOKENS), device=device)
    ways = {
        "the tutorial's loop": tutorial(codes),
        f"trainer, same model ({str(dtype).removeprefix('torch.')})": ours(codes, dtype, "token"),
        "trainer, a position a frame": ours(codes, dtype, "frame"),
    }
    times = {name: [] for name in ways}
    for _ in range(1 + REPEATS):
        for name, step in ways.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    baseline = min(times["the tutorial's loop"][1:])
    for name, seconds in times.items():
        fastest = min(seconds[1:])
        sys.stdout.write(f"{name:<40} {codes.numel() / fastest:>8,.0f} tokens/s  ratio {baseline / fastest:.1f}\n")


def tutorial(codes: torch.Tensor) -> Callable[[], None]:
    """The loop of the tutorial's page: full attention, float32, one vocabulary for both codebooks."""
    layers = Decoder(dim=WIDTH, depth=DEPTH, heads=HEADS, rotary_pos_emb=True, attn_dropout=0.1, ff_dropout=0.1)
    model = TransformerWrapper(num_tokens=1024, max_seq_len=TOKENS, emb_dropout=0.1, attn_layers=layers)
    model.to(codes.device)
    criterion, optimizer = nn.CrossEntropyLoss(), torch.optim.Adam(model.parameters(), lr=1e-4)

    def step() -> None:
        batch = torch.cat([torch.zeros((len(codes), 1), dtype=torch.long, device=codes.device), codes], dim=1)
        logits = model(batch).permute(0, 2, 1)
        loss = criterion(logits[..., :-1], batch[..., 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return step


def ours(codes: torch.Tensor, dtype: torch.dtype, position: str) -> Callable[[], None]:
    """The trainer's model and update."""
    vocabulary = Vocabulary(2, 1024, shared=position == "token")
    shape = ModelConfig(width=WIDTH, depth=DEPTH, heads=HEADS, position=position, shared_vocabulary=vocabulary.shared)
    model = NoteModel(shape, vocabulary, TOKENS).to(codes.device)
    [optimizer] = make_optimizers(model, TrainConfig(steps=1))
    labels = torch.empty((NOTES, 0), dtype=torch.long, device=codes.device)
    lengths = torch.full((NOTES,), TOKENS, device=codes.device)

    def step() -> None:
        with torch.autocast(codes.device.type, dtype, enabled=dtype != torch.float32):
            losses, _ = model(labels, codes, lengths)
        loss = losses.sum() / codes.numel()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return step
