"""TensorBoard's event files: numbers and sounds of a training by step.

tensorboard's own writer takes no path that is not UTF-8, and a full disk ends it with a traceback in a thread.
"""

import itertools
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from shards.errors import writing

BOARD = "tensorboard"  # folder of event files in a run's folder
FLUSH_INTERVAL = 60.0  # seconds
NUMBERS = itertools.count()  # of this process's files


class EventWriter:
    """Writes one file in a folder that TensorBoard shows."""

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        """`purge_step`: numbers of this and later steps in earlier files are not shown.

        Raises:
            UserError: the file cannot be written.
        """
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(NUMBERS)}"
        self._path = folder / name
        with writing(self._path):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("wb")
        self._records = RecordWriter(self._file)
        self._flushed = time.monotonic()
        self._write(file_version="brain.Event:2")
        if purge_step is not None:
            self._write(step=purge_step, session_log=SessionLog(status=SessionLog.START))
        self.flush()

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Write a number of a step. Raises UserError."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._write(step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)]))
        if time.monotonic() > self._flushed + FLUSH_INTERVAL:
            self.flush()

    def add_audio(self, tag: str, wav: bytes, sample_rate: int, samples: int, step: int) -> None:
        """Write a sound of a step, the content of a mono WAV file. Raises UserError."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        audio = Summary.Audio(
            sample_rate=sample_rate,
            num_channels=1,
            length_frames=samples,
            encoded_audio_string=wav,
            content_type="audio/wav",
        )
        self._write(step=step, summary=Summary(value=[Summary.Value(tag=tag, audio=audio)]))

    def flush(self) -> None:
        with self._writing():
            self._file.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        with self._writing():
            self._file.close()

    def _write(self, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        with self._writing():
            self._records.write(Event(wall_time=time.time(), **fields).SerializeToString())

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with writing(self._path):
            try:
                yield
            except OSError:
                with suppress(OSError):
                    self._file.close()  # else Python would try to write again, and complain, when the file is freed
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()
