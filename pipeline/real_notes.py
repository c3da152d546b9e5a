"""The page's section of real notes: each recording beside its round trip, which no sample can sound better than."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.audio import save
from pipeline.decode import load_matching
from pipeline.references import Reference, choose_notes, hear
from pipeline.sounds import PICTURES, Sound, in_words, plain, show
from shards.errors import UserError
from shards.manifest import Manifest, read_manifest


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
    """Choose `count` notes, write both sounds of each beside the page.

    A set or a codec that is not there gives a section that says so in one line.
    """
    if not count:
        return RealNotes("None were asked for.")
    try:
        manifest = read_manifest(shards)
        split, notes = choose_notes(shards, manifest, count)
        if not notes:
            return RealNotes(f"There are none to compare with: {plain(shards)} holds no notes.")
        references = hear(notes, shards, manifest, load_matching(manifest.codec, shards, weights, device))
    except UserError as error:
        return RealNotes(f"There are none to compare with. {plain(error.message)}")
    pairs = tuple(_pair(page, reference, manifest.codec.sample_rate) for reference in references)
    return RealNotes(_intro(manifest, split, references), pairs)


def _pair(page: Path, reference: Reference, rate: int) -> Pair:
    """Write what is to be heard of one note beside the page."""
    name = plain(reference.note.key)
    sounds = [_sound(page, Sound(name, "Round trip"), reference, "round-trip", reference.round_trip, rate)]
    if reference.recording is not None:
        sounds.insert(0, _sound(page, Sound(name, "Original"), reference, "original", reference.recording, rate))
    elif reference.fault is not None:
        sounds.insert(0, replace(Sound(name, "Original"), fault=plain(reference.fault)))
    return Pair(*in_words(reference.note.labels, reference.note.key), tuple(sounds))


def _sound(page: Path, sound: Sound, reference: Reference, folder: str, samples: np.ndarray, rate: int) -> Sound:
    path = page / PICTURES / folder / f"{reference.note.key}.wav"
    save(path, samples, rate)
    return show(page, sound, path)


def _intro(manifest: Manifest, split: str, references: Sequence[Reference]) -> str:
    codec = manifest.codec
    seen = "which the model has trained on" if split == "train" else "which the model has never seen"
    text = f"{len(references)} notes of the {split} split, {seen}. The round trip has gone through {codec.name}"
    text += f" at {codec.bandwidth:g} kbps: no sample can sound better than that."
    if all(reference.recording is None and reference.fault is None for reference in references):
        text += f" The recordings are not in {manifest.audio.get('source')} any more, so they cannot be heard here."
    return plain(text, len(text))
