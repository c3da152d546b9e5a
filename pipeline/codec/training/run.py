"""Run of a codec training on folders of notes: read, resume, validate, log, write the weights.

Knows files and the clock; steps and losses are in `trainer.py`.
"""

import hashlib
import io
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.audio import load
from pipeline.codec.distance import mel_distance
from pipeline.codec.loaded import resolve_device
from pipeline.codec.model import EnCodec, load_encodec, load_pickle, write_weights
from pipeline.codec.spec import CODEBOOK_SIZE, SAMPLE_RATE, codec_spec
from pipeline.codec.training.crops import read_notes
from pipeline.codec.training.trainer import CodecTrainer, Recipe
from pipeline.notes.folder import scan_folder
from pipeline.notes.nsynth import NSYNTH_SECONDS, split_folder
from shards.console import counted, is_terminal, progress_bar, quote
from shards.errors import UserError
from shards.events import EventWriter
from shards.files import atomic_write
from shards.summary import perplexity

WEIGHTS_SUFFIX = ".safetensors"
VALID_NOTES = 24  # at even distances in the valid split
VALID_INTERVAL = 600.0  # seconds of training
SAVE_INTERVAL = 60.0  # seconds of training
LOG_INTERVAL = 50  # steps
CHECKPOINT = "checkpoint.pt"
BAR = "{desc}: {percentage:5.1f}%|{bar}| {elapsed}{postfix}"


@dataclass(frozen=True)
class Length:
    """Length of a training: by the clock, or in steps, which is the same on every machine."""

    minutes: float
    steps: int | None = None

    def progress(self, step: int, seconds: float) -> float:
        """Return the fraction that is done, from 0 to 1."""
        return min(1.0, step / self.steps if self.steps else seconds / (60 * self.minutes))


@dataclass(frozen=True)
class TrainedCodec:
    """Outcome of a training: weights in a file, and their distance on validation notes."""

    out: Path
    steps: int
    minutes: float
    distance: float  # log-mel
    valid: Path  # a folder of validation notes

    def lines(self) -> Iterator[str]:
        yield (
            f"{self.out}: {counted(self.steps, 'step')} in {self.minutes:.1f} minutes, log-mel distance "
            f"{self.distance:.3f} on validation notes."
        )
        yield f"Next: python -m pipeline score-codec {quote(self.valid)} --weights {quote(self.out)}"


def train_codec(
    audio: list[Path], out: Path, recipe: Recipe, length: Length, device: str, start: str | None = None
) -> TrainedCodec:
    """Train on the notes in `audio` and write the weights to `out`; an interrupted training resumes.

    `start`: encodec_mini, or a file of its form, whose weights are the first ones. The checkpoint and TensorBoard's
    events are in the folder `out` with the suffix `.training`.

    Raises:
        UserError: no notes to train or to validate on, or a checkpoint of other notes, another recipe or start.
    """
    if out.suffix != WEIGHTS_SUFFIX:
        raise UserError(f"{out}: weights are written as {WEIGHTS_SUFFIX}; name the file so")
    codec = _load_start(start) if start else None
    train, valid = zip(*(_split(folder) for folder in audio), strict=True)
    valid_paths = [path for paths in valid for path in paths]
    if not any(train):
        raise UserError(f"{audio[0]}: no notes to train on; only folders named *-valid or *-test have any")
    if not valid_paths:
        raise UserError(
            f"{audio[0]}: no folder's name ends in -valid, so there is nothing to validate on; "
            "move the notes of an instrument or two into one"
        )
    folder = out.with_suffix(".training")
    identity = {
        "recipe": asdict(recipe),
        "notes": _digest([path for paths in train for path in paths]),
        "start": codec and codec.spec.weights_sha256,
    }
    checkpoint = _read_checkpoint(folder / CHECKPOINT, identity)
    trainer = CodecTrainer(read_notes(train, SAMPLE_RATE), recipe, resolve_device(device), codec)
    seconds = 0.0
    if checkpoint is not None:
        try:
            trainer.restore(checkpoint["training"])
            seconds = float(checkpoint["seconds"])
        except Exception as error:  # each part that does not fit has an error of its own
            raise UserError(f"{folder / CHECKPOINT}: does not fit this training; delete it to start again") from error
    valid_notes = _load_valid_notes(valid_paths)

    def save() -> None:
        data = io.BytesIO()  # of a full disk torch.save tells no more than "unexpected pos"
        torch.save({**identity, "training": trainer.state(), "seconds": seconds}, data)
        with atomic_write(folder / CHECKPOINT) as file:
            file.write(data.getbuffer())

    def validate() -> dict[str, float]:
        figures = _validate(trainer, valid_notes)
        for name, value in figures.items():
            log.add_scalar(f"valid/{name}", value, trainer.step)
        return figures

    folder.mkdir(parents=True, exist_ok=True)
    saved_at = validated_at = seconds
    with (
        EventWriter(folder, purge_step=trainer.step) as log,
        progress_bar(total=100, unit="%", desc="train-codec", bar_format=BAR) as bar,
    ):
        while (progress := length.progress(trainer.step, seconds)) < 1:
            trainer.progress = progress
            started = time.perf_counter()
            terms = trainer.train_step()
            seconds += time.perf_counter() - started
            bar.update(100 * progress - bar.n)
            if trainer.step % LOG_INTERVAL == 0:
                bar.set_postfix_str(f"{trainer.stage}, step {trainer.step}, loss {terms['loss']:.3f}", is_terminal())
                for name, value in {**terms, "rate": trainer.learning_rate()}.items():
                    log.add_scalar(f"train/{name}", value, trainer.step)
            if seconds >= validated_at + VALID_INTERVAL:
                validate()
                validated_at = seconds
            if seconds >= saved_at + SAVE_INTERVAL:
                save()
                saved_at = seconds
        trainer.progress = 1.0
        save()
        figures = validate()
        bar.update(100 - bar.n)
    if trainer.codebooks is None:
        raise UserError(f"{out}: the training ended before it had codebooks; give it more --minutes")
    write_weights(out, trainer.ema_model, trainer.codebooks.entries)
    return TrainedCodec(out, trainer.step, seconds / 60, figures["distance"], valid_paths[0].parent)


