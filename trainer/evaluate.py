"""Losses of a model on the valid split. Knows nothing of updates and checkpoints."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch

from trainer.data import NoteReader, valid_batches
from trainer.model import NoteModel
from trainer.run import RunInfo
from trainer.runtime import Ranks, to_device, widest_float

TUTORIAL_FRAMES = 125  # frames of a note's start, on which models that see different lengths are compared


def evaluate(
    model: NoteModel,
    valid_notes: Sequence[NoteReader],
    info: RunInfo,
    ranks: Ranks,
    device: torch.device,
    autocast: AbstractContextManager[None],
) -> dict[str, float]:
    """Return means over the valid split of each set of the run, each note once over all ranks.

    Losses are in nats a token: of all, of the notes' starts, of each codebook, of each set; accuracies are shares.
    """
    codebooks = info.codec.codebooks
    set_sums = torch.zeros(len(valid_notes), 5, codebooks, device=device, dtype=widest_float(device))
    model.eval()
    for notes, sums in zip(valid_notes, set_sums, strict=True):
        for batch in valid_batches(notes, info.vocabulary, info.window, info.config.data, ranks.rank, ranks.world):
            labels, codes, lengths = (to_device(array, device) for array in batch.arrays)
            with torch.inference_mode(), autocast:
                nll, hits = model(labels, codes, lengths)  # (note, frame, codebook)
            frames = (lengths // codebooks)[:, None]
            real = torch.arange(nll.shape[1], device=device) < frames  # (note, frame)
            start = slice(0, TUTORIAL_FRAMES)
            sums[0] += nll.sum((0, 1))
            sums[1] += hits.sum((0, 1))
            sums[2] += real.sum()
            sums[3] += nll[:, start].sum((0, 1))
            sums[4] += real[:, start].sum()
    set_sums = ranks.all_reduce(set_sums).cpu()
    nll, hits, count, start_nll, start_count = set_sums.sum(0)
    loss = float(nll.sum() / count.sum())
    means = {"loss": loss, "loss_first_125_frames": float(start_nll.sum() / start_count.sum())}
    for index in range(codebooks):
        means[f"loss_codebook_{index}"] = float(nll[index] / count[index])
        means[f"accuracy_codebook_{index}"] = float(hits[index] / count[index])
    for each, sums in zip(info.sets, set_sums, strict=False):  # a run of one set lists none
        if sums[2].any():
            means[f"loss_set_{each.name}"] = float(sums[0].sum() / sums[2].sum())
    means["bits_per_second"] = loss / math.log(2) * info.codec.tokens_per_second
    return means
