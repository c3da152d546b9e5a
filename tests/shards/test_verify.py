"""shards.verify: every fault is found and named, also those that stock WebDataset reads past."""

import json
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import webdataset
from click.testing import CliRunner

from shards.__main__ import main
from shards.errors import ShardError
from shards.summary import summarize
from shards.verify import find_faults


@pytest.fixture
def whole(make_set: Callable[..., Path]) -> Path:
    return make_set(train=[3, 3], valid=[2])


def faults(folder: Path) -> str:
    return "\n".join(find_faults(folder))


def test_a_whole_set_has_no_faults(whole: Path) -> None:
    assert faults(whole) == ""
    result = CliRunner().invoke(main, ["verify", str(whole)])
    assert result.exit_code == 0
    assert "3 shards, 8 notes" in result.output


def test_a_tar_cut_at_any_block_is_named(whole: Path) -> None:
    path = whole / "train-00001.tar"
    data = path.read_bytes()
    for size in range(0, len(data), 512):
        path.write_bytes(data[:size])
        assert "train-00001.tar" in faults(whole)


def stock_reads_without_a_word(path: Path) -> bool:
    """True if stock WebDataset gets to the end of `path` with no error and no warning."""
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always", UserWarning)
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            list(webdataset.WebDataset([str(path)], shardshuffle=False, empty_check=False).decode())
        except Exception:
            return False
    return not messages


def test_stock_webdataset_reads_past_flipped_bits_that_verify_names(whole: Path) -> None:
    path = whole / "train-00000.tar"
    data = path.read_bytes()
    bits = random.Random(0).sample(range(len(data) * 8), 200)
    unnoticed = 0
    for bit in bits:
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        assert "train-00000.tar: its sha256" in faults(whole)
        unnoticed += stock_reads_without_a_word(path)
    assert unnoticed > 100


def test_swapped_renamed_missing_and_extra_shards_are_named(whole: Path) -> None:
    first, second = whole / "train-00000.tar", whole / "train-00001.tar"
    aside = whole / "aside"
    first.rename(aside), second.rename(first), aside.rename(second)
    assert "train-00000.tar" in faults(whole)
    assert "train-00001.tar" in faults(whole)
    second.rename(whole / "train-00002.tar")
    assert "train-00001.tar: missing" in faults(whole)
    assert "train-00002.tar: is not in the manifest" in faults(whole)


def test_what_an_interrupted_run_left_is_named(whole: Path) -> None:
    (whole / "train-00002.tar.part").write_bytes(b"")
    shutil.copy(whole / "train-00000.json", whole / "train-00009.json")
    assert "left by an interrupted run" in faults(whole)
    assert "train-00009.json: is the record of a shard that is not in the manifest" in faults(whole)


def test_a_record_that_differs_or_is_missing_is_named(whole: Path) -> None:
    shutil.copy(whole / "train-00000.json", whole / "train-00001.json")
    (whole / "valid-00000.json").unlink()
    assert "train-00001.json: sha256 is" in faults(whole)
    assert "valid-00000.json: missing" in faults(whole)


@pytest.mark.parametrize("name", ["longest", "label_counts"])
def test_statistics_of_other_notes_are_named_and_a_record_without_them_is_whole(whole: Path, name: str) -> None:
    path = whole / "train-00001.json"
    record = json.loads(path.read_text())
    other = json.loads((whole / "valid-00000.json").read_text())
    path.write_text(json.dumps({**record, name: 26 if name == "longest" else other[name]}))
    assert f"train-00001.json: {name} is not that of the shard's notes" in faults(whole)
    del record[name]
    path.write_text(json.dumps(record))
    assert faults(whole) == ""


def test_faults_exit_with_one_and_an_unfinished_set_with_two(whole: Path) -> None:
    (whole / "valid-00000.tar").unlink()
    result = CliRunner().invoke(main, ["verify", str(whole)])
    assert result.exit_code == 1
    assert "valid-00000.tar: missing" in result.output
    (whole / "manifest.json").unlink()
    assert CliRunner().invoke(main, ["verify", str(whole)]).exit_code == 2


@pytest.mark.parametrize("name", ["notes", "tokens", "bytes"])
@pytest.mark.parametrize("wrong", [str, float, lambda count: True, lambda count: -count, lambda count: 10**30])
def test_a_count_that_is_no_whole_number_is_a_fault(whole: Path, name: str, wrong: Callable[[int], object]) -> None:
    path = next(whole.glob("train-*.json"))
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, name: wrong(record[name])}))
    assert any(str(path) in fault for fault in find_faults(whole))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("codebooks", 10**12),
        ("codebook_size", 10**12),
        ("bandwidth", 1e999),
        ("sample_rate", True),
        ("hop", "320"),
    ],
)
def test_a_codec_beyond_all_bounds_is_refused_before_anything_is_made_of_it(
    whole: Path, field: str, value: object
) -> None:
    path = whole / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["codec"][field] = value
    path.write_text(json.dumps(manifest))
    for read in (lambda: list(find_faults(whole)), lambda: summarize(whole)):
        with pytest.raises(ShardError, match=r"manifest\.json"):
            read()


def test_inspect_refuses_codes_that_the_codec_cannot_have_made(whole: Path) -> None:
    path = whole / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["codec"]["codebook_size"] = 8
    path.write_text(json.dumps(manifest))
    with pytest.raises(ShardError, match="but a codebook has 0 to 7"):
        summarize(whole)
