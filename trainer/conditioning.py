"""Conditioning of samples: the labels of each, the prompt, a real note's beginning, that all of them continue, and the
length.

Knows nothing of models.
"""

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shards.manifest import read_manifest
from shards.note import SECONDS, Codec, Note, TokenFile, check_tokens, read_token_file
from shards.storage import parse_path
from trainer.data import NoteReader
from trainer.errors import ConfigError
from trainer.run import RunInfo
from trainer.vocabulary import NONE, Vocabulary, label_value, parse_mixture

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


@dataclass(frozen=True)
class LengthRequest:
    """The length of all samples of a call. Without one, each ends by itself, or at the end of the window."""

    seconds: float | None = None  # no sample ends before or after
    longest: float | None = None  # samples that do not end by themselves end here

    def add_label(self, options: Sequence[str], vocabulary: Vocabulary) -> tuple[str, ...]:
        """The `--label` options, with the label SECONDS of a forced length unless they have it: none for a length that
        the model does not know."""
        if self.seconds is None or not vocabulary.length_ids or any(text.startswith(f"{SECONDS}=") for text in options):
            return tuple(options)
        is_known = vocabulary.frames({SECONDS: self.seconds}) is not NONE
        return (*options, f"{SECONDS}={self.seconds if is_known else 'none'}")


def sample_length(request: LengthRequest, prompt: int, info: RunInfo) -> int:
    """The most tokens that a sample has, with a prompt of `prompt` tokens.

    Raises:
        ConfigError: no length that a token file can have, or not longer than the prompt.
    """
    if request.seconds is not None and request.longest is not None:
        raise ConfigError("--seconds and --longest: give one of them; with --seconds no sample ends by itself")
    name, seconds = ("--longest", request.longest) if request.seconds is None else ("--seconds", request.seconds)
    if seconds is None:
        return info.window
    if name == "--longest" and not info.vocabulary.has_end:
        raise ConfigError("--longest: the notes of this run have no ends to learn; use --seconds")
    codec = info.codec
    most = codec.most_tokens // codec.codebooks  # frames
    frames = round(seconds * codec.frame_rate) if 0 < seconds <= most / codec.frame_rate else 0
    if not frames:
        least, last = 1 / codec.frame_rate, most / codec.frame_rate
        raise ConfigError(f"{name} {seconds:g}: must be from {least:.3g}, a frame, to {last:g}")
    if frames * codec.codebooks <= prompt:
        raise ConfigError(f"{name} {seconds:g}: not longer than the prompt, {prompt / codec.tokens_per_second:g} s")
    return frames * codec.codebooks


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
        values.setdefault(name, []).extend(_parse_values(name, value, vocabulary))
    return [dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())]


def _parse_values(name: str, text: str, vocabulary: Vocabulary) -> list[Any]:
    """The values that the text of one option means."""
    trained = dict(vocabulary.labels)[name]
    is_length, has_bins = vocabulary.is_length(name), name in vocabulary.bins
    if text == "none":
        return [NONE]
    if parse_mixture(text, trained) and not is_length:
        return [text]
    by_text = {str(value): value for value in trained}
    sweep = SWEEP.fullmatch(text)
    texts: Iterable[str] = [text]
    if sweep is not None and text not in by_text:
        first, last, step = int(sweep[1]), int(sweep[2]), int(sweep[3] or 1)
        if step < 1 or last < first:
            raise ConfigError(f"--label {name}={text}: is not FROM:TO:STEP with FROM up to TO")
        texts = map(str, range(first, last + 1, step))
    values: list[Any] = []
    for value in texts:  # up to the first that is unknown, however far the sweep goes
        if has_bins and NUMBER.fullmatch(value):
            values.append(float(value))
            if is_length and vocabulary.frames({name: values[-1]}) is NONE:
                raise ConfigError(
                    f"--label {name}={value}: must be from {1 / vocabulary.frame_rate:.3g}, a frame, to "
                    f"{vocabulary.window_frames / vocabulary.frame_rate:g}, all that the model sees; --seconds goes on "
                    "from there"
                )
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
    vocabulary = info.vocabulary
    labels = {
        name: label_value(note.labels, name)
        for name, values in vocabulary.labels
        if vocabulary.trained_value(note.labels, name) in values
    }
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
    return f"{codec.name} at {codec.kbps:.3g} kbps, weights {codec.weights_sha256[:12]}"
