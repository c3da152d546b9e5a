"""Estimate of what encoding a folder makes and how long it takes: the plan, and a few notes encoded to measure.

Writes nothing.
"""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.encode.encoder import Encoder, load_encoder
from pipeline.encode.plan import Plan, PlannedNote, Task, make_plan
from pipeline.encode.run import rejection_lines
from pipeline.encode.settings import EncodingOptions, Settings, default_batch, default_workers
from pipeline.notes.folder import scan_folder
from shards.note import Note
from shards.writer import estimate_bytes

MEASURED = 8  # notes that are encoded to measure


@dataclass(frozen=True)
class Estimate:
    """A set as it would be made."""

    audio: Path
    settings: Settings
    plan: Plan
    notices: tuple[str, ...]  # of files that are left out, and splits of folders
    notes: Counter[str]  # split -> notes
    shards: Counter[str]  # split -> shards
    hours: float  # of sound, as it would be encoded
    bytes: int  # of the shards
    speed: float  # seconds of sound that one worker encodes in a second
    measured: int  # notes
    workers: int

    @property
    def minutes(self) -> float:
        """Duration of the run, without its start of a few seconds."""
        return self.hours * 60 / self.speed / self.workers if self.measured else 0.0

    def lines(self) -> Iterator[str]:
        """Report to print."""
        codec = self.settings.codec
        yield (
            f"{self.audio}: {self.notes.total()} notes, {self.hours:.2f} hours of sound, for {codec.name} at "
            f"{codec.bandwidth:g} kbps"
        )
        for split, notes in self.notes.items():
            yield f"  {split:<9} {notes} notes in {self.shards[split]} shards"
        yield from (f"  rejected  {line}" for line in rejection_lines(self.plan.rejected))
        yield from (f"  {notice}" for notice in self.notices)
        yield f"  size      about {self.bytes / 1e6:.1f} MB"
        yield (
            f"  time      about {self.minutes:.1f} minutes with {self.workers} workers "
            f"({self.speed:.0f}x real time each, measured on {self.measured} notes)"
        )
        yield "Nothing was written."


def estimate_set(audio: Path, options: EncodingOptions, workers: int | None = None) -> Estimate:
    """Plan the folder, and encode a few of its notes with one thread, as a worker would.

    Raises:
        UserError: no audio, or options that make no sense.
    """
    folder = scan_folder(audio)
    device = options.find_device()
    settings = options.settings()
    settings = replace(settings, batch=default_batch(settings, device), ffmpeg=folder.needs_ffmpeg)
    plan = make_plan(folder.inputs, settings, folder.examples)
    planned = [note for task in plan.tasks for note in task.notes]
    encoded: list[Note] = []
    elapsed = 0.0
    if planned:
        encoder = load_encoder(settings, options.weights, device, folder.root)
        encoded, elapsed = _measure(planned[:: -(-len(planned) // MEASURED)], encoder)
    tokens = sum(len(note.tokens) for note in encoded) / len(encoded) if encoded else 0.0  # a note
    seconds = tokens / settings.codec.tokens_per_second
    notes: Counter[str] = Counter()
    for task in plan.tasks:
        notes[task.split] += len(task.notes)
    return Estimate(
        audio=audio,
        settings=settings,
        plan=plan,
        notices=(*folder.notices(), plan.splits_line()),
        notes=notes,
        shards=Counter(task.split for task in plan.tasks),
        hours=len(planned) * seconds / 3600,
        bytes=estimate_bytes(len(planned), tokens, encoded[0].labels) if encoded else 0,
        speed=seconds * len(encoded) / elapsed if encoded else 0.0,
        measured=len(encoded),
        workers=workers or default_workers(device),
    )


def _measure(notes: list[PlannedNote], encoder: Encoder) -> tuple[list[Note], float]:
    """Encode some notes, after a batch to warm up: those that could be, and the seconds that took."""
    batches = list(Task("", 0, tuple(notes)).batches(encoder.settings.batch))
    encoder.encode(batches[0])
    started = time.perf_counter()
    encoded = [note for batch in batches for note in encoder.encode(batch).notes if isinstance(note, Note)]
    return encoded, time.perf_counter() - started
