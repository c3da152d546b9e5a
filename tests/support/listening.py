"""A shard set of tones with its recordings, and samples, for tests of scores and the page."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.audio import save
from pipeline.codec.loaded import load_codec
from shards.files import write_json
from shards.manifest import MANIFEST
from shards.note import Codec, Note, flatten, write_token_file
from shards.record import read_shard_record, write_shard_record
from shards.sample_info import SampleInfo
from tests.support.notes import tone
from tests.support.shard_sets import write_set

RATE = 24_000  # Hz, of the codec
SECONDS = 1.6
VELOCITIES = (25, 50, 75, 100, 127)


def sound_of(pitch: float, velocity: int = 100) -> np.ndarray:
    """Return the waveform of a note of the set: (sample,) float32."""
    return tone(pitch, SECONDS, RATE, peak=0.8 * (velocity / 127) ** 1.5)


def make_listening_set(root: Path, train: int = 6, valid: int = 4) -> Path:
    """Make `root`/set, encoded by the package's codec from `root`/audio."""
    codec = load_codec("encodec_mini")
    splits: dict[str, list[Note]] = {}
    for split, count in (("train", train), ("valid", valid)):
        for index in range(count):
            pitch, velocity = 45 + 5 * index + (split == "valid"), VELOCITIES[index % len(VELOCITIES)]
            labels = {"pitch": pitch, "velocity": velocity, "instrument_str": f"guitar_acoustic_{split}"}
            key = f"guitar_acoustic_00{int(split == 'valid')}-{pitch:03d}-{velocity:03d}"
            sound = sound_of(pitch, velocity)
            save(root / "audio" / f"some-{split}" / f"{key}.wav", sound, RATE)
            codes = codec.encode(torch.from_numpy(sound)[None])[0].numpy()
            splits.setdefault(split, []).append(Note(key, flatten(codes), labels))
    folder = root / "set"
    write_set(folder, {split: [notes] for split, notes in splits.items()}, codec.spec)
    for split, notes in splits.items():
        record = read_shard_record(folder / f"{split}-00000.json")
        write_shard_record(folder, replace(record, inputs={f"some-{split}/{note.key}.wav": "0" for note in notes}))
    set_source(folder, root / "audio")
    return folder


def set_source(folder: Path, audio: Path) -> None:
    """Make `audio` the folder of recordings in the manifest."""
    value = json.loads((folder / MANIFEST).read_text())
    value["audio"]["source"] = str(audio)
    write_json(folder / MANIFEST, value)


def add_sample(
    folder: Path,
    name: str,
    codec: Codec,
    sound: np.ndarray,
    labels: Mapping[str, Any],
    tokens: np.ndarray | None = None,
    **sampled: Any,
) -> None:
    """Write one sample: a WAV, and a token file with the `sampled` block that the keywords give."""
    if tokens is None:
        tokens = np.random.default_rng([*name.encode()]).integers(codec.codebook_size, size=24, dtype=np.int16)
    write_token_file(folder / "tokens", Note(name, tokens, dict(labels)), codec, SampleInfo(**sampled))
    save(folder / f"{name}.wav", sound, RATE)
