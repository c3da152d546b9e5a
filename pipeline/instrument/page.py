"""The keyboard page: one HTML file with a keyboard to play, the sounds, and how each of them was made.

It needs no other file, no server and no network: the sounds are in it as base64. Measures and chooses nothing.
"""

import base64
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.instrument.choose import Pair
from pipeline.instrument.instrument import Figures, Instrument, Missing, Region
from pipeline.instrument.octaves import octave_text
from pipeline.instrument.sfz import ATTACK, RELEASE
from pipeline.page.page import INDEX, render
from pipeline.page.players import MINUS, Facts, format_seconds, note_name, plain, relative_url
from shards.files import atomic_write

TEMPLATE = "keyboard.html"
BLACK_KEYS = frozenset({1, 3, 6, 8, 10})  # of an octave, from C
BLACK_WIDTH = 0.62  # of a white key
COMPUTER_KEYS = 29  # from the lower row's Z to the upper row's P, semitones
MISSING, UNKNOWN = "missing", "unknown"  # classes of cells without a good candidate, or without this figure


@dataclass(frozen=True)
class PianoKey:
    """A key of the piano, with its position as shares of the keyboard's width."""

    key: int  # MIDI
    name: str
    label: str  # for screen readers
    left: float
    width: float
    is_black: bool
    is_filled: bool  # at one velocity at least there is no good candidate


@dataclass(frozen=True)
class Cell:
    """A pair of key and velocity, and the sound that plays it."""

    key: int
    velocity: int
    region: Region | None  # None: nothing plays it
    missing: Missing | None  # None: it has a sound of its own, or was not sampled

    @property
    def name(self) -> str:
        return note_name(self.key)

    def origin(self) -> str:
        """Say in a sentence which sound plays the pair."""
        if self.missing is not None:
            filled = "Silent" if self.region is None else f"Filled by {self._source(self.region)}"
            return f"{filled}: no good candidate of {self.missing.candidates}."
        if self.region is None:
            return "Silent: not sampled."
        if self.region.pitch == self.key:
            return "A real note." if self.region.figures.candidate is None else "Sampled on this key."
        return f"Played by {self._source(self.region)}: this key was not sampled."

    def _source(self, region: Region) -> str:
        velocity = "" if region.velocity == self.velocity else f" at velocity {region.velocity}"
        return f"{note_name(region.pitch)}{velocity}"


@dataclass(frozen=True)
class Colours:
    """The colours of a heat map: one figure of a sound in a few classes."""

    title: str
    intro: str
    figure: Callable[[Figures], float | None]
    decimals: int
    sign_counts: bool  # otherwise -5 has the colour of 5
    steps: tuple[float, ...]  # the upper end of each class but the last
    legend: tuple[str, ...]  # the meaning of each class

    def of(self, cell: Cell) -> tuple[str, str]:
        """Return the class of a cell and its text."""
        if cell.missing is not None:
            return MISSING, ""
        value = None if cell.region is None else self.figure(cell.region.figures)
        if value is None:
            return UNKNOWN, ""
        index = bisect_left(self.steps, value if self.sign_counts else abs(value))
        return f"step-{index}", _signed(value, self.decimals)


@dataclass(frozen=True)
class HeatMap:
    """A picture of all pairs: keys across, velocities down, coloured by one figure."""

    title: str
    intro: str
    legend: Sequence[tuple[str, str]]  # (class, meaning)
    rows: Sequence[tuple[int, Sequence[tuple[Cell, str, str]]]]  # velocity -> (cell, class, text) of each key


