"""Estimate of what encoding a folder makes and how long it takes: the plan, and a few notes encoded to measure.

Writes nothing.
"""

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from pipeline.audio import AudioError, stated_seconds
from pipeline.encode.encoder import Encoder, fetch_audio, load_encoder
from pipeline.encode.plan import Plan, PlannedNote, Task, make_plan
from pipeline.encode.run import rejection_lines
from pipeline.encode.settings import EncodingOptions, Settings, default_batch, default_workers
from pipeline.notes.folder import scan_folder
from pipeline.notes.metadata import read_metadata
from pipeline.segments import LONGEST_RECORDING
from shards.note import Note
from shards.writer import estimate_bytes

MEASURED = 8  # notes that are encoded to measure


@dataclass(frozen=True)
class Estimate:
    """A set as it would be made."""

    audio: Path
    settings: Settings
    plan: Plan
    notices: tuple[str, ...]  # of files that are left out, splits and labels
    files: Counter[str]  # split -> files
    notes: int | None  # that recordings are cut into, about; None: each file is a note
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
        amount = f"{self.files.total()} {self.plan.unit}" + (
            "" if self.notes is None else f", about {self.notes} notes"
        )
        yield f"{self.audio}: {amount}, {self.hours:.2f} hours of sound, for {codec.name} at {codec.kbps:.3g} kbps"
        for split, files in self.files.items():
            yield f"  {split:<9} {files} {self.plan.unit} in {self.shards[split]} shards"
        yield from (f"  rejected  {line}" for line in rejection_lines(self.plan.rejected))
        yield from (f"  {notice}" for notice in self.notices)
        yield f"  size      about {self.bytes / 1e6:.1f} MB"
        yield (
            f"  time      about {self.minutes:.1f} minutes with {self.workers} workers "
            f"({self.speed:.0f}x real time each, measured on {self.measured} notes)"
        )
        yield "Nothing was written."


def estimate_set(
    audio: Path, options: EncodingOptions, workers: int | None = None, labels: Sequence[Path] = ()
) -> Estimate:
    """Plan the folder, and encode a few of its notes with one thread, as a worker would. `labels`: metadata files.

    Raises:
        UserError: no audio, or options or labels that make no sense.
    """
    metadata = read_metadata(labels)
    folder = scan_folder(audio)
    device = options.find_device()
    settings = options.settings()
    settings = replace(settings, batch=default_batch(settings, device), ffmpeg=folder.needs_ffmpeg)
    plan = make_plan(folder.inputs, settings, folder.examples, metadata=metadata or folder.metadata())
    planned = [note for task in plan.tasks for note in task.notes]
    measured = _Measured([], [])
    if planned:
        encoder = load_encoder(settings, options.weights, device, folder.root)
        few = planned[:: -(-len(planned) // MEASURED)]
        measured = _measure(few, encoder) if settings.segment is None else _measure_segments(few, encoder)
    notes = len(planned)
    if settings.segment is not None:
        notes = round(notes * _mean([math.ceil(length / settings.segment) for length in measured.lengths]))
    sizes = [len(note.tokens) for note in measured.notes]
    files: Counter[str] = Counter()
    for task in plan.tasks:
        files[task.split] += len(task.notes)
    return Estimate(
        audio=audio,
        settings=settings,
        plan=plan,
        notices=(*folder.notices(), *plan.lines()),
        files=files,
        notes=None if settings.segment is None else notes,
        shards=Counter(task.split for task in plan.tasks),
        hours=len(planned) * _mean(measured.lengths) / 3600,
        bytes=estimate_bytes(notes, _mean(sizes), measured.notes[0].labels) if sizes else 0,
        speed=sum(sizes) / settings.codec.tokens_per_second / measured.elapsed if sizes else 0.0,
        measured=len(sizes),
        workers=workers or default_workers(device),
    )


@dataclass
class _Measured:
    """Some files, encoded to measure."""

    notes: list[Note]  # those that could be encoded
    lengths: list[float]  # seconds of each file
    elapsed: float = 0.0  # seconds that encoding took


def _measure(notes: list[PlannedNote], encoder: Encoder) -> _Measured:
    """Encode some notes, after a batch to warm up."""
    batches = list(Task("", 0, tuple(notes)).batches(encoder.settings.batch))
    encoder.encode(batches[0])
    started = time.perf_counter()
    encoded = [note for batch in batches for note in encoder.encode(batch).notes if isinstance(note, Note)]
    elapsed = time.perf_counter() - started
    rate = encoder.settings.codec.tokens_per_second
    return _Measured(encoded, [len(note.tokens) / rate for note in encoded], elapsed)


def _measure_segments(recordings: list[PlannedNote], encoder: Encoder) -> _Measured:
    """Encode the first segments of some recordings, after those of the first one to warm up."""
    measured = _Measured([], [])
    rate, batch = encoder.settings.codec.tokens_per_second, encoder.settings.batch
    for index, recording in enumerate([recordings[0], *recordings]):
        started = time.perf_counter()
        try:
            with fetch_audio(encoder.root, recording) as path:
                notes = encoder.encode_segments(recording, 0, list(islice(encoder.segments(path), batch)))
                elapsed = time.perf_counter() - started
                length = min(stated_seconds(path), LONGEST_RECORDING)
        except AudioError:
            continue
        if index:
            measured.notes += notes
            measured.elapsed += elapsed
            measured.lengths.append(max(length, sum(len(note.tokens) for note in notes) / rate))
    return measured


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers) if numbers else 0.0
