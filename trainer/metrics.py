"""Where a run's numbers go: `metrics.jsonl` (one object a step or evaluation) and TensorBoard, in the run's folder."""

import json
from pathlib import Path
from typing import Any

from shards.files import atomic_write

FILE = "metrics.jsonl"
TENSORBOARD_EVERY = 10  # steps


class Metrics:
    """Appends; continues at a step by forgetting what an interrupted run had written after it."""

    def __init__(self, run: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = run / FILE
        if path.is_file():
            _forget(path, step)
        self._file = path.open("a")
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1 if step else None)

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        """Record numbers of a step; `kind` is "train" or "valid"."""
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        if kind == "valid" or step % TENSORBOARD_EVERY == 0:
            for name, value in values.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()
        self._board.close()


def read_metrics(run: Path, kind: str) -> list[dict[str, Any]]:
    """What `Metrics.write` has recorded of one kind, in order; a line cut by a crash is left out."""
    path = run / FILE
    lines = path.read_text().splitlines() if path.is_file() else []
    found = (_parsed(line) for line in lines)
    return [value for value in found if value.get("kind") == kind]


def _forget(path: Path, step: int) -> None:
    kept = [line for line in path.read_text().splitlines() if _parsed(line).get("step", step + 1) <= step]
    with atomic_write(path) as file:
        file.write("".join(f"{line}\n" for line in kept).encode())


def _parsed(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