def _load_start(start: str) -> EnCodec:
    weights = None if start == "encodec_mini" else Path(start)
    return load_encodec(codec_spec("encodec_mini", weights=weights), weights, torch.device("cpu"))


def _validate(trainer: CodecTrainer, notes: torch.Tensor) -> dict[str, float]:
    """Compute figures on whole notes at their own levels, (note, sample)."""
    distances, codes = [], []
    for note in torch.split(notes, 1):
        decoded, note_codes = trainer.round_trip(note)
        distances.append(float(mel_distance(decoded, note)))
        if note_codes is not None:
            codes.append(note_codes.cpu())
    figures = {"distance": float(np.mean(distances))}
    for index, book in enumerate(torch.cat(codes, 1).numpy() if codes else []):
        uses = np.bincount(book, minlength=CODEBOOK_SIZE)
        figures[f"used {index}"] = float((uses > 0).sum())
        figures[f"perplexity {index}"] = perplexity(uses)
    return figures


def _split(folder: Path) -> tuple[list[Path], list[Path]]:
    """List the notes of a folder to train on, and those to validate on; its test split is left out."""
    scanned = scan_folder(folder)
    train: list[Path] = []
    valid: list[Path] = []
    for note in scanned.inputs:
        found = split_folder(f"{scanned.root.name}/{note.path}")
        split = found[1] if found else "train"
        if note.fault is None and split != "test":
            (valid if split == "valid" else train).append(scanned.root / note.path)
    return train, valid


def _load_valid_notes(paths: list[Path]) -> torch.Tensor:
    """Load `VALID_NOTES` of these notes at even distances, or all if there are fewer: (note, sample)."""
    some = dict.fromkeys(paths[index * len(paths) // VALID_NOTES] for index in range(VALID_NOTES))
    return torch.from_numpy(np.stack([load(path, SAMPLE_RATE, NSYNTH_SECONDS) for path in some]))


def _digest(paths: list[Path]) -> str:
    """Hash the names and sizes of the notes, in order."""
    lines = "".join(f"{path.name} {path.stat().st_size}\n" for path in paths)
    return hashlib.sha256(lines.encode()).hexdigest()


def _read_checkpoint(path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Read the checkpoint of an interrupted training, if there is one. Raises UserError if it is of another."""
    if not path.exists():
        return None
    try:
        checkpoint = load_pickle(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged; delete it to start again") from error
    if not isinstance(checkpoint, dict):
        raise UserError(f"{path}: is no checkpoint; delete it to start again")
    for name, value in identity.items():
        if checkpoint.get(name) != value:
            raise UserError(
                f"{path}: begun with other {name}; delete its folder to start again, or choose another --out"
            )
    return checkpoint
