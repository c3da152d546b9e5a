"""Notes as tokens: flat int16 sequences, frame by frame, in memory and in token files (KEY.npy and KEY.json).

Values are the codec's own, 0 to codebook_size - 1: offsets, start tokens and label tokens belong to the trainer.
Knows no audio, no model and no tar.
"""

import io
import json
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from tokenize import TokenError
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np

from shards.errors import ShardError
from shards.files import atomic_write, write_json
from shards.sample_info import SampleInfo

NPY_HEADER = 128  # bytes before the numbers of an .npy file of one dimension
NPY_ERRORS = (ValueError, EOFError, SyntaxError, TypeError, MemoryError, TokenError)  # numpy's, for a damaged header

T = TypeVar("T")
Positive = Annotated[int, msgspec.Meta(gt=0)]


@dataclass(frozen=True)
class Codec:
    """The codec that made the codes and that decodes them."""

    name: str  # encodec_24khz, encodec_mini
    weights_sha256: str
    sample_rate: Positive  # Hz
    bandwidth: Annotated[float, msgspec.Meta(gt=0)]  # kbps
    codebooks: Positive  # codes a frame
    codebook_size: Positive  # values a code can have
    frame_rate: Positive  # frames a second

    @property
    def hop(self) -> int:
        """Samples a frame."""
        return self.sample_rate // self.frame_rate

    @property
    def tokens_per_second(self) -> int:
        return self.frame_rate * self.codebooks

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


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
        ShardError: not one dimension of int16, a length that is no multiple of the codebooks, or a code out of range.
    """
    if tokens.ndim != 1 or tokens.dtype != np.int16:
        raise ShardError(f"{name}: holds {tokens.dtype} of shape {tokens.shape}, not one dimension of int16 codes")
    if len(tokens) % codec.codebooks:
        raise ShardError(f"{name}: {len(tokens)} tokens are no multiple of the codec's {codec.codebooks} codebooks")
    if len(tokens) and not (tokens.min() >= 0 and tokens.max() < codec.codebook_size):
        raise ShardError(
            f"{name}: codes from {tokens.min()} to {tokens.max()}, but a codebook has 0 to {codec.codebook_size - 1}"
        )


def npy_bytes(tokens: np.ndarray) -> bytes:
    """The bytes of an .npy file that holds `tokens`."""
    buffer = io.BytesIO()
    np.save(buffer, tokens, allow_pickle=False)
    return buffer.getvalue()


def npy_array(data: bytes, name: str) -> np.ndarray:
    """Undo `npy_bytes`; nothing in `data` can run code.

    Raises:
        ShardError: not an .npy file, cut short, or with pickled objects in it; `name` begins the error.
    """
    try:
        stream = io.BytesIO(data)
        array = np.lib.format.read_array(stream, allow_pickle=False)
    except NPY_ERRORS as error:
        raise ShardError(f"{name}: is not a whole .npy file of plain numbers ({_first_line(error)})") from error
    if stream.read(1):
        raise ShardError(f"{name}: has bytes after its array")
    return array


def npy_tokens(data: bytes, name: str) -> np.ndarray:
    """The array of an .npy file as (token,) int16, read-only where the header is the usual one.

    Raises:
        ShardError: as `npy_array`, or not one dimension of little-endian int16.
    """
    length = _flat_length(data[:NPY_HEADER])
    if len(data) == NPY_HEADER + 2 * length:
        return np.frombuffer(data, "<i2", offset=NPY_HEADER)
    array = npy_array(data, name)
    if array.ndim != 1 or array.dtype.str != "<i2":
        raise ShardError(f"{name}: holds {array.dtype} of shape {array.shape}, not flat int16 codes")
    return array


def json_object(data: bytes, name: str) -> dict[str, Any]:
    """Parse a JSON object. `name` begins the error.

    Raises:
        ShardError: no JSON, or JSON that is no object.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{name}: is not JSON ({_first_line(error)})") from error
    if not isinstance(value, dict):
        raise ShardError(f"{name}: holds JSON that is not an object")
    return value


def to_dataclass(kind: type[T], value: Any, name: str, cure: str) -> T:
    """Convert parsed JSON to a dataclass by the types of its fields; other fields are ignored.

    Raises:
        ShardError: a field that is missing, of another type, or out of its range. `name` begins it, `cure` ends it.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ShardError(f"{name} is damaged ({error}); {cure}") from error


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
    labels = json_object(json_path.read_bytes(), str(json_path))
    codec = to_dataclass(Codec, labels.pop("codec", None), f"{json_path}: its codec block", "encode or sample it again")
    sampled = labels.pop("sampled", None)
    tokens = npy_array(path.read_bytes(), str(path))
    check_tokens(tokens, codec, str(path))
    return TokenFile(Note(path.stem, tokens, labels), codec, None if sampled is None else SampleInfo.from_json(sampled))


@lru_cache(maxsize=1024)
def _flat_length(header: bytes) -> int:
    """Number of int16 in an npy file with this header, or -1 if the header is not the usual one.

    Notes of one length share their header; parsing it for each would take longer than all else.
    """
    stream = io.BytesIO(header)
    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            return -1
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    except NPY_ERRORS:
        return -1
    return shape[0] if len(shape) == 1 and dtype.str == "<i2" and stream.tell() == NPY_HEADER else -1


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
