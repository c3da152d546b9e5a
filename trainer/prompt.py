"""What samples begin with: the first moments of a note of a shard set, or of a token file."""

from pathlib import Path

from shards.manifest import read_manifest
from shards.note import Codec, Note, TokenFile, read_token_file
from shards.storage import parse_path
from trainer.data import NoteReader
from trainer.errors import ConfigError
from trainer.run import Record


def find_prompt(text: str, seconds: float, record: Record) -> Note:
    """The first `seconds` of `SET:KEY` (a note of a shard set) or of `FILE.npy` (a token file), in whole frames, with
    those of its labels that the run knows.

    Raises:
        UserError: no such note, codes of another codec than the run's, or as long as all that the model can see.
    """
    source = read_token_file(Path(text)) if text.endswith(".npy") else _note_of_set(text)
    note, codec = source.note, source.codec
    if codec != record.codec:
        raise ConfigError(f"--prompt {text}: its codes are of {_named(codec)}, the run's of {_named(record.codec)}")
    length = round(seconds * codec.frame_rate) * codec.codebooks
    if not 0 < length < record.window:
        most = record.window / codec.tokens_per_second
        raise ConfigError(f"--prompt-seconds {seconds:g}: must be more than 0 and less than the run's {most:g} s")
    if length > len(note.tokens):
        raise ConfigError(
            f"--prompt-seconds {seconds:g}: {text} has only {len(note.tokens) / codec.tokens_per_second:g} s"
        )
    known = {name: note.labels[name] for name, values in record.vocabulary.labels if note.labels.get(name) in values}
    return Note(note.key, note.tokens[:length], known)


def _note_of_set(text: str) -> TokenFile:
    folder, colon, key = text.rpartition(":")
    if not colon:
        raise ConfigError(f"--prompt {text}: is neither SET:KEY, such as shards/demo:NOTE, nor a token file, FILE.npy")
    where = parse_path(folder)
    manifest = read_manifest(where)
    for split in manifest.splits:
        reader = NoteReader(where, manifest, split)
        for shard, row in reader.places():
            found, tokens, labels = reader.read(shard, row)
            if found == key:
                return TokenFile(Note(key, tokens, labels), manifest.codec)
    raise ConfigError(f"--prompt {text}: {folder} has no note of this name")


def _named(codec: Codec) -> str:
    return f"{codec.name} at {codec.bandwidth:g} kbps, weights {codec.weights_sha256[:12]}"