def write_keyboard(folder: Path, instrument: Instrument) -> Path:
    """Write `folder/index.html`; the sounds of the instrument are in the folder.

    Raises:
        OSError: a sound is not there, or the folder cannot be written.
    """
    lowest = min(region.low_key for region in instrument.regions)
    highest = max(region.high_key for region in instrument.regions)
    velocities = sorted({*instrument.velocities, *(pair.velocity for pair in instrument.missing)})
    cells = {
        (key, velocity): _cell(instrument, key, velocity)
        for velocity in velocities
        for key in sorted({*instrument.keys, *range(lowest, highest + 1)})
    }
    sounds = sorted({region.sample for region in instrument.regions})
    data = {
        "attack": ATTACK,
        "release": RELEASE,
        "firstOctave": _first_octave(lowest, highest),
        "regions": [
            {
                "pitch": region.pitch,
                "velocity": region.velocity,
                "keys": [region.low_key, region.high_key],
                "velocities": [region.low_velocity, region.high_velocity],
                "sound": sounds.index(region.sample),
                "tune": region.tune,
                "volume": region.volume,
                "quietest": region.quietest,
                "facts": _figures(region),
            }
            for region in instrument.regions
        ],
        "origins": {f"{key}-{velocity}": cell.origin() for (key, velocity), cell in cells.items()},
    }
    content = {
        "name": plain(instrument.name),
        "facts": _facts(instrument),
        "qualities": list(_qualities(instrument)),
        "missing": len(instrument.missing),
        "files": [
            (relative_url(folder / f"{instrument.name}{suffix}", folder), plain(f"{instrument.name}{suffix}"), use)
            for suffix, use in (
                (
                    ".sfz",
                    "for samplers that read SFZ, such as sfizz and sforzando; it needs the folder samples beside it",
                ),
                (".dspreset", "for DecentSampler, with the same folder"),
                (".zip", "all of it, to hand on"),
            )
        ],
        "keys": _piano_keys(lowest, highest, cells.values()),
        "width": _edges(lowest, highest)[1],
        "maps": list(_heat_maps(instrument, cells, velocities)),
        "columns": len(instrument.keys),
        "data": data,
        "sounds": [base64.b64encode((folder / sound).read_bytes()).decode() for sound in sounds],
    }
    path = folder / INDEX
    with atomic_write(path) as file:
        file.write(render(Path(__file__).with_name(TEMPLATE), content).encode())
    return path


def _cell(instrument: Instrument, key: int, velocity: int) -> Cell:
    playing = (
        region
        for region in instrument.regions
        if region.low_key <= key <= region.high_key and region.low_velocity <= velocity <= region.high_velocity
    )
    missing = (pair for pair in instrument.missing if (pair.pitch, pair.velocity) == (key, velocity))
    return Cell(key, velocity, next(playing, None), next(missing, None))


def _piano_keys(lowest: int, highest: int, cells: Iterable[Cell]) -> list[PianoKey]:
    filled = {cell.key for cell in cells if cell.missing is not None}
    start, width = _edges(lowest, highest)
    return [
        PianoKey(
            key=key,
            name=note_name(key),
            label=f"{note_name(key)}{', filled by a neighbour' if key in filled else ''}",
            left=(_left_edge(key) - start) / width,
            width=(BLACK_WIDTH if key % 12 in BLACK_KEYS else 1.0) / width,
            is_black=key % 12 in BLACK_KEYS,
            is_filled=key in filled,
        )
        for key in range(lowest, highest + 1)
    ]


def _edges(lowest: int, highest: int) -> tuple[float, float]:
    """Return the left edge of a keyboard and its width, in white keys."""
    left = _left_edge(lowest)
    right = _left_edge(highest) + (BLACK_WIDTH if highest % 12 in BLACK_KEYS else 1.0)
    return left, max(right - left, 1.0)


def _left_edge(key: int) -> float:
    """Return the left edge of a key in white keys from MIDI 0; a black one is across the edge of two white ones."""
    octave, semitone = divmod(key, 12)
    whites = 7 * octave + sum(other not in BLACK_KEYS for other in range(semitone))
    return whites - BLACK_WIDTH / 2 if semitone in BLACK_KEYS else whites


def _first_octave(lowest: int, highest: int) -> int:
    """Return the C at which the computer's keys begin, so that they are in the middle of the keyboard."""
    return 12 * round((lowest + highest + 1 - COMPUTER_KEYS) / 24)


