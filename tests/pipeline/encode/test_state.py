"""pipeline.encode.state: records that the encoding parent has in memory, and those it reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.encode import run
from pipeline.encode.run import EncodeRequest, encode_folder
from shards import record
from shards.record import ShardRecord
from tests.support.notes import Silent, nsynth_folder, options

pytestmark = pytest.mark.usefixtures("without_workers")


def test_records_in_memory_have_no_label_counts_and_none_is_read_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Sequence[ShardRecord]] = []
    read: list[str] = []
    finish, read_record = run._finish, record.read_shard_record

    def see_records(*arguments: Any) -> Any:
        kept.append(arguments[-2])
        return finish(*arguments)

    def see_path(path: Path) -> ShardRecord:
        read.append(path.name)
        return read_record(path)

    monkeypatch.setattr(run, "_finish", see_records)
    monkeypatch.setattr(record, "read_shard_record", see_path)
    audio, out = nsynth_folder(tmp_path / "audio", train=5, valid=2), tmp_path / "set"
    request = EncodeRequest(audio, out, options(notes_per_shard=3))
    encode_folder(request, Silent())
    assert read == []
    for name in ("manifest.json", "train-00001.json"):
        (out / name).unlink()
    encode_folder(request, Silent())
    assert read == ["train-00000.json", "valid-00000.json"]
    for records in kept:
        assert [each.shard.name for each in records] == ["train-00000.tar", "train-00001.tar", "valid-00000.tar"]
        assert all(each.label_counts is None for each in records)
    assert all(record.read_shard_record(path).label_counts for path in out.glob("*-?????.json"))
