"""pipeline.encode.run: a set is made once, survives whatever stops it, and says where every input went."""

import errno
import fcntl
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from pipeline.__main__ import main
from pipeline.codec.spec import weights_file
from pipeline.encode.ranks import Rank, lock_set
from pipeline.encode.reencode import reencode
from pipeline.encode.run import EncodeOutcome, EncodeRequest, encode_folder
from shards.errors import UserError
from shards.manifest import read_manifest
from shards.reader import read_shard
from shards.record import read_shard_records
from shards.verify import find_faults
from tests.support.disk import largest_file
from tests.support.killed import is_killed
from tests.support.notes import Silent, files_of, nsynth_folder, options, tone, write_note

pytestmark = pytest.mark.usefixtures("without_workers")


def encode(
    audio: Path, out: Path, extend: bool = False, check_audio: bool = False, rank: Rank | None = None, **changes: Any
) -> EncodeOutcome:
    request = EncodeRequest(audio, out, options(**changes), 2, extend, check_audio, rank=rank or Rank())
    return encode_folder(request, Silent())


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    return nsynth_folder(tmp_path / "audio", train=7, valid=2)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "set"


def test_a_folder_becomes_a_whole_set(audio: Path, out: Path) -> None:
    outcome = encode(audio, out)
    manifest = read_manifest(out)
    assert outcome.manifest == manifest
    assert list(find_faults(out)) == []
    assert {split: [shard.notes for shard in shards] for split, shards in manifest.splits.items()} == {
        "train": [3, 3, 1],
        "valid": [2],
    }
    assert manifest.ledger.to_json() == {"inputs": 9, "encoded": 9, "rejected": 0}
    assert manifest.audio["duration"] == 0.2 and manifest.audio["source"] == str(audio)
    assert "pitch" in manifest.labels
    notes = [note for shard in manifest.shards for note in read_shard(out / shard.name)]
    assert {len(note.tokens) for note in notes} == {15 * 2}
    assert sorted(path.stem for path in audio.rglob("*.mp3")) == sorted(note.key for note in notes)


def test_where_the_audio_lies_decides_no_codes(audio: Path, tmp_path: Path) -> None:
    encode(audio, tmp_path / "first")
    moved = audio.rename(tmp_path / "moved")
    assert encode(moved, tmp_path / "first").tasks_run == 0
    encode(moved, tmp_path / "other")
    first, other = files_of(tmp_path / "first"), files_of(tmp_path / "other")
    assert {name for name in first if first[name] != other[name]} == {"manifest.json"}
    assert read_manifest(tmp_path / "first").fingerprint == read_manifest(tmp_path / "other").fingerprint


def test_files_whose_printed_names_are_alike_are_hashed_apart(tmp_path: Path) -> None:
    hashes = set()
    for number, pitches in enumerate([(50, 60), (50, 50), (60, 60)]):
        audio = tmp_path / str(number)
        for name, pitch in zip((os.fsdecode(b"caf\xe9.wav"), "caf\\xe9.wav"), pitches, strict=True):
            write_note(audio / "notes-train" / "plain.wav", tone(pitch)).rename(audio / "notes-train" / name)
        outcome = encode(audio, tmp_path / f"set{number}")
        assert outcome.manifest is not None
        hashes.add(outcome.manifest.plan["inputs_sha256"])
        assert encode(audio, tmp_path / f"set{number}").tasks_run == 0
    assert len(hashes) == 3


