"""AUDIO, sets and the trainer's shards under URLs: what is true at home is true in a bucket and on a web server."""

import itertools
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from pipeline.__main__ import main
from pipeline.encode.ranks import Rank
from pipeline.encode.run import EncodeOutcome, EncodeRequest, encode_folder
from pipeline.notes.folder import scan_folder
from shards import storage as places
from shards.cache import cached_shard
from shards.errors import ShardError, UserError
from shards.files import atomic_write
from shards.manifest import MANIFEST, REJECTED, read_manifest
from shards.record import read_shard_record
from shards.storage import is_remote, parse_path
from shards.summary import summarize
from shards.verify import find_faults
from tests.support.disk import write_half
from tests.support.notes import Silent, files_of, nsynth_folder, options, write_note
from tests.support.servers import Behaviour, s3_proxy, s3_server, web_server
from tests.support.shard_sets import random_note, write_set
from trainer.data import Batch, NoteReader, TrainStream, train_batches
from trainer.order import Order, split_range
from trainer.vocabulary import Vocabulary

VOCABULARY = Vocabulary(2, 1024, labels=(("pitch", tuple(range(40, 77))),))
STEPS = range(6)
TASKS = ("train-00000", "train-00001", "train-00002", "valid-00000")  # of `audio`
OPTIONS = ["--codec", "encodec_mini", "--duration", "0.2", "--notes-per-shard", "3", "--device", "cpu"]
OPTIONS += ["--workers", "1", "--max-rejected", "1"]

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def bucket(server: str, tmp_path: Path) -> Path:
    """A place in the bucket that no other test has."""
    return parse_path(f"{server}/{tmp_path.name}")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(places, "PAUSES", (0, 0))
    return tmp_path / "cache/note-tokens/shards"


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    return nsynth_folder(tmp_path / "audio", train=7, valid=2)


def encode(audio: Path, out: Path, rank: Rank | None = None, **changes: Any) -> EncodeOutcome:
    return encode_folder(EncodeRequest(audio, out, options(), 1, rank=rank or Rank(), **changes), Silent())


def objects(folder: Path) -> dict[str, bytes]:
    """Every object of a set: name -> bytes."""
    return {name: places.read_bytes(folder / name) for name in places.list_files(folder)}


def put(folder: Path, target: Path) -> Path:
    for path in (path for path in folder.rglob("*") if path.is_file()):
        places.upload(path, target / path.relative_to(folder).as_posix())
    return target


# --- places -----------------------------------------------------------------------------------------------------------
def test_a_path_stays_a_path_and_a_url_is_none(bucket: Path) -> None:
    assert parse_path("shards/demo") == Path("shards/demo") and not is_remote(parse_path("shards/demo"))
    assert is_remote(bucket) and str(parse_path("s3://bucket/set/") / "a.tar") == "s3://bucket/set/a.tar"


@pytest.mark.parametrize(
    ("url", "fact"),
    [
        ("pipe://touch exploded", "pipe URLs are not read"),
        ("file:///etc", "file URLs are not read"),
        ("gs://bucket/set", "needs universal_pathlib and gcsfs; pip install"),
    ],
)
def test_a_url_that_cannot_be_read_is_one_line(url: str, fact: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["encode", url, "--out", str(tmp_path / "set")])
    assert result.exit_code == 2
    assert fact in result.output and len(result.output.splitlines()) == 1


def test_an_object_appears_when_its_block_has_ended_well(bucket: Path) -> None:
    path = bucket / "file"
    with atomic_write(path) as file:
        file.write(b"all of it")
        assert places.list_files(bucket) == {}

    with pytest.raises(RuntimeError, match="stopped"):
        write_half(path)
    assert objects(bucket) == {"file": b"all of it"}


def test_a_bucket_that_is_not_there_is_one_line(bucket: Path) -> None:
    with (
        pytest.raises(UserError, match="s3://no-such-bucket/file: cannot be written"),
        atomic_write(parse_path("s3://no-such-bucket/file")) as file,
    ):
        file.write(b"x")
    with pytest.raises(ShardError, match=r"s3://no-such-bucket/set/manifest\.json: missing"):
        read_manifest(parse_path("s3://no-such-bucket/set"))
    with pytest.raises(UserError, match="s3://no-such-bucket/audio: no audio in it"):
        scan_folder(parse_path("s3://no-such-bucket/audio"))


