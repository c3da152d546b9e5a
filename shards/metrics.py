"""A run's `metrics.jsonl`: one JSON object a line, the losses and speeds of a training step or an evaluation.

The trainer appends to it, and the curves and the page read it. Knows nothing of models and drawings.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"
KINDS = ("train", "valid")
LARGEST = 2**63  # of whole numbers


@dataclass(frozen=True)
class MetricsLine:
    """The numbers of one step."""

    kind: str  # train: one update; valid: an evaluation after it
    step: int
    values: dict[str, float]

    def to_line(self) -> str:
        return json.dumps({"kind": self.kind, "step": self.step, **self.values}) + "\n"

    @classmethod
    def from_line(cls, line: str) -> "MetricsLine":
        """Undo `to_line`.

        Raises:
            ValueError: cut short by a crash, or not a line of numbers.
        """
        values: Any = json.loads(line)
        if not isinstance(values, dict):
            raise ValueError("no JSON object")
        kind, step = values.pop("kind", None), values.pop("step", None)
        if kind not in KINDS or type(step) is not int or not {*map(type, values.values())} <= {int, float}:
            raise ValueError("no kind, no step, or a value that is not a number")
        if not 0 <= step < LARGEST or any(abs(value) > LARGEST for value in values.values() if type(value) is int):
            raise ValueError("a number that cannot be drawn")
        return cls(kind, step, values)


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
    for line in (run / METRICS).read_text(errors="replace").splitlines():
        try:
            lines.append(MetricsLine.from_line(line))
        except (ValueError, RecursionError):
            damaged += 1
    return RunMetrics(tuple(lines), damaged)
