"""Mixture: several shard sets in one run, each with a weight. One set of weight 1 is the usual run.

The sets are sorted by name, the last part of their paths. An epoch has each train note of a set as often as its weight
says: the set's shards are listed that many times, and `trainer.order` permutes this list like any other, so ranks,
workers and resuming need nothing of their own, and the repeats of a note lie as far apart as random steps do, on
average an epoch / (weight + 1). In a run of several sets each note has the label `set`, the name of its set. Knows
nothing of models.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shards.manifest import Manifest, read_manifest
from shards.note import Codec, Note
from shards.reader import Crop
from shards.sample_info import SET_LABEL, set_name
from shards.storage import path_text
from trainer.data import NoteReader, SplitStats
from trainer.errors import ConfigError

LARGEST_WEIGHT = 1000  # of a set: the list of an epoch's shards is as many times as long
NAMELESS = ("", ".", "..")  # last parts of paths
WEIGHT = re.compile(r"[0-9]{1,4}")


@dataclass(frozen=True)
class WeightedSet:
    """A shard set of a run."""

    name: str
    folder: Path
    manifest: Manifest
    weight: int = 1  # times that an epoch has each of its train notes


def read_sets(folders: Sequence[Path], weights: Iterable[str] = ()) -> tuple[WeightedSet, ...]:
    """Read the manifests of a run's sets, sorted by name. weights: texts `NAME=N`; a set without one has weight 1.

    Raises:
        ConfigError: two sets of one name, or of different codecs; a weight that is no whole number, or of no set.
        ShardError: a set that is not there, unfinished or damaged.
    """
    by_name: dict[str, Path] = {}
    for folder in folders:
        name = set_name(path_text(folder))
        if name in NAMELESS and len(folders) > 1:
            raise ConfigError(f"--shards {folder}: has no name, as each of several sets needs; give its whole path")
        if name in by_name:
            raise ConfigError(
                f"--shards {folder}: has the name {name}, as {by_name[name]} has; sets of one run need different names"
            )
        by_name[name] = folder
    weight_of = _parse_weights(weights, sorted(by_name))
    sets = tuple(
        WeightedSet(name, folder, read_manifest(folder), weight_of.get(name, 1))
        for name, folder in sorted(by_name.items())
    )
    for other in sets[1:]:
        _check_same_codec(sets[0], other)
    return sets


def _parse_weights(texts: Iterable[str], names: Sequence[str]) -> dict[str, int]:
    weights: dict[str, int] = {}
    for text in texts:
        name, equals, number = text.rpartition("=")
        if not equals:
            raise ConfigError(f"--weight {text}: is not NAME=N, such as {names[0]}=3")
        if name not in names:
            raise ConfigError(f"--weight {text}: no set of this run has the name {name}; it has {', '.join(names)}")
        if WEIGHT.fullmatch(number) is None or not 1 <= int(number) <= LARGEST_WEIGHT:
            raise ConfigError(f"--weight {text}: must be a whole number from 1 to {LARGEST_WEIGHT}")
        if name in weights:
            raise ConfigError(f"--weight {text}: the set {name} has a weight already, {weights[name]}; give it once")
        if len(names) == 1 and int(number) != 1:
            raise ConfigError(f"--weight {text}: weighs a set against others; name those with --shards too")
        weights[name] = int(number)
    return weights


def _check_same_codec(first: WeightedSet, other: WeightedSet) -> None:
    for name, ours, theirs in first.manifest.codec.differences(other.manifest.codec):
        raise ConfigError(
            f"{other.folder}: its codec has {name} {theirs}, but that of {first.folder} has {ours}; "
            "sets of one run need the same codec"
        )


class SetReader(NoteReader):
    """A set in a run of several: its notes have the label `set`, in the place of a field of that name."""

    def __init__(self, weighted: WeightedSet, split: str) -> None:
        super().__init__(weighted.folder, weighted.manifest, split)
        self.name = weighted.name

    def read(self, shard: int, row: int, crop: Crop | None = None) -> Note:
        note = super().read(shard, row, crop)
        note.labels[SET_LABEL] = self.name
        return note

    def stats(self, labels: tuple[str, ...]) -> SplitStats:
        stats = super().stats(labels)
        counts = Counter[tuple[Any, ...]]()
        for values, count in stats.combinations:
            named = (self.name if label == SET_LABEL else value for label, value in zip(labels, values, strict=True))
            counts[tuple(named)] += count
        return replace(stats, combinations=sorted(counts.items(), key=str))


def open_split(sets: Sequence[WeightedSet], split: str) -> tuple[NoteReader, ...]:
    """Readers of a split of each set."""
    if len(sets) > 1:
        return tuple(SetReader(each, split) for each in sets)
    return tuple(NoteReader(each.folder, each.manifest, split) for each in sets)


class Mixture:
    """The train notes of a run's sets, those of each as often as its weight says."""

    def __init__(self, sets: Sequence[WeightedSet]) -> None:
        self.sets = tuple(sets)
        self.readers = open_split(sets, "train")
        self._shards = [  # (reader, its shard) of each shard of the mixture
            (reader, shard)
            for each, reader in zip(self.sets, self.readers, strict=True)
            for _ in range(each.weight)
            for shard in range(len(reader.shards))
        ]

    @property
    def is_mixed(self) -> bool:
        """True for several sets."""
        return len(self.sets) > 1

    @property
    def source(self) -> str:
        return ", ".join(reader.source for reader in self.readers)

    @property
    def codec(self) -> Codec:
        return self.sets[0].manifest.codec

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels that notes of the sets have."""
        names = [name for each in self.sets for name in each.manifest.labels] + [SET_LABEL] * self.is_mixed
        return tuple(dict.fromkeys(names))

    @property
    def counts(self) -> tuple[int, ...]:
        """Notes in each shard of the mixture."""
        return tuple(reader.shards[shard].notes for reader, shard in self._shards)

    def read(self, shard: int, row: int, crop: Crop | None = None) -> Note:
        """Read a note, or a crop of it. Raises UserError, as `NoteReader.read`."""
        reader, index = self._shards[shard]
        return reader.read(index, row, crop)

    @contextmanager
    def keep_open(self) -> Iterator[None]:
        """As `NoteReader.keep_open`, of all sets."""
        with ExitStack() as stack:
            for reader in self.readers:
                stack.enter_context(reader.keep_open())
            yield

    def stats(self, labels: tuple[str, ...]) -> SplitStats:
        """The statistics of all sets together, each note once, whatever its set's weight."""
        parts = [reader.stats(labels) for reader in self.readers]
        counts = Counter[tuple[Any, ...]]()
        for part in parts:
            counts.update(dict(part.combinations))
        shortest, longest = min(part.shortest for part in parts), max(part.longest for part in parts)
        return SplitStats(shortest, longest, sorted(counts.items(), key=str))
