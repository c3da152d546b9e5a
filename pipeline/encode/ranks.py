"""One process among several that make a set together: which tasks are its own, and what it may clean up.

The plan is the same in every process, so nobody hands out work: task i belongs to rank i modulo their number. Ranks
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
    """Rank `index` of `count`, from 0; one process that lives once."""

    index: int = 0
    count: int = 1
    life: str = field(default_factory=lambda: secrets.token_hex(4))  # an engine may start a rank that is not dead yet

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
        """Told to `atomic_write`: no two ranks, nor two lives of one, write into one part."""
        return "" if self.is_alone else f"{self.name}-{self.life}"

    def tasks(self, tasks: Sequence[Task]) -> list[Task]:
        """Those that are its own."""
        return list(tasks[self.index :: self.count])

    def clear(self, out: Path, tasks: Sequence[Task]) -> None:
        """Delete the parts that a run which was killed has left: all, or those of its own `tasks` and of its name."""
        own = {Path(task.shard_name).stem for task in tasks}
        for name in list_files(out):
            theirs = not self.is_alone and name.partition(".")[0] not in own and f".{self.name}-" not in name
            if name.endswith(PART) and not theirs:
                (out / name).unlink(missing_ok=True)
