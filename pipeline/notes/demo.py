"""Demo notes: a few hundred plucked strings as MP3 in NSynth's names and folders, so that all works without any data.

Train and valid have different instruments, as in NSynth. A note depends only on the seed and its name, so a smaller set
is a part of a larger one. Knows the folder's layout and files; the sound of a string is in `string_model.py`.
"""

import hashlib
import io
import itertools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pipeline.notes.nsynth import NSYNTH_RATE, VELOCITIES
from pipeline.notes.string_model import Instrument, pluck
from shards.console import counted, progress_bar, quote
from shards.errors import UserError
from shards.files import PART, atomic_write, write_json
from shards.parse import read_object

PITCHES = (40, 76)  # MIDI, a guitar's low E to the twelfth fret of its high E
RECIPE = "recipe.json"  # written before the first note
MODEL = 1  # version of the sound, so that a folder never mixes two

STEEL = ((98.0, 6.0, 1.2), (196.0, 9.0, 0.9), (385.0, 12.0, 0.6), (560.0, 14.0, 0.4), (980.0, 10.0, 0.3))
CEDAR = ((92.0, 5.0, 2.4), (182.0, 7.0, 1.8), (330.0, 8.0, 0.9), (450.0, 10.0, 0.6), (720.0, 9.0, 0.3))
PARLOUR = ((118.0, 6.0, 1.0), (236.0, 8.0, 1.4), (430.0, 9.0, 1.0), (690.0, 10.0, 0.8), (1_250.0, 8.0, 0.5))
ARCHED = ((130.0, 5.0, 0.8), (280.0, 6.0, 1.2), (520.0, 7.0, 1.4), (860.0, 6.0, 1.2), (1_500.0, 5.0, 0.8))

INSTRUMENTS: dict[str, dict[str, Instrument]] = {
    "train": {
        "guitar_acoustic_000": Instrument(0.24, 2_200, 0.12, decay=7.0, brightness=0.50, body=CEDAR),  # nylon, fingers
        "guitar_acoustic_001": Instrument(0.13, 6_500, 0.20, decay=12.0, brightness=2.00, body=STEEL),  # steel, pick
        "guitar_acoustic_002": Instrument(0.08, 5_000, 0.25, decay=4.5, brightness=0.90, body=ARCHED),  # archtop
        "guitar_electronic_000": Instrument(0.20, 2_600, 0.08, decay=16.0, brightness=1.20, pickup=0.25, tone=1_800),
        "guitar_electronic_001": Instrument(0.10, 7_000, 0.10, decay=14.0, brightness=3.00, pickup=0.06, tone=4_200),
        "guitar_electronic_002": Instrument(
            0.15, 4_000, 0.10, decay=18.0, brightness=2.00, pickup=0.12, tone=3_000, drive=4.0
        ),
    },
    "valid": {
        "guitar_acoustic_003": Instrument(0.17, 4_000, 0.20, decay=9.0, brightness=1.10, body=PARLOUR),
        "guitar_electronic_003": Instrument(0.14, 5_000, 0.10, decay=15.0, brightness=2.00, pickup=0.16, tone=3_000),
    },
}
VALID_VELOCITIES = 1  # velocities per pitch in the valid split: enough to measure on


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the notes of a folder and their sound."""

    seed: int = 0
    velocities: int = 2  # of the five, for each train instrument and pitch; they rotate from pitch to pitch
    lowest: int = PITCHES[0]  # MIDI pitch
    highest: int = PITCHES[1]
    model: int = MODEL

    def __post_init__(self) -> None:
        if self.lowest > self.highest:
            raise UserError(
                f"pitches {self.lowest} to {self.highest}: no pitch is between them; give the lower one first"
            )


@dataclass(frozen=True)
class DemoNote:
    """One note to synthesize."""

    split: str
    instrument: str
    pitch: int
    velocity: int

    @property
    def name(self) -> str:
        """NSynth's name of the note, its key in a shard set."""
        return f"{self.instrument}-{self.pitch:03d}-{self.velocity:03d}"

    @property
    def path(self) -> Path:
        """Path in the folder, as in NSynth's guitar subset."""
        return Path(f"nsynth-guitar-{self.split}") / f"{self.name}.mp3"


