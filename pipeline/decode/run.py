"""Codes -> WAV or FLAC files: the way back, for sampled token files and for shard sets alike.

The codec block beside the codes says which codec decodes them; anything that does not fit is refused by name. Each file
says in its comment which codes it was made of, so what an interrupted run has decoded is not decoded again. Knows
nothing of audio that came in, and nothing of models.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from pipeline.audio import read_comment, save
from pipeline.codec.ecdc import SUFFIX, check_readable, write_ecdc
from pipeline.codec.model import EnCodec, load_codec
from pipeline.codec.spec import CodecError
from pipeline.progress import Progress
from shards.errors import ShardError
from shards.manifest import MANIFEST, read_manifest
from shards.note import Codec, Note, check_tokens, read_token_file, unflatten
from shards.reader import read_shard

BATCH = 8  # notes of one length in one call of the codec
WAITING = 256  # notes that may wait for others of their length: bounds what is kept in memory
FULL_SCALE = 1.0


@dataclass(frozen=True)
class Decoded:
    notes: int
    kept: int  # of these, decoded by an earlier run
    seconds: float
    scaled: tuple[tuple[str, float], ...]  # (key, peak) of notes that were scaled down to fit


@dataclass(frozen=True)
class Source:
    """Notes from wherever, and the codec they are codes of."""

    codec: Codec
    count: int
    notes: Iterable[Note]


def decode_folder(
    folder: Path,
    out: Path,
    progress: Progress,
    weights: Path | None = None,
    device: str = "auto",
    form: str = "wav",
    with_ecdc: bool = False,
) -> Decoded:
    """Write `out`/KEY.wav for every token file, or every note of a shard set, in `folder`.

    form: wav or flac. with_ecdc: write KEY.ecdc beside it, EnCodec's own compressed form of the same codes.

    Raises:
        ShardError: neither is in it, or codes that do not fit their codec block.
        CodecError: the codec that made the codes cannot be had, other weights were given, or the `encodec` package
            could not read its .ecdc files.
    """
    source = open_source(folder)
    if with_ecdc:
        check_readable(source.codec)
    codec = load_matching(source.codec, folder, weights, device)
    progress.start(source.count, 0)
    notes, kept, seconds = 0, 0, 0.0
    scaled: list[tuple[str, float]] = []
    marks: dict[str, str] = {}  # of the notes that are on their way

    def missing() -> Iterator[Note]:
        nonlocal notes, kept, seconds
        for note in source.notes:
            notes += 1
            seconds += len(note.tokens) / source.codec.tokens_per_second
            if with_ecdc:
                write_ecdc(out / f"{note.key}{SUFFIX}", note, source.codec)
            mark = _mark(note, source.codec)
            if read_comment(out / f"{note.key}.{form}") == mark:
                kept += 1
                progress.step(1, 0.0)
            else:
                marks[note.key] = mark
                yield note

    for key, samples in decode_notes(codec, missing()):
        peak = save(out / f"{key}.{form}", samples, codec.spec.sample_rate, marks.pop(key))
        if peak > FULL_SCALE:
            scaled.append((key, peak))
        progress.step(1, len(samples) / codec.spec.sample_rate)
    return Decoded(notes, kept, seconds, tuple(sorted(scaled)))


def _mark(note: Note, codec: Codec) -> str:
    """What tells files apart that are made of other codes, or by another codec."""
    digest = hashlib.sha256(json.dumps(codec.to_json(), sort_keys=True).encode() + note.tokens.tobytes())
    return f"{codec.name} codes {digest.hexdigest()}"


def open_source(folder: Path) -> Source:
    """A shard set (its notes are streamed), or a folder of token files (all are read and checked first)."""
    if not folder.is_dir():
        raise ShardError(f"{folder}: no such folder; give a shard set, or a folder of token files")
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder)
        return Source(manifest.codec, manifest.ledger.encoded, _notes_of_set(folder, manifest.codec))
    if any(folder.glob("*.tar")):
        read_manifest(folder)  # says that the set is unfinished
    paths = sorted(folder.glob("*.npy"))
    if not paths:
        raise ShardError(f"{folder}: neither token files (NAME.npy with NAME.json) nor a shard set ({MANIFEST}) in it")
    files = [read_token_file(path) for path in paths]
    codec = files[0].codec
    for path, file in zip(paths, files, strict=True):
        if file.codec != codec:
            different = _difference(file.codec, codec)
            raise ShardError(f"{path}: has another codec than {paths[0].name} ({different}); part them")
        _check_some(file.note, str(path))
    return Source(codec, len(files), [file.note for file in files])


def load_matching(codec: Codec, where: Path, weights: Path | None, device: str) -> EnCodec:
    """The codec that made these codes.

    Raises:
        CodecError: it cannot be had, or what was loaded is another one.
    """
    loaded = load_codec(codec.name, codec.bandwidth, weights, device)
    if loaded.spec != codec:
        cure = f"{weights} is another file" if weights else "give the right ones with --weights FILE"
        if loaded.spec != replace(codec, weights_sha256=loaded.spec.weights_sha256):
            cure = "they were not made by this codec"
        raise CodecError(f"{where}: the codes do not fit {codec.name} ({_difference(codec, loaded.spec)}); {cure}")
    return loaded


def decode_notes(codec: EnCodec, notes: Iterable[Note]) -> Iterator[tuple[str, np.ndarray]]:
    """Stream (key, (sample,) float32) of each note; equal lengths share a call, so the order may change a little."""
    waiting: dict[int, list[Note]] = {}  # tokens -> notes
    for note in notes:
        alike = waiting.setdefault(len(note.tokens), [])
        alike.append(note)
        if len(alike) == BATCH:
            yield from _decode_alike(codec, waiting.pop(len(note.tokens)))
        elif sum(map(len, waiting.values())) == WAITING:
            for some in waiting.values():
                yield from _decode_alike(codec, some)
            waiting.clear()
    for some in waiting.values():
        yield from _decode_alike(codec, some)


def _decode_alike(codec: EnCodec, notes: list[Note]) -> Iterator[tuple[str, np.ndarray]]:
    codes = np.stack([unflatten(note.tokens, codec.spec.codebooks) for note in notes])  # (note, codebook, frame)
    samples = codec.decode(torch.from_numpy(codes.astype(np.int64))).cpu().numpy()  # (note, sample)
    for note, heard in zip(notes, samples, strict=True):
        yield note.key, heard


def _notes_of_set(folder: Path, codec: Codec) -> Iterator[Note]:
    for shard in read_manifest(folder).shards:
        for note in read_shard(folder / shard.name):
            where = f"{folder / shard.name}: {note.key}"
            check_tokens(note.tokens, codec, where)
            _check_some(note, where)
            yield note


def _check_some(note: Note, where: str) -> None:
    if not len(note.tokens):
        raise ShardError(f"{where}: has no tokens, so there is nothing to hear")


def _difference(one: Codec, other: Codec) -> str:
    """The first field in which two codecs differ, in words."""
    for (name, value), theirs in zip(one.to_json().items(), other.to_json().values(), strict=True):
        if value != theirs:
            short = (str(text)[:12] for text in (value, theirs))
            return f"{name} {' and '.join(short)}"
    return "no difference"
