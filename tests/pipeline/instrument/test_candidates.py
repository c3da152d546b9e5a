"""pipeline.instrument.candidates: real notes are compared as their set has them."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.codec.loaded import load_codec
from pipeline.instrument.candidates import read_real_notes
from pipeline.score.references import open_shard_set
from shards.files import write_json
from shards.manifest import MANIFEST
from tests.support.listening import RATE, VELOCITIES, make_listening_set


@pytest.mark.parametrize("is_trimmed", [True, False])
def test_silence_before_a_recording_that_the_set_was_made_without_does_not_count(
    tmp_path: Path, is_trimmed: bool
) -> None:
    folder = make_listening_set(tmp_path)
    codec = load_codec("encodec_mini")
    before = read_real_notes(open_shard_set(folder, codec=codec), {*VELOCITIES})
    for path in (tmp_path / "audio").rglob("*.wav"):
        soundfile.write(path, np.concatenate([np.zeros(RATE // 2), soundfile.read(path)[0]]), RATE)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["audio"]["trim"] = is_trimmed
    write_json(folder / MANIFEST, manifest)
    after = read_real_notes(open_shard_set(folder, codec=codec), {*VELOCITIES})
    assert len(before) == len(after) == 6
    off = [np.abs(note.timbre - other.timbre).max() for note, other in zip(before, after, strict=True)]
    assert max(off) < 0.05 if is_trimmed else min(off) > 0.1
