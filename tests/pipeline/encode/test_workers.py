"""pipeline.encode.workers: results come in order, and a file that takes its worker down takes nothing else with it."""

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from pipeline.encode.batch_result import BatchResult
from pipeline.encode.plan import Batch, PlannedNote
from pipeline.encode.workers import encode_batches
from pipeline.notes.folder import AudioFile
from shards.errors import UserError
from shards.note import Note
from shards.record import Rejection


class ReadingActor:
    """A reader that does what the file's name says."""

    def read(self, batch: Batch, on_read: Callable[[int | None], None]) -> Iterator[list[str | Rejection]]:
        keys: list[str | Rejection] = []
        for index, note in enumerate(batch.notes):
            if index in batch.rejected:
                keys.append(batch.rejected[index])
                continue
            on_read(index)
            act(note.key)
            keys.append(note.key)
        on_read(None)
        for note in batch.notes:
            act(f"late {note.key}")
        yield keys


class EncodingActor:
    """A codec that does what the file's name says."""

    def launch(self, audio: list[str | Rejection]) -> Callable[[], BatchResult]:
        for key in audio:
            act(f"codec {key}")
        tokens = np.array([os.getpid() % 1024], np.int16)
        return lambda: BatchResult([Note(key, tokens) if isinstance(key, str) else key for key in audio])


class Actor(ReadingActor, EncodingActor):
    """An encoder that does what the file's name says."""

    def encode(self, batch: Batch, on_read: Callable[[int | None], None]) -> BatchResult:
        [audio] = self.read(batch, on_read)
        return self.launch(audio)()


def act(name: str) -> None:
    match name.split("-"):
        case ["segfault", *_]:
            os.kill(os.getpid(), signal.SIGSEGV)
        case ["exit", *_]:
            os._exit(3)
        case ["hang", *_]:
            while True:
                time.sleep(60)
        case ["late killed", *_]:
            os.kill(os.getpid(), signal.SIGKILL)
        case ["late segfaultlate", *_]:
            os.kill(os.getpid(), signal.SIGSEGV)
        case ["bug", *_]:
            raise ZeroDivisionError("a bug")
        case ["late full", *_]:
            raise OSError(errno.ENOSPC, "No space left on device", "/tmp/copy")
        case ["late kernel", *_]:
            os.write(2, b"Kernel.cu:7: Assertion `index < size` failed.\n" * 3)
            raise RuntimeError("CUDA error: device-side assert triggered\nmore lines")
        case ["late abort", *_]:
            os.write(2, b"terminate called\n  what():  CUDA error: an illegal memory access\nframe 0\n")
            os.abort()
        case ["user", *_]:
            raise UserError("a user's error")
        case ["shout", *_]:
            os.write(2, b"again " * 100_000)
        case ["codec refused", *_]:
            raise UserError("cuda:0: not enough memory")
        case ["codec unknown", *_]:
            raise ZeroDivisionError("a bug")
        case ["codec cudnn", *_]:
            raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED\nmore lines")
        case ["codec lost", *_]:
            os.kill(os.getpid(), signal.SIGKILL)
        case ["codec crashed", *_]:
            os.write(2, b"terminate called\n  what():  CUDA error: an illegal memory access\nframe 0\n")
            os.abort()
        case ["noise", *_]:
            os.write(2, b"libmpg123 has something to say\n")


def batches(*names: str, size: int = 1) -> list[Batch]:
    notes = [PlannedNote(name, AudioFile(f"{name}.wav")) for name in names]
    return [Batch(tuple(notes[start : start + size])) for start in range(0, len(notes), size)]


def run(todo: list[Batch], workers: int = 2, read_seconds: float = 20.0, codecs: int = 0) -> list[str]:
    results = list(
        encode_batches(ReadingActor if codecs else Actor, todo, workers, read_seconds, [EncodingActor] * codecs)
    )
    return [
        outcome.key if isinstance(outcome, Note) else f"{outcome.file}: {outcome.reason} ({outcome.detail})"
        for result in results
        for outcome in result.notes
    ]


# Codecs in processes of their own, beside the readers; 0: each worker reads and encodes.
with_codecs = pytest.mark.parametrize("codecs", [0, 2])


@pytest.mark.parametrize(("workers", "codecs"), [(1, 0), (3, 0), (1, 1), (3, 2)])
def test_results_come_in_the_order_of_the_batches(workers: int, codecs: int) -> None:
    names = [f"note-{index}" for index in range(50)]
    assert run(batches(*names), workers, codecs=codecs) == names


@with_codecs
def test_batches_are_taken_only_as_far_ahead_as_fits_in_memory(codecs: int) -> None:
    taken = []

    def endless() -> Iterator[Batch]:
        for index in range(10**9):
            taken.append(index)
            yield from batches(f"note-{index}")

    results = encode_batches(ReadingActor if codecs else Actor, endless(), 1, make_codecs=[EncodingActor] * codecs)
    for _ in range(5):
        next(results)
    results.close()
    assert len(taken) < 100


