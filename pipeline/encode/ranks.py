"""Ranks: processes that make one set together, each with its own tasks and its own unfinished files.

Task i belongs to rank i modulo their number: the plan is the same in every process, so nobody hands out work. Ranks
share nothing but the set. Knows nothing of what starts them.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.encode.plan import Task
from shards.errors import UserError
from shards.files import PART
from shards.storage import list_files


@dataclass(frozen=True)
class Rank:
    """Process `index` of `count`, from 0."""

    index: int = 0
    count: int = 1
    token: str = field(default_factory=lambda: secrets.token_hex(4))  # an engine may start a rank twice at once

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise UserError(f"rank {self.index} of {self.count}: ranks are numbered from 0 to {self.count - 1}")

    @property
    def is_alone(self) -> bool:
        return self.count == 1

    @property
    def name(self) -> str:
        return f"rank-{self.index}-of-{self.count}"

    @property
    def writer(self) -> str:
        """Name for `atomic_write`: no two processes write into the same part."""
        return "" if self.is_alone else f"{self.name}-{self.token}"

    def tasks(self, tasks: Sequence[Task]) -> list[Task]:
        """The tasks of this rank."""
        return list(tasks[self.index :: self.count])

    def remove_parts(self, out: Path, tasks: Sequence[Task]) -> None:
        """Delete the parts that a killed run has left: all, or with other ranks those of its own `tasks` and name."""
        stems = {Path(task.shard_name).stem for task in tasks}
        for name in list_files(out):
            is_own = self.is_alone or name.partition(".")[0] in stems or f".{self.name}-" in name
            if name.endswith(PART) and is_own:
                (out / name).unlink(missing_ok=True)
