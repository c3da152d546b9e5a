"""The listening page: one static folder with the samples, how they look, what was asked for, and how to make more.

`index.html` beside the WAVs and a folder of pictures; relative paths, no server, no network. A token file or a WAV that
is damaged is shown as such, and the rest of the page works.
"""

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.page.cards import make_card, settings_in_common
from pipeline.page.players import PICTURES, Facts, Sound, plain, shared
from pipeline.page.plots import RANGE, frequency_height
from pipeline.page.real_notes import RealNotes, neighbours, real_notes
from pipeline.page.score_bars import bars, headlines
from pipeline.score.references import OpenSet, open_set
from pipeline.score.samples import Sample, read_samples
from pipeline.score.scores import Scores, read_scores
from shards.curve import Curve, read_curve
from shards.errors import UserError
from shards.files import atomic_write

INDEX = "index.html"
TEMPLATE = "template.html"
HERTZ = ((200, "200 Hz"), (1_000, "1 kHz"), (5_000, "5 kHz"))  # marks at the side of a spectrogram
COUNTS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve")


@dataclass(frozen=True)
class Written:
    """What a call of `write_page` has made."""

    path: Path
    samples: int
    faults: tuple[str, ...]  # what is wrong with which sample or part of the page, one line each


@dataclass(frozen=True)
class Shown:
    """A folder of samples, as far as it is known."""

    name: str  # of its run, or of the folder
    samples: list[Sample]
    common: Mapping[str, Any]  # what all samples were made with alike
    run: Path | None
    shards: Path | None
    scores: Scores | None
    no_scores: str  # why there are none


def write_page(
    folder: Path,
    run: Path | None = None,
    shards: Path | None = None,
    real: int = 4,
    beside: Path | None = None,
    weights: Path | None = None,
    device: str = "auto",
) -> Written:
    """Write `folder/index.html` about the samples in `folder`.

    run, shards: where they are now, if not where the token files say. real: how many real notes stand with them.
    beside: another folder of samples, to be compared with.

    Raises:
        UserError: no such folder, or no samples in it.
    """
    first = _look_into(folder, run, shards)
    second = None if beside is None else _look_into(beside, None, None)
    real_part, near = _of_the_set(folder, first, real, weights, device)
    groups = [(first.name, [make_card(folder, one, first.common, first.scores, near) for one in first.samples])]
    if second is not None:
        brought = [_brought(folder, one) for one in second.samples]
        groups.append((second.name, [make_card(folder, one, second.common, second.scores, {}) for one in brought]))
    shown = [first] if second is None else [first, second]
    names = [one.name for one in shown]
    other_scores = None if second is None else second.scores
    content = {
        "title": f"{' and '.join(names)}: {len(first.samples)} notes to listen to",
        "names": names,
        "count": _count(len(first.samples)),
        "lead": _lead(first.samples),
        "facts": _header_facts(first),
        "groups": groups,
        "headlines": headlines(first.scores, other_scores, names),
        "scores": bars(first.scores, other_scores, names),
        "no_scores": first.no_scores,
        "real": real_part,
        "curves": [(one.name, _curve(one)) for one in shown],
        "commands": _commands(folder, first.run, first.shards),
        "hertz": [{"height": frequency_height(hertz), "text": text} for hertz, text in HERTZ],
        "range": RANGE,
    }
    path = folder / INDEX
    with atomic_write(path) as file:
        file.write(_render(content).encode())
    sounds = [card.sound for _, cards in groups for card in cards]
    return Written(path, len(first.samples), tuple(f"{sound.name}: {sound.fault}" for sound in sounds if sound.fault))


def _look_into(folder: Path, run: Path | None, shards: Path | None) -> Shown:
    samples = read_samples(folder)
    common = shared(sample.sampled for sample in samples if sample.sampled)
    run = run or _path(common.get("run"))
    no_scores = f"Not measured yet: python -m pipeline score {plain(folder)}, and then this page again."
    try:
        scores = read_scores(folder)
    except UserError as error:
        scores, no_scores = None, plain(error.message)
    name = plain(run.name if run else folder.resolve().name)
    return Shown(name, samples, common, run, shards or _path(common.get("shards")), scores, no_scores)


def _brought(folder: Path, sample: Sample) -> Sample:
    """A sample of another folder, with its WAV copied to this one."""
    if not sample.wav.is_file():
        return sample
    wav = folder / PICTURES / "beside" / sample.wav.name
    with atomic_write(wav) as file:
        file.write(sample.wav.read_bytes())
    return replace(sample, wav=wav)


def _curve(shown: Shown) -> Curve:
    if shown.run is None:
        return Curve("No training curve: the token files do not say which run made them.")
    return read_curve(shown.run)


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


def _header_facts(shown: Shown) -> Facts:
    paths = (("run", shown.run), ("shard set", shown.shards))
    facts = [(name, plain(path)) for name, path in paths if path is not None]
    codec = next((sample.codec for sample in shown.samples if sample.codec), None)
    if codec is not None:
        facts.append(("codec", plain(f"{codec.name}, {codec.bandwidth:g} kbps")))
    return (*facts, *settings_in_common(shown.common))


def _of_the_set(
    folder: Path, shown: Shown, count: int, weights: Path | None, device: str
) -> tuple[RealNotes, Mapping[str, Sound]]:
    """The section of real notes, and the sounds of the train notes that samples come nearest to."""
    if shown.shards is None:
        why = "the token files do not say which shard set the run was trained on."
        return RealNotes(f"There are none to compare with: {why}"), {}
    keys = {measured.nearest for measured in shown.scores.samples.values()} if shown.scores else set()
    if not count and not keys:
        return RealNotes("None were asked for."), {}
    try:
        source: OpenSet = open_set(shown.shards, weights, device)
        return real_notes(folder, source, count), neighbours(folder, source, {key for key in keys if key})
    except UserError as error:
        return RealNotes(f"There are none to compare with. {plain(error.message)}"), {}


def _commands(folder: Path, run: Path | None, shards: Path | None) -> list[tuple[str, str]]:
    """(what for, command) that a reader can paste."""
    if run is None:
        return [("Samples of a run, decoded, with a page like this:", "make samples RUN=demo N=16")]
    of_run = shlex.quote(os.fspath(run))

    def chain(suffix: str, options: str) -> list[str]:
        """Sample into a folder of its own beside this one, and all that follows."""
        out = shlex.quote(f"{os.fspath(folder)}-{suffix}")
        return [
            f"python -m trainer sample --run {of_run} --out {out}/tokens {options}",
            f"python -m pipeline decode {out}/tokens --out {out}",
            f"python -m pipeline score {out}",
            f"python -m pipeline page {out}",
        ]

    scale = "Notes you ask for, here a scale (for runs that were trained with labels):"
    commands = [
        ("More notes of this run, drawn by another seed:", chain("more", "--count 16 --seed 1")),
        (scale, chain("scale", "--label pitch=40:76:4 --label velocity=100")),
    ]
    if shards is not None:
        train = f"python -m trainer train --shards {shlex.quote(os.fspath(shards))} --run runs/longer --set steps=4000"
        what = "The same notes, a longer training; the shard set is used again as it is:"
        commands.append((what, [train, "make samples RUN=longer"]))
    return [(what, "\n".join(plain(line, len(line)) for line in lines)) for what, lines in commands]
