"""Sampling beyond the window: log-likelihood a token of the frames before and after the window slides.

The model is trained on random windows of long recordings, plucked notes one after the other, as codes of the small
codec: a window that has slid begins in the middle of a note too.
"""

import sys
import time

import numpy as np
import soxr
import torch
from torch import Tensor

from pipeline.codec.loaded import load_codec
from pipeline.notes.demo import INSTRUMENTS, PITCHES, DemoNote, render
from pipeline.notes.nsynth import NSYNTH_RATE, VELOCITIES
from trainer.config import ModelConfig, TrainConfig
from trainer.generate import generate, overlap, prepare
from trainer.model import NoteModel
from trainer.optim import make_optimizers
from trainer.sampling import Sampling
from trainer.vocabulary import Vocabulary

RECORDINGS, NOTES, NOTE_SECONDS = 24, 20, 0.5
FRAMES = 100  # of the window
BATCH, MINUTES = 16, 2.0
SAMPLES, SLIDES, NEAR = 64, 4, 20  # NEAR: frames on each side of a slide


def main() -> None:
    codec = load_codec("encodec_mini")
    rate, codebooks = codec.spec.sample_rate, codec.spec.codebooks
    random = np.random.default_rng(0)
    waveforms = np.stack([soxr.resample(recording(random), NSYNTH_RATE, rate) for _ in range(RECORDINGS)])
    codes = codec.encode(torch.from_numpy(waveforms)).transpose(1, 2)  # (recording, frame, codebook)
    torch.manual_seed(0)
    config = ModelConfig(width=128, depth=3, heads=2)
    model = NoteModel(config, Vocabulary(codebooks, codec.spec.codebook_size), FRAMES * codebooks)
    loss = train(model, codes)
    prepare(model.eval(), torch.float32)
    length = (FRAMES + SLIDES * overlap(model) // codebooks) * codebooks
    uniforms = torch.from_numpy(random.random((SAMPLES, length)))
    _, likelihoods = generate(model, torch.empty((SAMPLES, 0), dtype=torch.long), uniforms, Sampling())
    frames = likelihoods.view(SAMPLES, -1, codebooks).mean(dim=(0, 2))  # (frame,) nats a token
    slides = range(FRAMES, len(frames), FRAMES - overlap(model) // codebooks)
    before = torch.stack([frames[slide - NEAR : slide].mean() for slide in slides]).mean()
    after = torch.stack([frames[slide : slide + NEAR].mean() for slide in slides]).mean()
    sys.stdout.write(
        f"{SAMPLES} samples, {len(slides)} slides of a window of {FRAMES} frames, after training to {loss:.2f} nats a "
        f"token\nlog-likelihood a token of the {NEAR} frames before a slide {before:.3f}, after {after:.3f}, "
        f"difference {after - before:+.3f}\n"
    )


def recording(random: np.random.Generator) -> np.ndarray:
    """Notes of one instrument, each cut by the next: (sample,) float32 at NSYNTH_RATE."""
    instrument = str(random.choice([*INSTRUMENTS["train"]]))
    notes = [
        DemoNote("train", instrument, int(random.integers(PITCHES[0], PITCHES[1] + 1)), int(random.choice(VELOCITIES)))
        for _ in range(NOTES)
    ]
    return np.concatenate([render(note, 0)[: round(NOTE_SECONDS * NSYNTH_RATE)] for note in notes])


def train(model: NoteModel, codes: Tensor) -> float:
    """Train on random windows of the recordings, (recording, frame, codebook); return the last steps' loss."""
    optimizers = make_optimizers(model, TrainConfig(steps=1, optimizer="muon", lr=6e-3))
    labels = torch.empty((BATCH, 0), dtype=torch.long)
    lengths = torch.full((BATCH,), model.window)
    losses: list[float] = []
    start = time.perf_counter()
    while (left := 1 - (time.perf_counter() - start) / (60 * MINUTES)) > 0:
        recordings = torch.randint(len(codes), (BATCH,)).tolist()
        firsts = torch.randint(codes.shape[1] - FRAMES + 1, (BATCH,)).tolist()
        windows = [codes[index, first : first + FRAMES] for index, first in zip(recordings, firsts, strict=True)]
        nll, _ = model(labels, torch.stack(windows).flatten(1), lengths)
        model.zero_grad(set_to_none=True)
        nll.mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = 6e-3 * left
            optimizer.step()
        losses.append(nll.mean().item())
    return float(np.mean(losses[-20:]))


if __name__ == "__main__":
    main()
