"""What encoding a folder would make, and how long it would take: the plan, and a few notes encoded to measure.

Writes nothing.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path

from pipeline.encode.encoder import Batch, make_encoder
from pipeline.encode.options import Choice
from pipeline.encode.plan import Plan, PlannedNote, make_plan
from pipeline.notes.folder import AudioFolder
from pipeline.notes.nsynth import Labels
from shards.note import Note

SAMPLE = 8  # notes that are encoded to measure
NPY_HEADER = 128  # bytes
TAR_BLOCK = 512  # bytes


@dataclass(frozen=True)
class Preview:
    folder: AudioFolder
    plan: Plan
    notes: dict[str, int]  # split -> notes
    shards: dict[str, int]  # split -> shards
    hours: float  # of sound, as it would be encoded
    bytes: int  # of the shards
    speed: float  # seconds of sound that one worker encodes in a second
    sampled: int  # notes that this was measured on

    def minutes(self, workers: int) -> float:
        """How long the run would take, without its start of a few seconds."""
        return self.hours * 60 / self.speed / workers if self.sampled else 0.0


def preview(folder: AudioFolder, choice: Choice) -> Preview:
    """Plan the folder, and encode a few of its notes with one thread, as a worker would."""
    settings = choice.settings
    plan = make_plan(folder.inputs, settings, folder.examples)
    planned = [note for task in plan.tasks for note in task.notes]
    heard, took = _measure(planned[:: -(-len(planned) // SAMPLE)] if planned else [], choice, folder.root)
    tokens = sum(len(note.tokens) for note in heard) / len(heard) if heard else 0.0  # a note
    seconds = tokens / settings.codec.tokens_per_second
    notes: dict[str, int] = {}
    shards: dict[str, int] = {}
    for task in plan.tasks:
        notes[task.split] = notes.get(task.split, 0) + len(task.notes)
        shards[task.split] = shards.get(task.split, 0) + 1
    return Preview(
        folder=folder,
        plan=plan,
        notes=notes,
        shards=shards,
        hours=len(planned) * seconds / 3600,
        bytes=tar_bytes(len(planned), tokens, heard[0].labels) if heard else 0,
        speed=seconds * len(heard) / took if heard else 0.0,
        sampled=len(heard),
    )


def _measure(notes: list[PlannedNote], choice: Choice, root: Path) -> tuple[list[Note], float]:
    """Encode some notes; those that could be, and the seconds that took. The first is encoded twice, to warm up."""
    if not notes:
        return [], 0.0
    encoder = make_encoder(choice, root)
    size = choice.settings.batch
    batches = [Batch(tuple(notes[start : start + size])) for start in range(0, len(notes), size)]
    encoder.encode(batches[0])
    began = time.perf_counter()
    heard = [note for batch in batches for note in encoder.encode(batch) if isinstance(note, Note)]
    return heard, time.perf_counter() - began


def tar_bytes(notes: int, tokens_per_note: float, labels: Labels) -> int:
    """About how large shards of so many notes are: two members each, padded to tar's blocks."""
    npy = NPY_HEADER + 2 * tokens_per_note
    blocks = 2 + -(-npy // TAR_BLOCK) + -(-len(json.dumps(labels)) // TAR_BLOCK)
    return round(notes * blocks * TAR_BLOCK)
