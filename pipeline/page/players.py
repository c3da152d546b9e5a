"""A player of the page: the WAV, its pictures, its labels as text, or the reason that it cannot play.

All text from a JSON file passes through `plain` here, and the template escapes it. Knows no HTML.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from pipeline.notes.nsynth import midi
from pipeline.page.plots import outline, spectrogram
from shards.files import atomic_write

MEDIA = "page"  # folder of the page's own pictures and sounds, beside the samples
MAX_TEXT = 200  # characters of a value that are shown
NOTE_NAMES = ("C", "C♯", "D", "D♯", "E", "F", "F♯", "G", "G♯", "A", "A♯", "B")
MINUS = "\N{MINUS SIGN}"
Facts = tuple[tuple[str, str], ...]  # (name, value)


@dataclass(frozen=True)
class Player:
    """One player; URLs are relative to the page."""

    name: str
    title: str
    subtitle: str = ""
    facts: Facts = ()
    wav_url: str | None = None  # None: there is nothing to play
    picture_url: str | None = None  # of the spectrogram
    outline: str = ""  # of the waveform, an SVG path
    duration: str = ""
    fault: str | None = None  # the reason that something is missing, in one line


def add_media(player: Player, folder: Path, wav: Path, waveform: np.ndarray, sample_rate: int) -> Player:
    """Return the player with its WAV and the pictures of its waveform, which are written into `folder`."""
    picture = picture_of(folder / MEDIA / wav.name if wav.parent == folder else wav)
    with atomic_write(picture) as file:
        file.write(spectrogram(waveform, sample_rate))
    return replace(
        player,
        wav_url=relative_url(wav, folder),
        picture_url=relative_url(picture, folder),
        outline=outline(waveform),
        duration=format_seconds(len(waveform) / sample_rate),
        facts=(*player.facts, ("peak", format_peak(waveform))),
    )


def picture_of(wav: Path) -> Path:
    """The file of a WAV's spectrogram."""
    return wav.with_suffix(".png")


def title_and_subtitle(labels: Mapping[str, Any], name: str) -> tuple[str, str]:
    """Return the pitch as a note name (without a pitch, `name`), and the labels as one line of text."""
    pitch, velocity, instrument = midi(labels, "pitch"), labels.get("velocity"), labels.get("instrument_str")
    title, texts = plain(name), []
    if pitch is not None:
        title = note_name(pitch)
        texts.append(f"pitch {pitch}")
    if velocity is not None:
        texts.append(f"velocity {plain(velocity)}")
    if instrument is not None:
        texts.append(plain(instrument))
    return title, ", ".join(texts)


def note_name(pitch: int) -> str:
    """Return the name of a MIDI pitch; 60 is C4."""
    return f"{NOTE_NAMES[pitch % 12]}{pitch // 12 - 1}"


def plain(value: Any, max_length: int = MAX_TEXT) -> str:
    """Turn any value into short text that can be shown and stored: no control characters, no lone surrogates."""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    text = text if len(text) <= max_length else f"{text[: max_length - 1]}…"
    text = text.encode("utf-8", "replace").decode()
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def relative_url(path: Path, folder: Path) -> str:
    """Return the URL of a file in the page's folder; its name may hold any bytes."""
    return quote(os.fsencode(path.relative_to(folder)))


def format_seconds(duration: float) -> str:
    """Return a duration as the players show it."""
    return f"{duration:.1f} s"


def format_peak(waveform: np.ndarray) -> str:
    """Return the peak in dB relative to full scale."""
    peak = float(np.abs(waveform).max(initial=0.0))
    return f"{20 * np.log10(peak):.0f} dB".replace("-", MINUS) if peak > 0 else "silence"
