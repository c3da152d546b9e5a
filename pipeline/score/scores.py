"""Scores of a folder of samples, and their file `scores.json`.

Knows nothing of how figures are measured and reported.
"""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.score.samples import SampleFolder
from shards.errors import ShardError
from shards.files import write_json
from shards.note import json_object

FILE = "scores.json"
VERSION = 1
SAMPLES = "samples"  # subject of a figure; the others are floors
FORMATS = {"share": "{:.0%}", "correlation": "{:.2f}", "distance": "{:.3g}"}  # kind of a score -> its figures


@dataclass(frozen=True)
class Figure:
    """A number with its subject: the samples or a floor."""

    of: str
    value: float | None
    count: int = 0  # notes that it was measured on
    low: float | None = None  # the 95 % interval, if there is one
    high: float | None = None
    why: str = ""  # reason for having no value


@dataclass(frozen=True)
class Score:
    """A figure of the samples with its floors, and an explanation."""

    key: str
    title: str
    meaning: str
    kind: str  # a key of FORMATS
    figures: tuple[Figure, ...]  # the samples first, if the score is about samples


@dataclass(frozen=True)
class Measured:
    """Measurements of one sample."""

    hertz: float | None  # fundamental, if it has a pitch
    cents: float | None  # from the pitch in its label, if it has that label
    loudness: float  # dB
    nearest: str | None  # key of the most similar train note
    agreement: float  # share of tokens that they have in common


@dataclass(frozen=True)
class Scores:
    """All figures of a folder of samples; `samples` by name."""

    fingerprint: str  # of the samples that were measured
    shards: str
    scores: tuple[Score, ...]
    samples: dict[str, Measured] = field(default_factory=dict)


def format_value(kind: str, value: float) -> str:
    """Format a figure of a score of this kind."""
    return FORMATS[kind].format(value).replace("%", " %")


def write_scores(folder: Path, scores: Scores) -> None:
    """Write `scores.json` beside the samples."""
    write_json(folder / FILE, {"version": VERSION, **asdict(scores)})


def read_scores(samples: SampleFolder) -> Scores | None:
    """Undo `write_scores`; None if there is no file.

    Raises:
        ShardError: damaged, or about other samples than those in the folder.
    """
    path = samples.path / FILE
    if not path.is_file():
        return None
    value = json_object(path.read_bytes(), str(path))
    cure = f"run `python -m pipeline score {samples.path}` again"
    try:
        if value["version"] != VERSION:
            raise ShardError(f"{path}: version {value['version']!r}, but this program reads {VERSION}; {cure}")
        scores = Scores(
            str(value["fingerprint"]),
            str(value["shards"]),
            tuple(map(_score, value["scores"])),
            {name: _measured(sample) for name, sample in value["samples"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ShardError(f"{path}: is damaged ({type(error).__name__}); {cure}") from error
    if scores.fingerprint != samples.fingerprint():
        raise ShardError(f"{path}: is about other samples than those in the folder; {cure}")
    return scores


def _score(value: Any) -> Score:
    key, title, meaning, kind = (str(value[name]) for name in ("key", "title", "meaning", "kind"))
    if kind not in FORMATS:
        raise ValueError(kind)
    return Score(key, title, meaning, kind, tuple(map(_figure, value["figures"])))


def _figure(value: Any) -> Figure:
    number, low, high = (_number(value[name]) for name in ("value", "low", "high"))
    return Figure(str(value["of"]), number, int(value["count"]), low, high, str(value["why"]))


def _measured(value: Any) -> Measured:
    hertz = _number(value["hertz"])
    if hertz is not None and not 0 < hertz < math.inf:
        raise ValueError(hertz)
    nearest = None if value["nearest"] is None else str(value["nearest"])
    return Measured(hertz, _number(value["cents"]), float(value["loudness"]), nearest, float(value["agreement"]))


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
