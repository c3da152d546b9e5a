"""What the user chose -> the settings of a set, and the codec they name."""

import os
from dataclasses import dataclass
from pathlib import Path

from pipeline.codec.model import EnCodec, load_codec
from pipeline.codec.precision import with_precision
from pipeline.encode.settings import Settings
from shards.errors import UserError

GPU_BATCH = 16  # notes in one call of the codec
CPU_BATCH = 4  # as many share one reading of the LSTM's weights; OpenVINO is faster with one


@dataclass(frozen=True)
class Choice:
    """Settings, and where on this machine the codec is found and runs."""

    settings: Settings
    weights: Path | None
    device: str


def choose(
    codec: str,
    bandwidth: float,
    duration: str,
    weights: Path | None,
    device: str,
    min_peak: float,
    precision: str,
    backend: str,
    notes_per_shard: int,
    valid_fraction: float,
    seed: int,
) -> Choice:
    """Check what was asked for, with the codec at hand.

    Raises:
        UserError: a value that makes no sense.
        CodecError: the codec cannot be had.
    """
    loaded = load_codec(codec, bandwidth, weights, device)
    place = loaded.device.type
    seconds = _seconds(duration)
    settings = Settings(
        codec=loaded.spec,
        duration=seconds,
        min_peak=min_peak,
        precision=precision,
        backend=backend,
        batch=1 if seconds is None or backend == "openvino" else CPU_BATCH if place == "cpu" else GPU_BATCH,
        notes_per_shard=notes_per_shard,
        valid_fraction=valid_fraction,
        seed=seed,
    )
    _as_set(loaded, settings)  # so that a backend that is not here is known at once
    return Choice(settings, weights, place)


def load_chosen(choice: Choice) -> EnCodec:
    """The codec of a choice, once more: every worker has its own."""
    spec = choice.settings.codec
    return _as_set(load_codec(spec.name, spec.bandwidth, choice.weights, choice.device), choice.settings)


def _as_set(codec: EnCodec, settings: Settings) -> EnCodec:
    """The codec, encoding as the settings say."""
    return with_precision(codec, settings.precision)


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
