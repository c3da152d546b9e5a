"""Candidates of an instrument as token files: plucked strings through the embedded codec."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.audio import resample
from pipeline.codec.loaded import load_codec
from pipeline.notes.demo import INSTRUMENTS
from pipeline.notes.nsynth import NSYNTH_RATE
from pipeline.notes.string_model import pluck
from shards.note import Note, flatten, write_token_file
from shards.sample_info import SampleInfo

STEEL, NYLON = "guitar_acoustic_001", "guitar_acoustic_000"
SECONDS = 1.5


@dataclass(frozen=True)
class Sound:
    """One candidate: a string that may be out of tune or silent."""

    pitch: int
    velocity: int
    number: int = 0
    cents: float = 0.0
    instrument: str = STEEL
    peak: float = 1.0  # of the string's own

    def waveform(self) -> np.ndarray:
        random = np.random.default_rng(self.pitch)
        sound = pluck(INSTRUMENTS["train"][self.instrument], self.pitch, self.velocity, random)
        sound = resample(sound, round(NSYNTH_RATE * 2 ** (self.cents / 1200)), 24_000)
        return (self.peak * sound[: round(SECONDS * 24_000)]).astype(np.float32)


def write_candidates(folder: Path, sounds: Iterable[Sound], **labels: object) -> Path:
    """Write a token file for each, as the trainer would."""
    codec = load_codec("encodec_mini")
    for sound in sounds:
        codes = codec.encode(torch.from_numpy(sound.waveform()[None]))[0].numpy()
        key = f"candidate-{sound.pitch:03d}-{sound.velocity:03d}-{sound.number:02d}"
        note = Note(key, flatten(codes), {"pitch": sound.pitch, "velocity": sound.velocity, **labels})
        info = SampleInfo(run="runs/x", checkpoint="step-00000007.safetensors", step=7, seed=0, candidate=sound.number)
        write_token_file(folder, note, codec.spec, info)
    return folder
