"""Codec specs: names, bandwidths and weights files of the codecs, known without loading a model.

Hashes a weights file and never reads its tensors: `model.py` does. Imports torch only to download, and for codecs of
Hugging Face.
"""

import errno
import os
from pathlib import Path

from shards.errors import NO_ROOM, UserError
from shards.files import sha256_of
from shards.note import Codec

SAMPLE_RATE = 24_000  # samples/s
HOP = 320  # samples a frame
CODE_BITS = 10
CODEBOOK_SIZE = 1 << CODE_BITS  # entries
HUGGING_FACE = "hf:"  # begins the names of codecs of `transformers`
BANDWIDTHS = {"encodec_24khz": (1.5, 3.0, 6.0, 12.0, 24.0), "encodec_mini": (1.5,)}  # kbit/s
NO_48KHZ = (
    "encodec_48khz: not supported, because it keeps a loudness scale for each segment, which a flat sequence of codes "
    "cannot carry; use encodec_24khz"
)

OFFICIAL_FILE = "encodec_24khz-d7cc33bc.th"
OFFICIAL_URL = f"https://dl.fbaipublicfiles.com/encodec/v0/{OFFICIAL_FILE}"
OFFICIAL_SHA256 = Path(OFFICIAL_FILE).stem.rpartition("-")[2]  # its first 8 hex digits
MINI_FILE = "encodec_mini.safetensors"


class CodecError(UserError):
    """A codec that does not exist, cannot be loaded, or cannot do what the user asks for."""


def codec_spec(name: str, bandwidth: float | None = None, weights: Path | None = None) -> Codec:
    """Describe a codec for manifests and token files; its weights file is hashed.

    `bandwidth`: None is EnCodec's lowest, and the highest of DAC and Mimi. `weights`: as in `weights_file`, or the
    folder of a codec of Hugging Face.

    Raises:
        CodecError: an unknown name or bandwidth, or weights that are missing or damaged.
    """
    if is_hugging_face(name):
        from pipeline.codec.hugging_face import describe_hugging_face

        return describe_hugging_face(name, bandwidth, weights)
    if name == "encodec_48khz":
        raise CodecError(NO_48KHZ)
    if name not in BANDWIDTHS:
        raise CodecError(f"{name}: no such codec; choose from {', '.join(BANDWIDTHS)}, or {HUGGING_FACE}NAME")
    bandwidth = BANDWIDTHS[name][0] if bandwidth is None else bandwidth
    if bandwidth not in BANDWIDTHS[name]:
        choices = ", ".join(f"{choice:g}" for choice in BANDWIDTHS[name])
        raise CodecError(f"bandwidth {bandwidth:g}: {name} has {choices} kbps")
    path = weights_file(name, weights)
    sha256 = sha256_of(path)
    if path.name == OFFICIAL_FILE and not sha256.startswith(OFFICIAL_SHA256):
        raise CodecError(f"{path}: damaged (its sha256 is {sha256[:8]}...); delete it, it will be downloaded again")
    return Codec(
        name=name,
        weights_sha256=sha256,
        sample_rate=SAMPLE_RATE,
        hop=HOP,
        codebooks=int(1000 * bandwidth) * HOP // (SAMPLE_RATE * CODE_BITS),
        codebook_size=CODEBOOK_SIZE,
        bandwidth=float(bandwidth),
    )


def is_hugging_face(name: str) -> bool:
    return name.startswith(HUGGING_FACE)


def weights_file(name: str, weights: Path | None = None) -> Path:
    """Path of a codec's weights: `weights`, encodec_mini's in this package, or the official ones in torch's cache.

    Official weights that are not in the cache are downloaded. Raises CodecError.
    """
    if weights is not None:
        if not weights.is_file():
            raise CodecError(f"{weights}: no such file of weights; encodec_mini needs none")
        return weights
    if name == "encodec_mini":
        return Path(__file__).with_name(MINI_FILE)
    path = torch_cache() / OFFICIAL_FILE
    if not path.exists():
        _download_official(path)
    return path


def torch_cache() -> Path:
    """Folder of `torch.hub`'s downloads, where the `encodec` package keeps its weights too. Raises CodecError."""
    default = Path(os.getenv("XDG_CACHE_HOME", "~/.cache"), "torch")
    try:
        return Path(os.getenv("TORCH_HOME", default)).expanduser() / "hub" / "checkpoints"
    except RuntimeError as error:
        raise CodecError("weights need a folder, and you have no home folder; name it in TORCH_HOME") from error


def _download_official(path: Path) -> None:
    import torch.hub

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(OFFICIAL_URL, str(path), hash_prefix=OFFICIAL_SHA256)
    except (OSError, RuntimeError) as error:  # no network, or a download that is not the file
        if isinstance(error, OSError) and error.errno in (*NO_ROOM, errno.EACCES, errno.EPERM, errno.ENOTDIR):
            cure = "make room, name another folder in TORCH_HOME or XDG_CACHE_HOME, or the weights with --weights FILE"
            raise CodecError(f"{path}: cannot be written ({error.strerror}); {cure}") from error
        raise CodecError(
            f"encodec_24khz: its weights cannot be downloaded from {OFFICIAL_URL} ({error}); put them at {path}, "
            "or name them with --weights FILE; encodec_mini needs none"
        ) from error
