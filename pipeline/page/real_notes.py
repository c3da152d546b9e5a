"""Real notes on the page: recordings beside their round trip, and the train notes that samples come nearest to."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.audio import save
from pipeline.page.players import PICTURES, Sound, in_words, plain, seconds, show, url
from pipeline.score.references import OpenSet, Reference, choose_notes, find_notes, hear
from shards.manifest import Manifest


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


def real_notes(page: Path, source: OpenSet, count: int) -> RealNotes:
    """Choose `count` notes, write both sounds of each beside the page."""
    if not count:
        return RealNotes("None were asked for.")
    split, notes = choose_notes(source, count)
    if not notes:
        return RealNotes(f"There are none to compare with: {plain(source.folder)} holds no notes.")
    references = hear(notes, source)
    rate = source.manifest.codec.sample_rate
    return RealNotes(_intro(source.manifest, split, references), tuple(_pair(page, one, rate) for one in references))


def neighbours(page: Path, source: OpenSet, keys: Iterable[str]) -> dict[str, Sound]:
    """key -> the sound of that train note, as the model has met it: through the codec. Without pictures."""
    rate = source.manifest.codec.sample_rate
    found = {}
    for one in hear(find_notes(source, keys, "train"), source):
        path = page / PICTURES / "train" / f"{one.note.key}.wav"
        save(path, one.round_trip, rate)
        title, subtitle = in_words(one.note.labels, one.note.key)
        found[one.note.key] = Sound(
            plain(one.note.key), title, subtitle, source=url(path, page), length=seconds(len(one.round_trip) / rate)
        )
    return found


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
