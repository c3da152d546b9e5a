"""Conditioning of samples: the labels of each, and the prompt, a real note's beginning, that all of them continue.

Knows nothing of models.
"""

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shards.manifest import read_manifest
from shards.note import Codec, Note, TokenFile, check_tokens, read_token_file
from shards.storage import parse_path
from trainer.data import NoteReader
from trainer.errors import ConfigError
from trainer.run import RunInfo
from trainer.vocabulary import NONE, Vocabulary, parse_mixture

SWEEP = re.compile(r"(-?\d{1,18}):(-?\d{1,18})(?::(\d{1,18}))?")
NUMBER = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,20})?(e-?[0-9]{1,2})?")
MOST_VALUES = 12  # of a label that an error lists; of more it says the first and the last
Labels = dict[str, Any]


@dataclass(frozen=True)
class Draw:
    """A sample to be drawn."""

    key: str  # name of its token file
    labels: Labels
    entropy: tuple[int, ...]  # decides its random numbers
    index: int | None = None  # among the samples of its seed
    candidate: int | None = None  # or its number among the candidates of its key and velocity


def parse_labels(vocabulary: Vocabulary, options: Iterable[str]) -> list[Labels]:
    """All combinations of the values in `--label` options: `NAME=VALUE`, `NAME=FROM:TO[:STEP]` (both ends included) or
    `NAME=none` or `NAME=mix:VALUE=WEIGHT,VALUE=WEIGHT`; a name can come again for more values. A label with bins takes
    any number.

    Raises:
        ConfigError: a label or a value that the model was not trained on.
    """
    trained = dict(vocabulary.labels)
    values: dict[str, list[Any]] = {}
    for text in options:
        name, equals, value = text.partition("=")
        if not equals or not value:
            raise ConfigError(f"--label {text}: is not NAME=VALUE, such as pitch=60, or NAME=FROM:TO:STEP")
        if name not in trained:
            has = f"only {', '.join(trained)}" if trained else "none at all"
            raise ConfigError(f"--label {text}: this run was not trained on the label {name}; it knows {has}")
        is_number = name in vocabulary.bins
        values.setdefault(name, []).extend(_parse_values(name, value, trained[name], is_number))
    return [dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())]


def _parse_values(name: str, text: str, trained: tuple[Any, ...], is_number: bool) -> list[Any]:
    """The values that the text of one option means. is_number: the label has bins."""
    if text == "none":
        return [NONE]
    if parse_mixture(text, trained):
        return [text]
    by_text = {str(value): value for value in trained}
    sweep = SWEEP.fullmatch(text)
    texts: Iterable[str] = [text]
    if sweep is not None and text not in by_text:
        first, last, step = int(sweep[1]), int(sweep[2]), int(sweep[3] or 1)
        if step < 1 or last < first:
            raise ConfigError(f"--label {name}={text}: is not FROM:TO:STEP with FROM up to TO")
        texts = map(str, range(first, last + 1, step))
    values = []
    for value in texts:  # up to the first that is unknown, however far the sweep goes
        if is_number and NUMBER.fullmatch(value):
            values.append(float(value))
            continue
        if value not in by_text:
            known = ", ".join(by_text) if len(by_text) <= MOST_VALUES else f"{trained[0]} to {trained[-1]}"
            raise ConfigError(f"--label {name}={value}: no note that the run was trained on has it; it knows {known}")
        values.append(by_text[value])
    return values


def fill_labels(labels: Labels, info: RunInfo, entropy: tuple[int, ...]) -> Labels:
    """Add the missing labels of a sample: those of a random train note that has the other ones."""
    names = [name for name, _ in info.vocabulary.labels]
    trained = {name: info.vocabulary.trained_value(labels, name) for name, value in labels.items() if value is not NONE}
    matching = [
        (values, count)
        for values, count in info.combinations
        if all(values[names.index(name)] == value for name, value in trained.items())
    ] or info.combinations
    ends = np.cumsum([count for _, count in matching])
    uniform = np.random.Generator(np.random.Philox(np.random.SeedSequence((*entropy, 1)))).random()
    values, _ = matching[int(np.searchsorted(ends, uniform * ends[-1], side="right"))]
    filled = dict(zip(names, values, strict=True)) | labels
    return {name: value for name, value in filled.items() if value is not NONE}


def read_prompt(text: str, seconds: float, info: RunInfo) -> Note:
    """Read the first `seconds` of `SET:KEY` (a note of a shard set) or of `FILE.npy` (a token file), in whole frames,
    with those of its labels that the run was trained on.

    Raises:
        UserError: no such note, codes of another codec than the run's, or as long as all that the model can see.
    """
    file = read_token_file(Path(text)) if text.endswith(".npy") else _read_note_of_set(text)
    note, codec = file.note, file.codec
    if codec != info.codec:
        raise ConfigError(f"--prompt {text}: its codes are of {_describe(codec)}, the run's of {_describe(info.codec)}")
    longest = info.window / codec.tokens_per_second
    length = round(seconds * codec.frame_rate) * codec.codebooks if 0 <= seconds <= longest else 0
    if not 0 < length < info.window:
        raise ConfigError(f"--prompt-seconds {seconds:g}: must be more than 0 and less than the run's {longest:g} s")
    if length > len(note.tokens):
        raise ConfigError(
            f"--prompt-seconds {seconds:g}: {text} has only {len(note.tokens) / codec.tokens_per_second:g} s"
        )
    trained = {name: info.vocabulary.trained_value(note.labels, name) for name, _ in info.vocabulary.labels}
    labels = {name: trained[name] for name, values in info.vocabulary.labels if trained[name] in values}
    return Note(note.key, note.tokens[:length], labels)


def _read_note_of_set(text: str) -> TokenFile:
    folder, colon, key = text.rpartition(":")
    if not colon:
        raise ConfigError(f"--prompt {text}: is neither SET:KEY, such as shards/demo:NOTE, nor a token file, FILE.npy")
    path = parse_path(folder)
    manifest = read_manifest(path)
    for split in manifest.splits:
        for note in NoteReader(path, manifest, split).read_all():
            if note.key == key:
                check_tokens(note.tokens, manifest.codec, f"{folder}: {key}")
                return TokenFile(note, manifest.codec)
    raise ConfigError(f"--prompt {text}: {folder} has no note of this name")


def _describe(codec: Codec) -> str:
    return f"{codec.name} at {codec.bandwidth:g} kbps, weights {codec.weights_sha256[:12]}"
