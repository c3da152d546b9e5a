"""Loss curves, drawn by matplotlib: several runs over time as a picture, or one run by steps as an inline SVG.

Reads a run's metrics and nothing else of it. Knows no HTML: the SVG has classes, and the page gives them colours.
"""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any
from xml.etree import ElementTree

from shards.console import counted
from shards.errors import UserError
from shards.files import atomic_write
from shards.metrics import METRICS, MetricsLine, read_metrics

PICTURE_SIZE = 8.0, 4.5  # inches
INLINE_SIZE = 5.0, 2.8  # inches: its text is legible at the width of a phone
DPI = 150  # of a PNG
VALID_LOSS = "loss_first_125_frames"  # the part of each note that models of every preset see
POINTS = 400  # of the line of train losses; more steps are averaged in groups
SMOOTHING = 0.02  # share of the run that is averaged for the smooth line, to either side
LARGEST = 1e30  # losses above it cannot be drawn
CLASSES = {"raw", "train", "valid", "grid"}  # of the SVG's groups; every validation loss has a circle of class "dot"
COLORS = {"path": {"fill": "none", "stroke": "currentColor"}, "text": {"fill": "currentColor"}}
STYLES = ("stroke-width", "stroke-opacity", "opacity", "text-anchor", "font-size")
# Text stays text, every point is drawn, and the same metrics give the same bytes.
RC: Any = {"svg.fonttype": "none", "svg.hashsalt": "curve", "path.simplify": False}

Points = Sequence[tuple[float, float]]  # (step, loss)


@dataclass(frozen=True)
class Curve:
    """The training curve of one run."""

    intro: str  # its main figures in a sentence, or the reason why there is no curve
    svg: str = ""  # an <svg> element without ids and colours: groups of CLASSES, circles of class "dot"


def plot_runs(runs: Sequence[Path], out: Path) -> None:
    """Draw the valid loss of runs over the minutes of training into a PNG or SVG file.

    Raises:
        UserError: a run that has not been evaluated, or a file whose name does not end in .png or .svg.
    """
    import matplotlib

    with matplotlib.rc_context(RC):
        figure, axes = _figure(PICTURE_SIZE, "minutes of training", "valid loss, nats a token")
        axes.set_title("Each note's first 125 frames")
        for run in runs:
            points = [(seconds / 60, loss) for seconds, loss in _evaluations(run)]
            axes.plot(*zip(*points, strict=True), marker=".", label=run.name.replace("$", r"\$"))
        axes.legend()
        save_figure(figure, out)


def save_figure(figure: Any, out: Path) -> None:
    """Write a matplotlib figure as PNG or SVG.

    Raises:
        UserError: a file whose name does not end in .png or .svg.
    """
    if out.suffix not in (".png", ".svg"):
        raise UserError(f"{out}: must end in .png or .svg")
    with atomic_write(out) as file:
        figure.savefig(file, format=out.suffix[1:], dpi=DPI, metadata={"Date": None} if out.suffix == ".svg" else None)


def training_curve(run: Path) -> Curve:
    """Draw the losses of one run by step; without losses, the curve is empty and its intro gives the reason."""
    try:
        metrics = read_metrics(run)
    except OSError:
        return Curve(f"No training curve: {run / METRICS} is not there.")
    train, valid = (_losses(metrics.of(kind)) for kind in ("train", "valid"))
    if not train and not valid:
        return Curve(f"No training curve: {run / METRICS} holds no losses.")
    facts = [counted(max(step for step, _ in train + valid), "step")]
    if train:
        facts.append(f"train loss {_mean_of_last(train):.3f} at the end")
    if valid:
        step, loss = min(valid, key=lambda point: point[1])
        facts.append(f"lowest validation loss {loss:.3f} at step {step:,}")
    damaged = metrics.damaged + sum("loss" not in line.values for line in metrics.lines)
    intro = "; ".join(facts) + "." + (f" Left out: {counted(damaged, 'damaged line')}." if damaged else "")
    return Curve(intro, _draw_steps(_average_groups(train), valid))


