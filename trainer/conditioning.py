"""Which labels each sample has: those that are asked for, and the others as they go together on train notes.

Knows nothing of models and files.
"""

import itertools
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from trainer.errors import ConfigError
from trainer.run import Record
from trainer.vocabulary import NONE, Vocabulary

SWEEP = re.compile(r"(-?\d+):(-?\d+)(?::(\d+))?")
Labels = dict[str, Any]


def combinations(vocabulary: Vocabulary, asked: Iterable[str]) -> list[Labels]:
    """All combinations of the values that are asked for: `NAME=VALUE`, `NAME=FROM:TO[:STEP]` (both ends included) or
    `NAME=none`; a name can come again for more values.

    Raises:
        ConfigError: a label or a value that the model was not trained on.
    """
    known = dict(vocabulary.labels)
    values: dict[str, list[Any]] = {}
    for text in asked:
        name, equals, value = text.partition("=")
        if not equals or not value:
            raise ConfigError(f"--label {text}: is not NAME=VALUE, such as pitch=60, or NAME=FROM:TO:STEP")
        if name not in known:
            has = f"only {', '.join(known)}" if known else "none at all"
            raise ConfigError(f"--label {text}: this run was not trained on the label {name}; it knows {has}")
        values.setdefault(name, []).extend(_values(name, value, known[name]))
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]


def _values(name: str, text: str, known: tuple[Any, ...]) -> list[Any]:
    """The values of a label that `text` means."""
    if text == "none":
        return [NONE]
    by_text = {str(value): value for value in known}
    sweep = SWEEP.fullmatch(text)
    if sweep is not None and text not in by_text:
        first, last, step = int(sweep[1]), int(sweep[2]), int(sweep[3] or 1)
        if step < 1 or last < first:
            raise ConfigError(f"--label {name}={text}: is not FROM:TO:STEP with FROM up to TO")
        texts = [str(value) for value in range(first, last + 1, step)]
    else:
        texts = [text]
    for one in texts:
        if one not in by_text:
            seen = ", ".join(by_text) if len(by_text) <= 12 else f"{known[0]} to {known[-1]}"
            raise ConfigError(f"--label {name}={one}: no note that the run was trained on has it; it knows {seen}")
    return [by_text[one] for one in texts]


def completed(asked: Labels, record: Record, seed: int, index: int) -> Labels:
    """The labels of one sample: those asked for, and the others as on a train note that has the asked ones."""
    names = [name for name, _ in record.vocabulary.labels]
    fitting = [
        (values, count)
        for values, count in record.combinations
        if all(values[names.index(name)] == value for name, value in asked.items() if value is not NONE)
    ] or record.combinations
    ends = np.cumsum([count for _, count in fitting])
    chance = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, index, 1)))).random()
    drawn = fitting[int(np.searchsorted(ends, chance * ends[-1], side="right"))][0]
    labels = dict(zip(names, drawn, strict=True)) | asked
    return {name: value for name, value in labels.items() if value is not NONE}