@dataclass(frozen=True)
class DemoNotes:
    """A complete folder of demo notes."""

    folder: Path
    notes: int
    new: int  # written by this run

    def lines(self) -> Iterator[str]:
        yield (
            f"{self.folder}: {counted(self.notes, 'note')}, {self.new:,} of them new. "
            f"Next: python -m pipeline encode {quote(self.folder)} --out shards/demo --codec encodec_mini"
        )


def notes_of(recipe: Recipe) -> Iterator[DemoNote]:
    """List the recipe's notes, split by split: every pitch of every instrument, at rotating velocities."""
    for split, instruments in INSTRUMENTS.items():
        count = recipe.velocities if split == "train" else min(recipe.velocities, VALID_VELOCITIES)
        pitches = range(recipe.lowest, recipe.highest + 1)
        for (number, instrument), pitch, step in itertools.product(enumerate(instruments), pitches, range(count)):
            # Steps of 2 in a ring of 5: two velocities of a pitch are never neighbours.
            yield DemoNote(split, instrument, pitch, VELOCITIES[(pitch + number + 2 * step) % len(VELOCITIES)])


def render(note: DemoNote, seed: int) -> np.ndarray:
    """Synthesize a note, a function of seed and name: (sample,) float32 at NSYNTH_RATE."""
    entropy = hashlib.sha256(f"{seed}/{note.name}".encode()).digest()
    random = np.random.default_rng(int.from_bytes(entropy, "big"))
    return pluck(INSTRUMENTS[note.split][note.instrument], note.pitch, note.velocity, random)


def mp3(samples: np.ndarray) -> bytes:
    """Encode as MP3 at LAME's best variable bit rate; decoders that read its tag restore the number of samples."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, samples, NSYNTH_RATE, format="MP3", bitrate_mode="VARIABLE", compression_level=0.0)
    return file.getvalue()


def make_demo_notes(out: Path, recipe: Recipe) -> DemoNotes:
    """Write the recipe's notes that are not in `out` yet, with a progress bar.

    Raises:
        UserError: `out` holds other files, or notes of another recipe.
    """

    def write(note: DemoNote) -> None:
        with atomic_write(out / note.path) as file:
            file.write(mp3(render(note, recipe.seed)))

    notes = {note.path: note for note in notes_of(recipe)}
    _prepare_folder(out, recipe, set(notes))
    new = [note for path, note in notes.items() if not (out / path).exists()]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # threads: the filters and LAME release Python's lock
        notes_written = pool.map(write, new)
        for _ in progress_bar(iterable=notes_written, total=len(new), desc="plucking", unit="note", disable=not new):
            pass
    return DemoNotes(out, len(notes), len(new))


def _prepare_folder(out: Path, recipe: Recipe, paths: set[Path]) -> None:
    """Check that `out` holds nothing but notes of this recipe, and write the recipe into it. Raises UserError."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file, and the notes need a folder; choose another name")
    has_recipe = (out / RECIPE).exists()
    if has_recipe:
        _check_recipe(out, recipe)
    for folder, folders, names in os.walk(out):  # stops at the first foreign file, however large the folder is
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name).relative_to(out)
            is_ours = path == Path(RECIPE) or path.with_name(name.removesuffix(PART)) in paths
            if not is_ours and not name.startswith("."):  # hidden files are the file manager's
                raise UserError(f"{out}: holds {path}, which is not a demo note; choose an empty or new folder")
    if not has_recipe:
        write_json(out / RECIPE, asdict(recipe))


def _check_recipe(out: Path, recipe: Recipe) -> None:
    """Raise UserError unless the notes in `out` are of this recipe."""
    try:
        earlier = read_object(out / RECIPE, "remove it")
    except UserError as error:
        raise UserError(
            f"{out / RECIPE}: is not the recipe of demo notes; choose another folder or remove it"
        ) from error
    for field, value in asdict(recipe).items():
        if earlier.get(field) != value:
            fact = f"was made with {field} {earlier.get(field)}, not {value}"
            raise UserError(f"{out}: {fact}; choose another folder, or remove it")
