"""Vocabulary: the token ids of a model. A range of ids for each codebook, a start token, and a range for each label.

Where the notes have several lengths, the head of the first codebook has a class more, the end: the frame after a note.

A shard set holds raw codes; ids belong to a model. Knows nothing of tensors.
"""

import itertools
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from shards.note import SECONDS
from trainer.errors import ConfigError

NONE = None  # label absent: unconditional
MIXTURE = "mix:"  # begins a mixture of a label's values, as mix:A=0.7,B=0.3
WEIGHT = re.compile(r"-?[0-9]{1,3}(\.[0-9]{1,6})?")
BINS = 16  # of a label of numbers with a decimal point

SCALARS = (str, int, float)  # types of values of labels; bool is an int
LabelValue = str | bool | int | float
Combinations = list[tuple[tuple[Any, ...], int]]  # values of labels, and how many train notes have them


@dataclass(frozen=True)
class Vocabulary:
    """Ids in order: the codes of each codebook, the start token, then for each label "none" and its values."""

    codebooks: int
    codebook_size: int
    shared: bool = False  # all codebooks use the ids of the first, and the start token is code 0
    labels: tuple[tuple[str, tuple[LabelValue, ...]], ...] = ()  # (name, its values in the train split)
    borders: tuple[tuple[str, tuple[float, ...]], ...] = ()  # (name of a label with bins, the first numbers of all bins
    # but the lowest); its value of a bin is the median of the train notes in it
    frame_rate: float = 0  # frames a second, where notes end inside the window; 0: they do not
    window_frames: int = 0  # frames of the window, where notes end inside it; 0: they do not

    @property
    def has_end(self) -> bool:
        return self.window_frames > 0

    @property
    def end(self) -> int:
        """The class of the end among those of the first codebook."""
        return self.codebook_size

    @property
    def start(self) -> int:
        return 0 if self.shared else self.codebooks * self.codebook_size

    @property
    def first_label(self) -> int:
        """The id after the codes and the start token."""
        return self.codebook_size if self.shared else self.start + 1

    @property
    def size(self) -> int:
        return self.first_label + sum(1 + len(self._values(name)) for name, _ in self.labels)

    def offset(self, codebook: int) -> int:
        """The id of this codebook's code 0."""
        return 0 if self.shared else codebook * self.codebook_size

    def label_ids(self, labels: Mapping[str, Any]) -> list[int]:
        """An id for each label; a value that training never saw becomes "none"."""
        return [
            ids.get(
                value if is_plain and isinstance(value := labels.get(name), SCALARS) else self._value(labels, name),
                none,
            )
            for name, none, ids, is_plain in self._label_ids
        ]

    def _value(self, labels: Mapping[str, Any], name: str) -> Any:
        """The value of a note's label that has an id."""
        return self.frames(labels) if self.is_length(name) else self.trained_value(labels, name)

    def is_length(self, name: str) -> bool:
        """True for the label SECONDS of notes that end."""
        return self.has_end and name == SECONDS

    def frames(self, labels: Mapping[str, Any]) -> int | None:
        """The length that a note's labels name, in frames; NONE if none, or longer than the window: of such notes the
        model sees a part, which may begin anywhere."""
        seconds = label_value(labels, SECONDS)
        is_number = isinstance(seconds, int | float) and 0 < seconds < (self.window_frames + 1) / self.frame_rate
        frames = round(seconds * self.frame_rate) if is_number else 0
        return frames if 0 < frames <= self.window_frames else NONE

    @cached_property
    def length_ids(self) -> range:
        """The ids of the label SECONDS but "none": of the frames that are left until a note's length, from
        -window_frames, after it, to window_frames; empty without the label."""
        for name, none, ids, _ in self._label_ids:
            if self.is_length(name):
                return range(none + 1, none + 1 + len(ids))
        return range(0)

    def trained_value(self, labels: Mapping[str, Any], name: str) -> Any:
        """The value of a note's label, for a number with a decimal point that of its bin; or NONE."""
        value = label_value(labels, name)
        if name not in self.bins or isinstance(value, str) or value is NONE:
            return value
        borders, values = self.bins[name]
        return values[bisect_right(borders, value)]

    @cached_property
    def bins(self) -> dict[str, tuple[tuple[float, ...], tuple[LabelValue, ...]]]:
        """(borders, values) of each label that has bins."""
        values = dict(self.labels)
        return {name: (borders, values[name]) for name, borders in self.borders}

    def uncond_ids(self) -> list[int]:
        """The label ids of a note without labels."""
        return self.label_ids({})

    @cached_property
    def _label_ids(self) -> list[tuple[str, int, dict[Any, int], bool]]:
        """(name, the id of "none", the ids of the values, True if these are the notes' own) of each label; the values
        of a length are frames that are left until there, negative after it."""
        ids = []
        none = self.first_label
        for name, _ in self.labels:
            values = self._values(name)
            is_plain = name not in self.bins and not self.is_length(name)
            ids.append((name, none, {value: none + 1 + index for index, value in enumerate(values)}, is_plain))
            none += 1 + len(values)
        return ids

    def _values(self, name: str) -> Sequence[Any]:
        """The values of a label that have an id, in the order of the ids."""
        if self.is_length(name):
            return range(-self.window_frames, self.window_frames + 1)
        return dict(self.labels)[name]

    def to_json(self) -> dict[str, Any]:
        """Fields of what a run does not have are left out."""
        optional = ("borders", "frame_rate", "window_frames")
        return {name: value for name, value in asdict(self).items() if value or name not in optional}


