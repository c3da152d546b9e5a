"""Run file: `run.json` in a run's folder, enough to go on with the run or to sample it without its shard set.

Knows nothing of models and checkpoints.
"""

import errno
import fcntl
import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from shards.console import counted, quote
from shards.errors import writing
from shards.files import write_json
from shards.manifest import Manifest
from shards.note import SECONDS, Codec, upgrade_codec
from shards.parse import read_object, to_dataclass
from shards.sample_info import SET_LABEL, set_name
from shards.storage import path_text
from trainer.config import LARGEST, Config, list_differences, same_length
from trainer.errors import ConfigError, TrainError
from trainer.mixture import LARGEST_WEIGHT, Mixture
from trainer.order import Order
from trainer.runtime import Ranks
from trainer.schedule import Plans
from trainer.vocabulary import Vocabulary, split_word, stored_label, train_values

log = logging.getLogger(__name__)

RUN_FILE = "run.json"
EXPORTED_RUN = "config.json"  # the same of an exported run
LOCK = "lock"  # file in a run's folder


@dataclass(frozen=True)
class Start:
    """The run whose weights another one began with."""

    run: str
    step: Annotated[int, Meta(ge=0)]  # of its checkpoint
    vocabulary: Vocabulary

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "vocabulary": self.vocabulary.to_json()}


@dataclass(frozen=True)
class SetInfo:
    """A shard set of a run of several."""

    name: str
    weight: Annotated[int, Meta(ge=1, le=LARGEST_WEIGHT)]
    shards: str  # as in RunInfo
    notes_sha256: str  # as in RunInfo


@dataclass(frozen=True)
class RunInfo:
    """A run's settings, and what follows from them and its shard set or sets."""

    config: Config
    plans: Plans  # of its length
    shards: str  # path of the set when the run was last started; of several sets, the first by name
    notes_sha256: str  # of the names, notes and checksums of that set's shards
    codec: Codec
    vocabulary: Vocabulary
    window: Annotated[int, Meta(gt=0)]  # tokens of a note that the model sees
    combinations: list[tuple[tuple[Any, ...], Annotated[int, Meta(gt=0, le=LARGEST)]]]  # values of labels, train notes
    start: Start | None = None  # None: the weights began at random
    sets: tuple[SetInfo, ...] = ()  # all of several sets, by name; of a run of one set, none

    def write(self, run: Path) -> None:
        write_json(run / RUN_FILE, self.to_json())

    def write_export(self, folder: Path) -> None:
        """Write the run file of an exported run."""
        write_json(folder / EXPORTED_RUN, {"model_type": "note-tokens", **self.to_json()})

    def to_json(self) -> dict[str, Any]:
        value = {
            **vars(self),
            "config": self.config.to_json(),
            "codec": self.codec.to_json(),
            "vocabulary": self.vocabulary.to_json(),
            "sets": [asdict(each) for each in self.sets],
        }
        if self.start is None:
            del value["start"]
        else:
            value["start"] = self.start.to_json()
        if not self.sets:
            del value["sets"]
        return value

    @property
    def all_sets(self) -> tuple[SetInfo, ...]:
        """The sets of the run, whether one or several."""
        return self.sets or (SetInfo(set_name(self.shards), 1, self.shards, self.notes_sha256),)


def read_run(run: Path) -> RunInfo:
    """Undo `RunInfo.write`.

    Raises:
        TrainError: no run, or a run file that is damaged.
    """
    path = next((path for path in (run / RUN_FILE, run / EXPORTED_RUN) if path.is_file()), None)
    if path is None:
        raise TrainError(f"{run}: no such run; `python -m trainer train --shards SET --run {quote(run)}` makes one")
    cure = "start another run"
    value = read_object(path, cure, TrainError)
    try:
        config = Config.from_json(value.get("config"))
    except ConfigError as error:
        raise TrainError(f"{path}: {error.message}; {cure}") from error
    value |= {"config": config, "codec": upgrade_codec(value.get("codec"))}
    info = to_dataclass(RunInfo, value, f"{path}:", cure, TrainError)
    for part, fits in _list_parts(info):
        if not fits:
            raise TrainError(f"{path}: is damaged ({part} do not fit the rest of it); {cure}")
    return info


