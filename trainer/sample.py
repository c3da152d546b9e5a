"""Run -> token files: loads a checkpoint, chooses the labels of each sample, generates, writes what made each file."""

import itertools
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from shards.layout import Note, check_tokens, write_token_file
from trainer.checkpoint import find_checkpoint, read_checkpoint
from trainer.device import resolve_device
from trainer.errors import ConfigError
from trainer.generate import Sampling, generate
from trainer.model import NoteModel
from trainer.run import Record, read_record
from trainer.vocabulary import NONE, Vocabulary

BATCH = 64  # notes at a time
SWEEP = re.compile(r"(-?\d+):(-?\d+)(?::(\d+))?")
Labels = dict[str, Any]


@dataclass(frozen=True)
class Sampled:
    """What a call of `sample` has made."""

    files: list[Path]
    step: int  # of the checkpoint
    log_likelihood: float  # nats a token


def sample(
    run: Path,
    out: Path,
    count: int | None,
    seed: int,
    sampling: Sampling,
    asked: Sequence[str] = (),
    step: int | None = None,
    device: str = "auto",
) -> Sampled:
    """Write `count` token files, KEY.npy and KEY.json, into `out`.

    asked: `NAME=VALUE`, `NAME=FROM:TO[:STEP]` (both ends included) or `NAME=none`. Labels that are not asked for are
    drawn from the notes that the run was trained on. Without `count`: one sample of each combination asked for.

    Raises:
        UserError: no run, no checkpoint, or labels that the run does not know.
    """
    record = read_record(run)
    path = find_checkpoint(run, step)
    target = resolve_device(device)
    model, at = _load(record, path, target)
    combinations = list(_combinations(record.vocabulary, asked))
    count = len(combinations) if count is None else count
    labels = [_completed(combinations[index % len(combinations)], record, seed, index) for index in range(count)]
    files, nats = [], 0.0
    with tqdm(total=count * record.window, unit="token", unit_scale=True, file=sys.stderr, leave=False) as bar:
        for first in range(0, count, BATCH):
            indices = range(first, min(first + BATCH, count))
            ids = torch.tensor([record.vocabulary.label_ids(labels[index]) for index in indices], dtype=torch.long)
            chance = torch.from_numpy(np.stack([uniforms(seed, index, record.window) for index in indices]))
            codes, likelihoods = generate(model, ids.to(target), chance.to(target), sampling, progress=bar.update)
            for index, tokens, likelihood in zip(indices, codes.cpu().numpy(), likelihoods.cpu(), strict=True):
                made_by = {
                    "run": str(run),
                    "checkpoint": path.name,
                    "step": at,
                    "shards": record.shards,
                    "seed": seed,
                    "index": index,
                    **asdict(sampling),
                    "log_likelihood": round(float(likelihood.mean()), 6),
                }
                note = Note(_key(index, labels[index]), tokens.astype(np.int16), {**labels[index], "sampled": made_by})
                check_tokens(note.tokens, record.codec, note.key)
                files.append(write_token_file(out, note, record.codec))
                nats += float(likelihood.mean())
    return Sampled(files, at, nats / max(1, count))


def uniforms(seed: int, index: int, length: int) -> np.ndarray:
    """A sample's own stream of chance: (token,) float64 in [0, 1)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, index, 0)))).random(length)


def _load(record: Record, path: Path, device: torch.device) -> tuple[NoteModel, int]:
    checkpoint = read_checkpoint(path, "model.")
    model = NoteModel(record.config.model, record.vocabulary, record.window)
    model.load_state_dict(checkpoint.tensors)
    return model.to(device).eval(), checkpoint.step


def _combinations(vocabulary: Vocabulary, asked: Iterable[str]) -> Iterable[Labels]:
    """All combinations of the values that are asked for."""
    known = dict(vocabulary.labels)
    values: dict[str, list[Any]] = {}
    for text in asked:
        name, equals, value = text.partition("=")
        if not equals or not value:
            raise ConfigError(f"--label {text}: is not NAME=VALUE, such as pitch=60, or NAME=FROM:TO:STEP")
        if name not in known:
            has = f"only {', '.join(known)}" if known else "none at all"
            raise ConfigError(f"--label {text}: this run was not trained on the label {name}; it knows {has}")
        values.setdefault(name, []).extend(_values(name, value, known[name]))
    return (dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values()))


def _values(name: str, text: str, known: tuple[Any, ...]) -> list[Any]:
    """The values of a label that `text` means."""
    if text == "none":
        return [NONE]
    by_text = {str(value): value for value in known}
    sweep = SWEEP.fullmatch(text)
    if sweep is not None and text not in by_text:
        first, last, step = int(sweep[1]), int(sweep[2]), int(sweep[3] or 1)
        if step < 1 or last < first:
            raise ConfigError(f"--label {name}={text}: is not FROM:TO:STEP with FROM up to TO")
        texts = [str(value) for value in range(first, last + 1, step)]
    else:
        texts = [text]
    for one in texts:
        if one not in by_text:
            seen = ", ".join(by_text) if len(by_text) <= 12 else f"{known[0]} to {known[-1]}"
            raise ConfigError(f"--label {name}={one}: no note that the run was trained on has it; it knows {seen}")
    return [by_text[one] for one in texts]


def _completed(asked: Labels, record: Record, seed: int, index: int) -> Labels:
    """The labels of one sample: those asked for, and the others as on a train note that has the asked ones."""
    names = [name for name, _ in record.vocabulary.labels]
    fitting = [
        (values, count)
        for values, count in record.combinations
        if all(values[names.index(name)] == value for name, value in asked.items() if value is not NONE)
    ] or record.combinations
    ends = np.cumsum([count for _, count in fitting])
    chance = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, index, 1)))).random()
    drawn = fitting[int(np.searchsorted(ends, chance * ends[-1], side="right"))][0]
    labels = dict(zip(names, drawn, strict=True)) | asked
    return {name: value for name, value in labels.items() if value is not NONE}


def _key(index: int, labels: Labels) -> str:
    """A sample's name: NSynth's scheme, instrument-pitch-velocity, as far as its labels go."""
    numbers = [f"-{labels[name]:03d}" for name in ("pitch", "velocity") if isinstance(labels.get(name), int)]
    return f"sample_{index:04d}" + "".join(numbers)
