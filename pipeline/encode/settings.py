"""Settings of a shard set: all that decides its bytes apart from the audio, to and from the manifest's blocks.

Knows nothing of options, devices or files.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.audio import LONGEST, RESAMPLER
from pipeline.notes.nsynth import NSYNTH_SECONDS
from shards.errors import UserError
from shards.note import Codec

PRECISIONS = ("float32", "bfloat16")
BACKEND = "torch"  # the only one there is; named in the blocks so that digests of older sets hold


@dataclass(frozen=True)
class Settings:
    """The settings of one set, checked when made."""

    codec: Codec
    duration: float | None = NSYNTH_SECONDS  # seconds; None keeps each note's length
    min_peak: float = 1e-4  # of full scale; a note that stays below is rejected as silent
    precision: str = "float32"  # of the encoder's arithmetic
    batch: int = 1  # notes in one call of the codec: their codes may depend on it, so a set keeps its own
    notes_per_shard: int = 1000
    valid_fraction: float = 0.02  # of notes whose folder names no split
    seed: int = 0

    def __post_init__(self) -> None:
        if self.duration is not None and not 1 / self.codec.frame_rate <= self.duration <= LONGEST:
            raise UserError(f"duration {self.duration:g}: give seconds, up to {LONGEST:g}, or `full`")
        if not 0 <= self.min_peak <= 1:
            raise UserError(f"min peak {self.min_peak:g}: give a share of full scale, such as 0.0001, or 0")
        if self.precision not in PRECISIONS:
            raise UserError(f"precision {self.precision}: choose from {', '.join(PRECISIONS)}")
        if self.notes_per_shard < 1:
            raise UserError(f"notes per shard {self.notes_per_shard}: give 1 or more")
        if not 0 <= self.valid_fraction < 1:
            raise UserError(f"valid fraction {self.valid_fraction:g}: give a share from 0 to less than 1, such as 0.02")

    def to_json(self) -> dict[str, dict[str, Any]]:
        """The manifest's blocks: the codec, how audio is prepared and encoded, how notes are assigned."""
        return {
            "codec": self.codec.to_json(),
            "audio": {
                "duration": self.duration,
                "sample_rate": self.codec.sample_rate,
                "channels": "mean",
                "resampler": RESAMPLER,
                "min_peak": self.min_peak,
                "precision": self.precision,
                "backend": BACKEND,
                "batch": self.batch,
            },
            "plan": {
                "notes_per_shard": self.notes_per_shard,
                "valid_fraction": self.valid_fraction,
                "seed": self.seed,
            },
        }

    @classmethod
    def from_json(cls, blocks: Mapping[str, Mapping[str, Any]]) -> "Settings":
        """Undo `to_json`; other fields of the blocks are ignored."""
        audio, plan = blocks["audio"], blocks["plan"]
        return cls(
            codec=Codec(**blocks["codec"]),
            **{name: audio[name] for name in ("duration", "min_peak", "precision", "batch")},
            **{name: plan[name] for name in ("notes_per_shard", "valid_fraction", "seed")},
        )