def test_a_server_ends_with_its_block_also_where_that_fails(tokens: Path) -> None:
    threads = threading.active_count()
    with pytest.raises(KeyError), web_server(tokens, Behaviour()):
        raise KeyError
    assert threading.active_count() == threads


# --- sets -------------------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("without_workers")
def test_a_set_in_a_bucket_is_the_set_on_disk_also_when_ranks_make_it(
    audio: Path, bucket: Path, tmp_path: Path
) -> None:
    encode(audio, tmp_path / "set")
    encode(audio, bucket / "one")
    assert objects(bucket / "one") == files_of(tmp_path / "set")
    assert encode(audio, bucket / "one").tasks_run == 0
    assert encode(audio, bucket / "two", Rank(1, 2)).manifest is None
    assert encode(audio, bucket / "two", Rank(0, 2)).manifest is not None
    assert objects(bucket / "two") == files_of(tmp_path / "set")
    assert summarize(bucket / "two") == summarize(tmp_path / "set")


@pytest.mark.usefixtures("without_workers")
def test_an_upload_that_fails_anywhere_leaves_whole_objects_and_the_same_command_goes_on(
    audio: Path, bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(audio, tmp_path / "set")
    whole = files_of(tmp_path / "set")
    upload = places.upload
    for last in itertools.count():
        done = itertools.count()
        out = bucket / f"ended-{last}"

        def ending(copy: Path, path: Path, last: int = last, done: Iterator[int] = done, out: Path = out) -> None:
            if path.name == f"{out.name}.inputs.json" or next(done) == last:
                raise UserError("the network is gone")  # which ends no run where only the cache is lost
            upload(copy, path)

        with monkeypatch.context() as patch:
            patch.setattr("shards.files.upload", ending)
            try:
                encode(audio, out)
            except UserError:
                assert objects(out).items() < whole.items()
            else:
                break
        encode(audio, out)
        assert objects(out) == whole
    assert last == len(whole)


@pytest.mark.usefixtures("without_workers")
def test_verify_names_what_is_wrong_in_a_bucket(audio: Path, bucket: Path, tmp_path: Path) -> None:
    encode(audio, bucket)
    assert list(find_faults(bucket)) == []
    changed = tmp_path / "changed"
    changed.write_bytes(objects(bucket)["train-00000.tar"].replace(b"guitar", b"Guitar", 1))
    places.upload(changed, bucket / "train-00000.tar")
    places.upload(changed, bucket / "train-00009.tar")
    (bucket / "train-00001.tar").unlink()
    (bucket / "valid-00000.json").unlink()
    faults = list(find_faults(bucket))
    assert len(faults) == 4
    assert "train-00000.tar: its sha256 is not the manifest's" in faults[0]
    assert "train-00001.tar: missing" in faults[1]
    assert "valid-00000.json: missing" in faults[2]
    assert "train-00009.tar: is not in the manifest" in faults[3]


def test_a_set_is_verified_and_trained_on_where_a_web_server_lists_nothing(tokens: Path) -> None:
    with web_server(tokens, Behaviour(lists_folders=False)) as url:
        assert list(find_faults(parse_path(url))) == []
        assert same(batches(parse_path(url)), batches(tokens))
        (tokens / "train-00001.tar").unlink()
        [fault] = find_faults(parse_path(url))
        assert "train-00001.tar: missing" in fault


def test_a_web_server_is_not_written_to(audio: Path) -> None:
    with pytest.raises(UserError, match="is only read from; give a folder"):
        encode(audio, parse_path("http://127.0.0.1:9/set"))


# --- audio ------------------------------------------------------------------------------------------------------------
def test_audio_in_a_bucket_or_on_a_web_server_gives_the_same_shards(audio: Path, bucket: Path, tmp_path: Path) -> None:
    write_note(audio / "more of it/a name, with ü & 100 %.wav")
    (audio / "notes.txt").write_text("no audio")
    (audio / "empty.wav").touch()
    encode(audio, tmp_path / "set")
    at_home = files_of(tmp_path / "set")
    source = put(audio, bucket)  # in a process of its own, because the workers' environment is that of the first ones
    command = ["encode", str(source), "--out", str(tmp_path / "bucket"), *OPTIONS]
    subprocess.run([sys.executable, "-m", "pipeline", *command], check=True, capture_output=True)
    with web_server(audio, Behaviour()) as url:
        assert "1 .txt" in encode(parse_path(url), tmp_path / "web").notices[0]
    for name, origin in (("bucket", str(source)), ("web", str(parse_path(url)))):
        there = files_of(tmp_path / name)
        assert {name for name in at_home if at_home[name] != there.get(name)} == {MANIFEST}
        assert read_manifest(tmp_path / name).audio["source"] == origin


@pytest.mark.usefixtures("without_workers")
def test_recordings_on_a_web_server_are_cut_into_the_same_notes(audio: Path, tmp_path: Path) -> None:
    cut = options(duration=None, segment=0.1)
    encode_folder(EncodeRequest(audio, tmp_path / "set", cut, 1), Silent())
    with web_server(audio, Behaviour()) as url:
        encode_folder(EncodeRequest(parse_path(url), tmp_path / "web", cut, 1), Silent())
    at_home, there = files_of(tmp_path / "set"), files_of(tmp_path / "web")
    assert {name for name in at_home if at_home[name] != there.get(name)} == {MANIFEST}


@pytest.mark.usefixtures("without_workers")
def test_a_broken_connection_is_tried_again_and_never_a_rejected_file(audio: Path, tmp_path: Path) -> None:
    seen: set[str] = set()

    def first_time(path: str) -> bool:
        return path not in seen and not seen.add(path)

    write_note(audio / "nsynth-guitar-train/guitar_acoustic_000-080-100.mp3")  # no other test has encoded it
    with web_server(audio, Behaviour(breaks=first_time)) as url:
        assert encode(parse_path(url), tmp_path / "set").rejected == ()
    with (
        web_server(audio, Behaviour(breaks=lambda path: "080" in path)) as url,
        pytest.raises(UserError, match=r"000-080-100\.mp3: cannot be read, in 3 tries .*run the same command again"),
    ):
        encode(parse_path(url), tmp_path / "other")
    assert not {MANIFEST, REJECTED} & files_of(tmp_path / "other").keys()


@pytest.mark.usefixtures("without_workers")
@pytest.mark.parametrize("fact", ["has changed", "is gone"])
def test_audio_that_is_no_longer_what_was_listed_stops_the_run(audio: Path, tmp_path: Path, fact: str) -> None:
    name = "nsynth-guitar-train/guitar_acoustic_000-081-100.mp3"
    write_note(audio / name)

    class Change(Silent):
        """Changes a file after the folder was listed and before it is encoded."""

        def start(self, total: int, done: int, unit: str = "notes") -> None:
            (audio / name).unlink() if fact == "is gone" else write_note(audio / name, np.full(9_000, 0.1))

    with web_server(audio, Behaviour()) as url, pytest.raises(UserError, match=rf"081-100\.mp3: {fact} since"):
        encode_folder(EncodeRequest(parse_path(url), tmp_path / "set", options(), 1), Change())


@pytest.mark.usefixtures("without_workers")
def test_a_finished_set_of_a_bucket_or_a_web_server_is_recognised_by_the_listing(
    audio: Path, bucket: Path, tmp_path: Path
) -> None:
    put(audio, bucket / "audio")
    behaviour = Behaviour()
    with s3_proxy(behaviour), web_server(audio, behaviour) as web:
        for source, out in ((bucket / "audio", tmp_path / "of-bucket"), (parse_path(web), tmp_path / "of-web")):
            behaviour.requests.clear()
            assert encode(source, out).tasks_run == 4
            assert behaviour.count(".mp3") >= 9
            behaviour.requests.clear()
            assert encode(source, out).tasks_run == 0
            assert behaviour.count(".mp3") == 0
            assert encode(source, out, check_audio=True).tasks_run == 0
            assert {path.rpartition("/")[2] for path in behaviour.requests if path.endswith(".mp3")} == {
                path.name for path in audio.rglob("*.mp3")
            }


@pytest.mark.usefixtures("without_workers")
def test_an_object_that_changed_is_found_by_its_etag(audio: Path, bucket: Path, tmp_path: Path) -> None:
    put(audio, bucket / "audio")
    encode(bucket / "audio", tmp_path / "set")
    path = audio / "nsynth-guitar-train/guitar_acoustic_000-041-100.mp3"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    put(audio, bucket / "audio")
    with pytest.raises(UserError, match=r"000-041-100\.mp3: has changed since this set was made of it"):
        encode(bucket / "audio", tmp_path / "set")
    (tmp_path / "set/manifest.json").unlink()
    with pytest.raises(UserError, match=r"unfinished and its inputs .*000-041-100\.mp3 is gone or has changed"):
        encode(bucket / "audio", tmp_path / "set")


@pytest.mark.usefixtures("without_workers")
def test_a_rank_reads_only_the_audio_of_its_own_tasks_and_each_file_once(audio: Path, tmp_path: Path) -> None:
    (audio / "empty.wav").touch()
    encode(audio, tmp_path / "set")
    with web_server(audio, behaviour := Behaviour()) as url:
        for index in (1, 0):
            behaviour.requests.clear()
            outcome = encode(parse_path(url), tmp_path / "ranks", Rank(index, 2))
            own = [read_shard_record(tmp_path / f"ranks/{name}.json") for name in TASKS[index::2]]
            names = sorted(Path(name).name for record in own for name in record.inputs)
            assert sorted(Path(path).name for path in behaviour.requests if path.endswith(".mp3")) == names
            (tmp_path / "ranks.inputs.json").unlink()
            behaviour.requests.clear()
            encode(parse_path(url), tmp_path / "ranks", Rank(index, 2))
            assert sorted(Path(path).name for path in behaviour.requests if path.endswith(".mp3")) == names
    assert outcome.manifest is not None
    here, there = files_of(tmp_path / "set"), files_of(tmp_path / "ranks")
    assert {name for name in here if here[name] != there[name]} == {MANIFEST}  # it names the source
    assert outcome.manifest.fingerprint == read_manifest(tmp_path / "set").fingerprint


@pytest.mark.usefixtures("without_workers")
def test_the_cache_of_a_set_in_a_bucket_is_beside_it_and_has_the_files_of_all_ranks(audio: Path, bucket: Path) -> None:
    source = put(audio, bucket / "audio")

    class OtherRank(Silent):
        """Another rank does its part after this one has read the cache, and before it writes it."""

        def start(self, total: int, done: int, unit: str = "notes") -> None:
            encode(source, bucket / "set", Rank(1, 2))

    encode_folder(EncodeRequest(source, bucket / "set", options(), 1, rank=Rank(0, 2)), OtherRank())
    assert "set.inputs.json" in places.list_files(bucket)
    assert len(json.loads(places.read_bytes(bucket / "set.inputs.json"))["files"]) == 9


# --- training ---------------------------------------------------------------------------------------------------------
def batches(folder: Path, workers: int = 0) -> list[Batch]:
    """The first batches of a training."""
    notes = NoteReader(folder, read_manifest(folder), "train")
    order = Order(notes.counts, seed=5, batch=4)
    stream = TrainStream(notes, order, VOCABULARY, 600, 0.1, STEPS, split_range(4, 0, 1))
    return list(train_batches(stream, workers))


def same(ours: list[Batch], theirs: list[Batch]) -> bool:
    return all(
        a.keys == b.keys and np.array_equal(a.codes, b.codes) and np.array_equal(a.labels, b.labels)
        for a, b in zip(ours, theirs, strict=True)
    )


@pytest.fixture
def tokens(make_set: Callable[..., Path]) -> Path:
    return make_set("tokens", train=[5, 3, 4], valid=[2])


@pytest.mark.parametrize("workers", [0, 2])
def test_training_from_a_bucket_or_a_web_server_sees_the_batches_on_disk(
    tokens: Path, bucket: Path, cache: Path, workers: int
) -> None:
    on_disk = batches(tokens)
    behaviour = Behaviour()
    with web_server(tokens, behaviour) as url:
        assert same(batches(parse_path(url), workers), on_disk)
        assert behaviour.count(".tar") == 3  # each once, however many workers want it
        assert same(batches(parse_path(url), workers), on_disk)
        assert behaviour.count(".tar") == 3
    shutil.rmtree(cache)
    assert same(batches(put(tokens, bucket), workers), on_disk)
    assert len(list(cache.rglob("*.tar"))) == 3


def test_a_bucket_whose_connections_break_is_read_again_or_named(tokens: Path, bucket: Path, cache: Path) -> None:
    put(tokens, bucket)
    breaks = iter([True, True, False, True, *itertools.repeat(False, 2), *itertools.repeat(True, 100)])
    behaviour = Behaviour(breaks=lambda path: path.endswith(".tar") and next(breaks))
    with s3_proxy(behaviour):
        assert same(batches(bucket), batches(tokens))
        shutil.rmtree(cache)
        with pytest.raises(UserError, match=r"s3://.*/train-0000.\.tar: cannot be read, in 3 tries"):
            batches(bucket)
    assert not [path for path in cache.rglob("*") if path.is_file()]


@pytest.mark.parametrize("says_length", [True, False])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_connection_that_breaks_in_the_middle_of_a_shard_is_tried_again(
    tokens: Path, says_length: bool, workers: int
) -> None:
    breaks = iter([True, True, False, True, *itertools.repeat(False, 100)])
    behaviour = Behaviour(breaks=lambda path: path.endswith(".tar") and next(breaks), says_length=says_length)
    with web_server(tokens, behaviour) as url:
        assert same(batches(parse_path(url), workers), batches(tokens))
    assert behaviour.count(".tar") == 3 + 3


@pytest.mark.parametrize("says_length", [True, False])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_connection_that_always_breaks_is_one_line_that_names_the_shard(
    tokens: Path, cache: Path, says_length: bool, workers: int
) -> None:
    behaviour = Behaviour(breaks=lambda path: path.endswith("train-00001.tar"), says_length=says_length)
    with (
        web_server(tokens, behaviour) as url,
        pytest.raises(UserError, match=rf"^{url}/train-00001\.tar: cannot be read, in 3 tries") as caught,
    ):
        batches(parse_path(url), workers)
    assert "\n" not in caught.value.message
    assert behaviour.count("train-00001.tar") == 3
    assert not [path for path in cache.rglob("*") if path.is_file() and "00001" in path.name]


def test_a_server_that_is_gone_is_one_line(tokens: Path) -> None:
    with web_server(tokens, Behaviour()) as url:
        pass
    with pytest.raises(UserError, match=r"manifest\.json: cannot be read, in 3 tries"):
        read_manifest(parse_path(url))


def test_a_shard_that_is_missing_or_has_other_bytes_is_named_and_not_kept(tokens: Path, cache: Path) -> None:
    path = tokens / "train-00000.tar"
    data = path.read_bytes()
    with web_server(tokens, Behaviour()) as url:
        path.write_bytes(data.replace(b"pitch", b"Pitch", 1))
        with pytest.raises(ShardError, match=r"train-00000\.tar: its sha256 is not the manifest's"):
            batches(parse_path(url))
        path.write_bytes(data + b"more")
        with pytest.raises(UserError, match=rf"train-00000\.tar: has more than {len(data):,} bytes"):
            batches(parse_path(url))
        path.write_bytes(data[:-4])
        with pytest.raises(UserError, match=rf"train-00000\.tar: .*{len(data) - 4} bytes instead of {len(data)}"):
            batches(parse_path(url))
        path.unlink()
        with pytest.raises(ShardError, match=r"train-00000\.tar: missing"):
            batches(parse_path(url))
    assert not list(cache.rglob("train-00000*"))


def test_a_copy_that_is_not_whole_is_fetched_again(tokens: Path, cache: Path) -> None:
    with web_server(tokens, Behaviour()) as url:
        batches(parse_path(url))
        for copy in cache.rglob("*.tar"):
            copy.write_bytes(b"cut short")
        assert same(batches(parse_path(url)), batches(tokens))
        for copy in cache.rglob("*.tar"):
            copy.write_bytes(copy.read_bytes().replace(b"pitch", b"Pitch", 1))  # of the same size
        assert same(batches(parse_path(url)), batches(tokens))


def test_a_manifest_decides_no_path_outside_the_cache(tmp_path: Path) -> None:
    manifest = write_set(tmp_path / "set", {"train": [[random_note("a")]]})
    hostile = replace(manifest.splits["train"][0], sha256="../../../../outside")
    with pytest.raises(ShardError, match="is no sha256"):
        cached_shard(parse_path("http://127.0.0.1:9/set"), hostile)
