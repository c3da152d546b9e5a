"""Crops: the part of a note that a training step reads, from its start or from a random frame.

A pure function of the seed, the step, and the lanes of the notes in the batch, so ranks and loader workers change
nothing, and a run resumes exactly. Knows no files.
"""

from functools import partial

import numpy as np

from shards.reader import Crop


def choose_crops(kind: str, window: int, codebooks: int, lanes: list[int], key: tuple[int, int]) -> list[Crop]:
    """The crop of the note in each lane at a step. kind: start or random; window: tokens, whole frames.

    A note of up to `window` tokens is read whole. A random crop of a longer one begins at any frame from its first to
    the last that has a whole window after it, each as likely. key: (seed, step).
    """
    if kind == "start" or not lanes:
        return [start_crop(window, codebooks)] * len(lanes)
    stream = np.random.Generator(np.random.Philox(np.random.SeedSequence((*key, 2))))
    uniforms = stream.random(max(lanes) + 1)[lanes]
    return [partial(_crop, window, codebooks, uniform) for uniform in uniforms.tolist()]


def start_crop(window: int, codebooks: int) -> Crop:
    """The crop from a note's start."""
    return partial(_crop, window, codebooks, 0.0)


def _crop(window: int, codebooks: int, uniform: float, length: int) -> slice:
    """The tokens of a window in a note of `length` tokens; `uniform` from [0, 1) chooses its first frame.

    A frame more is read than the window has, if there is one: `collate` cuts it off, and can tell by it whether the
    note goes on beyond the window.
    """
    starts = max(0, length - window) // codebooks + 1
    start = int(uniform * starts) * codebooks
    return slice(start, min(start + window + codebooks, length))
