"""Training: tokens a second of the tutorial's loop and of the trainer's step, same model, batch and tokens, in turn;
beside it the model FLOPs utilization, in percent of the peak that is measured in the same dtype."""

import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from x_transformers import Decoder, TransformerWrapper

from trainer.config import ModelConfig, TrainConfig
from trainer.flops import TrainFlops, measure_peak
from trainer.model import NoteModel
from trainer.optim import make_optimizers, update_weights
from trainer.runtime import resolve_device, resolve_dtype
from trainer.train import READ_EVERY
from trainer.vocabulary import Vocabulary

NOTES, TOKENS = 16, 600
WIDTH, DEPTH, HEADS = 256, 6, 4  # 5.25 M parameters
REPEATS = 3  # the best of them counts: the machine's noise only ever adds


def main() -> None:
    device = resolve_device("auto")
    dtype = resolve_dtype("auto", device)
    codes = torch.randint(1024, (NOTES, TOKENS), device=device)
    same, frame = make_model("token", device), make_model("frame", device)
    ways = {  # a step that returns its loss, its model, the dtype of its matrix products
        "the tutorial's loop": (tutorial(codes), same, torch.float32),
        f"trainer, same model ({str(dtype).removeprefix('torch.')})": (ours(same, codes, dtype), same, dtype),
        "trainer, a position a frame": (ours(frame, codes, dtype), frame, dtype),
    }
    steps = READ_EVERY[device.type]
    times = {name: [] for name in ways}
    for _ in range(1 + REPEATS):
        for name, (step, _, _) in ways.items():
            start = time.perf_counter()
            losses = [step() for _ in range(steps)]
            losses[-1].item()
            times[name].append((time.perf_counter() - start) / steps)
    baseline = min(times["the tutorial's loop"][1:])
    for name, seconds in times.items():
        fastest, (_, (model, shape), product) = min(seconds[1:]), ways[name]
        share = TrainFlops(model, shape).of(np.full(NOTES, TOKENS)) / fastest / measure_peak(device, product)
        speed = f"{codes.numel() / fastest:>8,.0f} tokens/s  ratio {baseline / fastest:.1f}"
        sys.stdout.write(f"{name:<40} {speed}  {share:.0%} of peak\n")


def make_model(position: str, device: torch.device) -> tuple[NoteModel, ModelConfig]:
    vocabulary = Vocabulary(2, 1024, shared=position == "token")
    shape = ModelConfig(width=WIDTH, depth=DEPTH, heads=HEADS, position=position, shared_vocabulary=vocabulary.shared)
    return NoteModel(shape, vocabulary, TOKENS).to(device), shape


def tutorial(codes: torch.Tensor) -> Callable[[], torch.Tensor]:
    """The loop of the tutorial's page: full attention, float32, one vocabulary for both codebooks."""
    layers = Decoder(dim=WIDTH, depth=DEPTH, heads=HEADS, rotary_pos_emb=True, attn_dropout=0.1, ff_dropout=0.1)
    model = TransformerWrapper(num_tokens=1024, max_seq_len=TOKENS, emb_dropout=0.1, attn_layers=layers)
    model.to(codes.device)
    criterion, optimizer = nn.CrossEntropyLoss(), torch.optim.Adam(model.parameters(), lr=1e-4)

    def step() -> torch.Tensor:
        batch = torch.cat([torch.zeros((len(codes), 1), dtype=torch.long, device=codes.device), codes], dim=1)
        logits = model(batch).permute(0, 2, 1)
        loss = criterion(logits[..., :-1], batch[..., 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        return loss

    return step


def ours(made: tuple[NoteModel, ModelConfig], codes: torch.Tensor, dtype: torch.dtype) -> Callable[[], torch.Tensor]:
    """The trainer's model and update."""
    model, _ = made
    optimizers = make_optimizers(model, TrainConfig(steps=1))
    labels = torch.empty((NOTES, 0), dtype=torch.long, device=codes.device)
    lengths = torch.full((NOTES,), TOKENS, device=codes.device)
    found_inf = torch.zeros((), device=codes.device)

    def step() -> torch.Tensor:
        with torch.autocast(codes.device.type, dtype, enabled=dtype != torch.float32):
            losses, _ = model(labels, codes, lengths)
        loss = losses.sum() / codes.numel()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        found_inf.masked_fill_(~(loss.isfinite() & norm.isfinite()), 1)
        update_weights(optimizers, 1e-3, found_inf)
        model.zero_grad()
        return loss.detach()

    return step
