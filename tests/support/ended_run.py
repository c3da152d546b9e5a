"""Run `python -m pipeline encode`, and send this process a signal at the N-th step: `python ended_run.py N SIGNAL ...`.

Steps are what leaves a trace: before and after each fsync and each rename, and after each encoded note. CODECS
in the environment: devices of codecs in processes apart from the readers, such as cpu,cpu.
"""

import itertools
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pipeline.encode.run
from pipeline.__main__ import main
from pipeline.progress import NoteBar

if __name__ == "__main__":
    last, number = int(sys.argv[1]), signal.Signals[sys.argv[2]]
    steps = itertools.count()

    def step() -> None:
        if next(steps) == last:
            os.kill(os.getpid(), number)

    def stepped(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any) -> Any:
            step()
            result = call(*arguments)
            step()
            return result

        return wrapper

    os.fsync = stepped(os.fsync)
    Path.replace = stepped(Path.replace)  # type: ignore[method-assign]
    NoteBar.step = stepped(NoteBar.step)  # type: ignore[method-assign]
    if codecs := os.environ.get("CODECS"):
        request = partial(pipeline.encode.run.EncodeRequest, codecs=tuple(codecs.split(",")))
        pipeline.encode.run.EncodeRequest = request  # type: ignore[misc]
    main(["encode", *sys.argv[3:]])