def test_a_finished_set_is_returned_as_it_is(audio: Path, out: Path) -> None:
    encode(audio, out)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert encode(audio, out).tasks_run == 0
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"duration": "0.3"}, r"made with duration 0\.2, and this is 0\.3"),
        ({"duration": "full"}, r"made with duration 0\.2, and this is full"),
        ({"notes_per_shard": 5}, "notes per shard 3, and this is 5"),
        ({"seed": 1}, "seed 0, and this is 1"),
        ({"min_peak": 0.5}, "min peak"),
        ({"batch": 3}, "batch 4, and this is 3"),
    ],
)
@pytest.mark.parametrize("is_finished", [True, False])
def test_other_settings_are_refused_by_the_field_that_differs(
    audio: Path, out: Path, changes: dict[str, Any], difference: str, is_finished: bool
) -> None:
    encode(audio, out)
    if not is_finished:
        (out / "manifest.json").unlink()
    before = files_of(out)
    with pytest.raises(UserError, match=difference):
        encode(audio, out, **changes)
    assert files_of(out) == before


def test_other_weights_are_refused(audio: Path, out: Path) -> None:
    encode(audio, out)
    other = out.with_name("other.safetensors")
    other.write_bytes(weights_file("encodec_mini").read_bytes() + b"\0")
    with pytest.raises(UserError, match="codec weights sha256"):
        encode(audio, out, weights=other)


def as_made_by_openvino(out: Path) -> None:
    for path in out.glob("*.json"):
        path.write_text(path.read_text().replace('"backend": "torch"', '"backend": "openvino"'))


@pytest.mark.parametrize("is_finished", [True, False])
def test_a_set_that_openvino_made_is_read_and_not_encoded_into(audio: Path, out: Path, is_finished: bool) -> None:
    encode(audio, out)
    as_made_by_openvino(out)
    if is_finished:
        assert list(find_faults(out)) == []
        result = CliRunner().invoke(main, ["verify", str(out), "--device", "cpu"])
        assert result.exit_code == 2
        assert f"{out}: was encoded by openvino, which is no longer supported" in result.output
    else:
        (out / "manifest.json").unlink()
    before = files_of(out)
    for extend in (False, True):
        with pytest.raises(UserError, match=r"was encoded by openvino, .*encode the folder under a new name") as caught:
            encode(audio, out, extend=extend)
        assert "\n" not in caught.value.message
    assert files_of(out) == before


def test_records_say_the_longest_note_and_how_often_labels_come_together(audio: Path, out: Path) -> None:
    encode(audio, out)
    for name, record in read_shard_records(out, files_of(out)).items():
        notes = list(read_shard(out / name))
        assert record.longest == max(len(note.tokens) for note in notes) == 30
        assert record.label_counts is not None
        pitches = Counter((note.labels["pitch"], note.labels["instrument_str"]) for note in notes)
        assert record.label_counts.of(["pitch", "instrument_str"]) == pitches


def test_a_set_whose_records_lack_the_statistics_of_labels_is_finished_all_the_same(audio: Path, out: Path) -> None:
    encode(audio, out)
    for name in read_shard_records(out, files_of(out)):
        path = (out / name).with_suffix(".json")
        record = json.loads(path.read_text())
        del record["longest"], record["label_counts"]
        path.write_text(json.dumps(record))
    before = files_of(out)
    assert encode(audio, out).tasks_run == 0
    assert files_of(out) == before


