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
    assert "6 notes" in result.output and "train     4 notes in 1 shard" in result.output
    assert "Next: python -m pipeline encode" in result.output
    assert files_of(root / "nsynth-guitar-train") == before and [path.name for path in tmp_path.iterdir()] == ["audio"]


@pytest.mark.parametrize("changes", [{}, {"duration": None, "segment": 0.2}])
def test_the_plan_of_another_precision_says_how_many_codes_are_float32s(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    root = nsynth_folder(tmp_path / "audio")
    (root / "empty.wav").write_text("no sound")
    estimate = estimate_set(root, options(precision="bfloat16", **changes), workers=1)
    request = EncodeRequest(root, tmp_path / "set", options(precision="bfloat16", **changes), workers=1)
    made = encode_folder(request, Silent()).equal_codes  # of all notes, as there are few
    assert len(estimate.equal_codes) == 2 and all(0.8 < share <= 1 for share in estimate.equal_codes)
    assert estimate.measured > 0 and estimate.equal_codes == pytest.approx(made)
    assert f"  bfloat16  codes equal to float32's, by codebook: {made[0]:.2%}, {made[1]:.2%}" in estimate.lines()
    assert estimate_set(root, options(), workers=1).equal_codes == ()


def test_with_gpus_the_slower_of_reading_and_encoding_takes_the_time(tmp_path: Path) -> None:
    estimate = replace(estimate_set(nsynth_folder(tmp_path / "audio"), options(), workers=1), speed=500.0, workers=15)
    with_gpus = replace(estimate, gpus=2, gpu_speed=3000.0)
    assert with_gpus.minutes == pytest.approx(estimate.hours * 60 / 6000)
    assert replace(with_gpus, workers=3).minutes == pytest.approx(estimate.hours * 60 / 1500)
    measured = f"measured on {estimate.measured} notes)"
    assert f"15 readers (500x real time each) and 2 GPUs (3000x, {measured}" in "".join(with_gpus.lines())
    assert f"15 workers (500x real time each, {measured}" in "".join(estimate.lines())


def test_a_folder_of_unusable_files_can_still_be_estimated(tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_text("no sound")
    estimate = estimate_set(tmp_path, options(), workers=1)
    assert (estimate.files, estimate.measured, estimate.minutes) == ({"train": 1}, 0, 0.0)