@pytest.mark.parametrize(("how", "codecs"), [("segfault", 0), ("exit", 0), ("segfault", 2)])
def test_a_file_that_crashes_its_worker_is_rejected_and_the_others_are_not(how: str, codecs: int) -> None:
    done = run(batches("a", f"{how}-1", "b", f"{how}-2", "c", "d", size=3), codecs=codecs)
    assert [line.split(" (")[0] for line in done] == [
        "a", f"{how}-1.wav: damaged", "b", f"{how}-2.wav: damaged", "c", "d"
    ]  # fmt: skip
    assert "crashes the decoder (" + ("SIGSEGV" if how == "segfault" else "exit code 3") in done[1]


@with_codecs
def test_a_file_that_hangs_its_worker_is_rejected(codecs: int) -> None:
    assert run(batches("a", "hang-1", "b"), read_seconds=0.2, codecs=codecs) == [
        "a", "hang-1.wav: damaged (not read within 0.2 s)", "b"
    ]  # fmt: skip


@with_codecs
def test_a_worker_that_was_killed_rejects_no_file_but_ends_the_run(codecs: int) -> None:
    with pytest.raises(UserError, match="memory ran out"):
        run(batches("a", "killed-1", "b"), codecs=codecs)


@with_codecs
def test_a_worker_that_dies_with_no_file_open_ends_the_run(codecs: int) -> None:
    with pytest.raises(UserError, match=r"SIGSEGV.*segfaultlate-1\.wav"):
        run(batches("a", "segfaultlate-1", "b"), codecs=codecs)


@with_codecs
def test_errors_of_a_worker_reach_the_caller(codecs: int) -> None:
    with pytest.raises(UserError, match="a user's error"):
        run(batches("a", "user-1"), codecs=codecs)
    with pytest.raises(RuntimeError, match="ZeroDivisionError: a bug"):
        run(batches("a", "bug-1"), codecs=codecs)


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("full-1", "while it encoded full-1.wav: /tmp/copy: No space left on device; make room"),
        ("kernel-1", "CUDA error: device-side assert triggered: Kernel.cu:7: Assertion `index < size` failed.; run"),
        ("abort-1", r"\(SIGABRT\) while it encoded abort-1.wav: what\(\):  CUDA error: an illegal memory access; run"),
    ],
)
def test_the_cause_of_a_workers_end_reaches_the_user_in_one_line(name: str, cause: str) -> None:
    with pytest.raises(UserError, match=cause) as error:
        run(batches("noise-0", name))
    assert len(error.value.message.splitlines()) == 1
    assert "libmpg123" not in error.value.message


@pytest.mark.parametrize(
    ("codecs", "name", "cause"),
    [
        (1, "refused-1", "^cuda:0: not enough memory$"),
        (
            2,
            "cudnn-1",
            r"a worker failed while it encoded [a-z]+-\d+\.wav: cuDNN error: CUDNN_STATUS_ALLOC_FAILED; run again",
        ),
        (1, "lost-1", r"was killed \(SIGKILL\), most likely because memory ran out"),
        (
            2,
            "crashed-1",
            r"died \(SIGABRT\) while it encoded [a-z]+-\d+\.wav: what\(\):  CUDA error: an illegal memory",
        ),
    ],
)
def test_a_codec_that_fails_ends_the_run_in_one_line(codecs: int, name: str, cause: str) -> None:
    names = [f"note-{index}" for index in range(20)]
    with pytest.raises(UserError, match=cause) as error:
        run(batches(*names, name, *names), codecs=codecs)
    assert len(error.value.message.splitlines()) == 1


def test_a_bug_of_a_codec_reaches_the_caller() -> None:
    with pytest.raises(RuntimeError, match="ZeroDivisionError: a bug"):
        run(batches("a", "unknown-1", "b"), codecs=2)


def fail_to_load() -> EncodingActor:
    raise UserError("weights.th: missing")


def test_a_codec_that_cannot_be_loaded_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^weights\.th: missing$"):
        list(encode_batches(ReadingActor, batches("a", "b"), 2, make_codecs=[fail_to_load, fail_to_load]))


def test_a_worker_that_says_a_lot_blocks_nothing() -> None:
    assert run(batches("shout-1", "b"), 1) == ["shout-1", "b"]


def test_what_a_library_writes_to_stderr_in_a_worker_is_not_seen(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(batches("noise-1")) == ["noise-1"]
    assert capfd.readouterr().err == ""


@with_codecs
def test_workers_are_gone_when_the_results_are_closed(codecs: int) -> None:
    todo = batches(*(f"note-{index}" for index in range(20)))
    results = encode_batches(ReadingActor if codecs else Actor, todo, 2, make_codecs=[EncodingActor] * codecs)
    result = next(results)
    assert isinstance(result.notes[0], Note)
    results.close()
    assert not _children()


def test_a_rejection_survives_the_way_to_a_worker_and_back() -> None:
    [batch] = batches("a", "b", size=2)
    batch.rejected[0] = Rejection("a.wav", "damaged", "known before")
    assert run([batch]) == ["a.wav: damaged (known before)", "b"]


def _children() -> list[str]:
    """Names of live processes that the fork server has made for this one."""
    import multiprocessing

    return [process.name for process in multiprocessing.active_children()]
