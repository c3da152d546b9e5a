"""TensorBoard's event files: settings of a training, and its numbers, sounds and pictures by step.

tensorboard's own writer takes no path that is not UTF-8, and a full disk ends it with a traceback in a thread.
"""

import itertools
import json
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
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

        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(NUMBERS):06d}"
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

    def add_image(self, tag: str, png: bytes, step: int) -> None:
        """Write a picture of a step, the content of a PNG file. A tag of sounds shows none. Raises UserError."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        width, height = struct.unpack(">II", png[16:24])  # of the header, the first chunk of every PNG
        image = Summary.Image(width=width, height=height, encoded_image_string=png)
        self._write(step=step, summary=Summary(value=[Summary.Value(tag=tag, image=image)]))

    def add_settings(self, tag: str, settings: Mapping[str, Any], step: int) -> None:
        """Write a JSON value, as text and for the table of hyperparameters. Raises UserError."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.plugins.text.metadata import create_summary_metadata

        text = "```json\n" + json.dumps(settings, indent=2) + "\n```"
        value = Summary.Value(
            tag=tag,
            metadata=create_summary_metadata(display_name=tag, description=""),
            tensor=TensorProto(dtype=DT_STRING, string_val=[text.encode()]),
        )
        self._write(step=step, summary=Summary(value=[value]))
        self._write(summary=hparams_pb(dict(_flatten(settings))))

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


def _flatten(value: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """(name, value) of what is in objects of objects; lists as text."""
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flatten(inner, f"{before}{name}.")
        else:
            yield before + name, inner if isinstance(inner, str | int | float) else json.dumps(inner)
