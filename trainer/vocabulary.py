"""Vocabulary: the token ids of a model. A range of ids for each codebook, a start token, and a range for each label.

A shard set holds raw codes; ids belong to a model. Knows nothing of tensors.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from trainer.errors import ConfigError

NONE = None  # label absent: unconditional
MIXTURE = "mix:"  # begins a mixture of a label's values, as mix:A=0.7,B=0.3
WEIGHT = re.compile(r"-?[0-9]{1,3}(\.[0-9]{1,6})?")


@dataclass(frozen=True)
class Vocabulary:
    """Ids in order: the codes of each codebook, the start token, then for each label "none" and its values."""

    codebooks: int
    codebook_size: int
    shared: bool = False  # all codebooks use the ids of the first, and the start token is code 0
    labels: tuple[tuple[str, tuple[str | bool | int | float, ...]], ...] = ()  # (name, its values in the train split)

    @property
    def start(self) -> int:
        return 0 if self.shared else self.codebooks * self.codebook_size

    @property
    def first_label(self) -> int:
        """The id after the codes and the start token."""
        return self.codebook_size if self.shared else self.start + 1

    @property
    def size(self) -> int:
        return self.first_label + sum(1 + len(values) for _, values in self.labels)

    def offset(self, codebook: int) -> int:
        """The id of this codebook's code 0."""
        return 0 if self.shared else codebook * self.codebook_size

    def label_ids(self, labels: Mapping[str, Any]) -> list[int]:
        """An id for each label; a value that training never saw becomes "none"."""
        return [ids.get(label_value(labels, name), none) for name, none, ids in self._label_ids]

    def uncond_ids(self) -> list[int]:
        """The label ids of a note without labels."""
        return self.label_ids({})

    @cached_property
    def _label_ids(self) -> list[tuple[str, int, dict[Any, int]]]:
        """(name, the id of "none", the ids of the values) of each label."""
        ids = []
        none = self.first_label
        for name, values in self.labels:
            ids.append((name, none, {value: none + 1 + index for index, value in enumerate(values)}))
            none += 1 + len(values)
        return ids

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


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
    """The value of a note's label, or NONE if it has none; lists and objects count as none."""
    value = labels.get(name, NONE)
    return value if isinstance(value, str | int | float) else NONE
