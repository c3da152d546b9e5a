"""Notes as tokens: flat int16 sequences, frame by frame, in memory and in token files (KEY.npy and KEY.json).

Values are the codec's own, 0 to codebook_size - 1: offsets, start tokens and label tokens belong to the trainer.
Knows no audio, no model and no tar.
"""

import io
import math
import re
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from shards.errors import ShardError
from shards.files import atomic_write, write_json
from shards.parse import read_object, to_dataclass
from shards.sample_info import SampleInfo
from shards.storage import read_bytes

NPY_HEADER = 128  # bytes before the numbers of an .npy file of one dimension
HEADER = re.compile(
    rb"\x93NUMPY\x01\x00\x76\x00\{'descr': '<i2', 'fortran_order': False, "
    rb"'shape': \((?P<length>[0-9]{1,18}),\), \} *\n"
)
MOST_TOKENS = 1 << 20  # of a note, by any codec
LARGEST_NPY = 2 * MOST_TOKENS + (1 << 16)  # bytes
LONGEST = 150.0  # seconds of a note; encoding ends at 120, because a codec's memory grows with the length
LONGEST_VALUE = 12  # characters of a codec's field, as its sha256, that an error shows
LARGEST = (1 << 53) - 1  # of numbers that count something; each is a float too
LARGEST_CODEBOOK = 1 << 15  # values that a code can have: codes are int16
SECONDS = "seconds"  # label that each note has without being given it: its length

Hertz = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Count = Annotated[int, msgspec.Meta(ge=0, le=LARGEST)]


@dataclass(frozen=True)
class Codec:
    """The codec that made the codes and that decodes them."""

    name: str  # encodec_24khz, encodec_mini, hf:kyutai/mimi
    weights_sha256: str
    sample_rate: Hertz
    hop: Hertz  # samples a frame, at most the sample rate
    codebooks: Annotated[int, msgspec.Meta(ge=1, le=128)]  # codes a frame
    codebook_size: Annotated[int, msgspec.Meta(ge=1, le=LARGEST_CODEBOOK)]  # values a code can have
    bandwidth: Annotated[float, msgspec.Meta(gt=0, le=100_000)] | None = None  # kbps, of a codec that has several

    def __post_init__(self) -> None:
        if self.hop > self.sample_rate:
            raise ValueError(f"a hop of {self.hop} at {self.sample_rate} samples/s")

    @property
    def frame_rate(self) -> float:
        """Frames a second: need not be whole."""
        return self.sample_rate / self.hop

    @property
    def tokens_per_second(self) -> float:
        return self.frame_rate * self.codebooks

    @property
    def kbps(self) -> float:
        """Thousands of bits a second that the codes take; of EnCodec, its bandwidth."""
        return self.tokens_per_second * math.log2(self.codebook_size) / 1000

    @property
    def most_tokens(self) -> int:
        """Tokens that a note can have."""
        return min(MOST_TOKENS, int(LONGEST * self.tokens_per_second))

    def differences(self, other: "Codec") -> list[tuple[str, str, str]]:
        """(name, ours, theirs) of each field that differs, as errors show it."""
        theirs = vars(other)
        return [
            (name, str(value)[:LONGEST_VALUE], str(theirs[name])[:LONGEST_VALUE])
            for name, value in vars(self).items()
            if value != theirs[name]
        ]

    def seconds(self, tokens: int) -> float:
        """The length of a note, to the millisecond."""
        return round(tokens / self.tokens_per_second, 3)

    def to_json(self) -> dict[str, Any]:
        """The codec block of version 2 of the format."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def identity(self) -> dict[str, Any]:
        """The block that digests are made of: that of version 1 where it can describe the codec, so that the digests of
        older sets hold."""
        if self.bandwidth is None or self.sample_rate % self.hop:
            return self.to_json()
        block = {**self.to_json(), "frame_rate": self.sample_rate // self.hop}
        del block["hop"]
        return block


def upgrade_codec(block: Any) -> Any:
    """Turn a codec block of version 1 of the format, which has a whole frame rate and no hop, into one of version 2.

    Returns anything else as it is.
    """
    match block:
        case {"sample_rate": int(samples), "frame_rate": int(frames)} if (
            "hop" not in block and frames > 0 == samples % frames
        ):
            return {**block, "hop": samples // frames}
    return block


@dataclass(frozen=True)
class Note:
    """One note's codes and labels: the value that flows from the encoder to the trainer and back."""

    key: str  # unique in its set; no dot (WebDataset ends a key at the first one) and no slash
    tokens: np.ndarray  # (frame * codebook,) int16
    labels: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TokenFile:
    """A note with all that it takes to decode it: the pair KEY.npy and KEY.json."""

    note: Note
    codec: Codec
    sampled: SampleInfo | None = None  # None: a real note