def _list_parts(info: RunInfo) -> Iterator[tuple[str, bool]]:
    """(name, True if it fits the others) of the parts of a run file."""
    codec, model, vocabulary = info.codec, info.config.model, info.vocabulary
    labels = [name for name, _ in vocabulary.labels]
    yield "codebooks", (codec.codebooks, codec.codebook_size) == (vocabulary.codebooks, vocabulary.codebook_size)
    yield "labels", labels == [*model.labels] and vocabulary.shared == model.shared_vocabulary
    yield "tokens", info.window % codec.codebooks == 0 and info.window <= codec.most_tokens
    ends = (vocabulary.frame_rate, vocabulary.window_frames)
    yield (
        "ends",
        ends in ((0, 0), (codec.frame_rate, info.window // codec.codebooks)) and not (any(ends) and vocabulary.shared),
    )
    yield "combinations", bool(info.combinations) and {len(values) for values, _ in info.combinations} == {len(labels)}
    start = info.start.vocabulary if info.start else vocabulary
    yield "start", (start.codebooks, start.codebook_size) == (vocabulary.codebooks, vocabulary.codebook_size)
    yield "sets", len({each.name for each in info.sets}) == len(info.sets) != 1
    yield "borders", all(_fits_bins(vocabulary, name, borders) for name, borders in vocabulary.borders)


def _fits_bins(vocabulary: Vocabulary, name: str, borders: tuple[float, ...]) -> bool:
    """True if the label has a value for each bin, and the borders rise."""
    values = dict(vocabulary.labels).get(name, ())
    return len(values) == len(borders) + 1 and sorted({*borders}) == list(borders)


@contextmanager
def lock_run(run: Path) -> Iterator[None]:
    """Lock the run's folder for the block; a folder that got no run file in it is removed again.

    A file system without locks is used without one. Unlike a lock of `flock`, this one ends with its process even if
    loader workers, which are forks of it, live on for some seconds.

    Raises:
        UserError: another training has locked it, or the folder cannot be written.
    """
    with writing(run):
        run.mkdir(parents=True, exist_ok=True)
        file = (run / LOCK).open("a")
    try:
        with file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    raise TrainError(f"{run}: another training is writing into it; wait for it, or stop it") from error
            yield
    finally:
        if not (run / RUN_FILE).is_file():
            with suppress(OSError):
                (run / LOCK).unlink()
                run.rmdir()


def fit_config(config: Config, notes: Mixture, ranks: Ranks) -> Config:
    """Leave out the labels of a preset that the sets lack; add `set` to them in a run of several sets. Nothing is
    written.

    Raises:
        UserError: settings that do not fit the shard sets or the ranks.
    """
    if ranks.world > config.data.batch:
        raise ConfigError(
            f"data.batch = {config.data.batch}: less than one note for each of {counted(ranks.world, 'rank')}"
        )
    if config.data.window % notes.codec.codebooks:
        raise ConfigError(
            f"data.window = {config.data.window}: not a multiple of the set's {notes.codec.codebooks} codebooks; "
            "a window must end on a frame"
        )
    for reader in notes.readers:
        if not sum(reader.counts):
            raise TrainError(
                f"{reader.source}: has no train split to learn from; `python -m shards inspect {quote(reader.folder)}` "
                "shows what it has"
            )
        if notes.is_mixed and SET_LABEL in reader.manifest.labels:
            log.warning("%s: its notes have a label %s; the name of their set replaces it.", reader.source, SET_LABEL)
    labels = tuple(name for name in config.model.labels if stored_label(name, notes.labels) in (*notes.labels, SECONDS))
    for name in config.model.labels:
        if name not in labels and not config.has_optional_labels:
            known = ", ".join(notes.labels) or "none at all"
            raise ConfigError(f"model.labels: no note of {notes.source} has the label {name}; they have {known}")
        if name not in labels:
            log.warning("%s: its notes have no label %s, so the model learns without it.", notes.source, name)
    if notes.is_mixed and config.has_optional_labels and not config.model.shared_vocabulary:
        labels += (SET_LABEL,)
    return replace(config, model=replace(config.model, labels=labels))


def open_run(notes: Mixture, run: Path, config: Config, ranks: Ranks, start: Start | None = None) -> RunInfo:
    """Start a run on these train notes, or go on with the one that is there; write its run file.

    config: from `fit_config`. start: of a new run; None: random weights.

    Raises:
        UserError: a run that began with other settings or notes.
    """
    order = Order(notes.counts, config.train.seed, config.data.batch)
    steps = config.train.steps or config.train.epochs * order.steps_per_epoch  # 0: as many as fit in the minutes
    plans: Plans = ((0, steps),) if steps else ()
    if (run / RUN_FILE).is_file():
        info = read_run(run)
        if config.has_optional_labels and SECONDS in info.config.model.labels:
            config = _with_length(config)
        check_same_run(run, info, config, notes)
        plans = info.plans if same_length(config, info.config) else plans
        first, *others = sets = _set_infos(notes)
        info = replace(
            info,
            config=config,
            plans=plans,
            shards=first.shards,
            notes_sha256=first.notes_sha256,
            sets=sets if others else (),
        )
    else:
        if (run / EXPORTED_RUN).is_file():
            raise TrainError(f"{run}: is an exported run; begin with its weights: --run NEW --start {quote(run)}")
        info = replace(_new_run(notes, config, plans), start=start)
    if ranks.is_main:
        info.write(run)
    ranks.barrier()
    return info


def _new_run(notes: Mixture, config: Config, plans: Plans) -> RunInfo:
    codec = notes.codec
    first, *others = sets = _set_infos(notes)
    stats = notes.stats(config.model.labels)
    window = min(config.data.window or stats.longest, stats.longest)
    has_end = stats.shortest < window and not config.model.shared_vocabulary
    if has_end and config.has_optional_labels and SECONDS not in config.model.labels:
        config = _with_length(config)
        stats = notes.stats(config.model.labels)
    if SECONDS in config.model.labels and not has_end:
        shared = config.model.shared_vocabulary
        why = "with model.shared_vocabulary there is none" if shared else "no train note is shorter than the window"
        raise ConfigError(f"model.labels: {SECONDS}: the model learns no end of notes, {why}; leave the label out")
    values, borders, combinations = train_values(config.model.labels, stats.combinations)
    for name, known in values:
        if not known or (known == (0,) and name not in notes.labels):
            raise ConfigError(f"model.labels: {name}: {_without_values(name, known)}")
    return RunInfo(
        config=config,
        plans=plans,
        shards=first.shards,
        notes_sha256=first.notes_sha256,
        codec=codec,
        vocabulary=Vocabulary(
            codec.codebooks,
            codec.codebook_size,
            config.model.shared_vocabulary,
            values,
            borders,
            *((codec.frame_rate, window // codec.codebooks) if has_end else ()),
        ),
        window=window,
        combinations=combinations,
        sets=sets if others else (),
    )


def _with_length(config: Config) -> Config:
    """Add the label SECONDS to those of the model."""
    labels = tuple(dict.fromkeys((*config.model.labels, SECONDS)))
    return replace(config, model=replace(config.model, labels=labels))


def _without_values(name: str, known: tuple[Any, ...]) -> str:
    """Say why a label has no values to learn."""
    if not known:
        return "no train note has a word or a number of it; the words of a list are labels of their own, as LABEL.WORD"
    label, word = split_word(name)
    return f"no train note has {word} in its list {label}; `python -m shards inspect` shows the words"


def check_same_run(run: Path, info: RunInfo, config: Config, notes: Mixture) -> None:
    """Refuse to go on with a run under other settings or notes than it began with.

    Raises:
        TrainError: names each setting that differs.
    """
    began, now = info.all_sets, _set_infos(notes)
    names, new_names = (", ".join(each.name for each in sets) for sets in (began, now))
    if names != new_names and (len(began) > 1 or len(now) > 1):  # a single set may have another name now
        raise TrainError(f"{run}: began with --shards {names}, not {new_names}; use the same sets, or another --run")
    changes = [
        f"--weight {old.name}={old.weight}, not {new.weight}"
        for old, new in zip(began, now, strict=True)
        if old.weight != new.weight
    ]
    changes += [f"{key} = {old!r}, not {new!r}" for key, old, new in list_differences(info.config, config)]
    if changes:
        raise TrainError(f"{run}: began with {'; '.join(changes)}; use the same settings, or another --run")
    for old, new in zip(began, now, strict=True):
        if old.notes_sha256 != new.notes_sha256:
            which = "this shard set" if len(now) == 1 else f"the set {new.name}"
            raise TrainError(
                f"{run}: began with other notes than {which} has; use {old.shards}, or another run that begins "
                f"with its weights: --run NEW --start {quote(run)}"
            )


def _set_infos(notes: Mixture) -> tuple[SetInfo, ...]:
    return tuple(
        SetInfo(each.name, each.weight, path_text(each.folder), notes_sha256(each.manifest)) for each in notes.sets
    )


def notes_sha256(manifest: Manifest) -> str:
    """A digest that differs between sets with different notes, independent of their paths."""
    shards = [[shard.name, shard.notes, shard.sha256] for shard in manifest.shards]
    return hashlib.sha256(json.dumps(shards).encode()).hexdigest()
