"""Real notes of a shard set to hold samples against: their tokens, the round trip, the recording if it is there.

The round trip is decoded from the set's own codes; a recording is found in the folder that the set was made of.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from pipeline.audio import AudioError, fit, load
from pipeline.codec import EnCodec
from pipeline.decode import decode_notes
from pipeline.plan import key_of
from pipeline.records import read_record
from shards.errors import ShardError
from shards.layout import Note, check_tokens
from shards.manifest import Manifest
from shards.reader import read_shard

UNSEEN_FIRST = ("valid", "test", "train")  # splits, those that no model has trained on first
MOST_READ = 2_000  # notes of the split that the choice is made from


@dataclass(frozen=True)
class Reference:
    """One real note; both sounds are (sample,) float32 of one length at the codec's rate."""

    note: Note
    round_trip: np.ndarray
    recording: np.ndarray | None = None
    fault: str | None = None  # of a recording that is there and cannot be read


def choose_notes(
    shards: Path, manifest: Manifest, count: int, splits: Sequence[str] = UNSEEN_FIRST
) -> tuple[str, list[Note]]:
    """`count` notes, evenly spread over the pitches, of the first split that has any; ("", []) if none has.

    Raises:
        ShardError: damaged shards, or codes that do not fit the set's codec.
    """
    for split in splits:
        every = (note for shard in manifest.splits.get(split, ()) for note in read_shard(shards / shard.name))
        notes = sorted(islice(every, MOST_READ), key=lambda note: (str(note.labels.get("pitch")).zfill(3), note.key))
        if notes:
            few = min(count, len(notes))
            chosen = [notes[(2 * place + 1) * len(notes) // (2 * few)] for place in range(few)]
            for note in chosen:
                check_tokens(note.tokens, manifest.codec, f"{shards}: {note.key}")
            return split, chosen
    return "", []


def hear(notes: Sequence[Note], shards: Path, manifest: Manifest, codec: EnCodec) -> list[Reference]:
    """Decode the notes, and read what they were made of."""
    files = _recordings(shards, manifest, {note.key for note in notes})
    decoded = dict(decode_notes(codec, notes))
    return [_reference(note, decoded[note.key], files.get(note.key), manifest.codec.sample_rate) for note in notes]


def _reference(note: Note, round_trip: np.ndarray, file: Path | None, sample_rate: int) -> Reference:
    if file is None:
        return Reference(note, round_trip)
    try:
        recording = load(file, sample_rate, len(round_trip) / sample_rate)
    except AudioError as error:
        return Reference(note, round_trip, fault=error.message)
    return Reference(note, round_trip, fit(recording, len(round_trip)))


def _recordings(shards: Path, manifest: Manifest, keys: set[str]) -> dict[str, Path]:
    """key -> file, of the recordings that are still in the folder that the set was made of."""
    source = Path(str(manifest.audio.get("source", "")))
    found: dict[str, Path] = {}
    for shard in manifest.shards:
        try:
            inputs = read_record(shards / shard.record_name).inputs
        except (ShardError, OSError):
            continue  # a set from elsewhere, that has no record of its inputs
        paths = {key_of(name): source / name for name in inputs}
        found |= {key: path for key, path in paths.items() if key in keys and path.is_file()}
    return found
