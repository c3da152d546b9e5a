"""Readers beside codecs in processes of their own, as on GPUs, but here on the CPU: the same set, byte for byte."""

import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.encode import codec_process, workers
from pipeline.encode.batch_result import BatchResult
from pipeline.encode.codec_process import IN_FLIGHT, encode_audio
from pipeline.encode.plan import Batch, PlannedNote
from pipeline.encode.run import EncodeOutcome, EncodeRequest, encode_folder
from pipeline.encode.settings import default_workers
from pipeline.encode.workers import encode_batches
from pipeline.notes.folder import AudioFile
from shards.errors import UserError
from shards.note import Note
from shards.record import Rejection
from shards.storage import parse_path
from tests.pipeline.encode.test_run_workers import check_end_and_finish
from tests.support.notes import Silent, encode_in_this_process, files_of, nsynth_folder, options, tone, write_note
from tests.support.servers import Behaviour, web_server


def encode(audio: Path, out: Path, codecs: tuple[str, ...] | None, **changes: Any) -> EncodeOutcome:
    return encode_folder(EncodeRequest(audio, out, options(**changes), 2, codecs=codecs), Silent())


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MP3s in two splits and, unequal in length, sounds and files that are rejected."""
    root = nsynth_folder(tmp_path_factory.mktemp("audio"), train=7, valid=2)
    write_note(root / "long-train" / "long.wav", np.tile(tone(50), 3))
    write_note(root / "long-train" / "silent.wav", np.zeros(16_000))
    (root / "long-train" / "text.wav").write_text("no sound")
    return root


def without_codecs(audio: Path, out: Path, **changes: Any) -> dict[str, bytes]:
    """The files of a set that is encoded in this process."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.encode.run.encode_batches", encode_in_this_process)
        encode(audio, out, None, **changes)
    return files_of(out)


@pytest.mark.parametrize(
    ("codecs", "changes"),
    [
        (1, {}),
        (2, {}),
        (2, {"duration": "full"}),
        (1, {"duration": None, "segment": 0.1}),
        (2, {"duration": None, "segment": 0.1}),
        (2, {"trim": True, "batch": 2}),
    ],
)
def test_a_set_has_the_same_bytes_however_many_codecs_make_it(
    audio: Path, tmp_path: Path, codecs: int, changes: dict[str, Any]
) -> None:
    whole = without_codecs(audio, tmp_path / "whole", **changes)
    assert b"text.wav" in whole["rejected.jsonl"] and b"silent.wav" in whole["rejected.jsonl"]
    outcome = encode(audio, tmp_path / "set", ("cpu",) * codecs, **changes)
    assert files_of(tmp_path / "set") == whole
    assert f"x real time, data wait {outcome.data_wait:.1%}." in " ".join(outcome.lines())


def test_audio_under_a_url_is_hashed_by_the_readers(audio: Path, tmp_path: Path) -> None:
    behaviour = Behaviour()
    with web_server(audio, behaviour) as url:
        whole = without_codecs(parse_path(url), tmp_path / "whole")
        behaviour.requests.clear()
        encode(parse_path(url), tmp_path / "set", ("cpu",))
    assert files_of(tmp_path / "set") == whole
    fetched = [path for path in behaviour.requests if path.endswith((".mp3", ".wav"))]
    assert len(fetched) == len(set(fetched)) == 12


@pytest.mark.parametrize(
    ("step", "number", "code"),
    [(17, signal.SIGKILL, -9), pytest.param(11, signal.SIGINT, 130, marks=pytest.mark.long)],
)
def test_a_run_with_codecs_that_was_killed_or_stopped_is_finished_by_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, number: signal.Signals, code: int
) -> None:
    root = nsynth_folder(tmp_path / "audio", train=7, valid=2)
    whole = without_codecs(root, tmp_path / "whole")
    monkeypatch.setenv("CODECS", "cpu,cpu")
    assert check_end_and_finish(step, number, root, tmp_path / "set", whole) == code


def batches(*names: str) -> list[Batch]:
    return [Batch((PlannedNote(name, AudioFile(f"{name}.wav")),)) for name in names]


Part = tuple[list[str | Rejection], bytes]


@dataclass
class Recording:
    """A reader of recordings in parts. Each counts its parts in a file of `folder`, which a codec can read."""

    folder: Path
    parts: int
    crashes: int = 0  # in the middle, of processes that read it
    is_damaged: bool = False  # at its end
    size: int = 0  # bytes of a part

    def read(self, batch: Batch, on_read: Callable[[int | None], None]) -> Iterator[Part]:
        if batch.rejected:
            yield [batch.rejected[0]], b""
            return
        [note] = batch.notes
        on_read(0)
        for index in range(self.parts):
            on_read(None)
            (self.folder / "parts").write_text(str(index + 1))
            yield [f"{note.key}-{index}"], bytes(self.size)
            on_read(0)
            if index == self.parts // 2 and len(list(self.folder.glob("crash*"))) < self.crashes:
                (self.folder / f"crash{os.getpid()}").touch()
                os.kill(os.getpid(), signal.SIGSEGV)
        on_read(None)
        yield [Rejection(note.file.path, "damaged", "at its end")] if self.is_damaged else [], b""


