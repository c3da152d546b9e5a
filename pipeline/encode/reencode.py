"""Are these codes still what this audio gives? Encode some notes of a set again, and compare.

`shards.verify` holds a set against its own checksums; this holds it against the sound it came from.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.encode.encoder import Batch, Encoder, make_encoder
from pipeline.encode.options import Choice
from pipeline.encode.plan import PlannedNote, make_plan
from pipeline.encode.settings import Settings
from pipeline.notes.folder import scan_folder
from shards.errors import ShardError
from shards.manifest import Manifest, read_manifest
from shards.note import Note
from shards.reader import read_shard
from shards.record import Rejection
from shards.storage import parse_path

ALIKE = 0.99  # share of a note's codes; the last bits of another kind of processor change fewer


@dataclass(frozen=True)
class Comparison:
    """One note, encoded again."""

    key: str
    shard: str
    shares: tuple[float, ...]  # of its codes that are equal, by codebook; empty if there is nothing to compare
    fault: str | None  # why it does not count as the same, if it does not


def reencode(
    folder: Path,
    count: int,
    audio: Path | None = None,
    weights: Path | None = None,
    device: str = "cpu",
    seed: int = 0,
    precision: str | None = None,
) -> Iterator[Comparison]:
    """Encode `count` random notes of the set again, with the batch it was made with.

    `audio`: where the set's audio is now, if it has moved. `precision`: another than the set's, to learn what it costs.

    Raises:
        UserError: the audio is not there, or the codec that made the set is not.
    """
    manifest = read_manifest(folder)
    settings = _settings_of(folder, manifest)
    source = scan_folder(audio or parse_path(manifest.audio["source"]))
    plan = make_plan(source.inputs, settings, source.examples)
    planned = {note.key: note for task in plan.tasks for note in task.notes}
    if precision is not None:
        settings = replace(settings, precision=precision)
    encoder = make_encoder(Choice(settings, weights, device), source.root)
    for shard, note in _draw(folder, manifest, count, seed):
        yield _compare(note, shard, planned, encoder)


def mean_shares(done: Sequence[Comparison]) -> list[float]:
    """The share of equal codes by codebook, over notes that could be compared."""
    shares = [one.shares for one in done if one.shares]
    return np.mean(shares, axis=0).tolist() if shares else []


def _settings_of(folder: Path, manifest: Manifest) -> Settings:
    try:
        return Settings.from_json({"codec": manifest.codec.to_json(), "audio": manifest.audio, "plan": manifest.plan})
    except KeyError as error:
        raise ShardError(f"{folder}: does not say its {error}, so it was not made by `pipeline encode`") from error


def _draw(folder: Path, manifest: Manifest, count: int, seed: int) -> Iterator[tuple[str, Note]]:
    """Random notes of the set, in the order of the shards."""
    total = manifest.ledger.encoded
    wanted = set(random.Random(seed).sample(range(total), min(count, total)))
    first = 0
    for shard in manifest.shards:
        if any(first <= place < first + shard.notes for place in wanted):
            for place, note in enumerate(read_shard(folder / shard.name), first):
                if place in wanted:
                    yield shard.name, note
        first += shard.notes


def _compare(note: Note, shard: str, planned: Mapping[str, PlannedNote], encoder: Encoder) -> Comparison:
    if note.key not in planned:
        return Comparison(note.key, shard, (), "its audio is gone")
    [again] = encoder.encode(Batch((planned[note.key],)))
    if isinstance(again, Rejection):
        return Comparison(note.key, shard, (), f"its audio is now {again.reason} ({again.detail})")
    if len(again.tokens) != len(note.tokens):
        return Comparison(note.key, shard, (), f"{len(note.tokens)} codes, and {len(again.tokens)} now")
    equal = (again.tokens == note.tokens).reshape(-1, encoder.settings.codec.codebooks)  # (frame, codebook)
    shares = tuple(equal.mean(axis=0).tolist())
    share = float(equal.mean())
    if again.labels != note.labels:
        return Comparison(note.key, shard, shares, "its labels are others now")
    fault = f"only {share:.1%} of its codes are what its audio gives" if share < ALIKE else None
    return Comparison(note.key, shard, shares, fault)
