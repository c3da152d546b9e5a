"""What a run is made from: `run.json` in its folder, enough to go on with it or to sample it without its shard set."""

import hashlib
import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shards.files import write_json
from shards.manifest import Manifest
from shards.note import Codec, json_object
from trainer.config import Config, differing, same_length
from trainer.data import NoteReader
from trainer.errors import ConfigError, TrainError
from trainer.order import Order
from trainer.ranks import Ranks
from trainer.schedule import Plans
from trainer.vocabulary import Vocabulary

log = logging.getLogger(__name__)

RECORD = "run.json"


@dataclass(frozen=True)
class Record:
    """A run's settings, and what was worked out from them and its shard set."""

    config: Config
    plans: Plans  # of its length
    shards: str  # where the set was
    notes_sha256: str  # of what its manifest says of its shards
    codec: Codec
    vocabulary: Vocabulary
    window: int  # tokens of a note that the model sees
    combinations: list[tuple[tuple[Any, ...], int]]  # the labels' values, and how many train notes have them

    def write(self, run: Path) -> None:
        value = {
            "config": self.config.to_json(),
            "plans": self.plans,
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
            tuple((since, steps) for since, steps in value["plans"]),
            value["shards"],
            value["notes_sha256"],
            Codec.from_json(value["codec"], str(path)),
            Vocabulary.from_json(value["vocabulary"]),
            value["window"],
            [(tuple(values), count) for values, count in value["combinations"]],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise TrainError(f"{path}: is damaged ({type(error).__name__}: {error}); start another run") from error


def make_record(shards: Path, run: Path, config: Config, manifest: Manifest, ranks: Ranks) -> Record:
    """The run's record, written: the one it has, if it may go on with these settings, or a new one.

    Raises:
        UserError: settings that do not fit the shard set or the ranks, or a run that began with others.
    """
    if ranks.world > config.data.batch:
        raise ConfigError(f"data.batch = {config.data.batch}: less than one note for each of {ranks.world} ranks")
    for name in set(config.model.labels) - set(manifest.labels):
        log.warning("%s: its notes have no label %s, so the model learns without it.", shards, name)
    train_notes = NoteReader(shards, manifest, "train")
    if not sum(train_notes.notes):
        raise TrainError(
            f"{shards}: has no train split to learn from; `python -m shards inspect {shards}` shows what it has"
        )
    order = Order(train_notes.notes, config.train.seed, config.data.batch)
    steps = config.train.steps or config.train.epochs * order.steps_per_epoch  # 0: by the minutes
    plans: Plans = ((0, steps),) if steps else ()
    config = replace(config, model=replace(config.model, labels=_known(config, manifest)))
    if (run / RECORD).is_file():
        record = read_record(run)
        check_same_course(run, record, config, manifest)
        plans = record.plans if same_length(config, record.config) else plans
        record = replace(record, config=config, plans=plans, shards=str(shards))
    else:
        record = _new_record(shards, config, plans, manifest, train_notes)
    if ranks.first:
        record.write(run)
    ranks.wait()
    return record


def _new_record(shards: Path, config: Config, plans: Plans, manifest: Manifest, notes: NoteReader) -> Record:
    codec = manifest.codec
    if config.data.window % codec.codebooks:
        raise ConfigError(
            f"data.window = {config.data.window}: not a multiple of the set's {codec.codebooks} codebooks; "
            "a window must end on a frame"
        )
    facts = notes.facts(config.model.labels)
    values = tuple(
        (name, tuple(sorted({combination[index] for combination, _ in facts.combinations} - {None}, key=_by_type)))
        for index, name in enumerate(config.model.labels)
    )
    return Record(
        config=config,
        plans=plans,
        shards=str(shards),
        notes_sha256=notes_sha256(manifest),
        codec=codec,
        vocabulary=Vocabulary(codec.codebooks, codec.codebook_size, config.model.shared_vocabulary, values),
        window=min(config.data.window or facts.longest, facts.longest),
        combinations=facts.combinations,
    )


def _known(config: Config, manifest: Manifest) -> tuple[str, ...]:
    """The labels asked for that the set has."""
    return tuple(name for name in config.model.labels if name in manifest.labels)


def _by_type(value: Any) -> tuple[str, Any]:
    return type(value).__name__, value


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