def _draw_steps(train: Points, valid: Points) -> str:
    import matplotlib
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    with matplotlib.rc_context({**RC, "font.size": 9, "xtick.major.size": 0, "ytick.major.size": 0}):
        figure, axes = _figure(INLINE_SIZE, "step", "nats a token")
        axes.set_xlim(0, max(step for step, _ in [*train, *valid]) or 1)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        figure.patch.set_visible(False)
        axes.set_frame_on(False)
        for axis in (axes.xaxis, axes.yaxis):
            for tick in axis.get_major_ticks():
                tick.gridline.set_gid("grid")
        style: dict[str, Any] = {"clip_on": False}
        handles = []
        if train:
            axes.plot(*zip(*train, strict=True), gid="raw", linewidth=0.8, **style)
            handles += axes.plot(*zip(*_smooth(train), strict=True), gid="train", label="train loss", **style)
        if valid:
            handles += axes.plot(*zip(*valid, strict=True), gid="valid", label="validation loss", **style)
            axes.plot(*zip(*valid, strict=True), ".", **style)
        legend = axes.legend(handles=handles, frameon=False, loc="upper right")
        for handle, line in zip(legend.get_lines(), handles, strict=True):
            handle.set_gid(line.get_gid())
        stream = io.BytesIO()
        figure.savefig(stream, format="svg")
    return _to_inline(stream.getvalue())


def _figure(size: tuple[float, float], x_label: str, y_label: str) -> tuple[Any, Any]:
    """A figure and its axes; no display is needed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.3)
    return figure, axes


def _to_inline(svg: bytes) -> str:
    """Make matplotlib's SVG fit for a page: without ids and style sheet, which reach beyond it, and without colours."""
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "defs"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        attributes = dict(element.attrib)
        styles = dict(re.findall(r"([\w-]+): *([^;]+)", attributes.get("style", "")))
        element.attrib.clear()
        if attributes.get("id") in CLASSES:
            element.set("class", attributes["id"])
        if element.tag == "use":  # a marker
            element.tag = "circle"
            element.attrib |= {"class": "dot", "cx": attributes["x"], "cy": attributes["y"], "r": "2.5"}
            continue
        for name in ("viewBox", "d", "x", "y", "transform"):
            if name in attributes:
                element.set(name, re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", attributes[name]))
        if size := re.search(r"[\d.]+px", styles.get("font", "")):  # before matplotlib 3.10
            styles["font-size"] = size[0]
        element.attrib |= COLORS.get(element.tag, {}) | {name: styles[name] for name in STYLES if name in styles}
    return ElementTree.tostring(root, encoding="unicode")


def _evaluations(run: Path) -> list[tuple[float, float]]:
    """(seconds, valid loss) of each evaluation."""
    try:
        lines = read_metrics(run).of("valid")
    except OSError:
        lines = []
    points = [
        (line.values["seconds"], line.values[VALID_LOSS])
        for line in lines
        if {"seconds", VALID_LOSS} <= line.values.keys()
    ]
    if not points:
        raise UserError(f"{run}: has no evaluation to draw; a shard set with a valid split makes them")
    return points


def _losses(lines: Sequence[MetricsLine]) -> list[tuple[int, float]]:
    """(step, loss) of the lines whose loss can be drawn."""
    losses = ((line.step, line.values.get("loss", math.nan)) for line in lines)
    return [(step, loss) for step, loss in losses if abs(loss) < LARGEST]


def _average_groups(points: Points) -> list[tuple[float, float]]:
    """At most POINTS means of neighbouring points."""
    size = math.ceil(len(points) / POINTS) or 1
    groups = [points[first : first + size] for first in range(0, len(points), size)]
    return [(fmean(step for step, _ in group), fmean(loss for _, loss in group)) for group in groups]


def _mean_of_last(points: Points) -> float:
    return fmean(loss for _, loss in points[-max(1, round(SMOOTHING * len(points))) :])


def _smooth(points: Points) -> list[tuple[float, float]]:
    """Each loss as the mean of its neighbours, as many to either side; fewer towards the ends."""
    reach = max(2, round(SMOOTHING * len(points)))
    smooth = []
    for index, (step, _) in enumerate(points):
        side = min(reach, index, len(points) - 1 - index)
        smooth.append((step, fmean(loss for _, loss in points[index - side : index + side + 1])))
    return smooth
