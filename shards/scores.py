"""Scores of a folder of samples: their file `scores.json`, which the pipeline writes and both programs read.

Knows nothing of how figures are measured and reported.
"""

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from shards.console import quote
from shards.errors import ShardError
from shards.files import write_json
from shards.parse import read_object, to_dataclass

FILE = "scores.json"
VERSION = 1
SAMPLES = "samples"  # subject of a figure; the others are floors
Kind = Literal["share", "correlation", "distance"]
FORMATS: dict[Kind, str] = {"share": "{:.0%}", "correlation": "{:.2f}", "distance": "{:.3g}"}


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
    kind: Kind
    figures: tuple[Figure, ...]  # the samples first, if the score is about samples


@dataclass(frozen=True)
class Measured:
    """Measurements of one sample."""

    hertz: Annotated[float, Meta(gt=0, le=sys.float_info.max)] | None  # fundamental, if it has a pitch
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


def format_value(kind: Kind, value: float) -> str:
    """Format a figure of a score of this kind."""
    return FORMATS[kind].format(value).replace("%", " %")


def write_scores(folder: Path, scores: Scores) -> None:
    """Write `scores.json` beside the samples."""
    write_json(folder / FILE, {"version": VERSION, **asdict(scores)})


def read_scores(folder: Path) -> Scores:
    """Undo `write_scores`.

    Raises:
        FileNotFoundError: there is no such file.
        ShardError: damaged.
    """
    path = folder / FILE
    cure = f"run `python -m pipeline score {quote(folder)}` again"
    value = read_object(path, cure)
    if value.get("version") != VERSION:
        raise ShardError(f"{path}: version {value.get('version')!r}, but this program reads {VERSION}; {cure}")
    return to_dataclass(Scores, value, f"{path}:", cure)
