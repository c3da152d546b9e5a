"""Scores as the page draws them: a bar for the samples, one for those beside them, one for each floor."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.page.players import MINUS, plain
from pipeline.score.scores import SAMPLES, Figure, Score, Scores, shown

HEADLINES = ("pitch", "loudness", "copying")  # scores that stand at the top of the page


@dataclass(frozen=True)
class Bar:
    """A figure with its length, from 0 to 1."""

    of: str
    text: str
    length: float | None  # None: there is nothing to compare it with
    kind: str  # first, second, floor


@dataclass(frozen=True)
class Bars:
    """One score."""

    title: str
    meaning: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Headline:
    """The samples' figure, large, and what it should be read against."""

    title: str
    value: str
    beside: str


def bars(first: Scores | None, second: Scores | None, names: Sequence[str]) -> list[Bars]:
    """All scores of `first`, each with the figure that the samples of `second` have."""
    return [_bars(score, _of_samples(second, score.key), names) for score in (first.scores if first else ())]


def headlines(first: Scores | None, second: Scores | None, names: Sequence[str]) -> list[Headline]:
    """The scores that say most."""
    found = []
    for score in first.scores if first else ():
        if score.key in HEADLINES and score.figures[0].value is not None:
            samples, *floors = score.figures
            other = _of_samples(second, score.key)
            others = [] if other is None else [f"{names[1]}: {_value(score.kind, other)}"]
            others += [
                f"{plain(floor.of)}: {_value(score.kind, floor)}" for floor in floors[:1] if floor.value is not None
            ]
            found.append(Headline(plain(score.title), _value(score.kind, samples), ", ".join(others)))
    return found


def _of_samples(scores: Scores | None, key: str) -> Figure | None:
    every = (figure for score in (scores.scores if scores else ()) if score.key == key for figure in score.figures)
    return next((figure for figure in every if figure.of == SAMPLES), None)


def _bars(score: Score, other: Figure | None, names: Sequence[str]) -> Bars:
    figures: list[tuple[str, str, Figure]] = []
    for figure in score.figures:
        if figure.of != SAMPLES:
            figures.append(("floor", plain(figure.of), figure))
        else:
            figures.append(("first", SAMPLES if len(names) == 1 else f"{SAMPLES} of {names[0]}", figure))
            if other is not None:
                figures.append(("second", f"{SAMPLES} of {names[1]}", other))
    values = [figure.value for _, _, figure in figures if figure.value is not None]
    whole = 1.0 if score.kind != "distance" else max(values) if len(values) > 1 else None
    drawn = (
        Bar(of, _with_range(score.kind, figure), _length(figure.value, whole), kind) for kind, of, figure in figures
    )
    return Bars(plain(score.title), plain(score.meaning, len(score.meaning)), tuple(drawn))


def _length(value: float | None, whole: float | None) -> float | None:
    return None if value is None or not whole else min(max(value / whole, 0.0), 1.0)


def _value(kind: str, figure: Figure) -> str:
    return "none" if figure.value is None else shown(kind, figure.value).replace("-", MINUS)


def _with_range(kind: str, figure: Figure) -> str:
    if figure.value is None:
        return plain(figure.why)
    text = _value(kind, figure)
    if figure.low is not None and figure.high is not None:
        text += f" ({shown(kind, figure.low)} to {shown(kind, figure.high)})"
    return text
