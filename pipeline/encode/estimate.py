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
from pipeline.encode.encoder import Encoder, load_encoder
from pipeline.encode.plan import Plan, PlannedNote, Task, make_plan
from pipeline.encode.reader import fetch_audio
from pipeline.encode.reencode import equal_shares, mean_shares
from pipeline.encode.run import format_shares, rejection_lines
from pipeline.encode.settings import EncodingOptions, Settings, default_batch, default_workers
from pipeline.notes.folder import scan_folder
from pipeline.notes.metadata import read_metadata
from pipeline.segments import LONGEST_RECORDING
from shards.console import counted
from shards.note import Note
from shards.writer import estimate_bytes

MEASURED = 8  # notes that are encoded to measure
MEASURED_BATCHES = 4  # for a GPU, whose batches are larger


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
    speed: float  # seconds of sound that one worker encodes in a second, or reads for GPUs
    measured: int  # notes
    workers: int
    gpus: int = 0  # that encode what the workers read
    gpu_speed: float = 0.0  # seconds of sound that one of them encodes in a second
    equal_codes: tuple[float, ...] = ()  # share of codes that are float32's, by codebook; for another precision

    @property
    def minutes(self) -> float:
        """Duration of the run, without its start of a few seconds."""
        if not self.measured:
            return 0.0
        reading = self.hours * 60 / self.speed / self.workers
        return max(reading, self.hours * 60 / self.gpu_speed / self.gpus) if self.gpus else reading

    def lines(self) -> Iterator[str]:
        """Report to print."""
        codec = self.settings.codec
        amount = counted(self.files.total(), self.plan.unit) + (
            "" if self.notes is None else f", about {counted(self.notes, 'note')}"
        )
        yield f"{self.audio}: {amount}, {self.hours:.2f} hours of sound, for {codec.name} at {codec.kbps:.3g} kbps"
        for split, files in self.files.items():
            yield f"  {split:<9} {counted(files, self.plan.unit)} in {counted(self.shards[split], 'shard')}"
        yield from (f"  rejected  {line}" for line in rejection_lines(self.plan.rejected))
        yield from (f"  {notice}" for notice in self.notices)
        yield f"  size      about {self.bytes / 1e6:.1f} MB"
        speed = f"{self.speed:.0f}x real time each"
        read = f"{counted(self.workers, 'worker')} ({speed}"
        if self.gpus:
            readers, gpus = counted(self.workers, "reader"), counted(self.gpus, "GPU")
            read = f"{readers} ({speed}) and {gpus} ({self.gpu_speed:.0f}x"
        yield f"  time      about {self.minutes:.1f} minutes with {read}, measured on {counted(self.measured, 'note')})"
        if self.equal_codes:
            shares = format_shares(self.equal_codes)
            yield f"  {self.settings.precision:<9} codes equal to float32's, by codebook: {shares}"
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
    devices = options.find_devices()
    settings = options.settings()
    batch = options.batch or default_batch(settings, devices[0])
    settings = replace(settings, batch=batch, ffmpeg=folder.needs_ffmpeg)
    plan = make_plan(folder.inputs, settings, folder.examples, metadata=metadata or folder.metadata())
    planned = [note for task in plan.tasks for note in task.notes]
    measured = _Measured([], [])
    equal_codes: tuple[float, ...] = ()
    gpus = 0 if devices == ("cpu",) else len(devices)
    if planned:
        few = planned[:: -(-len(planned) // (max(MEASURED, MEASURED_BATCHES * batch) if gpus else MEASURED))]
        measure = _measure if settings.segment is None else _measure_segments
        measured = measure(few, load_encoder(settings, options.weights, devices[0], folder.root))
        if settings.precision != "float32":
            reference = replace(settings, precision="float32")
            in_float32 = measure(few, load_encoder(reference, options.weights, devices[0], folder.root))
            pairs = zip(measured.notes, in_float32.notes, strict=True)
            equal_codes = mean_shares(equal_shares(*pair, settings.codec.codebooks) for pair in pairs)
    notes = len(planned)
    if settings.segment is not None:
        notes = round(notes * _mean([math.ceil(length / settings.segment) for length in measured.lengths]))
    sizes = [len(note.tokens) for note in measured.notes]
    seconds = sum(sizes) / settings.codec.tokens_per_second  # of sound that was measured
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
        speed=seconds / (measured.reading + (0.0 if gpus else measured.encoding)) if sizes else 0.0,
        measured=len(sizes),
        workers=workers or default_workers(devices),
        gpus=gpus,
        gpu_speed=seconds / measured.encoding if sizes else 0.0,
        equal_codes=equal_codes,
    )


@dataclass
class _Measured:
    """Some files, encoded to measure."""

    notes: list[Note]  # those that could be encoded
    lengths: list[float]  # seconds of each file
    reading: float = 0.0  # seconds
    encoding: float = 0.0  # seconds


def _measure(notes: list[PlannedNote], encoder: Encoder) -> _Measured:
    """Encode some notes, after a batch to warm up."""
    batches = list(Task("", 0, tuple(notes)).batches(encoder.settings.batch))
    encoder.encode(batches[0])
    started = time.perf_counter()
    audio = [part for batch in batches for part in encoder.reader.read(batch)]
    read = time.perf_counter()
    encoded = [note for part in audio for note in encoder.launch(part)().notes if isinstance(note, Note)]
    rate = encoder.settings.codec.tokens_per_second
    lengths = [len(note.tokens) / rate for note in encoded]
    return _Measured(encoded, lengths, read - started, time.perf_counter() - read)


def _measure_segments(recordings: list[PlannedNote], encoder: Encoder) -> _Measured:
    """Encode the first segments of some recordings, after those of the first one to warm up."""
    measured = _Measured([], [])
    rate, batch = encoder.settings.codec.tokens_per_second, encoder.settings.batch
    for index, recording in enumerate([recordings[0], *recordings]):
        started = time.perf_counter()
        try:
            with fetch_audio(encoder.reader.root, recording) as path:
                segments = list(islice(encoder.reader.segments(path), batch))
                read = time.perf_counter()
                notes = [
                    note for note in encoder.encode_segments(recording, 0, segments).notes if isinstance(note, Note)
                ]
                encoded = time.perf_counter()
                length = min(stated_seconds(path), LONGEST_RECORDING)
        except AudioError:
            continue
        if index:
            measured.notes += notes
            measured.reading += read - started
            measured.encoding += encoded - read
            measured.lengths.append(max(length, sum(len(note.tokens) for note in notes) / rate))
    return measured


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers) if numbers else 0.0
