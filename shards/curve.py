"""A run's `metrics.jsonl` -> the lines of a training curve, in a unit square for whoever draws it.

Reads what the trainer has written and nothing else of it. Knows no HTML.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from shards.metrics import METRICS, MetricsLine, read_metrics

SIDE = 1000  # units of the square that the paths are drawn in, y downwards as in SVG
POINTS = 400  # of the line of train losses; more steps are averaged in groups
SMOOTHING = 0.02  # share of the run that the smooth line looks at, to either side
HEADROOM = 0.06  # of the height, above the highest and below the lowest value


@dataclass(frozen=True)
class Tick:
    at: float  # 0 to 1 along its axis
    text: str


@dataclass(frozen=True)
class Curve:
    """Paths in a square of SIDE units; ticks and dots from 0 to 1, y upwards."""

    intro: str
    raw: str = ""
    train: str = ""
    valid: str = ""
    dots: tuple[tuple[float, float], ...] = ()
    x: tuple[Tick, ...] = ()
    y: tuple[Tick, ...] = ()


def read_curve(run: Path) -> Curve:
    """The losses of a run by step; an empty curve whose intro says why, if there are none."""
    path = run / METRICS
    try:
        metrics = read_metrics(run)
    except OSError:
        return Curve(f"No training curve: {path} is not there.")
    train, valid = (_losses(metrics.of(kind)) for kind in ("train", "valid"))
    damaged = metrics.damaged + sum("loss" not in line.values for line in metrics.lines)
    if not train and not valid:
        return Curve(f"No training curve: {path} holds no losses.")
    last = max(step for step, _ in train + valid)
    words = [f"{last:,} steps"]
    if train:
        words.append(f"train loss {_recent(train):.3f} at the end")
    if valid:
        step, best = min(valid, key=lambda point: point[1])
        words.append(f"lowest validation loss {best:.3f} at step {step:,}")
    intro = "; ".join(words) + "." + (f" {damaged} damaged lines were left out." if damaged else "")
    return _draw(intro, _grouped(train), valid, last)


def _losses(lines: list[MetricsLine]) -> list[tuple[int, float]]:
    """(step, loss) of the lines whose loss is a finite number."""
    losses = ((line.step, line.values.get("loss", math.nan)) for line in lines)
    return [(step, loss) for step, loss in losses if math.isfinite(loss)]


def _grouped(points: list[tuple[int, float]]) -> list[tuple[float, float]]:
    """At most POINTS means of neighbours."""
    size = math.ceil(len(points) / POINTS) or 1
    groups = (points[first : first + size] for first in range(0, len(points), size))
    return [
        (sum(step for step, _ in group) / len(group), sum(loss for _, loss in group) / len(group)) for group in groups
    ]


def _recent(points: list[tuple[int, float]]) -> float:
    """The mean of the last losses."""
    last = points[-max(1, round(SMOOTHING * len(points))) :]
    return sum(loss for _, loss in last) / len(last)


def _smooth(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Each loss as the mean of its neighbours, as many to either side; fewer towards the ends."""
    reach = max(2, round(SMOOTHING * len(points)))
    smooth = []
    for index, (step, _) in enumerate(points):
        side = min(reach, index, len(points) - 1 - index)
        near = [loss for _, loss in points[index - side : index + side + 1]]
        smooth.append((step, sum(near) / len(near)))
    return smooth


def _draw(intro: str, train: list[tuple[float, float]], valid: list[tuple[int, float]], last: int) -> Curve:
    values = [loss for _, loss in [*train, *valid]]
    low, high = min(values), max(values)
    margin = HEADROOM * (high - low or 1.0)
    low, high = low - margin, high + margin

    def place(step: float, loss: float) -> tuple[float, float]:
        return step / last if last else 0.0, (loss - low) / (high - low)

    return Curve(
        intro,
        raw=_path([place(*point) for point in train]),
        train=_path([place(*point) for point in _smooth(train)]),
        valid=_path([place(*point) for point in valid]),
        dots=tuple(place(*point) for point in valid),
        x=tuple(Tick(step / last if last else 0.0, f"{step:,.0f}") for step in _round_numbers(0, last, 5)),
        y=tuple(Tick((loss - low) / (high - low), f"{loss:g}") for loss in _round_numbers(low, high, 5)),
    )


def _path(points: list[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x * SIDE:.1f} {(1 - y) * SIDE:.1f}" for x, y in points) if points else ""


def _round_numbers(low: float, high: float, about: int) -> list[float]:
    """Some `about` round numbers from low to high."""
    rough = (high - low) / about or 1.0
    unit = 10.0 ** math.floor(math.log10(rough))
    interval = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    return [round(index * interval, 10) for index in range(math.ceil(low / interval), math.floor(high / interval) + 1)]
