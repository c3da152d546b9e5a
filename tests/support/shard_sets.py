"""Random notes, and shard sets written from notes, for tests that need no audio."""

from pathlib import Path

import numpy as np

from shards.manifest import Ledger, Manifest, Shard, write_manifest
from shards.note import Codec, Note
from shards.record import ShardRecord, count_notes, write_shard_record
from shards.writer import write_shard

CODEC = Codec("encodec_mini", "0" * 64, sample_rate=24_000, hop=320, codebooks=2, codebook_size=1024, bandwidth=1.5)


def random_note(key: str, frames: int = 12, codec: Codec = CODEC, seed: int = 0) -> Note:
    """A note of random codes; the same key and seed give the same note."""
    rng = np.random.default_rng([seed, *key.encode()])
    tokens = rng.integers(codec.codebook_size, size=frames * codec.codebooks, dtype=np.int16)
    labels = {"pitch": int(rng.integers(40, 77)), "velocity": int(rng.choice([25, 50, 75, 100, 127]))}
    return Note(key, tokens, {**labels, "instrument_source_str": "acoustic", "instrument_str": "guitar_acoustic_000"})


def write_set(folder: Path, splits: dict[str, list[list[Note]]], codec: Codec = CODEC) -> Manifest:
    """Write a whole shard set: for each split, for each shard, its notes."""
    written: dict[str, tuple[Shard, ...]] = {}
    for split, shards in splits.items():
        written[split] = tuple(
            write_shard(folder / f"{split}-{index:05d}.tar", notes) for index, notes in enumerate(shards)
        )
        for shard, notes in zip(written[split], shards, strict=True):
            labels = tuple(sorted({label for note in notes for label in note.labels}))
            write_shard_record(folder, ShardRecord(shard, (), labels, {}, {}, "", **count_notes(notes, codec)))
    notes = [note for shards in splits.values() for shard in shards for note in shard]
    manifest = Manifest(
        codec=codec,
        audio={"duration": 4.0, "source": "nowhere"},
        plan={"seed": 0},
        fingerprint="1" * 64,
        splits=written,
        labels=tuple(sorted(notes[0].labels)) if notes else (),
        ledger=Ledger(inputs=len(notes), encoded=len(notes), rejected=0),
        versions={},
    )
    write_manifest(folder, manifest)
    return manifest
