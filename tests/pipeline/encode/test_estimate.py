"""pipeline.encode.estimate: the plan and the measured speed foretell the set, and nothing is written."""

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.__main__ import main
from pipeline.encode.estimate import estimate_set
from pipeline.encode.run import EncodeRequest, encode_folder
from tests.support.notes import Silent, files_of, nsynth_folder, options


def test_the_estimate_is_the_set_that_is_made(tmp_path: Path) -> None:
    root = nsynth_folder(tmp_path / "audio", train=12, valid=3)
    (root / "empty.wav").touch()
    estimate = estimate_set(root, options(notes_per_shard=5), workers=2)
    request = EncodeRequest(root, tmp_path / "set", options(notes_per_shard=5), workers=1)
    manifest = encode_folder(request, Silent()).manifest
    assert estimate.files == {split: manifest.notes(split) for split in manifest.splits}
    assert estimate.shards == {split: len(shards) for split, shards in manifest.splits.items()}
    assert estimate.hours == pytest.approx(15 * 0.2 / 3600)
    made = sum(shard.bytes for shard in manifest.shards)
    assert made - 10_240 * len(list(manifest.shards)) <= estimate.bytes <= made  # a tar is filled up to 10,240 bytes
    assert estimate.speed > 0 and estimate.minutes == replace(estimate, workers=1).minutes / 2


def test_the_command_writes_nothing_and_says_what_is_next(tmp_path: Path) -> None:
    root = nsynth_folder(tmp_path / "audio")
    before = files_of(root / "nsynth-guitar-train")
    result = CliRunner().invoke(main, ["plan", str(root), "--codec", "encodec_mini", "--duration", "0.2"])
    assert result.exit_code == 0, result.output
    assert "6 notes" in result.output and "train     4 notes in 1 shards" in result.output
    assert "Next: python -m pipeline encode" in result.output
    assert files_of(root / "nsynth-guitar-train") == before and [path.name for path in tmp_path.iterdir()] == ["audio"]


def test_a_folder_of_unusable_files_can_still_be_estimated(tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_text("no sound")
    estimate = estimate_set(tmp_path, options(), workers=1)
    assert (estimate.files, estimate.measured, estimate.minutes) == ({"train": 1}, 0, 0.0)
