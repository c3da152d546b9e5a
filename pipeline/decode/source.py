"""Token files or a shard set as one stream of notes, with the codec that decodes them.

Codes that do not fit the codec block beside them are refused by name. Knows nothing of audio files.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from pipeline.codec.loaded import LoadedCodec, load_codec
from pipeline.codec.spec import CodecError, codec_spec
from shards.errors import ShardError
from shards.manifest import MANIFEST, read_manifest
from shards.note import Codec, Note, TokenFile, check_tokens, read_token_file
from shards.reader import read_shard
from shards.sample_list import select_last_call


@dataclass(frozen=True)
class TokenSource:
    """Notes of one codec, from token files or from a shard set."""

    codec: Codec
    count: int
    notes: Iterable[Note]
    left_out: str = ""  # line that names token files of earlier calls of `sample`


def open_source(folder: Path) -> TokenSource:
    """Open a shard set (its notes are streamed) or a folder of token files (all are read and checked first).

    Of token files that several calls of `sample` wrote, those of the last one are taken.

    Raises:
        ShardError: neither is in `folder`, the set is unfinished, or a token file is damaged.
    """
    if not folder.is_dir():
        raise ShardError(f"{folder}: no such folder; give a shard set, or a folder of token files")
    if (folder / MANIFEST).is_file() or any(folder.glob("*.tar")):
        manifest = read_manifest(folder)
        notes = chain.from_iterable(read_notes(folder / shard.name, manifest.codec) for shard in manifest.shards)
        return TokenSource(manifest.codec, manifest.ledger.notes, notes)
    keys, left_out = select_last_call(folder, [path.stem for path in folder.glob("*.npy")])
    files = {path: read_token_file(path) for path in (folder / f"{key}.npy" for key in keys)}
    if not files:
        raise ShardError(f"{folder}: neither token files (NAME.npy with NAME.json) nor a shard set ({MANIFEST}) in it")
    return replace(token_file_source(files), left_out=left_out)


def token_file_source(files: Mapping[Path, TokenFile]) -> TokenSource:
    """Make a source of token files that have been read; there is at least one.

    Raises:
        ShardError: files of different codecs.
    """
    first, codec = next((path, file.codec) for path, file in files.items())
    for path, file in files.items():
        if file.codec != codec:
            difference = _difference(file.codec, codec)
            raise ShardError(f"{path}: has another codec than {first.name} ({difference}); put them in two folders")
    return TokenSource(codec, len(files), [file.note for file in files.values()])


def read_notes(shard: Path, codec: Codec) -> Iterator[Note]:
    """Stream the notes of a shard.

    Raises:
        ShardError: a damaged shard, or codes that do not fit the codec.
    """
    for note in read_shard(shard):
        check_tokens(note.tokens, codec, f"{shard}: {note.key}")
        yield note


def load_codec_for(codec: Codec, folder: Path, weights: Path | None, device: str) -> LoadedCodec:
    """Load the codec that made the codes in `folder`.

    Raises:
        CodecError: its weights are missing, or the weights are those of another codec.
    """
    spec = codec_spec(codec.name, codec.bandwidth, weights)
    if spec != codec:
        cure = f"{weights} is another file" if weights else "give the right ones with --weights FILE"
        if spec != replace(codec, weights_sha256=spec.weights_sha256):
            cure = "they were not made by this codec"
        raise CodecError(f"{folder}: the codes do not fit {codec.name} ({_difference(codec, spec)}); {cure}")
    return load_codec(codec.name, codec.bandwidth, weights, device, spec)


def _difference(codec: Codec, other: Codec) -> str:
    """Name the first field in which two codecs differ, with both values."""
    name = next(name for name, value in vars(codec).items() if value != getattr(other, name))
    return f"{name} {str(getattr(codec, name))[:12]} and {str(getattr(other, name))[:12]}"
