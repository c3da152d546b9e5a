"""Recordings that are cut into notes: keys, the ledger, shards, and the same bytes whatever stops or divides a run."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from pipeline.__main__ import main
from pipeline.encode.estimate import estimate_set
from pipeline.encode.ranks import Rank
from pipeline.encode.reencode import reencode
from pipeline.encode.relabel import relabel_set
from pipeline.encode.run import EncodeOutcome, EncodeRequest, encode_folder
from pipeline.notes.key import LONGEST, MOST_BYTES, parse_path_name, segment_key, segment_number
from pipeline.score.references import open_shard_set
from pipeline.segments import load_segment
from shards.errors import UserError
from shards.manifest import MANIFEST, read_manifest
from shards.note import Note
from shards.reader import read_shard
from shards.summary import summarize, summary_lines
from shards.verify import find_faults
from tests.support.killed import is_killed
from tests.support.notes import Silent, files_of, options, tone, write_note

pytestmark = pytest.mark.usefixtures("without_workers")

SEGMENT = 0.2  # seconds: 15 frames
RINGING = 200  # samples before and after a sound to which resampling spreads it


def encode(
    audio: Path,
    out: Path,
    extend: bool = False,
    rank: Rank | None = None,
    max_rejected: float = 1.0,
    labels: tuple[Path, ...] = (),
    **changes: Any,
) -> EncodeOutcome:
    changes = {"duration": None, "segment": SEGMENT, "notes_per_shard": 2, **changes}
    return encode_folder(
        EncodeRequest(
            audio, out, options(**changes), 2, extend, max_rejected=max_rejected, rank=rank or Rank(), labels=labels
        ),
        Silent(),
    )


def sound(pitch: float, seconds: float, silent: range = range(0)) -> np.ndarray:
    """A tone of which the segments with these numbers are silent."""
    samples = np.tile(tone(pitch, 0.1), round(seconds * 10 + 1))[: round(seconds * 16_000)]
    length = round(SEGMENT * 16_000)
    samples[silent.start * length - RINGING : silent.stop * length + RINGING if silent else 0] = 0
    return samples


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    """Five recordings of 1 to 5 segments."""
    root = tmp_path / "audio"
    write_note(root / "a.wav", sound(50, 1.0))
    write_note(root / "b.flac", sound(52, 0.9, silent=range(1, 3)))  # 2 and half a segment, without two silent ones
    write_note(root / "live-valid" / "c.mp3", sound(54, 0.5))
    write_note(root / "guitar_acoustic_000-060-100.wav", sound(60, 0.3))
    write_note(root / "e.wav", sound(57, 0.1))
    return root


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "set"


def notes_of(out: Path) -> dict[str, Note]:
    return {note.key: note for shard in read_manifest(out).shards for note in read_shard(out / shard.name)}


def test_recordings_become_numbered_notes_with_the_labels_of_their_file(audio: Path, out: Path) -> None:
    manifest = encode(audio, out, valid_fraction=0).manifest
    notes = notes_of(out)
    frames = {key: len(note.tokens) / 2 for key, note in notes.items()}
    assert {key: count for key, count in frames.items() if key.startswith("a-")} == {f"a-000{n}": 15 for n in range(5)}
    assert [frames[key] for key in ("b-0000", "b-0003", "b-0004")] == [15, 15, 8]  # 0.1 s are 7.5 frames
    assert "b-0001" not in notes and "b-0002" not in notes
    assert [key for key in notes if key.startswith("guitar")] == [f"guitar_acoustic_000-060-100-000{n}" for n in (0, 1)]
    labels = parse_path_name("guitar_acoustic_000-060-100.wav").labels
    assert notes["guitar_acoustic_000-060-100-0001"].labels == labels and labels["pitch"] == 60
    assert notes["e-0000"].labels == {"note_str": "e"} and frames["e-0000"] == 8
    assert manifest is not None and manifest.audio["segment"] == SEGMENT
    assert list(find_faults(out)) == []


def test_the_ledger_counts_files_and_segments_apart(audio: Path, out: Path) -> None:
    write_note(audio / "silence.wav", np.zeros(16_000))
    (audio / "text.wav").write_text("no sound")
    outcome = encode(audio, out)
    assert outcome.manifest is not None
    ledger = outcome.manifest.ledger
    assert ledger.to_json() == {"inputs": 7, "encoded": 5, "rejected": 2, "segments": 16, "silent": 2}
    assert ledger.notes == len(notes_of(out)) == 14
    assert {rejection.file: rejection.reason for rejection in outcome.rejected} == {
        "silence.wav": "silent",
        "text.wav": "not audio",
    }
    lines = list(outcome.lines())
    assert "Left out 2 of 16 segments as silent." in lines
    assert any(line.startswith(f"{out}: 5 files, 14 notes in ") for line in lines)
    assert "  segments  16 = 14 notes + 2 silent" in summary_lines(out, summarize(out))
    manifest = json.loads((out / MANIFEST).read_text())
    manifest["ledger"]["silent"] = 3
    (out / MANIFEST).write_text(json.dumps(manifest))
    assert any("hold 14 notes, but the ledger says 13" in line for line in find_faults(out))


def test_rejections_are_a_share_of_the_files(audio: Path, out: Path) -> None:
    (audio / "text.wav").write_text("no sound")
    with pytest.raises(UserError, match=r"16\.7% of the files were rejected"):
        list(encode(audio, out, max_rejected=0.1).lines())


def test_a_recording_lies_in_one_shard_of_the_split_of_its_own_key(audio: Path, out: Path, tmp_path: Path) -> None:
    for index in range(20):
        write_note(audio / f"more{index}.wav", sound(50 + index, 0.3))
    encode(audio, out, valid_fraction=0.3)
    encode(audio, tmp_path / "notes", segment=None, duration="0.2", valid_fraction=0.3)
    shard_of: dict[str, set[str]] = {}
    for shard in read_manifest(out).shards:
        for note in read_shard(out / shard.name):
            shard_of.setdefault(note.key.rpartition("-")[0], set()).add(shard.name)
    assert all(len(names) == 1 for names in shard_of.values())
    assert {name.partition("-")[0] for names in shard_of.values() for name in names} == {"train", "valid"}
    assert {name for names in shard_of.values() for name in names} == {
        shard.name for shard in read_manifest(tmp_path / "notes").shards
    }


def test_sets_without_segments_say_nothing_of_them(audio: Path, out: Path) -> None:
    encode(audio, out, segment=None, duration="0.2")
    for name, content in files_of(out).items():
        if name.endswith(".json"):
            assert b'"segment' not in content and b'"silent' not in content


def test_more_than_two_minutes_are_rejected_as_a_note_and_encoded_as_segments(tmp_path: Path) -> None:
    samples = np.zeros(130 * 8_000, np.float32)
    samples[-4_000:] = tone(60, 0.5, 8_000)
    write_note(tmp_path / "audio" / "long.wav", samples, 8_000)
    with pytest.raises(UserError, match="1 too long"):
        encode(tmp_path / "audio", tmp_path / "note", segment=None, duration="full")
    manifest = encode(tmp_path / "audio", tmp_path / "set", segment=4.0).manifest
    assert manifest is not None and manifest.ledger.to_json() == {
        "inputs": 1, "encoded": 1, "rejected": 0, "segments": 33, "silent": 32,
    }  # fmt: skip
    assert [*notes_of(tmp_path / "set")] == ["long-0032"]


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [1, 1, 2, 0, 0]])
def test_ranks_make_the_set_of_one_run(audio: Path, tmp_path: Path, order: list[int]) -> None:
    encode(audio, tmp_path / "whole")
    for index in order:
        encode(audio, tmp_path / "set", rank=Rank(index, 3))
    assert files_of(tmp_path / "set") == files_of(tmp_path / "whole")


def test_a_run_that_ended_anywhere_goes_on_and_ends_with_the_same_bytes(audio: Path, tmp_path: Path) -> None:
    encode(audio, tmp_path / "whole")
    whole = files_of(tmp_path / "whole")
    for point in range(100):
        out = tmp_path / f"killed-{point}"
        ended = is_killed(partial(encode, audio, out), point)
        assert not out.exists() or files_of(out).items() <= whole.items()
        encode(audio, out)
        assert files_of(out) == whole
        if not ended:
            break
    assert 15 <= point < 99


def test_a_finished_set_is_returned_and_extended_by_new_recordings(audio: Path, out: Path) -> None:
    encode(audio, out)
    before = files_of(out)
    assert encode(audio, out).tasks_run == 0
    write_note(audio / "new.wav", sound(70, 0.5))
    with pytest.raises(UserError, match="has 1 file not in it; add them with --extend"):
        encode(audio, out)
    outcome = encode(audio, out, extend=True)
    assert outcome.tasks_run == 1 and outcome.manifest is not None and outcome.manifest.ledger.notes == 17
    after = files_of(out)
    assert {name for name in before if before[name] != after[name]} == {MANIFEST}
    assert list(find_faults(out)) == [] and encode(audio, out).tasks_run == 0


@pytest.mark.parametrize(
    ("made_with", "changes", "difference"),
    [
        ({}, {"segment": 0.3}, r"made with segment 0\.2, and this is 0\.3"),
        ({}, {"segment": None, "duration": "full"}, r"made with segment 0\.2, and this is none"),
        ({"segment": None, "duration": "full"}, {}, r"made with segment none, and this is 0\.2"),
    ],
)
def test_another_segment_is_another_set(
    audio: Path, out: Path, made_with: dict[str, Any], changes: dict[str, Any], difference: str
) -> None:
    encode(audio, out, **made_with)
    with pytest.raises(UserError, match=difference):
        encode(audio, out, **changes)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_every_segment_encodes_to_the_same_codes_again(
    audio: Path, out: Path, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.encode.settings.CPU_BATCH", batch)
    encode(audio, out)
    comparisons = list(reencode(out, 100))
    assert len(comparisons) == 14
    assert {(note.shares, note.fault) for note in comparisons} == {((1.0, 1.0), None)}
    write_note(audio / "a.wav", sound(50, 0.5))
    faults = {note.key: note.fault for note in reencode(out, 100) if note.fault}
    assert faults["a-0002"] == "30 codes, and 16 now"
    assert faults["a-0003"] == "its audio is now too short (it has no segment 3 of 0.2 s)"
    assert faults.keys() == {"a-0002", "a-0003", "a-0004"}


def test_a_segment_has_the_recording_of_its_own_time(audio: Path, out: Path) -> None:
    encode(audio, out, valid_fraction=0)
    shard_set = open_shard_set(out)
    recordings = {note.key: recording for note, recording in shard_set.with_recordings("train")}
    recording = recordings["a-0003"]
    assert recording is not None
    read = recording.read(24_000, SEGMENT)
    assert np.array_equal(read, load_segment(audio / "a.wav", 24_000, SEGMENT, 3))


def test_keys_of_segments_have_the_bounds_of_all_keys_and_never_clash(tmp_path: Path) -> None:
    root = tmp_path / "audio"
    names = ["a.wav", "a-0000.wav", "é" * 98 + ".wav", "x" * 116 + ".wav", "x" * 117 + ".wav"]
    for index, name in enumerate(names):
        write_note(root / "plain.wav", sound(50 + index, 0.3)).rename(root / name)
    outcome = encode(root, tmp_path / "set")
    keys = [*notes_of(tmp_path / "set")]
    assert outcome.rejected == () and len(keys) == len({*keys}) == 10
    assert all(len(key) <= LONGEST and len(key.encode()) <= MOST_BYTES for key in keys)
    assert {"a-0000", "a-0001", "a-0000-0000", "a-0000-0001"} < {*keys}


def test_files_whose_keys_are_alike_clash(tmp_path: Path) -> None:
    for name in ("a.wav", "a.flac", "A.mp3"):
        write_note(tmp_path / "audio" / name)
    outcome = encode(tmp_path / "audio", tmp_path / "set")
    assert [rejection.reason for rejection in outcome.rejected] == ["name clash"] * 2


def test_a_key_says_its_segment() -> None:
    assert segment_number(segment_key("a-0007", 31)) == 31
    for key in ("", "0003", "a0003", "a-003", "a-00x3", "a-000²"):
        with pytest.raises(ValueError, match="has no number of a segment"):
            segment_number(key)


def test_a_shard_has_fewer_recordings_than_notes_by_default(audio: Path) -> None:
    request = options(segment=SEGMENT, duration=None, notes_per_shard=None)
    assert request.settings().notes_per_shard == 16
    assert options(notes_per_shard=None).settings().notes_per_shard == 1000


def test_the_estimate_says_files_and_notes(audio: Path, out: Path) -> None:
    (audio / "text.wav").write_text("no sound")
    estimate = estimate_set(audio, options(segment=SEGMENT, duration=None), workers=1)
    assert estimate.files.total() == 6 and estimate.notes in (19, 20)  # 16 of the five that can be read
    first, *_ = estimate.lines()
    assert first.startswith(f"{audio}: 6 files, about {estimate.notes} notes, ")
    assert estimate.hours == pytest.approx(6 * (1.0 + 0.9 + 0.5 + 0.3 + 0.1) / 5 / 3600, rel=0.1)


def test_a_recording_is_read_in_short_turns(audio: Path, tmp_path: Path) -> None:
    from pipeline.codec.loaded import load_codec
    from pipeline.encode.encoder import Encoder
    from pipeline.encode.plan import make_plan
    from pipeline.notes.folder import scan_folder

    settings = options(segment=SEGMENT, duration=None).settings()
    [task] = make_plan([file for file in scan_folder(audio).inputs if file.path == "a.wav"], settings).tasks
    reads: list[int | None] = []
    Encoder(load_codec("encodec_mini"), settings, audio).encode(next(task.batches(1)), reads.append)
    assert reads == [0, None] * 6  # a segment each, and the end


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (["--segment", "0"], "segment 0: give seconds, from 0.0133, a frame of the codec, to 120"),
        (["--segment", "nan"], "segment nan: give seconds"),
        (["--segment", "inf"], "segment inf: give seconds"),
        (["--segment", "-4"], "segment -4: give seconds"),
        (["--segment", "0.013"], "segment 0.013: give seconds"),
        (["--segment", "121"], "segment 121: give seconds"),
        (["--segment", "4", "--duration", "4"], "--segment and --duration: give one of them"),
        (["--segment", "4", "--duration", "full"], "--segment and --duration: give one of them"),
        (["--segment", "4", "--trim"], "--segment and --trim: give one of them"),
    ],
)
@pytest.mark.parametrize("command", ["encode", "plan"])
def test_a_segment_that_makes_no_sense_is_one_line(
    audio: Path, out: Path, command: str, words: list[str], fact: str
) -> None:
    where = ["--out", str(out)] if command == "encode" else []
    result = CliRunner().invoke(main, [command, str(audio), *where, "--codec", "encodec_mini", *words])
    assert result.exit_code == 2
    assert result.output.startswith(f"Error: {fact}") and len(result.output.splitlines()) == 1
    assert not out.exists()


def test_the_next_command_of_plan_has_the_segment(audio: Path) -> None:
    result = CliRunner().invoke(main, ["plan", str(audio), "--codec", "encodec_mini", "--segment", "0.2"])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1].endswith("--codec encodec_mini --segment 0.2")


def test_a_relabelled_set_is_what_encoding_with_these_labels_makes(audio: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("file,mood,pitch\na.wav,calm,50\nlive-valid/c.mp3,wild,54\nguitar_acoustic_000-060-100,calm,60\n")
    plain, named, new = tmp_path / "plain", tmp_path / "named", tmp_path / "new"
    encode(audio, plain)
    encode(audio, named, labels=(labels,))
    outcome = relabel_set(plain, [labels], new, Silent())
    assert files_of(new) == files_of(named) != files_of(plain)
    assert f"{read_manifest(new).ledger.notes} notes" in "\n".join(outcome.lines())
    assert encode(audio, new, labels=(labels,)).tasks_run == 0
