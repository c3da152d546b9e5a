"""Notes -> tar: one WebDataset sample a note, KEY.npy and KEY.json. Its inverse is `shards.reader`."""

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from shards.files import atomic_write, sha256_of_open
from shards.manifest import Shard
from shards.note import MOST_TOKENS, NPY_HEADER, Note, npy_bytes

BLOCK = tarfile.BLOCKSIZE  # bytes: headers take one, contents as many whole blocks as they need


def write_shard(path: Path, notes: Iterable[Note], writer: str = "") -> Shard:
    """Write a tar, whole or not at all; the same notes in the same order give the same bytes.

    Notes are streamed, so memory does not grow with the shard. `writer`: as in `atomic_write`.

    Raises:
        UserError: the disk is full or the folder cannot be written; nothing is left under `path`.
    """
    count = tokens = 0
    with atomic_write(path, writer) as file:
        # USTAR holds names of up to 100 bytes plainly; PAX is its superset for longer and for non-ASCII ones.
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for note in notes:
                assert note.tokens.dtype.str == "<i2" and note.tokens.ndim == 1, "a note's tokens are flat int16"
                assert 0 < len(note.tokens) <= MOST_TOKENS, f"{note.key} would not be read again"
                assert note.key and not set("./") & set(note.key), f"{note.key!r} would not come back from a tar"
                _add(tar, f"{note.key}.npy", npy_bytes(note.tokens))
                _add(tar, f"{note.key}.json", json.dumps(note.labels, sort_keys=True, ensure_ascii=False).encode())
                count += 1
                tokens += len(note.tokens)
        size = file.tell()
        file.seek(0)
        return Shard(path.name, count, tokens, size, sha256_of_open(file))


def estimate_bytes(notes: int, tokens_per_note: float, labels: Mapping[str, Any]) -> int:
    """Estimate the size of tars with so many notes: two members each, padded to blocks; `labels` are those of one."""
    npy = NPY_HEADER + 2 * tokens_per_note
    blocks = 2 + -(-npy // BLOCK) + -(-len(json.dumps(labels)) // BLOCK)
    return round(notes * blocks * BLOCK)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)  # mode 0644, no owner
    info.size = len(data)
    info.mtime = 0  # same notes, same bytes: a rebuilt shard keeps its checksum
    tar.addfile(info, io.BytesIO(data))
