"""pipeline.encode.reencode: a set is held against the sound it came from."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from pipeline.__main__ import main
from pipeline.audio import load
from pipeline.encode.reencode import Comparison, mean_shares, reencode
from pipeline.encode.run import EncodeRequest, encode_folder
from shards.errors import UserError
from shards.manifest import MANIFEST
from shards.note import Note
from shards.reader import read_shard
from tests.support.notes import Silent, nsynth_folder, options, tone, write_note
from tests.support.shard_sets import random_note, write_set


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `audio` and its `set`."""
    home = tmp_path_factory.mktemp("made")
    root = nsynth_folder(home / "audio", train=5, valid=2)
    encode_folder(EncodeRequest(root, home / "set", options(), workers=1), Silent())
    return home


def again(folder: Path, count: int, audio: Path | None = None, seed: int = 0) -> list[Comparison]:
    return list(reencode(folder, count, audio, None, "cpu", seed))


def test_every_note_of_a_set_encodes_to_the_same_codes(made: Path) -> None:
    done = again(made / "set", 100)
    assert len(done) == 7
    assert {(note.shares, note.fault) for note in done} == {((1.0, 1.0), None)}


def test_notes_are_drawn_by_the_seed(made: Path) -> None:
    draws = [{note.key for note in again(made / "set", 3, seed=seed)} for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert len(draws[0]) == 3


def test_only_the_audio_of_the_sampled_notes_is_read(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []

    def load_and_count(path: Path, *arguments: Any) -> np.ndarray:
        names.append(path.stem)
        return load(path, *arguments)

    monkeypatch.setattr("pipeline.encode.reader.load", load_and_count)
    monkeypatch.setattr("pipeline.encode.digests.open", None, raising=False)  # nothing is hashed
    assert [note.key for note in again(made / "set", 3)] == names


def test_sound_that_changed_or_is_gone_is_named(made: Path, tmp_path: Path) -> None:
    root = nsynth_folder(tmp_path / "moved", train=5, valid=2)
    write_note(root / "nsynth-guitar-train/guitar_acoustic_000-040-100.mp3", tone(80, peak=0.9))
    write_note(root / "nsynth-guitar-train/guitar_acoustic_000-041-100.mp3", np.zeros(4_000))
    (root / "nsynth-guitar-train/guitar_acoustic_000-042-100.mp3").unlink()
    faults = {note.key[-7:-4]: note.fault for note in again(made / "set", 100, root) if note.fault}
    assert faults.keys() == {"040", "041", "042"}
    assert "of its codes are what its audio gives" in str(faults["040"])
    assert "now silent" in str(faults["041"])
    assert faults["042"] == "its audio is gone"


def test_codes_that_were_swapped_are_found_although_every_checksum_fits(made: Path, tmp_path: Path) -> None:
    [shard, *_] = [list(read_shard(made / "set" / f"train-{index:05d}.tar")) for index in range(2)]
    codec = options().settings().codec
    swapped = [
        Note(note.key, other.tokens, note.labels) for note, other in zip(shard, shard[1:] + shard[:1], strict=True)
    ]
    manifest = write_set(tmp_path / "set", {"train": [swapped]}, codec)
    from shards.manifest import read_manifest, write_manifest

    ours = read_manifest(made / "set")
    write_manifest(tmp_path / "set", ours.__class__(**{**vars(manifest), "audio": ours.audio, "plan": ours.plan}))
    result = CliRunner().invoke(main, ["verify", str(tmp_path / "set"), "--device", "cpu"])
    assert result.exit_code == 1
    assert "of its codes are what its audio gives" in result.output


def test_the_command_says_how_much_is_equal(made: Path) -> None:
    result = CliRunner().invoke(main, ["verify", str(made / "set"), "--reencode", "4", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert "4 notes encoded again; codes that are equal, by codebook: 100.00%, 100.00%" in result.output


def test_a_set_of_other_makes_is_refused(tmp_path: Path) -> None:
    write_set(tmp_path, {"train": [[random_note("a")]]})
    with pytest.raises(UserError, match="was not made by"):
        again(tmp_path, 1)


def test_what_another_precision_costs_is_counted_by_codebook(made: Path) -> None:
    done = list(reencode(made / "set", 100, precision="bfloat16"))
    shares = mean_shares(comparison.shares for comparison in done)
    assert len(shares) == 2
    assert all(0.8 < share <= 1 for share in shares)


def test_a_set_that_does_not_say_its_audio_is_one_line(made: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(made / "set", tmp_path / "set")
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["audio"]["source"]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="does not say the folder of its audio; name it with --audio"):
        again(folder, 1)
    assert again(folder, 1, made / "audio")[0].fault is None
