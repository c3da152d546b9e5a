"""Encode some notes of a set again, and compare the codes with the set's.

`shards.verify` checks a set against its own checksums; this checks it against the audio that it was made of. Only the
audio of the compared notes is read.
"""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.audio import AudioError
from pipeline.codec.spec import CodecError, codec_spec
from pipeline.encode.encoder import Encoder, load_encoder
from pipeline.encode.plan import Batch, PlannedNote, make_plan
from pipeline.encode.reader import fetch_audio
from pipeline.encode.run import format_shares
from pipeline.encode.settings import Settings, blocks_of, check_backend
from pipeline.notes.folder import scan_folder
from pipeline.notes.key import segment_number
from pipeline.progress import Progress
from pipeline.segments import load_segment
from shards.console import counted
from shards.errors import ShardError
from shards.manifest import Manifest, read_manifest
from shards.note import Note
from shards.reader import read_shard
from shards.record import Rejection
from shards.storage import text_path
from shards.verify import find_faults

ALIKE = 0.99  # share of a note's codes; the last bits of another kind of processor change fewer


@dataclass(frozen=True)
class Comparison:
    """One note, encoded again."""

    key: str
    shard: str
    tokens: int
    shares: tuple[float, ...]  # of its codes that are equal, by codebook; empty if there is nothing to compare
    fault: str | None  # the difference, if the note does not count as the same


@dataclass(frozen=True)
class Verification:
    """A set, checked against its checksums and its audio."""

    folder: Path
    faults: tuple[str, ...]
    comparisons: tuple[Comparison, ...]  # none if the checksums do not hold

    def lines(self) -> Iterator[str]:
        """Report to print."""
        if self.faults:
            yield from self.faults
            yield f"{self.folder}: {counted(len(self.faults), 'fault')} found."
        else:
            yield (
                f"{self.folder}: whole. {counted(len(self.comparisons), 'note')} encoded again; codes that are "
                f"equal, by codebook: {format_shares(mean_shares(each.shares for each in self.comparisons))}."
            )


def verify_set(
    folder: Path, count: int, audio: Path | None, weights: Path | None, device: str, seed: int, progress: Progress
) -> Verification:
    """Check a set against its own checksums, then `count` of its notes against their audio.

    Raises:
        UserError: no finished set, its audio is not there, or the codec that made it is not.
    """
    faults = list(find_faults(folder))
    comparisons: list[Comparison] = []
    if not faults:
        codec = read_manifest(folder).codec
        progress.start(count, 0)
        for comparison in reencode(folder, count, audio, weights, device, seed):
            comparisons.append(comparison)
            progress.step(1, comparison.tokens / codec.tokens_per_second)
        faults = [f"{folder / note.shard}: {note.key}: {note.fault}" for note in comparisons if note.fault]
    return Verification(folder, tuple(faults), tuple(comparisons))


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

    `audio`: the folder of the set's audio, if it has moved. `precision`: another than the set's, to measure its cost.

    Raises:
        UserError: the audio is not there, or the codec that made the set is not.
    """
    manifest = read_manifest(folder)
    check_backend(manifest.audio, folder)
    try:
        settings = Settings.from_json(blocks_of(manifest))
    except KeyError as error:
        raise ShardError(f"{folder}: does not say its {error}, so it was not made by `pipeline encode`") from error
    if codec_spec(settings.codec.name, settings.codec.bandwidth, weights) != settings.codec:
        raise CodecError(f"{settings.codec.name}: the set was made with other weights; name them with --weights FILE")
    source = scan_folder(audio or _audio_of(manifest, folder), settings.ffmpeg)
    plan = make_plan(source.inputs, settings, source.examples)
    planned = {note.labels["note_str"]: note for task in plan.tasks for note in task.notes}
    if precision is not None:
        settings = replace(settings, precision=precision)
    encoder = load_encoder(settings, weights, device, source.root)
    for shard, note in _sample_notes(folder, manifest, count, seed):
        yield _compare(note, shard, planned, encoder)


def equal_shares(note: Note, other: Note, codebooks: int) -> tuple[float, ...]:
    """The share of equal codes of two notes of one length, by codebook."""
    equal = (note.tokens == other.tokens).reshape(-1, codebooks)  # (frame, codebook)
    return tuple(equal.mean(axis=0).tolist())


def mean_shares(shares: Iterable[Sequence[float]]) -> tuple[float, ...]:
    """The mean of notes' shares of equal codes, by codebook. Notes that could not be compared have none."""
    compared = [each for each in shares if each]
    return tuple(np.mean(compared, axis=0).tolist()) if compared else ()


def _sample_notes(folder: Path, manifest: Manifest, count: int, seed: int) -> Iterator[tuple[str, Note]]:
    """Random notes of the set with the names of their shards, in the order of the shards."""
    total = manifest.ledger.notes
    sampled = set(random.Random(seed).sample(range(total), min(count, total)))
    first = 0
    for shard in manifest.shards:
        if any(first <= index < first + shard.notes for index in sampled):
            for index, note in enumerate(read_shard(folder / shard.name), first):
                if index in sampled:
                    yield shard.name, note
        first += shard.notes


def _audio_of(manifest: Manifest, folder: Path) -> Path:
    source = manifest.audio.get("source")
    if not isinstance(source, str):
        raise ShardError(f"{folder}: does not say the folder of its audio; name it with --audio")
    return text_path(source)


def _encode_again(key: str, planned: PlannedNote, encoder: Encoder) -> Note | Rejection:
    """Encode a file again, or the segment of it that has this key; no more of a recording is read."""
    settings, file = encoder.settings, planned.file.display_path
    if settings.segment is None:
        [again] = encoder.encode(Batch((planned,))).notes
        return again
    try:
        number = segment_number(key)
        with fetch_audio(encoder.reader.root, planned) as path:
            samples = load_segment(path, settings.codec.sample_rate, settings.segment, number)
    except AudioError as error:
        return Rejection(file, error.reason, error.detail)
    except ValueError as error:
        return Rejection(file, "without this segment", str(error))
    notes = encoder.encode_segments(planned, number, [samples]).notes
    return notes[0] if notes else Rejection(file, "silent", f"segment {number}")


def _compare(note: Note, shard: str, planned: Mapping[str, PlannedNote], encoder: Encoder) -> Comparison:
    def result(fault: str | None, shares: tuple[float, ...] = ()) -> Comparison:
        return Comparison(note.key, shard, len(note.tokens), shares, fault)

    name = str(note.labels.get("note_str", ""))  # a key may follow other rules than today's
    if name not in planned:
        return result("its audio is gone")
    again = _encode_again(note.key, planned[name], encoder)
    if isinstance(again, Rejection):
        return result(f"its audio is now {again.reason} ({again.detail})")
    if len(again.tokens) != len(note.tokens):
        return result(f"{len(note.tokens)} codes, and {len(again.tokens)} now")
    shares = equal_shares(again, note, encoder.settings.codec.codebooks)
    share = sum(shares) / len(shares)
    if not again.labels.items() <= note.labels.items():  # those of a metadata file, which may be gone, are not compared
        return result("its labels are others now", shares)
    return result(f"only {share:.1%} of its codes are what its audio gives" if share < ALIKE else None, shares)
