"""Metrics writer: a run's numbers go to `metrics.jsonl` (one object a step or evaluation) and TensorBoard, in the run's
folder, and to Weights & Biases if a project there is named. The training waits for none of them: a line goes into a
buffer, Weights & Biases has processes of its own. Knows nothing of what the numbers mean.
"""

import logging
from pathlib import Path
from typing import Any

from shards.errors import UserError, writing
from shards.events import BOARD, EventWriter
from shards.files import atomic_write
from shards.metrics import METRICS, Kind, MetricsLine, read_metrics
from shards.weights_and_biases import open_wandb
from trainer.errors import ConfigError

log = logging.getLogger(__name__)

BOARD_INTERVAL = 10  # steps between values in TensorBoard and Weights & Biases


class MetricsWriter:
    """Appends to the files of a run. It begins at a step by removing the lines of later ones, which an interrupted
    run has written after its last checkpoint."""

    def __init__(self, run: Path, step: int, settings: dict[str, Any], wandb_project: str | None = None) -> None:
        """settings: all that made the run, a JSON value.

        Raises ConfigError if there is a `wandb_project`, but its page cannot be opened.
        """
        self._wandb = _wandb_run(run, settings, wandb_project) if wandb_project else None
        path = run / METRICS
        if path.is_file():
            metrics = read_metrics(run)
            if metrics.damaged:
                log.warning("%s: %d damaged lines are left out.", path, metrics.damaged)
            lines = [line.to_line() for line in metrics.lines if line.step <= step]
            with atomic_write(path) as file:
                file.write("".join(lines).encode())
        self._path = path
        with writing(path):
            self._file = path.open("a")
        self._board = EventWriter(run / BOARD, purge_step=step + 1 if step else None)
        self._board.add_settings("run", settings, step)

    def write(self, kind: Kind, step: int, values: dict[str, float]) -> None:
        """Write the numbers of a step."""
        with writing(self._path):
            self._file.write(MetricsLine(kind, step, values).to_line())
        if kind == "valid" or step % BOARD_INTERVAL == 0:
            for name, value in values.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)
            if self._wandb is not None:
                self._wandb.log({f"{kind}/{name}": value for name, value in values.items()}, step=step)

    def flush(self) -> None:
        """Raises UserError, as `write` and `close`, if the files cannot be written."""
        with writing(self._path):
            self._file.flush()

    def close(self) -> None:
        try:
            with writing(self._path):
                self._file.close()
        finally:
            self._board.close()
            if self._wandb is not None:
                self._wandb.finish()


def _wandb_run(run: Path, settings: dict[str, Any], project: str) -> Any:
    try:
        return open_wandb(run, project, config=settings)
    except UserError as error:
        raise ConfigError(f"--wandb {project}: {error.message}, or leave --wandb out") from error