def test_a_set_goes_on_with_the_batch_it_was_begun_with(
    audio: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(audio, out)
    whole = files_of(out)
    monkeypatch.setattr("pipeline.encode.settings.CPU_BATCH", 16)
    assert encode(audio, out).tasks_run == 0
    for name in ("manifest.json", "train-00000.json"):
        (out / name).unlink()
    assert encode(audio, out).tasks_run == 1
    assert files_of(out) == whole


def test_a_new_set_has_the_batch_that_is_requested_and_is_found_with_and_without_it(audio: Path, out: Path) -> None:
    outcome = encode(audio, out, batch=3)
    assert outcome.manifest is not None and outcome.manifest.audio["batch"] == 3
    assert encode(audio, out, batch=3).tasks_run == encode(audio, out).tasks_run == 0
    with pytest.raises(UserError, match=r"--batch and --duration full: give one of them"):
        encode(audio, out, batch=3, duration="full")


OPTIONS = ["--codec", "encodec_mini", "--duration", "0.2", "--notes-per-shard", "3", "--device", "cpu"]


def test_a_second_run_in_the_same_set_is_refused(audio: Path, out: Path) -> None:
    out.mkdir()
    handle = os.open(out, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        with pytest.raises(UserError, match="another run"):
            encode(audio, out)
    finally:
        os.close(handle)


def test_a_full_disk_is_one_line_with_the_path_and_the_rerun_completes(audio: Path, tmp_path: Path) -> None:
    encode(audio, tmp_path / "whole")
    with largest_file(6_000), pytest.raises(UserError, match=r"train-00000\.tar: cannot be written .*make") as caught:
        encode(audio, tmp_path / "set")
    assert "\n" not in caught.value.message
    assert not (tmp_path / "set").exists()  # it was empty again
    encode(audio, tmp_path / "set")
    assert files_of(tmp_path / "set") == files_of(tmp_path / "whole")


def test_a_run_that_ended_anywhere_goes_on_and_ends_with_the_same_bytes(audio: Path, tmp_path: Path) -> None:
    encode(audio, tmp_path / "whole")
    whole = files_of(tmp_path / "whole")
    for point in range(100):
        out = tmp_path / f"killed-{point}"
        ended = is_killed(partial(encode, audio, out), point)
        files = files_of(out) if out.exists() else {}
        assert files.items() <= whole.items()  # what has a final name is whole
        done = [name for name in files if name.endswith(".json") and name != "manifest.json"]
        outcome = encode(audio, out)
        assert files_of(out) == whole
        assert outcome.tasks_run == (4 - len(done) if ended else 0)
        if not ended:
            break
    assert 25 <= point < 99


def test_every_bad_file_is_in_the_ledger_with_its_reason_and_the_rest_is_encoded(audio: Path, out: Path) -> None:
    bad = audio / "zoo"
    write_note(bad / "silent.wav", np.zeros(8_000))
    write_note(bad / "nan.wav", np.full(8_000, np.nan), subtype="FLOAT")
    write_note(bad / "surround.wav", np.zeros((8_000, 6)))
    write_note(bad / "short.wav", np.ones(10) * 0.1)
    write_note(bad / "no_samples.wav", np.zeros(0))
    write_note(bad / "guitar_acoustic_000-040-100.wav")  # is in nsynth-guitar-train as MP3
    write_note(bad / "guitar_acoustic_000-200-100.wav")
    (bad / "empty.wav").write_bytes(b"")
    (bad / "text.mp3").write_text("no sound in here\n" * 50)
    (bad / "gone.wav").symlink_to(bad / "nowhere")
    for name in ["fine one.wav", "dotted.name.WAV", "ドラム.flac", os.fsdecode(b"\xe9.wav")]:
        write_note(bad / "plain.wav", tone(50), format=name.rpartition(".")[2].upper()).rename(bad / name)
    outcome = encode(audio, out)
    reasons = {rejection.file.removeprefix("zoo/"): rejection.reason for rejection in outcome.rejected}
    clash = reasons.pop("guitar_acoustic_000-040-100.wav", None) or reasons.pop(
        "nsynth-guitar-train/guitar_acoustic_000-040-100.mp3"
    )
    assert clash == "name clash"
    assert reasons == {
        "silent.wav": "silent",
        "nan.wav": "non-finite samples",
        "surround.wav": "too many channels",
        "short.wav": "too short",
        "no_samples.wav": "decodes to nothing",
        "guitar_acoustic_000-200-100.wav": "label",
        "empty.wav": "empty",
        "text.mp3": "not audio",
        "gone.wav": "unreadable",
    }
    assert outcome.manifest.ledger.to_json() == {"inputs": 23, "encoded": 13, "rejected": 10}
    listed = [json.loads(line) for line in (out / "rejected.jsonl").read_bytes().splitlines()]
    assert listed == [vars(rejection) for rejection in outcome.rejected]
    assert list(find_faults(out)) == []
    keys = {note.key for shard in outcome.manifest.shards for note in read_shard(out / shard.name)}
    assert {"zoo_fine_one", "zoo_dotted_name", "zoo_ドラム", "zoo_xE9"} <= keys


def test_a_shard_of_nothing_but_bad_files_has_a_record_and_no_tar(tmp_path: Path, out: Path) -> None:
    root = nsynth_folder(tmp_path / "audio", train=2, valid=0)
    (root / "bad-valid").mkdir()
    (root / "bad-valid/a.wav").write_text("no sound")
    outcome = encode(root, out)
    assert outcome.manifest is not None and outcome.manifest.splits.keys() == {"train"}
    assert "valid-00000.json" in files_of(out) and "valid-00000.tar" not in files_of(out)
    assert list(find_faults(out)) == []
    assert encode(root, out).tasks_run == 0
    write_note(root / "bad-valid/b.wav")
    more = encode(root, out, extend=True)
    assert more.manifest is not None and [shard.name for shard in more.manifest.splits["valid"]] == ["valid-00001.tar"]
    assert list(find_faults(out)) == []
    assert encode(root, out).tasks_run == 0


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def as_under_rules_1(out: Path) -> None:
    """What the first version wrote: no rules, decoders and trimming in the blocks of settings."""
    for path in out.glob("*.json"):
        audio = (lambda value: value["audio"]) if path.name == "manifest.json" else (lambda v: v["settings"]["audio"])
        rewrite(path, lambda value, audio=audio: [audio(value).pop(name) for name in ("rules", "ffmpeg", "trim")])


def test_a_set_of_earlier_rules_is_returned_as_finished_with_a_line_that_says_so(audio: Path, out: Path) -> None:
    (audio / "bad.wav").write_text("no sound")
    encode(audio, out)
    as_under_rules_1(out)
    before = files_of(out)
    outcome = encode(audio, out)
    assert outcome.tasks_run == 0 and files_of(out) == before
    assert [rejection.file for rejection in outcome.rejected] == ["bad.wav"]
    assert "made under rules 1 of reading audio" in "\n".join(outcome.lines())


@pytest.mark.parametrize("extend", [False, True])
def test_a_set_of_earlier_rules_is_never_gone_on_with(audio: Path, out: Path, extend: bool) -> None:
    encode(audio, out)
    as_under_rules_1(out)
    whole = files_of(out)
    write_note(audio / "new.wav")
    with pytest.raises(UserError, match="has 1 more file; restore it, or encode the folder under a new name"):
        encode(audio, out, extend)
    (audio / "new.wav").replace(next(audio.rglob("*.mp3")))
    with pytest.raises(UserError, match="is gone or has changed"):
        encode(audio, out, extend)
    (out / "train-00000.tar").unlink()
    with pytest.raises(UserError, match=r"gone|missing"):
        encode(audio, out, extend)
    assert files_of(out) == {name: content for name, content in whole.items() if name != "train-00000.tar"}


def test_an_unfinished_set_of_earlier_rules_says_how_to_go_on(audio: Path, out: Path) -> None:
    encode(audio, out)
    as_under_rules_1(out)
    (out / "manifest.json").unlink()
    before = files_of(out)
    with pytest.raises(UserError, match="finish it with the version that began it, or give another --out"):
        encode(audio, out)
    assert files_of(out) == before


def test_a_set_of_earlier_rules_is_compared_with_its_audio_by_names_not_keys(audio: Path, out: Path) -> None:
    encode(audio, out)
    as_under_rules_1(out)
    comparisons = list(reencode(out, 9))
    assert len(comparisons) == 9 and not any(comparison.fault for comparison in comparisons)


def test_trimming_is_a_setting_of_the_set(tmp_path: Path, out: Path) -> None:
    root = tmp_path / "audio"
    for pitch in (60, 62):
        write_note(root / f"{pitch}.wav", np.concatenate([np.zeros(16_000), tone(pitch)]))
    with pytest.raises(UserError, match=r"can be encoded \(2 begins late\)"):
        encode(root, tmp_path / "untrimmed")
    outcome = encode(root, out, trim=True)
    assert outcome.manifest is not None and outcome.manifest.ledger.encoded == 2
    with pytest.raises(UserError, match="was made with trim True"):
        encode(root, out)


def test_files_that_only_ffmpeg_reads_are_notes_if_it_is_there_and_else_named(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "audio"
    for name in ("a.wav", "b.aiff"):
        write_note(root / name)
    without = tmp_path / "without"
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.encode.run.has_ffmpeg", lambda: False)
        outcome = encode(root, without)
        assert outcome.manifest is not None and outcome.manifest.ledger.to_json()["inputs"] == 1
        assert any("1 .aiff; FFmpeg reads .aiff: pip install '.[audio]'" in line for line in outcome.lines())
    assert encode(root, without).tasks_run == 0  # the set keeps to it
    outcome = encode(root, out)
    assert outcome.manifest is not None and outcome.manifest.ledger.encoded == 2 and outcome.manifest.audio["ffmpeg"]
    monkeypatch.setattr("pipeline.encode.run.has_ffmpeg", lambda: False)
    assert encode(root, out).tasks_run == 0
    (out / "train-00000.tar").unlink()
    with pytest.raises(UserError, match=r"has notes that only FFmpeg reads; pip install '\.\[audio\]'"):
        encode(root, out)


def test_a_folder_in_which_nothing_can_be_encoded_makes_no_set(tmp_path: Path, out: Path) -> None:
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio/a.mp3").write_text("no sound")
    with pytest.raises(UserError, match=r"none of its 1 file can be encoded \(1 not audio\)"):
        encode(tmp_path / "audio", out)
    assert [path.name for path in out.iterdir()] == ["rejected.jsonl"]


@pytest.mark.parametrize("content", [None, [], ["notes.txt"]])
def test_without_audio_nothing_is_written(tmp_path: Path, out: Path, content: list[str] | None) -> None:
    if content is not None:
        (tmp_path / "audio").mkdir()
        for name in content:
            (tmp_path / "audio" / name).touch()
    result = CliRunner().invoke(main, ["encode", str(tmp_path / "audio"), "--out", str(out), *OPTIONS])
    assert result.exit_code == 2
    assert result.output.startswith("Error: ") and len(result.output.splitlines()) == 1
    assert not out.exists()


def test_too_many_rejections_fail_at_the_end_and_leave_a_usable_set(audio: Path, out: Path) -> None:
    (audio / "text.mp3").write_text("no sound in here")
    arguments = ["encode", str(audio), "--out", str(out), *OPTIONS]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "text.mp3: not audio" in result.output and "10.0% of the files were rejected" in result.output
    assert list(find_faults(out)) == []
    assert CliRunner().invoke(main, [*arguments, "--max-rejected", "0.2"]).exit_code == 0


def test_new_notes_are_refused_without_extend_and_become_new_shards_with_it(audio: Path, out: Path) -> None:
    encode(audio, out)
    before = files_of(out)
    nsynth_folder(audio, train=12, valid=3)
    with pytest.raises(UserError, match="has 6 notes not in it; add them with --extend"):
        encode(audio, out)
    assert files_of(out) == before
    outcome = encode(audio, out, extend=True)
    assert outcome.tasks_run == 3
    after = files_of(out)
    assert {name for name in before if before[name] != after[name]} == {"manifest.json"}
    assert list(find_faults(out)) == []
    assert outcome.manifest.ledger.encoded == 15
    assert encode(audio, out).tasks_run == 0
    assert encode(audio, out, extend=True).tasks_run == 0


def test_an_extension_that_was_killed_goes_on(audio: Path, tmp_path: Path) -> None:
    encode(audio, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    manifest = (tmp_path / "whole/manifest.json").read_bytes()
    nsynth_folder(audio, train=12, valid=3)
    encode(audio, tmp_path / "whole", extend=True)
    encode(audio, tmp_path / "killed", extend=True)
    (tmp_path / "killed/manifest.json").write_bytes(manifest)
    (tmp_path / "killed/train-00004.json").unlink()
    assert encode(audio, tmp_path / "killed", extend=True).tasks_run == 1
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")


def test_a_note_that_changed_is_refused(audio: Path, out: Path) -> None:
    encode(audio, out)
    write_note(audio / "nsynth-guitar-train/guitar_acoustic_000-041-100.mp3", tone(60))
    with pytest.raises(UserError, match=r"guitar_acoustic_000-041-100\.mp3: has changed"):
        encode(audio, out, extend=True)


def test_inputs_that_changed_before_the_set_was_finished_are_refused(audio: Path, out: Path) -> None:
    encode(audio, out)
    (out / "manifest.json").unlink()
    nsynth_folder(audio, train=9, valid=2)
    with pytest.raises(UserError, match="unfinished and its inputs are not what they were"):
        encode(audio, out)


def test_a_shard_that_was_deleted_is_made_again(audio: Path, out: Path) -> None:
    encode(audio, out)
    before = files_of(out)
    (out / "train-00001.tar").unlink()
    assert encode(audio, out).tasks_run == 1
    assert files_of(out) == before


def test_the_command_says_what_was_made_and_what_is_next(audio: Path, out: Path) -> None:
    result = CliRunner().invoke(main, ["encode", str(audio), "--out", str(out), *OPTIONS])
    assert result.exit_code == 0, result.output
    assert f"{out}: 9 notes in 4 shards" in result.output
    assert "Next: python -m trainer train --shards" in result.stdout.splitlines()[-1]
    again = CliRunner().invoke(main, ["encode", str(audio), "--out", str(out), *OPTIONS])
    assert "finished before: nothing to do" in again.output


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [1, 1, 2, 0, 0]])
def test_ranks_in_any_order_make_the_set_of_one_run_and_the_last_finishes_it(
    audio: Path, tmp_path: Path, order: list[int]
) -> None:
    encode(audio, tmp_path / "whole")
    outcomes = [encode(audio, tmp_path / "set", rank=Rank(index, 3)) for index in order]
    assert files_of(tmp_path / "set") == files_of(tmp_path / "whole")
    finished = [outcome.manifest is not None for outcome in outcomes]
    assert finished == [set(order[: done + 1]) == {0, 1, 2} for done in range(len(order))]
    assert sum(outcome.tasks_run for outcome in outcomes) == 4
    assert [outcome.tasks_left > 0 for outcome in outcomes] == [not is_finished for is_finished in finished]


def test_ranks_without_tasks_do_no_harm(audio: Path, tmp_path: Path) -> None:
    encode(audio, tmp_path / "whole")
    runs = [encode(audio, tmp_path / "set", rank=Rank(index, 6)).tasks_run for index in range(6)]
    assert runs == [1, 1, 1, 1, 0, 0]
    assert files_of(tmp_path / "set") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("rest", [Rank(), Rank(1, 3), Rank(0, 1)])
def test_what_a_lost_rank_left_is_done_by_itself_or_by_a_whole_run(audio: Path, tmp_path: Path, rest: Rank) -> None:
    encode(audio, tmp_path / "whole")
    out = tmp_path / "set"
    encode(audio, out, rank=Rank(0, 3))
    encode(audio, out, rank=Rank(2, 3))
    (out / "train-00001.tar.rank-1-of-3-0123abcd.part").write_bytes(b"half of")
    assert encode(audio, out, rank=rest).tasks_run == 1
    assert files_of(out) == files_of(tmp_path / "whole")


def test_ranks_that_extend_a_set_make_what_one_run_makes(audio: Path, tmp_path: Path) -> None:
    for name in ("whole", "set"):
        encode(audio, tmp_path / name)
    nsynth_folder(audio, train=12, valid=3)
    encode(audio, tmp_path / "whole", extend=True)
    for index in (1, 0):
        encode(audio, tmp_path / "set", extend=True, rank=Rank(index, 2))
    assert files_of(tmp_path / "set") == files_of(tmp_path / "whole")


def test_a_rank_deletes_only_the_parts_that_are_its_own(audio: Path, out: Path) -> None:
    out.mkdir()
    mine = {"train-00000.tar.rank-0-of-2-00.part", "train-00000.json.part", "manifest.json.rank-0-of-2-00.part"}
    others = {"train-00001.tar.part", "train-00001.json.rank-1-of-2-00.part", "manifest.json.rank-1-of-2-00.part"}
    for name in mine | others:
        (out / name).touch()
    encode(audio, out, rank=Rank(0, 2))
    assert {path.name for path in out.glob("*.part")} == others


def test_ranks_run_side_by_side_and_a_whole_run_alone(audio: Path, out: Path) -> None:
    with lock_set(out, shared=True):
        assert encode(audio, out, rank=Rank(0, 2)).tasks_run == 2
        with pytest.raises(UserError, match="another run"):
            encode(audio, out)
    with lock_set(out, shared=False), pytest.raises(UserError, match="another run"):
        encode(audio, out, rank=Rank(1, 2))
    assert encode(audio, out, rank=Rank(1, 2)).manifest is not None


def test_a_file_system_without_locks_is_worked_in_all_the_same(
    audio: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert encode(audio, out).manifest is not None


def test_a_rank_that_lives_twice_and_ranks_that_finish_together_leave_the_same_bytes(
    audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(audio, tmp_path / "whole")
    out = tmp_path / "set"
    encode(audio, out, rank=Rank(1, 2))
    replace, lives = Path.replace, [Rank(0, 2), Rank(0, 2)]

    def overtaken(part: Path, target: Path) -> Path:
        """Before this life's first file gets its name, another life of the same rank does everything."""
        if lives:
            rank = lives.pop()
            encode(audio, out, rank=rank)
        return replace(part, target)

    monkeypatch.setattr(Path, "replace", overtaken)
    with pytest.raises(UserError, match=r"train-00000\.tar: cannot be written"):  # its part was taken for a leftover
        encode(audio, out, rank=lives.pop())
    assert files_of(out) == files_of(tmp_path / "whole")


def test_the_command_says_how_far_a_rank_has_come(audio: Path, out: Path) -> None:
    arguments = ["encode", str(audio), "--out", str(out), *OPTIONS, "--of", "2"]
    first = CliRunner().invoke(main, [*arguments, "--rank", "1"])
    assert first.exit_code == 0, first.output
    assert f"{out}: rank 1 of 2 has done its part, 2 shards in this run. Other ranks have 2 to do" in first.output
    last = CliRunner().invoke(main, [*arguments, "--rank", "0"])
    assert f"{out}: 9 notes in 4 shards" in last.output


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        (["--rank", "0"], "--rank and --of go together"),
        (["--of", "2"], "--rank and --of go together"),
        (["--rank", "2", "--of", "2"], "rank 2 of 2: ranks are numbered from 0 to 1"),
        (["--engine", "ray"], "say how many with --of N"),
        (["--engine", "slurm", "--rank", "0", "--of", "2"], "--engine slurm starts all ranks"),
        (["--sbatch", "time=1"], "--sbatch: is for --engine slurm"),
        (["--engine", "slurm", "--of", "2", "--sbatch", "time"], "--sbatch time: give KEY=VALUE"),
    ],
)
def test_options_of_ranks_that_do_not_fit_are_one_line(audio: Path, out: Path, options: list[str], fact: str) -> None:
    result = CliRunner().invoke(main, ["encode", str(audio), "--out", str(out), *OPTIONS, *options])
    assert result.exit_code == 2
    assert fact in result.output and len(result.output.splitlines()) == 1
    assert not out.exists()
