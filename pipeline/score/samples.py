"""A folder of samples: NAME.wav beside tokens/NAME.npy and tokens/NAME.json, as `make samples` writes it.

One process that decodes, scores and shows samples reads each file once and loads the codec once:

    samples = read_samples(folder)                            # all token files, no WAVs
    codec = load_codec_for(samples.token_source().codec, folder, weights, device)
    decode_samples(samples, codec, progress)                  # writes the missing WAVs, caches their waveforms
    shard_set = open_shard_set(samples.shards_folder(), codec=codec)
    scores = measure(samples, shard_set, notes=40)            # and then write_scores(folder, scores)
    waveforms = [sample.waveform() for sample in samples]     # cached, for the page; so are `shard_set.references`

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
from pipeline.codec.model import EnCodec
from pipeline.decode.run import Decoded, decode_source
from pipeline.decode.source import TokenSource, token_file_source
from pipeline.progress import Progress
from shards.errors import ShardError, UserError
from shards.note import Codec, Note, TokenFile, read_token_file
from shards.sample_info import TOKENS, SampleInfo, common

MAX_CACHED = 1_000  # waveforms

Waveform = tuple[np.ndarray, int]  # (sample,) float32, and its rate in Hz


@dataclass
class Sample:
    """One sample; without tokens and codec if its token file is missing or damaged."""

    name: str
    wav: Path  # may be missing
    labels: Mapping[str, Any] = field(default_factory=dict)  # the labels that it was conditioned on
    sampled: SampleInfo = field(default_factory=SampleInfo)
    tokens: np.ndarray | None = None  # (frame * codebook,)
    codec: Codec | None = None
    fault: str | None = None
    cache: bool = True  # keep the waveform in memory
    _waveform: Waveform | None = field(default=None, init=False, repr=False, compare=False)

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

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def __len__(self) -> int:
        return len(self.samples)

    def codec(self) -> Codec | None:
        """The codec of the first token file that could be read."""
        return next((sample.codec for sample in self.samples if sample.codec), None)

    def common(self) -> SampleInfo:
        """The fields in which all token files agree."""
        return common(sample.sampled for sample in self.samples if sample.sampled != SampleInfo())

    def shards_folder(self) -> Path:
        """The shard set that the token files name. Raises UserError if they name none, or several."""
        folders = {sample.sampled.shards for sample in self.samples if sample.sampled.shards is not None}
        if len(folders) != 1:
            raise UserError(f"{self.path}: its token files do not name one shard set; name it with --shards FOLDER")
        return Path(folders.pop())

    def token_source(self) -> TokenSource:
        """The token files as a source to decode; WAVs without a token file are left out.

        Raises:
            ShardError: no token files, or one that is damaged or of another codec than the first.
        """
        folder = self.path / TOKENS
        files = {}
        for sample in self.samples:
            path = folder / f"{sample.name}.npy"
            if sample.tokens is not None and sample.codec is not None:
                files[path] = TokenFile(Note(sample.name, sample.tokens), sample.codec)
            elif path.exists():
                raise ShardError(str(sample.fault))
        if not files:
            raise ShardError(f"{folder}: no token files in it (NAME.npy with NAME.json)")
        return token_file_source(folder, files)

    def fingerprint(self) -> str:
        """sha256 of the samples' names and tokens: tells whether scores belong to these samples."""
        digest = hashlib.sha256()
        for sample in self.samples:
            tokens = b"" if sample.tokens is None else sample.tokens.tobytes()
            digest.update(f"{sample.name!r} {len(tokens)}\n".encode() + tokens)
        return digest.hexdigest()


def read_samples(folder: Path) -> SampleFolder:
    """Read the token files of all samples in `folder`; a sample has a WAV or a token file or both.

    Raises:
        UserError: no such folder, or no samples in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of samples; `make samples` makes one")
    tokens = folder / TOKENS
    names = {path.stem for ending in ("*.npy", "*.json") for path in tokens.glob(ending)}
    names |= {path.stem for path in folder.glob("*.wav")}
    if not names:
        raise UserError(f"{folder}: no samples in it (NAME.wav, and tokens/NAME.npy); `make samples` makes them")
    samples = [
        _read(tokens / f"{name}.npy", folder / f"{name}.wav")
        if tokens.is_dir()
        else Sample(name, folder / f"{name}.wav")
        for name in sorted(names)
    ]
    for sample in samples[MAX_CACHED:]:
        sample.cache = False
    return SampleFolder(folder, tuple(samples))


def decode_samples(samples: SampleFolder, codec: EnCodec, progress: Progress) -> Decoded:
    """Write the WAV files that are missing or were decoded from other codes; cache the waveforms.

    Raises:
        ShardError: as `SampleFolder.token_source`.
    """
    by_name = {sample.name: sample for sample in samples}

    def cache_waveform(key: str, waveform: np.ndarray) -> None:
        by_name[key].set_decoded(waveform, codec.spec.sample_rate)

    return decode_source(samples.token_source(), codec, samples.path, progress, on_waveform=cache_waveform)


def _read(path: Path, wav: Path) -> Sample:
    try:
        file = read_token_file(path)
    except ShardError as error:
        return Sample(path.stem, wav, fault=error.message)
    except OSError as error:
        return Sample(path.stem, wav, fault=f"{path}: cannot be read ({error.strerror})")
    return Sample(path.stem, wav, file.note.labels, file.sampled or SampleInfo(), file.note.tokens, file.codec)