def flatten(codes: np.ndarray) -> np.ndarray:
    """Interleave codebooks frame by frame: (codebook, frame) -> (frame * codebook,) int16."""
    return codes.T.reshape(-1).astype(np.int16)


def unflatten(tokens: np.ndarray, codebooks: int) -> np.ndarray:
    """Undo `flatten`: (frame * codebook,) -> (codebook, frame)."""
    return tokens.reshape(-1, codebooks).T


def check_tokens(tokens: np.ndarray, codec: Codec, name: str) -> None:
    """Refuse tokens that the codec cannot decode. `name` begins the error.

    Raises:
        ShardError: not one dimension of int16, no tokens or too many, a part of a frame, or a code out of range.
    """
    if tokens.ndim != 1 or tokens.dtype != np.int16:
        raise ShardError(f"{name}: holds {tokens.dtype} of shape {tokens.shape}, not one dimension of int16 codes")
    if len(tokens) % codec.codebooks:
        raise ShardError(f"{name}: {len(tokens)} tokens are no multiple of the codec's {codec.codebooks} codebooks")
    if not 0 < len(tokens) <= codec.most_tokens:
        raise ShardError(f"{name}: holds {len(tokens)} tokens; a note of this codec has 1 to {codec.most_tokens}")
    if not (tokens.min() >= 0 and tokens.max() < codec.codebook_size):
        raise ShardError(
            f"{name}: codes from {tokens.min()} to {tokens.max()}, but a codebook has 0 to {codec.codebook_size - 1}"
        )


def npy_bytes(tokens: np.ndarray) -> bytes:
    """The bytes of an .npy file that holds `tokens`."""
    buffer = io.BytesIO()
    np.save(buffer, tokens, allow_pickle=False)
    return buffer.getvalue()


def npy_tokens(data: bytes, name: str) -> np.ndarray:
    """Undo `npy_bytes`: (token,) int16, read-only.

    Raises:
        ShardError: as `npy_length`.
    """
    npy_length(data[:NPY_HEADER], len(data), name)
    return np.frombuffer(data, "<i2", offset=NPY_HEADER)


def npy_length(header: bytes, size: int, name: str) -> int:
    """Number of tokens in an .npy file of `size` bytes that begins with `header`.

    Only the one header is read that numpy writes for such an array, so nothing in `header` can run code or ask for
    memory (numpy itself evaluates a header as a Python literal).

    Raises:
        ShardError: anything else; no tokens, or more than `MOST_TOKENS`. `name` begins the error.
    """
    length = _length(header)
    if length is None:
        raise ShardError(f"{name}: is not a whole .npy file of flat int16 codes")
    if not 0 < length <= MOST_TOKENS:
        raise ShardError(f"{name}: holds {length} tokens; a note has 1 to {MOST_TOKENS}")
    if size != NPY_HEADER + 2 * length:
        raise ShardError(f"{name}: is not a whole .npy file: {size - NPY_HEADER} bytes for {length} int16 codes")
    return length


def write_token_file(folder: Path, note: Note, codec: Codec, sampled: SampleInfo | None = None) -> Path:
    """Write KEY.npy and KEY.json (labels, origin of a sample, codec) into `folder`; return the path of KEY.npy.

    The JSON comes last, so a pair that has a JSON is whole.
    """
    check_tokens(note.tokens, codec, note.key)
    path = folder / f"{note.key}.npy"
    with atomic_write(path) as file:
        file.write(npy_bytes(note.tokens))
    block = {"sampled": sampled.to_json()} if sampled else {}
    write_json(path.with_suffix(".json"), {**note.labels, **block, "codec": codec.to_json()})
    return path


def read_token_file(path: Path) -> TokenFile:
    """Undo `write_token_file`, given the path of KEY.npy.

    Raises:
        ShardError: half of the pair is missing or damaged, or the codes do not fit the codec block.
    """
    json_path = path.with_suffix(".json")
    for file in (path, json_path):
        if not file.is_file():
            raise ShardError(f"{file}: missing; a token file is a pair, {path.name} and {json_path.name}")
    cure = "encode or sample it again"
    labels = read_object(json_path, cure)
    codec = to_dataclass(Codec, upgrade_codec(labels.pop("codec", None)), f"{json_path}: its codec block", cure)
    sampled = labels.pop("sampled", None)
    tokens = npy_tokens(read_bytes(path, LARGEST_NPY), str(path))
    check_tokens(tokens, codec, str(path))
    return TokenFile(Note(path.stem, tokens, labels), codec, None if sampled is None else SampleInfo.from_json(sampled))


@lru_cache(maxsize=1024)
def _length(header: bytes) -> int | None:
    """Number of int16 in an .npy file with this header; None if it is another one than `npy_bytes` writes."""
    match = HEADER.fullmatch(header)
    return None if match is None else int(match["length"])
