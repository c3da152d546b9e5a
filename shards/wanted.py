"""Request for more candidates: the pairs of key and velocity that have no excellent one yet, `wanted.json`.

The pipeline writes it when it has measured the candidates, the trainer reads it and draws. Knows no model and no sound.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from shards.errors import ShardError
from shards.files import write_json
from shards.parse import read_object, to_dataclass

WANTED = "wanted.json"
MOST = 1_000  # candidates of a pair that one file asks for

Midi = Annotated[int, msgspec.Meta(ge=0, le=127)]
Number = Annotated[int, msgspec.Meta(ge=0, le=10_000)]


@dataclass(frozen=True)
class WantedPair:
    """Candidates `first` to `first + count - 1` of a key at a velocity."""

    pitch: Midi
    velocity: Midi
    first: Number
    count: Annotated[int, msgspec.Meta(ge=0, le=MOST)]


@dataclass(frozen=True)
class Wanted:
    """Pairs to draw for, all with the same other labels."""

    labels: Mapping[str, Any]
    pairs: tuple[WantedPair, ...]


def write_wanted(folder: Path, wanted: Wanted) -> None:
    """Write the request, or remove an earlier one if there is nothing to draw."""
    path = folder / WANTED
    if wanted.pairs:
        write_json(path, asdict(wanted))
    else:
        path.unlink(missing_ok=True)


def read_wanted(path: Path) -> Wanted:
    """Undo `write_wanted`.

    Raises:
        OSError: there is no such file.
        ShardError: damaged, or a pair twice.
    """
    cure = "write the instrument again"
    wanted = to_dataclass(Wanted, read_object(path, cure), f"{path}:", cure)
    if len({(pair.pitch, pair.velocity) for pair in wanted.pairs}) < len(wanted.pairs):
        raise ShardError(f"{path}: lists a pair of key and velocity twice; {cure}")
    return wanted
