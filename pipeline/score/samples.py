"""A folder of samples: NAME.wav beside tokens/NAME.npy and tokens/NAME.json, as `make samples` writes it.

In one process that decodes, scores and shows samples, each file is read once: `decode_samples` and `Sample.waveform`
cache the waveforms in memory.

A damaged token file becomes a sample with a fault, and the other samples stay usable. Memory grows with the number of
samples by their tokens (1.2 KB for 4 s) and by the waveforms of the first MAX_CACHED of them (384 KB for 4 s, so at
most 400 MB); the WAVs of the others are read again where they are needed. Knows nothing of scores and of pages.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.audio import LONGEST, SHORTEST, load_at_file_rate, round_to_pcm
from pipeline.codec.loaded import LoadedCodec
from pipeline.decode.run import Decoded, decode_source
from pipeline.decode.source import TokenSource, token_file_source
from pipeline.progress import Progress
from shards.errors import ShardError, UserError
from shards.note import Codec, TokenFile, read_token_file
from shards.sample_info import SET_LABEL, TOKENS, SampleInfo, common
from shards.sample_list import LIST, select_last_call
from shards.storage import text_path

MAX_CACHED = 1_000  # waveforms

Waveform = tuple[np.ndarray, int]  # (sample,) float32, and its rate in Hz


class NoShardSetError(UserError):
    """The shard set of samples is not named, or not there."""


@dataclass
class Sample:
    """One sample, a WAV or a token file or both."""

    name: str
    wav: Path  # may be missing
    file: TokenFile | None = None  # None: missing or damaged
    fault: str | None = None  # of the token file
    cache: bool = True  # keep the waveform in memory
    _waveform: Waveform | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def labels(self) -> Mapping[str, Any]:
        """The labels that it was conditioned on."""
        return self.file.note.labels if self.file else {}

    @property
    def sampled(self) -> SampleInfo:
        return self.file.sampled or SampleInfo() if self.file else SampleInfo()

    def waveform(self) -> Waveform:
        """Return the waveform that the WAV file holds, from memory if it is cached. Raises AudioError."""
        waveform = self._waveform or load_at_file_rate(self.wav)
        if self.cache:
            self._waveform = waveform
        return waveform

    def set_decoded(self, waveform: np.ndarray, sample_rate: int) -> None:
        """Cache a decoded waveform as the WAV file holds it, in 16 bits."""
        if self.cache and SHORTEST <= len(waveform) / sample_rate <= LONGEST:  # others: the file is refused when read
            self._waveform = round_to_pcm(waveform), sample_rate


@dataclass(frozen=True)
class SampleFolder:
    """The samples of a folder, sorted by name."""

    path: Path
    samples: tuple[Sample, ...]
    left_out: str = ""  # line that names the samples of earlier calls of `sample`

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def __len__(self) -> int:
        return len(self.samples)

    def codec(self) -> Codec | None:
        """The codec of the first token file that could be read."""
        return next((sample.file.codec for sample in self.samples if sample.file), None)

    def common(self) -> SampleInfo:
        """The fields in which all token files agree."""
        return common(sample.sampled for sample in self.samples if sample.sampled != SampleInfo())

    def shards_folders(self) -> tuple[Path, ...]:
        """The shard set that the token files name; of a run of several sets, those that their labels name, or all.

        Raises NoShardSetError if they do not agree.
        """
        named = {sample.sampled.shards: sample.sampled for sample in self.samples if sample.sampled.shards}
        if len(named) != 1:
            raise NoShardSetError(f"{self.path}: its token files do not name one shard set; --shards FOLDER names it")
        [info] = named.values()
        names = [sample.labels.get(SET_LABEL) for sample in self.samples if sample.file]
        return tuple(text_path(path) for path in info.sets_of(names))

    def token_source(self) -> TokenSource:
        """The token files as a source to decode; WAVs without a token file are left out.

        Raises:
            ShardError: no token files, or one that is damaged or of another codec than the first.
        """
        folder = self.path / TOKENS
        files = {}
        for sample in self.samples:
            path = folder / f"{sample.name}.npy"
            if sample.file:
                files[path] = sample.file
            elif path.exists():
                raise ShardError(str(sample.fault))
        if not files:
            raise ShardError(f"{folder}: no token files in it (NAME.npy with NAME.json)")
        return token_file_source(files)

    def fingerprint(self) -> str:
        """sha256 of the samples' names and tokens: tells whether scores belong to these samples."""
        digest = hashlib.sha256()
        for sample in self.samples:
            tokens = sample.file.note.tokens.tobytes() if sample.file else b""
            digest.update(f"{sample.name!r} {len(tokens)}\n".encode() + tokens)
        return digest.hexdigest()


def read_samples(folder: Path) -> SampleFolder:
    """Read the token files of all samples in `folder`; a sample has a WAV or a token file or both.

    Of samples that several calls of `sample` made, those of the last one are taken.

    Raises:
        UserError: no such folder, or no samples in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of samples; `make samples` makes one")
    tokens = folder / TOKENS
    paths = [path for ending in ("*.npy", "*.json") for path in tokens.glob(ending) if path.name != LIST]
    names, left_out = select_last_call(tokens, {path.stem for path in (*paths, *folder.glob("*.wav"))})
    if not names:
        raise UserError(f"{folder}: no samples in it (NAME.wav, and tokens/NAME.npy); `make samples` makes them")
    samples = [Sample(name, folder / f"{name}.wav") for name in names]
    for index, sample in enumerate(samples):
        sample.cache = index < MAX_CACHED
        if tokens.is_dir():
            _read_token_file(sample, tokens / f"{sample.name}.npy")
    return SampleFolder(folder, tuple(samples), left_out)


def decode_samples(samples: SampleFolder, codec: LoadedCodec, progress: Progress) -> Decoded:
    """Write the WAV files that are missing or were decoded from other codes; cache the waveforms.

    Raises:
        ShardError: as `SampleFolder.token_source`.
    """
    by_name = {sample.name: sample for sample in samples}

    def cache_waveform(key: str, waveform: np.ndarray) -> None:
        by_name[key].set_decoded(waveform, codec.spec.sample_rate)

    return decode_source(samples.token_source(), codec, samples.path, progress, on_waveform=cache_waveform)


def _read_token_file(sample: Sample, path: Path) -> None:
    try:
        sample.file = read_token_file(path)
    except ShardError as error:
        sample.fault = error.message
    except OSError as error:
        sample.fault = f"{path}: cannot be read ({error.strerror})"
