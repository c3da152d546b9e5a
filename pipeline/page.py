"""The listening page: one static folder with the samples, how they look, what was asked for, and how to make more.

`index.html` beside the WAVs and a folder of pictures; relative paths, no server, no network. A token file or a WAV that
is damaged is shown as such, and the rest of the page works.
"""

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cards import make_card, settings_in_common
from pipeline.curve import Curve, read_curve
from pipeline.pictures import RANGE, frequency_height
from pipeline.real_notes import RealNotes, neighbours, real_notes
from pipeline.references import OpenSet, open_set
from pipeline.samples import Sample, read_samples
from pipeline.scores import SAMPLES, Figure, Score, Scores, read_scores, shown
from pipeline.sounds import MINUS, Facts, Sound, plain, shared
from shards.errors import UserError
from shards.files import atomic_write

INDEX = "index.html"
TEMPLATE = "page.html"
HERTZ = ((200, "200 Hz"), (1_000, "1 kHz"), (5_000, "5 kHz"))  # marks at the side of a spectrogram
HEADLINES = ("pitch", "loudness", "copying")  # scores that stand at the top
COUNTS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve")


@dataclass(frozen=True)
class Written:
    """What a call of `write_page` has made."""

    path: Path
    samples: int
    faults: tuple[str, ...]  # what is wrong with which sample or part of the page, one line each


@dataclass(frozen=True)
class Bar:
    """A figure with its length, from 0 to 1."""

    of: str
    text: str
    length: float | None  # None: there is nothing to compare it with
    real: bool


@dataclass(frozen=True)
class ShownScore:
    title: str
    meaning: str
    bars: tuple[Bar, ...]


def write_page(
    folder: Path,
    run: Path | None = None,
    shards: Path | None = None,
    real: int = 4,
    weights: Path | None = None,
    device: str = "auto",
) -> Written:
    """Write `folder/index.html` about the samples in `folder`.

    run, shards: where they are now, if not where the token files say. real: how many real notes stand beside them.

    Raises:
        UserError: no such folder, or no samples in it.
    """
    samples = read_samples(folder)
    common = shared(sample.sampled for sample in samples if sample.sampled)
    run = run or _path(common.get("run"))
    shards = shards or _path(common.get("shards"))
    scores, no_scores = _scores(folder)
    real_part, near = _of_the_set(folder, shards, real, scores, weights, device)
    cards = [make_card(folder, sample, common, scores, near) for sample in samples]
    name = plain(run.name if run else folder.resolve().name)
    content = {
        "title": f"{name}: {len(samples)} notes to listen to",
        "run_name": name,
        "count": _count(len(samples)),
        "lead": _lead(samples),
        "facts": _header_facts(samples, common, run, shards),
        "headline": [_headline(score) for score in scores.scores if score.key in HEADLINES] if scores else [],
        "cards": cards,
        "scores": [_shown(score) for score in scores.scores] if scores else [],
        "no_scores": no_scores,
        "real": real_part,
        "curve": read_curve(run)
        if run
        else Curve("No training curve: the token files do not say which run made them."),
        "commands": _commands(folder, run, shards),
        "hertz": [{"height": frequency_height(hertz), "text": text} for hertz, text in HERTZ],
        "range": RANGE,
    }
    path = folder / INDEX
    with atomic_write(path) as file:
        file.write(_render(content).encode())
    return Written(
        path, len(samples), tuple(f"{card.sound.name}: {card.sound.fault}" for card in cards if card.sound.fault)
    )


def _render(content: Mapping[str, Any]) -> str:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(Path(__file__).with_name(TEMPLATE).read_text(encoding="utf-8")).render(content)


def _path(value: Any) -> Path | None:
    return Path(value) if isinstance(value, str) and value and "\0" not in value else None


def _count(samples: int) -> str:
    number = COUNTS[samples] if samples < len(COUNTS) else f"{samples:,}"
    return f"{number} note{'s' if samples != 1 else ''}"