def _figures(region: Region) -> Facts:
    """The figures of a sound, as (name, value) to show."""
    figures = region.figures
    good = "all good" if figures.good == figures.candidates else f"{figures.good} good"
    candidates = f"{figures.candidates}, {good}; number {(figures.candidate or 0) + 1} chosen"
    facts = [
        ("sound", f"{note_name(region.pitch)}, velocity {region.velocity}, {format_seconds(region.seconds)}"),
        ("candidates", "none: a real note" if figures.candidate is None else candidates),
        (
            f"off {octave_text(figures.octaves)} the key" if figures.octaves else "off the key",
            "no pitch found" if figures.cents is None else f"{_signed(figures.cents, 1)} cents, corrected",
        ),
        ("level", f"{_signed(figures.level, 1, plus='')} dB"),
    ]
    if figures.log_likelihood is not None:
        facts.append(("log-likelihood", f"{_signed(figures.log_likelihood, 2, plus='')} a token"))
    if figures.distance is not None:
        facts.append(("distance in timbre", _signed(figures.distance, 2, plus="")))
    if figures.nearest is not None:
        facts.append(("nearest train note", plain(figures.nearest)))
    if figures.is_recorded is not None:
        facts.append(("its own train note", "recorded" if figures.is_recorded else "none: extrapolated"))
    return tuple(facts)


def _facts(instrument: Instrument) -> Facts:
    facts = (
        ("run", instrument.run),
        ("step", None if instrument.step is None else f"{instrument.step:,}"),
        ("seed", instrument.seed),
        ("shard set", instrument.shards),
        ("timbre", instrument.timbre),
        ("velocities", ", ".join(map(str, instrument.velocities))),
        ("sounds", len(instrument.regions)),
    )
    return tuple((name, plain(value)) for name, value in facts if value is not None)


def _qualities(instrument: Instrument) -> Iterator[tuple[str, str, str, str]]:
    """Yield (title, value of the chosen sounds, value of the first candidates, meaning)."""
    before, after = instrument.before, instrument.after
    yield "In tune", _percent(after.in_tune), _percent(before.in_tune), "within 50 cents"
    yield "Within 10 cents", _percent(after.within_10_cents), _percent(before.within_10_cents), "before correction"
    if after.distance is not None:
        first = "not measured" if before.distance is None else _signed(before.distance, 2, plus="")
        yield "Distance in timbre", _signed(after.distance, 2, plus=""), first, "0: one instrument, 1: two"
    if after.as_asked is not None:
        first = "not measured" if before.as_asked is None else _percent(before.as_asked)
        yield "Of this timbre", _percent(after.as_asked), first, f"nearest real note is of {plain(instrument.timbre)}"


def _heat_maps(instrument: Instrument, cells: Mapping[Pair, Cell], velocities: Sequence[int]) -> Iterator[HeatMap]:
    colours = [
        Colours(
            "Off the key",
            "Cents between the sound as it was chosen and its key. The keyboard corrects them.",
            lambda figures: figures.cents,
            0,
            False,
            (5.0, 10.0, 25.0),
            ("up to 5 cents", "5 to 10", "10 to 25", "more than 25"),
        )
    ]
    if any(region.figures.distance is not None for region in instrument.regions):
        colours.append(
            Colours(
                "Distance in timbre",
                "Mean distance to the neighbouring keys: 0 is that of a real instrument's own neighbours, 1 that of "
                "two different instruments.",
                lambda figures: figures.distance,
                1,
                True,
                (0.0, 0.5, 1.0),
                ("0 or less: one instrument", "0 to 0.5", "0.5 to 1", "more than 1: two instruments"),
            )
        )
    for colour in colours:
        rows = [
            (velocity, [(cells[key, velocity], *colour.of(cells[key, velocity])) for key in instrument.keys])
            for velocity in velocities
        ]
        classes = {name for _, row in rows for _, name, _ in row}
        legend = [(f"step-{index}", meaning) for index, meaning in enumerate(colour.legend)]
        legend += [
            pair
            for pair in ((UNKNOWN, "not measured"), (MISSING, "no good candidate: played by a neighbour"))
            if pair[0] in classes
        ]
        yield HeatMap(colour.title, colour.intro, legend, rows)


def _signed(value: float, decimals: int, plus: str = "+") -> str:
    """Format a number with a sign; what is rounded to zero has none."""
    text = f"{abs(value):.{decimals}f}"
    sign = "" if not float(text) else MINUS if value < 0 else plus
    return f"{sign}{text}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}\N{NO-BREAK SPACE}%"
