"""Origin of a sample: the run, checkpoint and settings that made it, the block `sampled` of its token file.

The trainer writes it; scores and the page read it. Knows nothing of codes, models and sound.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import msgspec

TOKENS = "tokens"  # folder of a sample folder's token files; the audio files and the page are beside it
SET_LABEL = "set"  # label of notes of a run of several shard sets: the name of a note's set
PREVIEWS = "samples"  # folder in a run's folder of the samples of its evaluations; below it a folder a step


@dataclass(frozen=True)
class SampleInfo:
    """The origin of one sample. None: not stated."""

    run: str | None = None
    checkpoint: str | None = None
    step: int | None = None  # of the checkpoint
    shards: str | tuple[str, ...] | None = None  # path of the set that the run was trained on, or of several
    dtype: str | None = None
    seed: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    guidance: float | None = None
    prompt: str | None = None
    prompt_tokens: int | None = None
    index: int | None = None  # of the sample among those of its seed
    candidate: int | None = None  # its number among those of its key and velocity
    log_likelihood: float | None = None  # nats a token

    def sets_of(self, names: Iterable[Any]) -> tuple[str, ...]:
        """The paths in `shards` of the sets with these names; all paths, if there are no names or other ones too."""
        paths = (self.shards,) if isinstance(self.shards, str) else self.shards or ()
        wanted = {name if isinstance(name, str) else "" for name in names}
        chosen = tuple(path for path in paths if set_name(path) in wanted)
        return chosen if len(chosen) == len(wanted) > 0 else paths

    def to_json(self) -> dict[str, Any]:
        """The fields that have a value."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @classmethod
    def from_json(cls, value: Any) -> "SampleInfo":
        """Undo `to_json`; never fails. A field of another type becomes None."""
        block = value if isinstance(value, dict) else {}
        return cls(**{field.name: _checked(block.get(field.name), field.type) for field in fields(cls)})


def set_name(path: str) -> str:
    """The name of a set in a run of several: the last part of its path or URL."""
    return path.rstrip("/").rpartition("/")[2]


def common(infos: Iterable[SampleInfo]) -> SampleInfo:
    """The fields in which all samples agree; the others are None."""
    first, *others = [*infos] or [SampleInfo()]
    return SampleInfo(
        **{name: value for name, value in vars(first).items() if all(getattr(other, name) == value for other in others)}
    )


def _checked(value: Any, kind: Any) -> Any:
    """The value if it has the field's type; a whole number is a float too."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return None
