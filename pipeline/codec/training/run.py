"""Train a codec on folders of notes until its time is up: read, resume, validate, report, write the weights.

Knows files and the clock. What a step is, and what is kept, is in `codec_training.py`.
"""

import hashlib
import pickle
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from pipeline.audio import load
from pipeline.codec.distance import mel_distance
from pipeline.codec.model import EnCodec, resolve_device, write_weights
from pipeline.codec.spec import CODEBOOK_SIZE, SAMPLE_RATE
from pipeline.codec.training.codebooks import perplexity
from pipeline.codec.training.crops import read_notes
from pipeline.codec.training.trainer import Recipe, Training
from pipeline.notes.folder import scan_folder
from pipeline.notes.nsynth import split_of
from shards.errors import UserError
from shards.files import atomic_write

VALID_NOTES = 24  # at even distances in the valid split
VALID_SECONDS = 4.0  # of each
VALID_EVERY = 600.0  # seconds
SAVE_EVERY = 60.0  # seconds
LOG_EVERY = 50  # steps
CHECKPOINT = "checkpoint.pt"
BAR = "{desc}: {percentage:5.1f}%|{bar}| {elapsed}{postfix}"


@dataclass(frozen=True)
class Length:
    """How long to train: by the clock, or by steps, which is the same on every machine."""

    minutes: float
    steps: int | None = None

    def progress(self, step: int, seconds: float) -> float:
        """The share that is done, from 0 to 1."""
        return min(1.0, step / self.steps if self.steps else seconds / (60 * self.minutes))


@dataclass(frozen=True)
class Trained:
    """What came of it."""

    steps: int
    minutes: float
    distance: float  # log-mel, on notes of the valid split


def train_codec(
    audio: list[Path], out: Path, recipe: Recipe, length: Length, device: str, start: EnCodec | None = None
) -> Trained:
    """Train on the notes in `audio` and write the weights to `out`; a training that was interrupted goes on.

    `start`: a codec of encodec_mini's form whose weights are the first ones. What it takes to go on with an interrupted
    training, and TensorBoard's events, are in the folder `out` with the ending `.training`.

    Raises:
        UserError: no notes to train or to validate on, or a training that was begun with other notes, recipe or start.
    """
    from torch.utils.tensorboard import SummaryWriter
    from tqdm import tqdm

    train, valid = zip(*(_split(folder) for folder in audio), strict=True)
    held_out = [path for paths in valid for path in paths]
    if not any(train):
        raise UserError(f"{audio[0]}: no notes to train on; only folders named *-valid or *-test have any")
    if not held_out:
        raise UserError(
            f"{audio[0]}: no folder's name ends in -valid, so nothing would tell how good the codec is; "
            "move the notes of an instrument or two into one"
        )
    folder = out.with_suffix(".training")
    identity = {
        "recipe": asdict(recipe),
        "notes": _digest([path for paths in train for path in paths]),
        "start": start and start.spec.weights_sha256,
    }
    saved = _read_checkpoint(folder / CHECKPOINT, identity)
    training = Training(read_notes(train, SAMPLE_RATE), recipe, resolve_device(device), start)
    seconds = 0.0
    if saved is not None:
        training.restore(saved["training"])
        seconds = saved["seconds"]
    notes = _load_some(held_out)

    def save() -> None:
        with atomic_write(folder / CHECKPOINT) as file:
            torch.save({**identity, "training": training.state(), "seconds": seconds}, file)

    folder.mkdir(parents=True, exist_ok=True)
    due_save, due_valid = _every(SAVE_EVERY), _every(VALID_EVERY)
    with (
        SummaryWriter(folder, purge_step=training.step) as log,
        tqdm(total=100, unit="%", desc="train-codec", bar_format=BAR) as bar,
    ):
        while (progress := length.progress(training.step, seconds)) < 1:
            training.progress = progress
            started = time.perf_counter()
            terms = training.advance()
            seconds += time.perf_counter() - started
            bar.update(100 * progress - bar.n)
            if training.step % LOG_EVERY == 0:
                bar.set_postfix_str(f"{training.stage}, step {training.step}, loss {terms['loss']:.3f}")
                for name, value in {**terms, "rate": training.rate()}.items():
                    log.add_scalar(f"train/{name}", value, training.step)
            if due_valid():
                for name, value in _validate(training, notes).items():
                    log.add_scalar(f"valid/{name}", value, training.step)
            if due_save():
                save()
        training.progress = 1.0
        save()
        figures = _validate(training, notes)
        for name, value in figures.items():
            log.add_scalar(f"valid/{name}", value, training.step)
        bar.update(100 - bar.n)
    if training.books is None:
        raise UserError(f"{out}: too short a training to have codebooks; give it more --minutes")
    write_weights(out, training.average, training.books.entries)
    return Trained(training.step, seconds / 60, figures["distance"])


def _validate(training: Training, notes: torch.Tensor) -> dict[str, float]:
    """Figures on whole notes at their own levels, (note, sample)."""
    distances, codes = [], []
    for note in torch.split(notes, 1):
        decoded, chosen = training.round_trip(note)
        distances.append(float(mel_distance(decoded, note)))
        codes.append(chosen)
    figures = {"distance": float(np.mean(distances))}
    if training.books is not None:
        for index, book in enumerate(torch.cat([chosen for chosen in codes if chosen is not None], 1)):
            figures[f"used {index}"] = float(len(book.unique()))
            figures[f"perplexity {index}"] = perplexity(book, CODEBOOK_SIZE)
    return figures


def _split(folder: Path) -> tuple[list[Path], list[Path]]:
    """The notes of a folder to train on, and those to validate on; its test split is left alone."""
    found = scan_folder(folder)
    train: list[Path] = []
    valid: list[Path] = []
    for note in found.inputs:
        split = split_of([found.root.name, *PurePosixPath(note.path).parts[:-1]])
        if note.fault is None and split != "test":
            (valid if split == "valid" else train).append(found.root / note.path)
    return train, valid


def _load_some(paths: list[Path]) -> torch.Tensor:
    """`VALID_NOTES` of these notes at even distances, or all if there are fewer: (note, sample)."""
    some = dict.fromkeys(paths[index * len(paths) // VALID_NOTES] for index in range(VALID_NOTES))
    return torch.from_numpy(np.stack([load(path, SAMPLE_RATE, VALID_SECONDS) for path in some]))


def _digest(paths: list[Path]) -> str:
    """What identifies the notes: their names and sizes, in order."""
    lines = "".join(f"{path.name} {path.stat().st_size}\n" for path in paths)
    return hashlib.sha256(lines.encode()).hexdigest()


def _read_checkpoint(path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """A training to go on with, if there is one."""
    if not path.exists():
        return None
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(f"{path}: damaged; delete it to begin anew") from error
    for name, value in identity.items():
        if saved.get(name) != value:
            raise UserError(
                f"{path}: begun with other {name}; delete its folder to begin anew, or choose another --out"
            )
    return saved


def _every(seconds: float) -> Callable[[], bool]:
    """A question that is answered with yes once in so many seconds."""
    last = time.monotonic()

    def due() -> bool:
        nonlocal last
        if time.monotonic() - last < seconds:
            return False
        last = time.monotonic()
        return True

    return due
