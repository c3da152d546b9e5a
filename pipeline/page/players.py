"""One sound as a page shows it: its file, its pictures, its labels in words, or what is wrong with it.

Everything that comes out of a JSON file passes `plain` here, and is escaped by the template. Knows no HTML.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from pipeline.audio import load
from pipeline.page.plots import spectrogram, waveform
from shards.errors import UserError
from shards.files import atomic_write

PICTURES = "page"  # folder of what the page needs beside the samples
LONGEST_TEXT = 200  # characters of a value that are shown
NOTE_NAMES = ("C", "C♯", "D", "D♯", "E", "F", "F♯", "G", "G♯", "A", "A♯", "B")
MINUS = "\N{MINUS SIGN}"
Facts = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Sound:
    """What one player of the page is made from; URLs are relative to the page."""

    name: str
    title: str
    subtitle: str = ""
    facts: Facts = ()
    source: str | None = None  # URL of the WAV; None: there is nothing to play
    picture: str | None = None  # URL of the spectrogram
    outline: str = ""  # of the waveform, an SVG path
    length: str = ""
    fault: str | None = None  # what is wrong, in one line


def show(page: Path, sound: Sound, wav: Path) -> Sound:
    """Add the pictures of a WAV file in the page's folder; of a missing or damaged one, what is wrong with it."""
    if not wav.is_file():
        return replace(sound, fault=sound.fault or f"{plain(wav.name)} is missing; decode the tokens again")
    try:
        samples = load(wav, sample_rate := _rate(wav))
    except UserError as error:
        return replace(sound, fault=sound.fault or plain(error.message))
    picture = (page / PICTURES / wav.name if wav.parent == page else wav).with_suffix(".png")
    with atomic_write(picture) as file:
        file.write(spectrogram(samples, sample_rate))
    return replace(
        sound,
        source=url(wav, page),
        picture=url(picture, page),
        outline=waveform(samples),
        length=seconds(len(samples) / sample_rate),
        facts=(*sound.facts, ("peak", decibels(samples))),
    )


def in_words(labels: Mapping[str, Any], name: str) -> tuple[str, str]:
    """A title and a line below it: the pitch as musicians write it, then what else the labels say."""
    pitch, velocity, instrument = (labels.get(field) for field in ("pitch", "velocity", "instrument_str"))
    title, words = plain(name), []
    if type(pitch) is int and 0 <= pitch <= 127:
        title = note_name(pitch)
        words.append(f"pitch {pitch}")
    if velocity is not None:
        words.append(f"velocity {plain(velocity)}")
    if instrument is not None:
        words.append(plain(instrument))
    return title, ", ".join(words)


def note_name(pitch: int) -> str:
    """A MIDI pitch as musicians write it; 60 is C4."""
    return f"{NOTE_NAMES[pitch % 12]}{pitch // 12 - 1}"


def plain(value: Any, longest: int = LONGEST_TEXT) -> str:
    """Any value as short text that can be shown and stored: no control characters, no half characters."""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    text = text if len(text) <= longest else f"{text[: longest - 1]}…"
    text = text.encode("utf-8", "replace").decode()
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def url(path: Path, page: Path) -> str:
    """The relative URL of a file in the page's folder, whatever bytes its name has."""
    return quote(os.fsencode(path.relative_to(page)))


def seconds(duration: float) -> str:
    """A duration as players show it."""
    return f"{duration:.1f} s"


def decibels(samples: np.ndarray) -> str:
    """The peak against full scale."""
    peak = float(np.abs(samples).max(initial=0.0))
    return f"{20 * np.log10(peak):.0f} dB".replace("-", MINUS) if peak > 0 else "silence"


def shared(values: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The entries that all of `values` have alike."""
    every = list(values)
    return {
        key: value for key, value in (every[0] if every else {}).items() if all(one.get(key) == value for one in every)
    }


def _rate(wav: Path) -> int:
    import soundfile

    try:
        return int(soundfile.info(os.fsencode(wav)).samplerate)
    except soundfile.SoundFileError:
        return 24_000  # not audio: `load` will say so
