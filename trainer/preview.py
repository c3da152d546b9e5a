"""Previews: the same few notes, sampled at each evaluation of a training, so that one can hear a run learn.

They are token files in the run's folder, which the pipeline decodes; the training needs no codec for them.
"""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch

from shards.note import write_token_file
from shards.sample_info import PREVIEWS
from trainer.conditioning import Draw
from trainer.generate import prepare
from trainer.model import NoteModel
from trainer.run import RunInfo
from trainer.sample import draw_notes, sample_origin
from trainer.sampling import Sampling

SAMPLING = Sampling(temperature=0.9, guidance=3.5)  # as `sample` does by default


def write_previews(run: Path, info: RunInfo, model: NoteModel, step: int, dtype: torch.dtype) -> Path:
    """Sample the previews of a step into `run`/samples/step-N, with a copy of `model`; return the folder."""
    copy = deepcopy(model).eval()
    prepare(copy, dtype)
    draws = preview_draws(info)
    out = run / PREVIEWS / f"step-{step:08d}"
    origin = sample_origin(run, info, step, dtype, info.config.train.seed, SAMPLING)
    for draw, (note, mean) in zip(draws, draw_notes(copy, draws, SAMPLING, info.window), strict=True):
        sampled = replace(origin, index=draw.index, log_likelihood=round(mean, 6))
        write_token_file(out, note, info.codec, sampled)
    return out


def preview_draws(info: RunInfo) -> list[Draw]:
    """The same notes at each step: labels of train notes, evenly spread over their sorted combinations."""
    count = min(info.config.train.samples, len(info.combinations))
    ordered = sorted((values for values, _ in info.combinations), key=lambda values: tuple(map(str, values)))
    names = [name for name, _ in info.vocabulary.labels]
    draws = []
    for index in range(count):
        values = ordered[(2 * index + 1) * len(ordered) // (2 * count)]
        labels = {name: value for name, value in zip(names, values, strict=True) if value is not None}
        draws.append(Draw(f"preview_{index}", labels, (info.config.train.seed, index), index=index))
    return draws