class Codec:
    """A codec that gives each note one code."""

    def launch(self, audio: Part) -> Callable[[], BatchResult]:
        tokens = np.zeros(1, np.int16)
        return lambda: BatchResult([Note(key, tokens) if isinstance(key, str) else key for key in audio[0]])


@dataclass
class SlowCodec(Codec):
    """A codec that is slower than a reader, and fails at its twentieth batch with the number of parts that are read."""

    folder: Path

    def __post_init__(self) -> None:
        self.calls = count(1)

    def launch(self, audio: Part) -> Callable[[], BatchResult]:
        time.sleep(0.005)
        if next(self.calls) == 20:
            raise UserError((self.folder / "parts").read_text())
        return super().launch(audio)


@pytest.mark.parametrize(
    ("crashes", "is_damaged", "expected"),
    [
        (0, False, [f"a-{index}" for index in range(5)]),
        (1, False, [f"a-{index}" for index in range(5)]),
        (2, False, ["damaged (crashes the decoder (SIGSEGV))"]),
        (0, True, ["damaged (at its end)"]),
    ],
)
def test_what_was_encoded_of_a_recording_before_it_failed_is_left_out(
    tmp_path: Path, crashes: int, is_damaged: bool, expected: list[str]
) -> None:
    reader = partial(Recording, tmp_path, 5, crashes, is_damaged)
    [result] = encode_batches(reader, batches("a"), 1, make_codecs=[Codec, Codec])
    notes = [note.key if isinstance(note, Note) else f"{note.reason} ({note.detail})" for note in result.notes]
    assert notes == expected


def test_a_recording_is_read_only_as_far_ahead_as_there_is_room_for_its_parts(tmp_path: Path) -> None:
    reader = partial(Recording, tmp_path, 10**6, size=1 << 20)  # more than a pipe takes
    results = encode_batches(reader, batches("a"), 1, make_codecs=[partial(SlowCodec, tmp_path)])
    with pytest.raises(UserError) as caught:
        next(results)
    assert 20 <= int(caught.value.message) <= 20 + IN_FLIGHT + 1  # and one that has been read


def test_a_reader_whose_audio_no_codec_takes_reads_the_next_batch_from_its_start(tmp_path: Path) -> None:
    sent: list[str | Rejection] = []

    def send(batch: Batch, audio: bytes) -> Future[BatchResult]:
        keys, _ = pickle.loads(audio)
        sent.extend(keys)
        if sent == ["a-0"]:
            raise UserError("a codec has failed")
        return Future()

    worker = workers._Worker(partial(Recording, tmp_path, 3), 20.0, send)
    with pytest.raises(UserError, match="a codec has failed"):
        worker.run(batches("a")[0])
    worker.run(batches("b")[0])
    worker.kill()
    assert sent == ["a-0", "b-0", "b-1", "b-2"]


class Pipe:
    """A pipe from which a codec gets batches at certain times, on a clock of its own."""

    def __init__(self, times: list[float], log: list[str]) -> None:
        self.arrivals = list(enumerate(times))
        self.log = log
        self.now = 0.0

    def poll(self) -> bool:
        return bool(self.arrivals) and self.arrivals[0][1] <= self.now

    def recv(self) -> int:
        if not self.arrivals:
            raise EOFError
        index, arrival = self.arrivals.pop(0)
        self.now = max(self.now, arrival)
        return index

    def launch(self, index: int) -> Callable[[], BatchResult]:
        self.log.append(f"launch {index}")

        def finish() -> BatchResult:
            self.log.append(f"finish {index}")
            self.now += 1.0  # second
            return BatchResult([])

        return finish


def run_codec(times: list[float], monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], float, float]:
    """What a codec does with batches that come at these times, and the seconds it waited of how many."""
    log: list[str] = []
    pipe = Pipe(times, log)
    monkeypatch.setattr(codec_process.time, "perf_counter", lambda: pipe.now)
    results: list[BatchResult] = []
    with pytest.raises(SystemExit):  # the pipe has ended
        results.extend(encode_audio(pipe, pipe))  # type: ignore[arg-type]
    return log, sum(result.waited for result in results), sum(result.elapsed for result in results)


def test_the_next_batch_is_launched_before_the_codes_of_the_last_are_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log, waited, elapsed = run_codec([0, 0, 0], monkeypatch)
    assert log == ["launch 0", "launch 1", "finish 0", "launch 2", "finish 1", "finish 2"]
    assert (waited, elapsed) == (0, 3)


def test_codes_are_sent_while_no_batch_comes_and_the_wait_for_audio_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    log, waited, elapsed = run_codec([5, 9, 9.5, 17], monkeypatch)
    assert log == [f"{step} {index}" for index in range(4) for step in ("launch", "finish")]
    assert (waited, elapsed) == (3 + 0 + 6, 13)


def test_all_gpus_are_used_unless_one_is_named_and_readers_have_the_other_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(17), raising=False)
    found = {device: options(device=device).find_devices() for device in ("auto", "cuda", "cuda:1", "cpu")}
    assert found["auto"] == found["cuda"] == ("cuda:0", "cuda:1", "cuda:2", "cuda:3")
    assert found["cuda:1"] == ("cuda:1",) and found["cpu"] == ("cpu",)
    assert [default_workers(found[device]) for device in ("cuda", "cuda:1", "cpu")] == [16, 4, 17]
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(1), raising=False)
    assert default_workers(found["cuda"]) == default_workers(found["cuda:1"]) == 1
