"""What each token id means: a range of ids for each codebook, a start token, and a range for each label.

A shard set holds raw codes; ids belong to a model. Knows nothing of tensors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NONE = None  # the value of a label that is not told


@dataclass(frozen=True)
class Vocabulary:
    """Ids in order: the codes of each codebook, the start token, then for each label "none" and its values."""

    codebooks: int
    codebook_size: int
    shared: bool = False  # all codebooks use the ids of the first, and the start token is code 0
    labels: tuple[tuple[str, tuple[Any, ...]], ...] = ()  # (name, values found in the train split)

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

    @property
    def prefix_length(self) -> int:
        """Ids before a note's first code: one a label, then the start token."""
        return len(self.labels) + 1

    def offset(self, codebook: int) -> int:
        """What is added to a raw code of this codebook."""
        return 0 if self.shared else codebook * self.codebook_size

    def prefix(self, labels: Mapping[str, Any]) -> list[int]:
        """The ids that a note of these labels begins with; a value that training never saw becomes "none"."""
        ids = []
        none = self.first_label
        for name, values in self.labels:
            value = labels.get(name, NONE)
            ids.append(none + 1 + values.index(value) if value in values else none)
            none += 1 + len(values)
        return [*ids, self.start]

    def nones(self) -> list[int]:
        """The prefix of a note of which nothing is told."""
        return self.prefix({})

    def to_json(self) -> dict[str, Any]:
        return {
            "codebooks": self.codebooks,
            "codebook_size": self.codebook_size,
            "shared": self.shared,
            "labels": [[name, list(values)] for name, values in self.labels],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Vocabulary":
        """Undo `to_json`."""
        labels = tuple((name, tuple(values)) for name, values in value["labels"])
        return cls(value["codebooks"], value["codebook_size"], value["shared"], labels)
