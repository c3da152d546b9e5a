"""Labels of metadata files: they are in the notes of a set, and another file changes them without encoding again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from pipeline.__main__ import main
from pipeline.encode.reencode import verify_set
from pipeline.encode.relabel import Relabelled, relabel_set
from pipeline.encode.run import EncodeOutcome, EncodeRequest, encode_folder
from shards.errors import ShardError, UserError
from shards.manifest import read_manifest
from shards.note import Note
from shards.reader import read_shard
from shards.record import read_shard_records
from shards.verify import find_faults
from tests.support.notes import Silent, files_of, nsynth_folder, options, tone, write_note

pytestmark = pytest.mark.usefixtures("without_workers")

NAMES = {"note_str", "instrument_str", "instrument_family_str", "instrument_source_str", "pitch", "velocity"}


def encode(audio: Path, out: Path, *labels: Path, extend: bool = False) -> EncodeOutcome:
    return encode_folder(EncodeRequest(audio, out, options(), 2, extend, labels=labels), Silent())


def relabel(folder: Path, out: Path, *labels: Path) -> Relabelled:
    return relabel_set(folder, labels, out, Silent())


def notes_of(folder: Path) -> dict[str, Note]:
    return {note.key: note for shard in read_manifest(folder).shards for note in read_shard(folder / shard.name)}


def message(call: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as error:
        call()
    assert "\n" not in error.value.message
    return error.value.message


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    """Five notes with NSynth's names, one without, and one that cannot be encoded."""
    folder = nsynth_folder(tmp_path / "audio", train=4, valid=1)
    write_note(folder / "other-train" / "low one.wav", tone(41))
    (folder / "other-train" / "bad.wav").write_bytes(b"RIFF")
    return folder


@pytest.fixture
def first(tmp_path: Path) -> Path:
    path = tmp_path / "first.csv"
    path.write_text(
        "file_name,brightness,mood,pitch\nguitar_acoustic_000-040-100.mp3,0.25,calm,40\n"
        "other-train/low one.wav,0.5,wild,41\nnone.wav,1,calm,\n"
    )
    return path


@pytest.fixture
def second(tmp_path: Path) -> Path:
    path = tmp_path / "second.json"
    path.write_text(json.dumps({"guitar_acoustic_000-041-100": {"qualities_str": ["dark"]}, "bad.wav": {"gain": 1}}))
    return path


def test_labels_of_a_file_are_in_the_notes_with_those_of_their_names(audio: Path, tmp_path: Path, first: Path) -> None:
    outcome = encode(audio, tmp_path / "set", first)
    notes = notes_of(tmp_path / "set")
    labels = notes["guitar_acoustic_000-040-100"].labels
    assert labels.keys() == NAMES | {"brightness", "mood"}
    assert (labels["brightness"], labels["mood"], labels["pitch"]) == (0.25, "calm", 40)
    assert notes["other-train_low_one"].labels == {
        "note_str": "other-train/low one", "brightness": 0.5, "mood": "wild", "pitch": 41
    }  # fmt: skip
    assert notes["guitar_acoustic_000-041-100"].labels.keys() == NAMES
    assert {"brightness", "mood"} < {*read_manifest(tmp_path / "set").labels}
    text = "\n".join(outcome.notices)
    assert " for 2 of 7 files" in text and "without audio (none.wav)" in text
    assert encode(audio, tmp_path / "set", first).tasks_run == 0
    assert list(find_faults(tmp_path / "set")) == []


def test_nsynths_own_labels_come_without_asking(audio: Path, tmp_path: Path) -> None:
    example = {
        "pitch": 40,
        "note": 77,
        "qualities": [0, 1],
        "qualities_str": ["bright"],
        "note_str": "guitar_acoustic_000-040-100",
    }
    (audio / "nsynth-guitar-train/examples.json").write_text(json.dumps({"guitar_acoustic_000-040-100": example}))
    encode(audio, tmp_path / "set")
    labels = notes_of(tmp_path / "set")["guitar_acoustic_000-040-100"].labels
    assert labels.keys() == NAMES | {"note", "qualities_str"} and labels["qualities_str"] == ["bright"]


