"""What is known of a folder of samples in figures: `scores.json`, written and read back.

Knows how figures are kept and shown, and nothing of how they come about.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.score.samples import fingerprint, read_samples
from shards.errors import ShardError
from shards.files import write_json
from shards.note import json_object

FILE = "scores.json"
VERSION = 1
GAP = 3  # spaces between the columns of a table
SAMPLES = "samples"  # what a figure is of, if not of a floor
KINDS = {"share": "{:.0%}", "correlation": "{:.2f}", "distance": "{:.3g}"}  # of figures, and how they are written


@dataclass(frozen=True)
class Figure:
    """One number, of the samples or of a floor."""

    of: str
    value: float | None
    count: int = 0  # notes behind it
    low: float | None = None  # the 95 % interval, where there is one
    high: float | None = None
    why: str = ""  # there is no value


@dataclass(frozen=True)
class Score:
    """A figure with its floors, and what it means."""

    key: str
    title: str
    meaning: str
    kind: str  # one of KINDS
    figures: tuple[Figure, ...]  # the samples first, if the score is one of samples


@dataclass(frozen=True)
class Measured:
    """One sample by itself."""

    hertz: float | None  # fundamental, if there is a pitch to hear
    cents: float | None  # from the pitch asked for, if one was
    loudness: float  # dB
    nearest: str | None  # key of the train note that it is most similar to
    agreement: float  # share of tokens that they have in common


@dataclass(frozen=True)
class Scores:
    """All that is known of a folder of samples; `samples` by name."""

    fingerprint: str  # of the samples that were measured
    shards: str
    scores: tuple[Score, ...]
    samples: dict[str, Measured] = field(default_factory=dict)


def write_scores(folder: Path, scores: Scores) -> None:
    """Keep the figures beside the samples."""
    write_json(folder / FILE, {"version": VERSION, **asdict(scores)})


def read_scores(folder: Path) -> Scores | None:
    """Undo `write_scores`; None if there is nothing.

    Raises:
        ShardError: damaged, or of other samples than those that are there now.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    value = json_object(path.read_bytes(), str(path))
    cure = f"run `python -m pipeline score {folder}` again"
    try:
        if value["version"] != VERSION:
            raise ShardError(f"{path}: version {value['version']!r}, but this program reads {VERSION}; {cure}")
        scores = tuple(_score(one) for one in value["scores"])
        samples = {name: _measured(one) for name, one in value["samples"].items()}
        found = Scores(str(value["fingerprint"]), str(value["shards"]), scores, samples)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ShardError(f"{path}: is damaged ({type(error).__name__}); {cure}") from error
    if found.fingerprint != fingerprint(read_samples(folder)):
        raise ShardError(f"{path}: is about other samples than those that are there now; {cure}")
    return found


def table(columns: Mapping[str, Scores]) -> Iterator[str]:
    """Lines of text: each score with its floors, folders side by side."""
    rows: dict[str, dict[str, dict[str, Figure]]] = {}  # title -> whose figure -> column -> figure
    for name, found in columns.items():
        for score in found.scores:
            for figure in score.figures:
                rows.setdefault(score.title, {}).setdefault(figure.of, {})[name] = figure
    kinds = {score.title: score.kind for found in columns.values() for score in found.scores}
    lines = [("", list(columns))] if len(columns) > 1 else []
    for title, figures in rows.items():
        lines.append((title, []))
        for of, by_column in figures.items():
            lines.append((f"  {of}", [_cell(kinds[title], by_column.get(name)) for name in columns]))
    widths = [max(map(len, column)) + GAP for column in zip(*(cells for _, cells in lines if cells), strict=True)]
    first = max(len(words) for words, _ in lines) + GAP
    for words, cells in lines:
        padded = (f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=False))
        yield f"{words:<{first}}{''.join(padded)}".rstrip()


def _cell(kind: str, figure: Figure | None) -> str:
    if figure is None:
        return ""
    if figure.value is None:
        return figure.why
    between = "" if figure.low is None else f", {shown(kind, figure.low)} to {shown(kind, figure.high or 0.0)}"
    return f"{shown(kind, figure.value)}  ({figure.count} notes{between})"


def shown(kind: str, value: float) -> str:
    """A figure as people read it."""
    return KINDS[kind].format(value).replace("%", " %")


def _score(value: Any) -> Score:
    figures = (
        Figure(
            str(one["of"]),
            _number(one["value"]),
            int(one["count"]),
            _number(one["low"]),
            _number(one["high"]),
            str(one["why"]),
        )
        for one in value["figures"]
    )
    key, title, meaning, kind = (str(value[name]) for name in ("key", "title", "meaning", "kind"))
    if kind not in KINDS:
        raise ValueError(kind)
    return Score(key, title, meaning, kind, tuple(figures))


def _measured(value: Any) -> Measured:
    hertz = _number(value["hertz"])
    if hertz is not None and not 0 < hertz < math.inf:
        raise ValueError(hertz)
    return Measured(
        hertz,
        _number(value["cents"]),
        float(value["loudness"]),
        None if value["nearest"] is None else str(value["nearest"]),
        float(value["agreement"]),
    )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
