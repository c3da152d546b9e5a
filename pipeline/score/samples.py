"""A folder of samples as `make samples` leaves it: NAME.wav beside tokens/NAME.npy and tokens/NAME.json.

Reads what can be read of it: a damaged token file becomes a sample with a fault, and the others are not touched by it.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from shards.errors import ShardError, UserError
from shards.note import Codec, read_token_file

TOKENS = "tokens"  # folder of the samples' token files, beside their WAVs


@dataclass(frozen=True)
class Sample:
    """A sample as far as its token file can be read."""

    name: str
    wav: Path  # need not exist
    labels: Mapping[str, Any] = field(default_factory=dict)  # what was asked for
    sampled: Mapping[str, Any] = field(default_factory=dict)  # how it was made
    tokens: np.ndarray | None = None  # (frame * codebook,)
    codec: Codec | None = None
    fault: str | None = None


def read_samples(folder: Path) -> list[Sample]:
    """Everything in `folder` that has a WAV or a token file, by name.

    Raises:
        UserError: no such folder, or no samples in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of samples; `make samples` makes one")
    tokens = folder / TOKENS
    names = {path.stem for ending in ("*.npy", "*.json") for path in tokens.glob(ending)}
    names |= {path.stem for path in folder.glob("*.wav")}
    if not names:
        raise UserError(f"{folder}: no samples in it (NAME.wav, and tokens/NAME.npy); `make samples` makes them")
    if not tokens.is_dir():
        return [Sample(name, folder / f"{name}.wav") for name in sorted(names)]
    return [_read(tokens / f"{name}.npy", folder / f"{name}.wav") for name in sorted(names)]


def fingerprint(samples: Iterable[Sample]) -> str:
    """sha256 of the samples' names and tokens: tells whether figures belong to these samples."""
    digest = hashlib.sha256()
    for sample in samples:
        tokens = b"" if sample.tokens is None else sample.tokens.tobytes()
        digest.update(f"{sample.name!r} {len(tokens)}\n".encode() + tokens)
    return digest.hexdigest()


def _read(path: Path, wav: Path) -> Sample:
    try:
        file = read_token_file(path)
    except ShardError as error:
        return Sample(path.stem, wav, fault=error.message)
    except OSError as error:
        return Sample(path.stem, wav, fault=f"{path}: cannot be read ({error.strerror})")
    sampled = file.sampled.to_json() if file.sampled else {}
    return Sample(path.stem, wav, file.note.labels, sampled, file.note.tokens, file.codec)
