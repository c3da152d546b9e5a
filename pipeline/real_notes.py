"""Some real notes of a shard set and what its codec leaves of them: what samples are compared with, and their ceiling.

The round trip is decoded from the set's own codes; the recording comes from the folder the set was made of, if that is
still there.
"""

from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from pipeline.audio import AudioError, fit, load, save
from pipeline.decode import decode_notes, load_matching
from pipeline.plan import key_of
from pipeline.records import read_record
from pipeline.sounds import PICTURES, Sound, in_words, plain, show
from shards.errors import ShardError, UserError
from shards.layout import Note, check_tokens
from shards.manifest import Manifest, read_manifest
from shards.reader import read_shard

SPLITS = ("valid", "test", "train")  # in the order of preference: notes that the model has not seen
MOST_READ = 2_000  # notes of the split that the choice is made from


@dataclass(frozen=True)
class Pair:
    """One note: (recording, round trip), or the round trip alone."""

    title: str
    subtitle: str
    sounds: tuple[Sound, ...]


@dataclass(frozen=True)
class RealNotes:
    """A section of the page."""

    intro: str
    pairs: tuple[Pair, ...] = ()


def real_notes(page: Path, shards: Path, count: int, weights: Path | None, device: str) -> RealNotes:
    """Choose `count` notes evenly over the pitches, write both sounds of each beside the page.

    A set or a codec that is not there gives a section that says so in one line.
    """
    if not count:
        return RealNotes("None were asked for.")
    try:
        manifest = read_manifest(shards)
        split, notes = _chosen(shards, manifest, count)
        codec = load_matching(manifest.codec, shards, weights, device)
    except UserError as error:
        return RealNotes(f"There are none to compare with. {plain(error.message)}")
    found = _recordings(shards, manifest, split, {note.key for note in notes})
    decoded = dict(decode_notes(codec, notes))
    pairs = tuple(
        _pair(page, note, decoded[note.key], manifest.codec.sample_rate, found.get(note.key)) for note in notes
    )
    return RealNotes(_intro(manifest, split, len(notes), bool(found)), pairs)


def _pair(page: Path, note: Note, samples: np.ndarray, rate: int, recorded: Path | None) -> Pair:
    """Write what is to be heard of one note beside the page."""
    name = plain(note.key)
    path = page / PICTURES / "round-trip" / f"{note.key}.wav"
    save(path, samples, rate)
    sounds = [show(page, Sound(name, "Round trip"), path)]
    if recorded is not None:
        sound = Sound(name, "As recorded")
        path = page / PICTURES / "recorded" / f"{note.key}.wav"
        try:
            save(path, fit(load(recorded, rate, len(samples) / rate), len(samples)), rate)
        except AudioError as error:
            sounds.insert(0, replace(sound, fault=plain(error.message)))
        else:
            sounds.insert(0, show(page, sound, path))
    return Pair(*in_words(note.labels, note.key), tuple(sounds))


def _intro(manifest: Manifest, split: str, notes: int, recorded: bool) -> str:
    codec = manifest.codec
    seen = "which the model has trained on" if split == "train" else "which the model has never seen"
    text = f"{notes} notes of the {split} split, {seen}. The round trip has gone through {codec.name}"
    text += f" at {codec.bandwidth:g} kbps: no sample can sound better than that."
    if not recorded:
        text += f" The recordings are not in {manifest.audio.get('source')} any more, so they cannot be heard here."
    return plain(text, len(text))


def _chosen(shards: Path, manifest: Manifest, count: int) -> tuple[str, list[Note]]:
    """The split and its notes to show, spread evenly over its pitches."""
    for split in SPLITS:
        every = (note for shard in manifest.splits.get(split, ()) for note in read_shard(shards / shard.name))
        notes = sorted(islice(every, MOST_READ), key=lambda note: (str(note.labels.get("pitch")).zfill(3), note.key))
        if notes:
            count = min(count, len(notes))
            chosen = [notes[(2 * place + 1) * len(notes) // (2 * count)] for place in range(count)]
            for note in chosen:
                check_tokens(note.tokens, manifest.codec, f"{shards}: {note.key}")
            return split, chosen
    raise UserError(f"{shards}: holds no notes")


def _recordings(shards: Path, manifest: Manifest, split: str, keys: set[str]) -> dict[str, Path]:
    """key -> file, of the recordings that are still in the folder that the set was made of."""
    source = Path(str(manifest.audio.get("source", "")))
    found: dict[str, Path] = {}
    for shard in manifest.splits[split]:
        try:
            inputs = read_record(shards / shard.record_name).inputs
        except (ShardError, OSError):
            continue  # a set from elsewhere, that has no record of its inputs
        paths = {key_of(name): source / name for name in inputs}
        found |= {key: path for key, path in paths.items() if key in keys and path.is_file()}
    return found
