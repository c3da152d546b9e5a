"""What a run was made from: `run.json` in its folder, enough to go on with it or to sample it without its shard set."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.files import write_json
from shards.layout import Codec, json_object
from shards.manifest import Manifest
from trainer.config import Config, differing
from trainer.errors import TrainError
from trainer.vocabulary import Vocabulary

RECORD = "run.json"


@dataclass(frozen=True)
class Record:
    """A run's settings, and what was worked out from them and its shard set."""

    config: Config
    steps: int  # updates in all; 0 until the speed is measured that tells how many fit in `train.minutes`
    shards: str  # where the set was
    notes_sha256: str  # of what its manifest says of its shards
    codec: Codec
    vocabulary: Vocabulary
    window: int  # tokens of a note that the model sees
    combinations: list[tuple[tuple[Any, ...], int]]  # the labels' values, and how many train notes have them

    def write(self, run: Path) -> None:
        value = {
            "config": self.config.to_json(),
            "steps": self.steps,
            "shards": self.shards,
            "notes_sha256": self.notes_sha256,
            "codec": self.codec.to_json(),
            "vocabulary": self.vocabulary.to_json(),
            "window": self.window,
            "combinations": self.combinations,
        }
        write_json(run / RECORD, value)


def read_record(run: Path) -> Record:
    """Undo `Record.write`.

    Raises:
        TrainError: no run, or a record that is damaged.
    """
    path = run / RECORD
    if not path.is_file():
        raise TrainError(f"{run}: no such run; `python -m trainer train --run {run}` makes one")
    value = json_object(path.read_bytes(), str(path))
    try:
        return Record(
            Config.from_json(value["config"]),
            value["steps"],
            value["shards"],
            value["notes_sha256"],
            Codec.from_json(value["codec"], str(path)),
            Vocabulary.from_json(value["vocabulary"]),
            value["window"],
            [(tuple(values), count) for values, count in value["combinations"]],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise TrainError(f"{path}: is damaged ({type(error).__name__}: {error}); start another run") from error


def check_same_course(run: Path, record: Record, config: Config, manifest: Manifest) -> None:
    """Refuse to go on with a run under settings or notes that it did not begin with.

    Raises:
        TrainError: names each setting that differs.
    """
    changed = [f"{key} = {old!r}, not {new!r}" for key, old, new in differing(record.config, config)]
    if changed:
        raise TrainError(f"{run}: began with {'; '.join(changed)}; use the same settings, or another --run")
    if record.notes_sha256 != notes_sha256(manifest):
        raise TrainError(
            f"{run}: began with other notes than this shard set holds; use {record.shards} or another --run"
        )


def notes_sha256(manifest: Manifest) -> str:
    """Tells sets apart whose notes differ, wherever they lie."""
    known = [[shard.name, shard.notes, shard.sha256] for shard in manifest.shards]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()
