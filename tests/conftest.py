"""What the tests share: a codec block, random notes, and a shard set made of them."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from shards.files import write_json
from shards.layout import Codec, Note
from shards.manifest import Ledger, Manifest, Shard, write_manifest
from shards.writer import write_shard

# A claim is about what the code does, not how long a busy machine takes over it.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# What tests compute is small, and threads that wait for each other make a machine that others use many times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

CODEC = Codec(
    "encodec_mini", "0" * 64, sample_rate=24_000, bandwidth=1.5, codebooks=2, codebook_size=1024, frame_rate=75
)


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
        for shard in written[split]:
            write_json(folder / shard.record_name, {**vars(shard), "rejected": []})
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


@pytest.fixture
def without_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encode in this process: what workers add is tested in files of their own."""
    import torch
    from notes import encode_in_this_process

    torch.set_num_threads(1)
    monkeypatch.setattr("pipeline.run.encode_batches", encode_in_this_process)


@pytest.fixture
def make_set(tmp_path: Path) -> Callable[..., Path]:
    """Make a set of random notes: `make_set(train=[5, 5], valid=[3])` gives shards of so many notes each."""

    def make(name: str = "set", frames: int = 12, **splits: list[int]) -> Path:
        folder = tmp_path / name
        numbered = {
            split: [
                [random_note(f"{split}_{shard}_{index}", frames) for index in range(count)]
                for shard, count in enumerate(counts)
            ]
            for split, counts in splits.items()
        }
        write_set(folder, numbered)
        return folder

    return make
