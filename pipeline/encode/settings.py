"""Settings of a shard set: all that decides its bytes apart from the audio, and the options they are made of.

Loads no codec: its weights file is hashed, and torch is imported only to find a device.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.audio import LONGEST, RESAMPLER
from pipeline.codec.spec import codec_spec, is_hugging_face
from pipeline.notes.nsynth import NSYNTH_SECONDS
from shards.errors import UserError
from shards.manifest import Manifest
from shards.note import Codec

PRECISIONS = ("float32", "bfloat16")
BACKEND = "torch"  # the only one there is; named in the blocks so that digests of older sets hold
GPU_BATCH = 16  # notes in one call of the codec
CPU_BATCH = 4  # as many share one reading of the LSTM's weights
FILES_PER_SHARD = 1000  # where each is a note
RECORDINGS_PER_SHARD = 16  # where each is cut into segments: some minutes of one are about 100 notes

# audio of a set whose manifest does not say
EARLIER: dict[str, Any] = {"rules": 1, "trim": False, "ffmpeg": False, "segment": None}

# Which files become notes, and which of their samples are read, beyond all that has a setting. Sets keep their number.
# 1: As many samples as libsndfile takes from the header, or guesses; cut WAVs, MP3s and Oggs, and notes whose channels
#    cancel or that begin after the duration are encoded; splits are in folders that end in -train, -valid and -test
#    alone; keys have up to 120 characters of any number of bytes, and may differ in case alone.
# 2: Files are read to their end (`pipeline.container`); those that lack it, and the others named above, are rejected;
#    folders called train, valid, val, validation and test are splits; keys have up to 200 bytes.
RULES = 2


@dataclass(frozen=True)
class Settings:
    """The settings of one set, checked when made."""

    codec: Codec
    duration: float | None = NSYNTH_SECONDS  # seconds; None keeps each note's length, or that of each segment
    min_peak: float = 1e-4  # of full scale; a note that stays below is rejected as silent
    precision: str = "float32"  # of the encoder's arithmetic
    batch: int = 1  # notes in one call of the codec: their codes may depend on it, so a set keeps its own
    notes_per_shard: int = FILES_PER_SHARD  # files, each a note or cut into segments
    valid_fraction: float = 0.02  # of files whose folder names no split
    seed: int = 0
    trim: bool = False  # the silence before a note is left out
    ffmpeg: bool = False  # the folder has files that only FFmpeg reads, and they are notes of the set
    rules: int = RULES
    segment: float | None = None  # seconds; None: each file is a note

    def __post_init__(self) -> None:
        if self.segment is not None and not 1 / self.codec.frame_rate <= self.segment <= LONGEST:
            frame = f"{1 / self.codec.frame_rate:.3g}"
            raise UserError(
                f"segment {self.segment:g}: give seconds, from {frame}, a frame of the codec, to {LONGEST:g}"
            )
        if self.segment is not None and self.trim:
            raise UserError("--segment and --trim: give one of them; segments are counted from a recording's start")
        if self.duration is not None and not 1 / self.codec.frame_rate <= self.duration <= LONGEST:
            raise UserError(f"duration {self.duration:g}: give seconds, up to {LONGEST:g}, or `full`")
        if not 0 <= self.min_peak <= 1:
            raise UserError(f"min peak {self.min_peak:g}: give a share of full scale, such as 0.0001, or 0")
        if self.precision not in PRECISIONS:
            raise UserError(f"precision {self.precision}: choose from {', '.join(PRECISIONS)}")
        if self.precision != "float32" and is_hugging_face(self.codec.name):
            raise UserError(f"precision {self.precision}: {self.codec.name} has float32 alone; leave --precision out")
        if self.notes_per_shard < 1:
            raise UserError(f"notes per shard {self.notes_per_shard}: give 1 or more")
        if not 0 <= self.valid_fraction < 1:
            raise UserError(f"valid fraction {self.valid_fraction:g}: give a share from 0 to less than 1, such as 0.02")

    @property
    def files_a_batch(self) -> int:
        """Files that a worker gets at a time: those of one call of the codec, or one whose segments need several."""
        return self.batch if self.segment is None else 1

    def to_json(self) -> dict[str, dict[str, Any]]:
        """The manifest's blocks: the codec, how audio is prepared and encoded, how notes are assigned."""
        segment = {} if self.segment is None else {"segment": self.segment}  # older digests hold
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
                "trim": self.trim,
                "ffmpeg": self.ffmpeg,
                "rules": self.rules,
                **segment,
            },
            "plan": {
                "notes_per_shard": self.notes_per_shard,
                "valid_fraction": self.valid_fraction,
                "seed": self.seed,
            },
        }

    def identity(self) -> dict[str, dict[str, Any]]:
        """The blocks that digests are made of."""
        return {**self.to_json(), "codec": self.codec.identity()}

    @classmethod
    def from_json(cls, blocks: Mapping[str, Mapping[str, Any]]) -> "Settings":
        """Undo `to_json`; other fields of the blocks are ignored."""
        audio, plan = {**EARLIER, **blocks["audio"]}, blocks["plan"]
        return cls(
            codec=Codec(**blocks["codec"]),
            **{name: audio[name] for name in ("duration", "min_peak", "precision", "batch", *EARLIER)},
            **{name: plan[name] for name in ("notes_per_shard", "valid_fraction", "seed")},
        )