def _lead(samples: Sequence[Sample]) -> str:
    codec = next((sample.codec for sample in samples if sample.codec), None)
    if codec is None:
        return "Sound files without the tokens they came from."
    return (
        f"A Transformer learned to write notes as {plain(codec.name)} tokens, one after the other, "
        f"{codec.tokens_per_second} tokens for each second of sound. These are notes it wrote by itself."
    )


def _header_facts(samples: Sequence[Sample], common: Mapping[str, Any], run: Path | None, shards: Path | None) -> Facts:
    facts = [(name, plain(path)) for name, path in (("run", run), ("shard set", shards)) if path is not None]
    codec = next((sample.codec for sample in samples if sample.codec), None)
    if codec is not None:
        facts.append(("codec", plain(f"{codec.name}, {codec.bandwidth:g} kbps")))
    return (*facts, *settings_in_common(common))


def _scores(folder: Path) -> tuple[Scores | None, str]:
    """What was measured, or why there is nothing."""
    try:
        scores = read_scores(folder)
    except UserError as error:
        return None, plain(error.message)
    return scores, f"Not measured yet: python -m pipeline score {plain(folder)}, and then this page again."


def _of_the_set(
    folder: Path, shards: Path | None, count: int, scores: Scores | None, weights: Path | None, device: str
) -> tuple[RealNotes, Mapping[str, Sound]]:
    """The section of real notes, and the sounds of the train notes that samples come nearest to."""
    if shards is None:
        why = "the token files do not say which shard set the run was trained on."
        return RealNotes(f"There are none to compare with: {why}"), {}
    keys = {measured.nearest for measured in scores.samples.values()} if scores else set()
    if not count and not keys:
        return RealNotes("None were asked for."), {}
    try:
        source: OpenSet = open_set(shards, weights, device)
        return real_notes(folder, source, count), neighbours(folder, source, {key for key in keys if key})
    except UserError as error:
        return RealNotes(f"There are none to compare with. {plain(error.message)}"), {}


def _headline(score: Score) -> dict[str, str]:
    """The samples' figure, large, with the floor that it should be read against."""
    samples, *floors = score.figures
    floor = next((figure for figure in floors if figure.value is not None), None)
    beside = f"{plain(floor.of)}: {_value(score.kind, floor)}" if floor else ""
    return {"title": plain(score.title), "value": _value(score.kind, samples), "floor": beside}


def _shown(score: Score) -> ShownScore:
    values = [figure.value for figure in score.figures if figure.value is not None]
    whole = 1.0 if score.kind != "distance" else max(values) if len(values) > 1 else None
    bars = tuple(
        Bar(plain(figure.of), _with_range(score.kind, figure), _length(figure.value, whole), figure.of != SAMPLES)
        for figure in score.figures
    )
    return ShownScore(plain(score.title), plain(score.meaning, len(score.meaning)), bars)


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


def _commands(folder: Path, run: Path | None, shards: Path | None) -> list[tuple[str, str]]:
    """(what for, command) that a reader can paste."""
    if run is None:
        return [("Samples of a run, decoded, with a page like this:", "make samples RUN=demo N=16")]
    here, of_run = shlex.quote(os.fspath(folder)), shlex.quote(os.fspath(run))
    sample = f"python -m trainer sample --run {of_run} --out {here}/tokens"
    rest = [
        f"python -m pipeline {task}" for task in (f"decode {here}/tokens --out {here}", f"score {here}", f"page {here}")
    ]
    commands = [
        ("More notes of this run, drawn by another seed:", [f"{sample} --count 16 --seed 1", *rest]),
        (
            "Notes you ask for, here a scale (for runs that were trained with labels):",
            [f"{sample} --label pitch=40:76:4 --label velocity=100", *rest],
        ),
    ]
    if shards is not None:
        train = f"python -m trainer train --shards {shlex.quote(os.fspath(shards))} --run runs/longer --set steps=4000"
        what = "The same notes, a longer training; the shard set is used again as it is:"
        commands.append((what, [train, "make samples RUN=longer"]))
    return [(what, "\n".join(plain(line, len(line)) for line in lines)) for what, lines in commands]