def parse_mixture(text: Any, values: Sequence[Any]) -> dict[Any, float]:
    """Parse `mix:A=0.7,B=0.3`, a weighted mixture of a label's values; empty for any other text.

    Raises:
        ConfigError: no such values, or weights that are no numbers.
    """
    if not isinstance(text, str) or not text.startswith(MIXTURE):
        return {}
    by_text = {str(value): value for value in values}
    mixture = {}
    for part in text.removeprefix(MIXTURE).split(","):
        name, _, weight = part.rpartition("=")
        if name not in by_text or WEIGHT.fullmatch(weight) is None:
            raise ConfigError(f"{text}: {part} is not VALUE=WEIGHT; the run knows {', '.join(sorted(by_text))}")
        mixture[by_text[name]] = float(weight)
    return mixture


def label_value(labels: Mapping[str, Any], name: str) -> Any:
    """The value of a note's label, or NONE if it has none; lists and objects count as none.

    LABEL.WORD is 1 or 0: whether the word is in the list LABEL of the note.
    """
    value = labels.get(name, NONE)
    if value is NONE and "." in name:
        label, word = split_word(name)
        words = labels.get(label)
        return int(word in words) if isinstance(words, list | tuple) else NONE
    return value if isinstance(value, SCALARS) else NONE


def split_word(name: str) -> tuple[str, str]:
    """LABEL.WORD -> the label of a list of words, and the word."""
    label, _, word = name.partition(".")
    return label, word


def stored_label(name: str, names: Collection[str]) -> str:
    """The label that notes with the labels `names` have for it: itself, or the list LABEL of LABEL.WORD."""
    return name if name in names else split_word(name)[0]


def train_values(
    names: Sequence[str], combinations: Combinations
) -> tuple[tuple[tuple[str, tuple[LabelValue, ...]], ...], tuple[tuple[str, tuple[float, ...]], ...], Combinations]:
    """The values and bin borders of labels, as a vocabulary has them, and the combinations with values of bins.

    combinations: of the values of the labels `names`.
    """
    values, borders = [], []
    columns: list[list[Any]] = []  # values of each label, a combination each
    for index, name in enumerate(names):
        column = [combination[index] for combination, _ in combinations]
        known = {value for value in column if value is not NONE}
        if any(isinstance(value, float) for value in known) and not any(
            isinstance(value, str | bool) for value in known
        ):
            counts: Counter[float] = Counter()
            for value, (_, notes) in zip(column, combinations, strict=True):
                if value is not NONE:
                    counts[float(value)] += notes
            medians, starts = cut_bins(counts)
            column = [value if value is NONE else medians[bisect_right(starts, value)] for value in column]
            known = set(medians)
            borders.append((name, starts))
        values.append((name, tuple(sorted(known, key=_by_type))))
        columns.append(column)
    if not borders:
        return tuple(values), (), combinations
    joined: Counter[tuple[Any, ...]] = Counter()
    for row, (_, notes) in zip(zip(*columns, strict=True), combinations, strict=True):
        joined[row] += notes
    return tuple(values), tuple(borders), sorted(joined.items(), key=str)


def cut_bins(counts: Mapping[float, int]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Cut numbers into BINS bins of equal shares of the notes, or fewer: equal numbers are in one bin.

    counts: number -> notes. Returns the median of each bin, and the border below each bin but the lowest, midway to
    the next lower number.
    """
    bins: list[list[float]] = []
    total, before, last = sum(counts.values()), 0, -1
    for number in sorted(counts):
        share = (before + counts[number] / 2) / total  # of the notes below the middle of this number's
        index = len(bins) if len(counts) <= BINS else int(share * BINS)
        if index != last:
            bins.append([])
        bins[-1].append(number)
        before, last = before + counts[number], index
    borders = []
    for low, high in itertools.pairwise(bins):
        middle = low[-1] / 2 + high[0] / 2  # which rounding may make that of a neighbour
        borders.append(middle if low[-1] < middle <= high[0] else high[0])
    return tuple(_median(numbers, counts) for numbers in bins), tuple(borders)


def _median(numbers: Sequence[float], counts: Mapping[float, int]) -> float:
    """The number of the middle note, of sorted numbers."""
    middle = sum(counts[number] for number in numbers) / 2
    for number in numbers:
        middle -= counts[number]
        if middle <= 0:
            return number
    raise AssertionError("the notes of all numbers are more than their half")


def _by_type(value: Any) -> tuple[str, Any]:
    return type(value).__name__, value
