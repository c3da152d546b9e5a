"""Run file: `run.json` in a run's folder, enough to go on with the run or to sample it without its shard set.

Knows nothing of models and checkpoints.
"""

import hashlib
import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from shards.console import quote
from shards.files import write_json
from shards.manifest import Manifest
from shards.note import Codec, json_object
from shards.storage import path_text
from trainer.config import Config, list_differences, same_length
from trainer.data import NoteReader
from trainer.errors import ConfigError, TrainError
from trainer.order import Order
from trainer.runtime import Ranks
from trainer.schedule import Plans
from trainer.vocabulary import Vocabulary

log = logging.getLogger(__name__)

RUN_FILE = "run.json"


@dataclass(frozen=True)
class RunInfo:
    """A run's settings, and what follows from them and its shard set."""

    config: Config
    plans: Plans  # of its length
    shards: str  # path of the set when the run was last started
    notes_sha256: str  # of the names, notes and checksums of the set's shards
    codec: Codec
    vocabulary: Vocabulary
    window: int  # tokens of a note that the model sees
    combinations: list[tuple[tuple[Any, ...], int]]  # the labels' values, and how many train notes have them

    def write(self, run: Path) -> None:
        value = {
            **vars(self),
            "config": self.config.to_json(),
            "codec": self.codec.to_json(),
            "vocabulary": self.vocabulary.to_json(),
        }
        write_json(run / RUN_FILE, value)


def read_run(run: Path) -> RunInfo:
    """Undo `RunInfo.write`.

    Raises:
        TrainError: no run, or a run file that is damaged.
    """
    path = run / RUN_FILE
    if not path.is_file():
        raise TrainError(f"{run}: no such run; `python -m trainer train --shards SET --run {quote(run)}` makes one")
    value = json_object(path.read_bytes(), str(path))
    try:
        return msgspec.convert({**value, "config": Config.from_json(value["config"])}, RunInfo)
    except (KeyError, TypeError, ValueError) as error:
        raise TrainError(f"{path}: is damaged ({type(error).__name__}: {error}); start another run") from error


def open_run(notes: NoteReader, run: Path, config: Config, ranks: Ranks) -> RunInfo:
    """Start a run on these train notes, or go on with the one that is there; write its run file.

    Raises:
        UserError: settings that do not fit the shard set or the ranks, or a run that began with others.
    """
    folder, manifest = notes.folder, notes.manifest
    if ranks.world > config.data.batch:
        raise ConfigError(f"data.batch = {config.data.batch}: less than one note for each of {ranks.world} ranks")
    for name in set(config.model.labels) - set(manifest.labels):
        log.warning("%s: its notes have no label %s, so the model learns without it.", folder, name)
    if not sum(notes.counts):
        raise TrainError(
            f"{folder}: has no train split to learn from; `python -m shards inspect {quote(folder)}` shows what it has"
        )
    order = Order(notes.counts, config.train.seed, config.data.batch)
    steps = config.train.steps or config.train.epochs * order.steps_per_epoch  # 0: as many as fit in the minutes
    plans: Plans = ((0, steps),) if steps else ()
    labels = tuple(name for name in config.model.labels if name in manifest.labels)
    config = replace(config, model=replace(config.model, labels=labels))
    if (run / RUN_FILE).is_file():
        info = read_run(run)
        check_same_run(run, info, config, manifest)
        plans = info.plans if same_length(config, info.config) else plans
        info = replace(info, config=config, plans=plans, shards=path_text(folder))
    else:
        info = _new_run(notes, config, plans)
    if ranks.is_main:
        info.write(run)
    ranks.barrier()
    return info


def _new_run(notes: NoteReader, config: Config, plans: Plans) -> RunInfo:
    codec = notes.manifest.codec
    if config.data.window % codec.codebooks:
        raise ConfigError(
            f"data.window = {config.data.window}: not a multiple of the set's {codec.codebooks} codebooks; "
            "a window must end on a frame"
        )
    stats = notes.stats(config.model.labels)
    values = tuple(
        (name, tuple(sorted({combination[index] for combination, _ in stats.combinations} - {None}, key=_by_type)))
        for index, name in enumerate(config.model.labels)
    )
    return RunInfo(
        config=config,
        plans=plans,
        shards=path_text(notes.folder),
        notes_sha256=notes_sha256(notes.manifest),
        codec=codec,
        vocabulary=Vocabulary(codec.codebooks, codec.codebook_size, config.model.shared_vocabulary, values),
        window=min(config.data.window or stats.longest, stats.longest),
        combinations=stats.combinations,
    )


def _by_type(value: Any) -> tuple[str, Any]:
    return type(value).__name__, value


def check_same_run(run: Path, info: RunInfo, config: Config, manifest: Manifest) -> None:
    """Refuse to go on with a run under other settings or notes than it began with.

    Raises:
        TrainError: names each setting that differs.
    """
    changes = [f"{key} = {old!r}, not {new!r}" for key, old, new in list_differences(info.config, config)]
    if changes:
        raise TrainError(f"{run}: began with {'; '.join(changes)}; use the same settings, or another --run")
    if info.notes_sha256 != notes_sha256(manifest):
        raise TrainError(f"{run}: began with other notes than this shard set has; use {info.shards} or another --run")


def notes_sha256(manifest: Manifest) -> str:
    """A digest that differs between sets with different notes, independent of their paths."""
    shards = [[shard.name, shard.notes, shard.sha256] for shard in manifest.shards]
    return hashlib.sha256(json.dumps(shards).encode()).hexdigest()