def test_labels_that_contradict_a_name_are_rejected(audio: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("file,pitch\nguitar_acoustic_000-040-100.mp3,41\n")
    outcome = encode(audio, tmp_path / "set", labels)
    details = {rejection.file.rpartition("/")[2]: rejection.detail for rejection in outcome.rejected}
    assert details["guitar_acoustic_000-040-100.mp3"] == f"pitch is 40 in the name and 41 in {labels}"
    encode(audio, tmp_path / "plain")
    assert "guitar_acoustic_000-040-100.mp3: pitch is 40 in the name" in message(
        lambda: relabel(tmp_path / "plain", tmp_path / "new", labels)
    )
    assert not (tmp_path / "new").exists()


def test_a_relabelled_set_is_what_encoding_with_these_labels_makes(
    audio: Path, tmp_path: Path, first: Path, second: Path
) -> None:
    encode(audio, tmp_path / "plain")
    encode(audio, tmp_path / "first", first)
    encode(audio, tmp_path / "second", second)
    before = files_of(tmp_path / "first")
    for number, (source, labels) in enumerate(
        [("plain", "first"), ("plain", "second"), ("first", "second"), ("second", "first"), ("first", "first")]
    ):
        new, file = tmp_path / f"new{number}", {"first": first, "second": second}[labels]
        assert relabel(tmp_path / source, new, file).is_new
        assert files_of(new) == files_of(tmp_path / labels)
        assert not relabel(tmp_path / source, new, file).is_new
        assert encode(audio, new, file).tasks_run == 0
    assert files_of(tmp_path / "first") == before


def test_the_codes_stay_and_the_new_set_is_whole(audio: Path, tmp_path: Path, first: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    encode(audio, old)
    lines = "\n".join(relabel(old, new, first).lines())
    assert f"{new}: 6 notes, the codes of {old}. Labels: brightness" in lines and "shards inspect" in lines
    before, after = notes_of(old), notes_of(new)
    assert [*before] == [*after]
    assert all(np.array_equal(before[key].tokens, after[key].tokens) for key in before)
    assert list(find_faults(new)) == []
    assert verify_set(new, 6, None, None, "cpu", 0, Silent()).faults == ()
    manifests = read_manifest(old), read_manifest(new)
    assert manifests[0].fingerprint == manifests[1].fingerprint and manifests[0].ledger == manifests[1].ledger
    assert manifests[0].labels_sha256 is None and manifests[1].labels_sha256 is not None
    for name, record in read_shard_records(new, files_of(new)).items():
        moods = [note.labels.get("mood") for note in read_shard(new / name)]
        assert record.longest == 30 and record.label_counts is not None
        assert sorted(record.label_counts.of(["mood"]).elements(), key=str) == sorted(
            ((mood,) for mood in moods), key=str
        )


def test_a_finished_set_that_differs_in_labels_alone_says_the_command(
    audio: Path, tmp_path: Path, first: Path, second: Path
) -> None:
    out = tmp_path / "set"
    encode(audio, out, first)
    before = files_of(out)
    error = message(lambda: encode(audio, out, second))
    command = f"python -m pipeline relabel {out} --labels {second} --out {out}-relabelled"
    assert error.endswith(command) and "labels alone" in error
    assert "was made with a file of labels" in message(lambda: encode(audio, out))
    write_note(audio / "other-train" / "new.wav", tone(50))
    assert "labels alone" in message(lambda: encode(audio, out, second, extend=True))
    assert files_of(out) == before
    assert encode(audio, out, first, extend=True).tasks_run == 1
    result = CliRunner().invoke(main, command.split()[3:])
    assert result.exit_code == 0, result.output
    assert list(find_faults(tmp_path / "set-relabelled")) == []


def test_a_set_of_an_earlier_version_is_finished_whatever_nsynths_labels_say(audio: Path, tmp_path: Path) -> None:
    out, examples = tmp_path / "set", audio / "nsynth-guitar-train/examples.json"
    encode(audio, out)
    before = files_of(out)
    examples.write_text(json.dumps({"guitar_acoustic_000-040-100": {"pitch": 40, "qualities_str": ["dark"]}}))
    outcome = encode(audio, out)
    assert outcome.tasks_run == 0 and files_of(out) == before
    assert f"python -m pipeline relabel {out} --labels {examples} --out {out}-relabelled" in outcome.notices[-1]
    (out / "manifest.json").unlink()
    (out / "train-00001.json").unlink()
    assert encode(audio, out).tasks_run == 1
    assert files_of(out) == before
    relabel(out, tmp_path / "new", examples)
    assert encode(audio, tmp_path / "new").tasks_run == 0
    examples.write_text(json.dumps({"guitar_acoustic_000-040-100": {"pitch": 40, "qualities_str": ["bright"]}}))
    assert "labels alone" in message(lambda: encode(audio, tmp_path / "new"))


def test_a_set_of_earlier_rules_is_relabelled_too(audio: Path, tmp_path: Path, first: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    encode(audio, old)
    for path in old.glob("*.json"):
        path.write_text(path.read_text().replace('"rules": 2', '"rules": 1'))
    assert encode(audio, old).tasks_run == 0
    assert "labels alone" in message(lambda: encode(audio, old, first))
    relabel(old, new, first)
    assert encode(audio, new, first).tasks_run == 0
    assert list(find_faults(new)) == []


def test_an_error_leaves_nothing_and_a_damaged_tar_gets_no_new_digest(audio: Path, tmp_path: Path, first: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    encode(audio, old)
    tar = old / "valid-00000.tar"
    data = bytearray(tar.read_bytes())
    data[700] ^= 1  # a code
    tar.write_bytes(data)
    with pytest.raises(ShardError, match=r"valid-00000\.tar: is damaged"):
        relabel(old, new, first)
    assert not new.exists()
    (old / "manifest.json").unlink()
    assert "unfinished" in message(lambda: relabel(old, new, first))
    assert "name a file of labels" in message(lambda: relabel(old, new))


def test_another_set_is_not_overwritten(audio: Path, tmp_path: Path, first: Path, second: Path) -> None:
    old, other = tmp_path / "old", tmp_path / "other"
    encode(audio, old)
    encode(nsynth_folder(tmp_path / "more", train=1, valid=1), other)
    for out in (old, other):
        before = files_of(out)
        assert "is another set; give another --out" in message(lambda out=out: relabel(old, out, first))
        assert files_of(out) == before
    (other / "manifest.json").unlink()
    assert "is part of another set" in message(lambda: relabel(old, other, first))
    relabel(old, tmp_path / "new", second)
    (tmp_path / "new/manifest.json").unlink()  # as a killed run leaves it
    assert relabel(old, tmp_path / "new", second).is_new
