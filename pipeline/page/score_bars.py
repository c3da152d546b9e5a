"""Scores as bars: the samples' figure, the figure of the samples compared with, and the floors."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.page.players import MINUS, plain
from shards.scores import SAMPLES, Figure, Kind, Score, Scores, format_value

HEADLINES = ("pitch", "loudness", "copying")  # keys of the scores at the top of the page


@dataclass(frozen=True)
class Bar:
    """One figure, with a length from 0 to 1."""

    source: str
    text: str
    length: float | None  # None: no scale to draw it on
    kind: str  # first, second, floor


@dataclass(frozen=True)
class ScoreBars:
    """One score with its bars."""

    title: str
    meaning: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Headline:
    """The samples' figure in large type, with the figures to compare it with in small."""

    title: str
    value: str
    comparison: str


def score_bars(first: Scores | None, second: Scores | None, names: Sequence[str]) -> list[ScoreBars]:
    """Return all scores of `first`, each with the samples' figure of `second`. names: of the one or two runs."""
    return [_bars(score, _figure_of_samples(second, score.key), names) for score in (first.scores if first else ())]


def headlines(first: Scores | None, second: Scores | None, names: Sequence[str]) -> list[Headline]:
    """Return the scores of HEADLINES that have a value."""
    chosen = []
    for score in first.scores if first else ():
        if score.key in HEADLINES and score.figures[0].value is not None:
            samples, *floors = score.figures
            other = _figure_of_samples(second, score.key)
            texts = [] if other is None else [f"{names[1]}: {_format_value(score.kind, other)}"]
            texts += [
                f"{plain(figure.of)}: {_format_value(score.kind, figure)}"
                for figure in floors[:1]
                if figure.value is not None
            ]
            chosen.append(Headline(plain(score.title), _format_value(score.kind, samples), ", ".join(texts)))
    return chosen


def _figure_of_samples(scores: Scores | None, key: str) -> Figure | None:
    figures = (figure for score in (scores.scores if scores else ()) if score.key == key for figure in score.figures)
    return next((figure for figure in figures if figure.of == SAMPLES), None)


def _bars(score: Score, other: Figure | None, names: Sequence[str]) -> ScoreBars:
    rows: list[tuple[str, str, Figure]] = []  # kind, source, figure
    for figure in score.figures:
        if figure.of != SAMPLES:
            rows.append(("floor", plain(figure.of), figure))
        else:
            rows.append(("first", SAMPLES if len(names) == 1 else f"{SAMPLES} of {names[0]}", figure))
            if other is not None:
                rows.append(("second", f"{SAMPLES} of {names[1]}", other))
    values = [figure.value for _, _, figure in rows if figure.value is not None]
    full = 1.0 if score.kind != "distance" else max(values) if len(values) > 1 else None  # value of a whole bar
    bars = (Bar(source, _with_interval(score.kind, fig), _length(fig.value, full), kind) for kind, source, fig in rows)
    return ScoreBars(plain(score.title), plain(score.meaning, len(score.meaning)), tuple(bars))


def _length(value: float | None, full: float | None) -> float | None:
    return None if value is None or not full else min(max(value / full, 0.0), 1.0)


def _format_value(kind: Kind, figure: Figure) -> str:
    return "none" if figure.value is None else format_value(kind, figure.value).replace("-", MINUS)


def _with_interval(kind: Kind, figure: Figure) -> str:
    if figure.value is None:
        return plain(figure.why)
    text = _format_value(kind, figure)
    if figure.low is not None and figure.high is not None:
        text += f" ({format_value(kind, figure.low)} to {format_value(kind, figure.high)})"
    return text
