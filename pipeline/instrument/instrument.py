"""A playable instrument: its regions, a range of keys and velocities each, and how each of them was made.

`instrument.json` holds it; the SFZ file and the keyboard page are written from it. Knows nothing of candidates that
were not chosen, and opens no audio.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from shards.files import write_json
from shards.parse import read_object, to_dataclass

INSTRUMENT = "instrument.json"


@dataclass(frozen=True)
class Figures:
    """Measurements of the chosen candidate of a pair of key and velocity, and its choice."""

    candidate: int | None  # its number among those of its pair; None: a real note, which was kept
    candidates: int  # drawn for the pair
    good: int  # of them in tune, audible and at about the level of their velocity
    cents: float | None  # off the key; None: no pitch was found
    level: float  # dB against full scale, of its first second
    log_likelihood: float | None  # nats a token
    distance: float | None  # in timbre to its neighbours, as the share of the way from one real instrument to two
    nearest: str | None  # real train note with the most similar timbre at about this key
    is_recorded: bool | None  # the instrument has this pair among the train notes; None: not known
    octaves: int = 0  # above the key, where real notes of the instrument sound, from which `cents` counts


@dataclass(frozen=True)
class Region:
    """A sound, and the keys and velocities that play it."""

    pitch: int  # MIDI, of the sound
    velocity: int  # the one that the sound was sampled with
    low_key: int
    high_key: int
    low_velocity: int
    high_velocity: int
    sample: str  # path of the audio file, relative to the instrument's folder
    seconds: float
    tune: float  # cents that bring it into tune
    volume: float  # dB that bring it to the level of its layer, at the highest velocity of the layer
    quietest: float  # amplitude at the lowest velocity of the layer, as a share of that at the highest
    figures: Figures


@dataclass(frozen=True)
class Missing:
    """A pair of key and velocity without a good candidate, played by a neighbour."""

    pitch: int
    velocity: int
    candidates: int  # drawn for it, none of them good
    filled_by: int | None  # key of the region that plays it; None: there is none


@dataclass(frozen=True)
class Quality:
    """Shares of all pairs of key and velocity, before `tune`; a filled pair counts as failed."""

    in_tune: float  # within 50 cents
    within_10_cents: float
    distance: float | None  # mean of the pairs' distances in timbre
    as_asked: float | None  # share whose nearest real note is of the instrument asked for, where that has some nearby


@dataclass(frozen=True)
class Instrument:
    """All regions, and all that made them."""

    name: str
    run: str | None
    step: int | None
    shards: str | None
    seed: int | None
    timbre: str | None  # the instrument that was asked for, or the note that candidates were compared with
    sample_rate: int  # Hz
    velocities: tuple[int, ...]  # layers, ascending
    keys: tuple[int, ...]  # that were sampled, ascending
    regions: tuple[Region, ...]  # by velocity, then pitch
    missing: tuple[Missing, ...]
    before: Quality  # of each pair's first candidate
    after: Quality  # of the chosen ones
    terms: dict[str, float]  # weights of the choice

    def layer(self, velocity: int) -> Iterator[Region]:
        """The regions of one velocity layer."""
        return (region for region in self.regions if region.velocity == velocity)

    def write(self, folder: Path) -> None:
        write_json(folder / INSTRUMENT, asdict(self))


def read_instrument(folder: Path) -> Instrument:
    """Undo `Instrument.write`.

    Raises:
        OSError: there is no such file.
        ShardError: damaged.
    """
    path = folder / INSTRUMENT
    cure = "write the instrument again"
    return to_dataclass(Instrument, read_object(path, cure), f"{path}:", cure)
