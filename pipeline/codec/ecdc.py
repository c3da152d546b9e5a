"""Codes -> EnCodec's own compressed files (.ecdc), which the `encodec` package decodes.

The format is that of `encodec.binary` and `encodec.compress` 0.1.1 without a language model: a header in JSON, then the
codes frame by frame, 10 bits each, lowest bit first. Knows nothing of audio.
"""

import json
import math
import struct
from pathlib import Path

import numpy as np

from pipeline.codec.spec import CodecError
from shards.files import atomic_write
from shards.note import Codec, Note

SUFFIX = ".ecdc"
HEADER = struct.Struct("!4sBI")  # magic, version, bytes of JSON
MAGIC, VERSION = b"ECDC", 0
READABLE = "encodec_24khz"  # the model whose files the package decodes


def check_readable(codec: Codec) -> None:
    """Raise CodecError if the `encodec` package does not decode files of this codec."""
    if codec.name != READABLE:
        raise CodecError(f"{codec.name}: the encodec package reads .ecdc files of {READABLE} only; leave --ecdc out")


def write_ecdc(path: Path, note: Note, codec: Codec) -> None:
    """Write the codes of a note, whole or not at all."""
    frames = len(note.tokens) // codec.codebooks
    fields = {"m": codec.name, "al": _audio_length(frames, codec), "nc": codec.codebooks, "lm": False}
    metadata = json.dumps(fields).encode()
    width = (codec.codebook_size - 1).bit_length()
    bits = note.tokens[:, None] >> np.arange(width) & 1  # (frame * codebook, bit)
    with atomic_write(path) as file:
        file.write(HEADER.pack(MAGIC, VERSION, len(metadata)) + metadata)
        file.write(np.packbits(bits.astype(np.uint8), bitorder="little").tobytes())


def _audio_length(frames: int, codec: Codec) -> int:
    """Samples in the header, from which the package computes the number of frames in floating point.

    For one length in twenty that rounds up to a frame too many; one sample less gives the right number.
    """
    samples = frames * codec.hop
    return samples - (math.ceil(samples / codec.sample_rate * codec.frame_rate) > frames)
