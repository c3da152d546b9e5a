"""A run's `metrics.jsonl`: one JSON object a line, the losses and speeds of a training step or an evaluation.

The trainer appends to it, and the curves and the page read it. Knows nothing of models and drawings.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from shards.errors import ShardError
from shards.parse import json_object, to_dataclass

METRICS = "metrics.jsonl"
LONGEST_LINE = 1 << 20  # characters
LARGEST = 2**63 - 1  # of whole numbers, so that they can be drawn

Kind = Literal["train", "valid"]
Number = Annotated[int, msgspec.Meta(ge=-LARGEST, le=LARGEST)] | float


@dataclass(frozen=True)
class MetricsLine:
    """The numbers of one step."""

    kind: Kind  # train: one update; valid: an evaluation after it
    step: Annotated[int, msgspec.Meta(ge=0, le=LARGEST)]
    values: dict[str, Number]

    def to_line(self) -> str:
        return json.dumps({"kind": self.kind, "step": self.step, **self.values}) + "\n"

    @classmethod
    def from_line(cls, line: str) -> "MetricsLine":
        """Undo `to_line`.

        Raises:
            ShardError: cut short by a crash, or not a line of numbers.
        """
        values = json_object(line, METRICS, has_nan=True)  # the loss of a run that diverges
        fields = {name: values.pop(name, None) for name in ("kind", "step")}
        return to_dataclass(cls, {**fields, "values": values}, METRICS, "leave the line out")


@dataclass(frozen=True)
class RunMetrics:
    """All lines of a run in their order."""

    lines: tuple[MetricsLine, ...] = ()
    damaged: int = 0  # lines that could not be parsed

    def of(self, kind: str) -> list[MetricsLine]:
        """The lines of one kind, "train" or "valid"."""
        return [line for line in self.lines if line.kind == kind]


def read_metrics(run: Path) -> RunMetrics:
    """Read the metrics of the run in this folder; damaged lines are left out and counted.

    Raises:
        OSError: the folder has no such file, or it cannot be read.
    """
    lines: list[MetricsLine] = []
    damaged = 0
    with (run / METRICS).open(errors="replace") as file:
        while line := file.readline(LONGEST_LINE):
            try:
                lines.append(MetricsLine.from_line(line))
            except ShardError:
                damaged += 1
            if len(line) == LONGEST_LINE:  # no line of ours, and nothing behind it
                break
    return RunMetrics(tuple(lines), damaged)


def read_valid_losses(run: Path) -> dict[int, float]:
    """The valid loss of each step of a run that was evaluated; empty without its metrics."""
    try:
        return {line.step: line.values["loss"] for line in read_metrics(run).of("valid") if "loss" in line.values}
    except OSError:
        return {}
