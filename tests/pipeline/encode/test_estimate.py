"""pipeline.encode.estimate: what `encode` would make is known before it is made, and nothing is written."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.__main__ import main
from pipeline.encode.estimate import preview
from pipeline.encode.run import Request, encode_folder
from pipeline.notes.folder import scan_folder
from tests.support.notes import Silent, choice, files_of, nsynth_folder


def test_what_is_foretold_is_what_is_made(tmp_path: Path) -> None:
    root = nsynth_folder(tmp_path / "audio", train=12, valid=3)
    (root / "empty.wav").touch()
    shown = preview(scan_folder(root), choice(notes_per_shard=5))
    manifest = encode_folder(
        Request(root, tmp_path / "set", lambda: choice(notes_per_shard=5), workers=1), Silent()
    ).manifest
    assert shown.notes == {split: manifest.notes(split) for split in manifest.splits}
    assert shown.shards == {split: len(shards) for split, shards in manifest.splits.items()}
    assert shown.hours == pytest.approx(15 * 0.2 / 3600)
    made = sum(shard.bytes for shard in manifest.shards)
    assert made - 10_240 * len(list(manifest.shards)) <= shown.bytes <= made  # a tar is filled up to 10,240 bytes
    assert shown.speed > 0 and shown.minutes(2) == shown.minutes(1) / 2


def test_the_command_writes_nothing_and_says_what_is_next(tmp_path: Path) -> None:
    root = nsynth_folder(tmp_path / "audio")
    before = files_of(root / "nsynth-guitar-train")
    result = CliRunner().invoke(main, ["plan", str(root), "--codec", "encodec_mini", "--duration", "0.2"])
    assert result.exit_code == 0, result.output
    assert "6 notes" in result.output and "train     4 notes in 1 shards" in result.output
    assert "Next: python -m pipeline encode" in result.output
    assert files_of(root / "nsynth-guitar-train") == before and [path.name for path in tmp_path.iterdir()] == ["audio"]


def test_a_folder_of_unusable_files_can_still_be_shown(tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_text("no sound")
    shown = preview(scan_folder(tmp_path), choice())
    assert (shown.notes, shown.sampled, shown.minutes(1)) == ({"train": 1}, 0, 0.0)
