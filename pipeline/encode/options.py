"""Options of `encode` and `plan`, as the user gives them: they become the settings of a set, and a device.

Loads no codec: its weights file is hashed, and torch is imported only to find a device.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from pipeline.codec.spec import codec_spec
from pipeline.encode.settings import Settings
from shards.errors import UserError

GPU_BATCH = 16  # notes in one call of the codec
CPU_BATCH = 4  # as many share one reading of the LSTM's weights


@dataclass(frozen=True)
class EncodingOptions:
    """The options that decide a set, and where on this machine its codec is found and runs."""

    codec: str
    bandwidth: float  # kbps
    duration: str  # seconds, or "full"
    weights: Path | None
    device: str
    min_peak: float
    precision: str
    notes_per_shard: int
    valid_fraction: float
    seed: int

    def settings(self) -> Settings:
        """Settings of a set, but for the batch, which depends on the device.

        Raises:
            UserError: a value that makes no sense.
            CodecError: no such codec, or its weights cannot be read.
        """
        return Settings(
            codec=codec_spec(self.codec, self.bandwidth, self.weights),
            duration=_seconds(self.duration),
            min_peak=self.min_peak,
            precision=self.precision,
            notes_per_shard=self.notes_per_shard,
            valid_fraction=self.valid_fraction,
            seed=self.seed,
        )

    def find_device(self) -> str:
        """The device on which the codec runs. Raises UserError."""
        if self.device == "cpu":
            return self.device
        from pipeline.codec.model import resolve_device  # imports torch

        return str(resolve_device(self.device))


def default_batch(settings: Settings, device: str) -> int:
    """Notes in one call of the codec, for a new set."""
    if settings.duration is None:
        return 1  # lengths differ
    return CPU_BATCH if device == "cpu" else GPU_BATCH


def default_workers(device: str) -> int:
    """A process a core; a GPU has one."""
    if device != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS has none


def _seconds(duration: str) -> float | None:
    if duration == "full":
        return None
    try:
        return float(duration)
    except ValueError as error:
        raise UserError(f"duration {duration}: give seconds, such as 4.0, or `full`") from error
