"""Real notes on the page: recordings and their round trip through the codec, and the train notes nearest to samples."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.audio import save
from pipeline.page.players import MEDIA, Player, add_media, format_seconds, plain, relative_url, title_and_subtitle
from pipeline.score.references import ReferenceNote, ShardSet
from shards.console import counted


@dataclass(frozen=True)
class RealNote:
    """One note with the players of its recording and its round trip, or of the round trip alone."""

    title: str
    subtitle: str
    players: tuple[Player, ...]


@dataclass(frozen=True)
class RealNotes:
    """The section of real notes."""

    intro: str
    notes: tuple[RealNote, ...] = ()


def real_notes(folder: Path, shard_set: ShardSet, count: int) -> RealNotes:
    """Choose `count` notes of the shard set, and write recording and round trip of each into `folder`."""
    if not count:
        return RealNotes("No real notes were requested.")
    split, references = shard_set.choose(count)
    if not references:
        return RealNotes(f"There are none to compare with: {plain(shard_set.name)} holds no notes.")
    rate = shard_set.codec.spec.sample_rate
    intro = _intro(shard_set, split, references)
    return RealNotes(intro, tuple(_real_note(folder, reference, rate) for reference in references))


def nearest_notes(folder: Path, shard_set: ShardSet, keys: Collection[str]) -> dict[str, Player]:
    """Return key -> player of that train note, without pictures; the sound is its round trip, as the model knows it."""
    rate = shard_set.codec.spec.sample_rate
    players = {}
    for note, waveform in shard_set.find(keys, "train"):
        path = folder / MEDIA / "train" / f"{note.key}.wav"
        save(path, waveform, rate)
        players[note.key] = Player(
            plain(note.key),
            *title_and_subtitle(note.labels, note.key),
            wav_url=relative_url(path, folder),
            duration=format_seconds(len(waveform) / rate),
        )
    return players


def _real_note(folder: Path, reference: ReferenceNote, rate: int) -> RealNote:
    note = reference.note
    round_trip, original = (Player(plain(note.key), title) for title in ("Round trip", "Original"))
    players = [_save(folder, round_trip, reference, "round-trip", reference.round_trip, rate)]
    if reference.recording is not None:
        players.insert(0, _save(folder, original, reference, "original", reference.recording, rate))
    elif reference.fault is not None:
        players.insert(0, replace(original, fault=plain(reference.fault)))
    return RealNote(*title_and_subtitle(note.labels, note.key), tuple(players))


def _save(folder: Path, player: Player, reference: ReferenceNote, kind: str, waveform: np.ndarray, rate: int) -> Player:
    path = folder / MEDIA / kind / f"{reference.note.key}.wav"
    save(path, waveform, rate)
    return add_media(player, folder, path, waveform, rate)


def _intro(shard_set: ShardSet, split: str, references: Sequence[ReferenceNote]) -> str:
    codec = shard_set.codec.spec
    text = f"{counted(len(references), 'note')} of the {split} split, which the model was "
    text += f"{'' if split == 'train' else 'not '}trained on. The round trip is through {codec.name} at "
    text += f"{codec.kbps:.3g} kbps: no sample can sound better than that."
    if all(reference.recording is None and reference.fault is None for reference in references):
        sources = dict.fromkeys(str(manifest.audio.get("source")) for manifest in shard_set.manifests.values())
        text += f" The recordings are no longer in {', '.join(sources)}, so they cannot be heard here."
    return plain(text, len(text))
