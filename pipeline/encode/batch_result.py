"""Results of encoding a batch of notes. Knows nothing of how it is encoded, and imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from shards.note import Note
from shards.record import Rejection


@dataclass(frozen=True)
class BatchResult:
    """Codes of each note of a batch, or the reason why it has none; of a recording, those of its segments."""

    notes: list[Note | Rejection]
    digests: dict[int, str] = field(default_factory=dict)  # index -> of a file that was fetched from a URL
    silent: int = 0  # segments that are no notes because they are silent
    waited: float = 0.0  # seconds in which a codec with a process of its own had no audio
    elapsed: float = 0.0  # seconds since its result before, `waited` among them


def join_parts(parts: Sequence[BatchResult]) -> BatchResult:
    """Join the results of the parts in which a batch was read. A recording is rejected as a whole, by its last part."""
    last = parts[-1]
    is_rejected = any(isinstance(note, Rejection) for note in last.notes)
    return BatchResult(
        last.notes if is_rejected else [note for part in parts for note in part.notes],
        last.digests,
        0 if is_rejected else sum(part.silent for part in parts),
        sum(part.waited for part in parts),
        sum(part.elapsed for part in parts),
    )