def blocks_of(manifest: Manifest) -> dict[str, dict[str, Any]]:
    """The blocks of a finished set, as `Settings.to_json` writes them."""
    return {"codec": manifest.codec.to_json(), "audio": manifest.audio, "plan": manifest.plan}


def check_backend(audio: Mapping[str, Any], file: Path) -> None:
    """Refuse to encode as a set whose `audio` block names a backend that is no longer there."""
    if (backend := audio.get("backend", BACKEND)) != BACKEND:
        raise UserError(
            f"{file}: was encoded by {backend}, which is no longer supported, and {BACKEND} gives other codes; decode "
            "it or train on it as it is, or encode the folder under a new name"
        )


@dataclass(frozen=True)
class EncodingOptions:
    """The options that decide a set, and where on this machine its codec is found and runs."""

    codec: str
    bandwidth: float | None  # kbps; None: the codec's lowest
    duration: str | None  # seconds, or "full"; None: as NSynth's, or with `segment` full
    weights: Path | None
    device: str
    min_peak: float
    precision: str
    notes_per_shard: int | None  # None: as many as suit notes, or with `segment` recordings
    valid_fraction: float
    seed: int
    trim: bool = False
    segment: float | None = None  # seconds; None: each file is a note
    batch: int | None = None  # notes in one call of the codec; None: as suits the device

    def settings(self) -> Settings:
        """Settings of a set, but for the default of the batch, which depends on the device.

        Raises:
            UserError: a value that makes no sense.
            CodecError: no such codec, or its weights cannot be read.
        """
        if self.segment is not None and self.duration is not None:
            raise UserError("--segment and --duration: give one of them; segments have the length of --segment")
        duration = None if self.segment is not None else _seconds(self.duration or str(NSYNTH_SECONDS))
        if duration is None and self.segment is None and self.batch not in (None, 1):
            raise UserError(
                "--batch and --duration full: give one of them; notes of several lengths are encoded one by one"
            )
        files_per_shard = FILES_PER_SHARD if self.segment is None else RECORDINGS_PER_SHARD
        return Settings(
            codec=codec_spec(self.codec, self.bandwidth, self.weights),
            duration=duration,
            min_peak=self.min_peak,
            precision=self.precision,
            batch=self.batch or 1,
            notes_per_shard=files_per_shard if self.notes_per_shard is None else self.notes_per_shard,
            valid_fraction=self.valid_fraction,
            seed=self.seed,
            trim=self.trim,
            segment=self.segment,
        )

    def find_devices(self) -> tuple[str, ...]:
        """The devices on which the codec runs: the CPU, or all GPUs, or the GPU that is named. Raises UserError."""
        if self.device == "cpu":
            return (self.device,)
        import torch

        from pipeline.codec.loaded import resolve_device

        device = resolve_device(self.device)
        if device.type == "cuda" and device.index is None:
            return tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))
        return (str(device),)


def default_batch(settings: Settings, device: str) -> int:
    """Notes in one call of the codec, for a new set."""
    if settings.duration is None and settings.segment is None:
        return 1  # lengths differ
    return CPU_BATCH if device == "cpu" else GPU_BATCH


def default_workers(devices: Sequence[str]) -> int:
    """A process a core; beside GPUs a core is left to the codecs, and each GPU of the machine has its share."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS has none
    if devices[0] == "cpu":
        return cores
    import torch

    return max(1, (cores - 1) * len(devices) // max(torch.cuda.device_count(), 1))


def _seconds(duration: str) -> float | None:
    if duration == "full":
        return None
    try:
        return float(duration)
    except ValueError as error:
        raise UserError(f"duration {duration}: give seconds, such as 4.0, or `full`") from error
