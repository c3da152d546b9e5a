"""Containers of audio files: the length that the header states, and the bytes from which libsndfile reads all of it.

libsndfile reads as many samples as the header states, and guesses where it states none: of a VBR MP3 from a pipe it
reads a third, of a chained Ogg the first stream. Here the frames and pages are counted, and where the header is wrong
or silent, libsndfile is given the same bytes behind a header that is right. Decodes nothing.
"""

import io
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

CHUNK = 4_096  # bytes of a RIFF chunk, or of a file of an unknown kind, that are read
STREAMED = 0x7FFF_0000  # bytes; a RIFF chunk that says as many or none was written to a pipe, its size not known

FLAC_INFO = 42  # bytes of `fLaC` and the STREAMINFO block
FLAC_TOTAL = 21  # offset of the number of samples, 36 bits; its first byte shares 4 bits with the sample size
OGG_PAGE = struct.Struct("<4sBBqIIIB")  # capture, version, flags, granule position, serial, sequence, CRC, segments
OGG_FIRST, OGG_LAST = 2, 4  # flags

MPEG_RATES = (44_100, 48_000, 32_000)  # Hz, of MPEG 1; halves for MPEG 2, quarters for 2.5
MPEG_KBPS = {  # (MPEG 1 or not, layer) -> bit rates by index; index 0 is "free", 15 is forbidden
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
VBRI = 36  # offset of Fraunhofer's header in its frame
HAS_COUNT = 1  # flag of a Xing header: the number of frames follows
INFO = 12 + 36  # bytes of an Info header, with room for what encoders add
DECODER_DELAY = 529  # samples that libsndfile's MP3 decoder leaves out behind an Info header
ID3V1 = 128  # bytes

FFMPEG = "which FFmpeg reads: convert it to WAV, or give it its own ending and pip install '.[audio]'"
KINDS = {  # first bytes -> kind
    bytes.fromhex("3026b2758e66cf11"): f"it is a WMA file, {FFMPEG}",
    bytes.fromhex("1a45dfa3"): f"it is a WebM or Matroska file, {FFMPEG}",
    b"ADIF": f"it is an AAC file, {FFMPEG}",
    b"#!AMR": f"it is an AMR file, {FFMPEG}",
    b"MAC ": f"it is a Monkey's Audio file, {FFMPEG}",
    b"wvPk": f"it is a WavPack file, {FFMPEG}",
    b"TTA1": f"it is a TTA file, {FFMPEG}",
    b"MThd": "it is a MIDI file, which holds no sound",
    b"PK\3\4": "it is a ZIP archive: unpack it",
    b"\x1f\x8b": "it is a gzip archive: unpack it",
    b"version https://git-lfs": "it is a Git LFS pointer: `git lfs pull` brings the file",
    b"<": "it is an HTML or XML page: fetch it again",
    b"%PDF": "it is a PDF document",
}


@dataclass(frozen=True)
class Contents:
    """The files that libsndfile reads one after the other to get all of a file, and the samples that it must hold."""

    parts: tuple[BinaryIO, ...] = ()  # none: the file as it is
    skip: int = 0  # samples at the start of the first part that are not the file's
    stated: int | None = None  # samples a channel; None: the header does not say
    fault: str | None = None  # it is certain that the end is missing


def find_contents(path: Path, kind: str, frames: int) -> Contents:
    """Examine a file that libsndfile can open.

    kind: libsndfile's name of the container. frames: the samples a channel that libsndfile would read.

    Raises:
        OSError: the file cannot be read.
    """
    match kind:
        case "WAV" | "WAVEX" | "RF64":
            return _wav_contents(path)
        case "FLAC":
            return _flac_contents(path)
        case "OGG":
            return _ogg_contents(path, frames)
        case "MP3":
            return _mpeg_contents(path, frames)
    return Contents(stated=frames)


class _Part(io.RawIOBase):
    """The bytes `start` to `stop` of a file behind other bytes, as a file."""

    def __init__(self, path: Path, header: bytes, start: int, stop: int) -> None:
        self._file = path.open("rb")
        self._header = header
        self._start = start
        self._size = len(header) + stop - start
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = max(0, min(len(buffer), self._size - self._position))
        header = self._header[self._position : self._position + count]
        self._file.seek(self._start + max(0, self._position - len(self._header)))
        data = header + self._file.read(count - len(header))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def _part(path: Path, header: bytes, start: int, stop: int | None = None) -> BinaryIO:
    return cast(BinaryIO, _Part(path, header, start, path.stat().st_size if stop is None else stop))


def _wav_contents(path: Path) -> Contents:
    """All that is behind the header of the data chunk, if that was written to a pipe; else as much as it states."""
    with path.open("rb") as file:
        start = file.read(12)
        order = ">" if start.startswith(b"RIFX") else "<"
        size64 = block = samples = 0
        while len(header := file.read(8)) == 8:
            name, size = struct.unpack(f"{order}4sI", header)
            if name == b"data":
                break
            content = file.read(min(size, CHUNK)) if name in (b"fmt ", b"ds64") else b""
            if name == b"ds64" and len(content) >= 16:
                size64 = struct.unpack("<Q", content[8:16])[0]
            if name == b"fmt " and len(content) >= 16:
                form, block = struct.unpack(f"{order}H10xH", content[:14])
                is_packed = form in (0x02, 0x11, 0x31) and len(content) >= 20  # ADPCM, GSM: several samples a block
                samples = struct.unpack(f"{order}H", content[18:20])[0] if is_packed else 1
            file.seek(size + size % 2 - len(content), os.SEEK_CUR)
        else:
            return Contents()
        position = file.tell()
        rest = os.fstat(file.fileno()).st_size - position
        following = file.read(8)
        file.seek(0)
        if size == 0 and len(following) == 8:
            is_chunk = following[:4].isascii() and struct.unpack(f"{order}I", following[4:])[0] <= rest - 8
            if not is_chunk:  # libsndfile mends other sizes, but takes this one for an empty file
                header = file.read(position - 4) + struct.pack(f"{order}I", min(rest, STREAMED))
                return Contents((_part(path, header, position),))
    size = size64 if size64 and size == 0xFFFF_FFFF else size
    return Contents(stated=size // block * samples if block and 0 < size < STREAMED else None)


def _flac_contents(path: Path) -> Contents:
    """All frames of a FLAC file: libsndfile is told that there are as many as can be stated, and stops at the end."""
    with path.open("rb") as file:
        start, stop = _skip_id3(file), _audio_end(file)
        file.seek(start)
        header = bytearray(file.read(FLAC_INFO))
    total = slice(FLAC_TOTAL, FLAC_TOTAL + 5)
    stated = int.from_bytes(header[total]) & 0xF_FFFF_FFFF
    header[total] = (int.from_bytes(header[total]) | 0xF_FFFF_FFFF).to_bytes(5)
    return Contents((_part(path, bytes(header), start + len(header), stop),), stated=stated or None)


def _ogg_contents(path: Path, frames: int) -> Contents:
    """The streams of an Ogg file, chained one behind the other; its end is missing without a last page."""
    starts, flags = [0], 0
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        position, is_first = 0, True
        while position < size:
            file.seek(position)
            header = file.read(OGG_PAGE.size)
            if len(header) < OGG_PAGE.size or not header.startswith(b"OggS"):
                break
            segments = header[-1]
            end = position + len(header) + segments + sum(file.read(segments))
            if end > size:
                flags = 0
                break
            flags = header[5]
            if flags & OGG_FIRST and not is_first:
                starts.append(position)
            is_first = bool(flags & OGG_FIRST)  # several streams side by side begin with one such page each
            position = end
    fault = None if flags & OGG_LAST else "no last page"
    if len(starts) == 1:
        return Contents(stated=frames, fault=fault)
    ends = [*starts[1:], size]
    return Contents(tuple(_part(path, b"", start, end) for start, end in zip(starts, ends, strict=True)), fault=fault)


@dataclass(frozen=True)
class _MpegFrame:
    """A frame of MPEG audio, by its header (ISO 11172-3, 13818-3)."""

    size: int  # bytes, with the header
    samples: int
    kbps: int
    layer: int
    kind: tuple[int, int]  # version, layer and rate, as they stand in the header: the same in all frames of a stream


def _mpeg_contents(path: Path, frames: int) -> Contents:
    """All frames of an MP3 (or MP2) file.

    A first frame with a Xing or Info header states their number, and is no sound; libsndfile keeps to the number.
    Without one it divides the file's size by that of the first frame.
    """
    data = path.read_bytes()
    found = list(_mpeg_frames(data))
    if not found:  # a free bit rate, whose frames do not state their size
        return Contents()
    first, frame = found[0]
    last, last_frame = found[-1]
    head = data[first : first + frame.size]
    xing = max(head.find(b"Xing"), head.find(b"Info"))
    has_header = xing > 0 or head[VBRI : VBRI + 4] == b"VBRI"
    is_last_cut = last + last_frame.size > len(data)
    count = len(found) - has_header - is_last_cut
    if xing > 0 and head[xing + 7] & HAS_COUNT:
        field = slice(xing + 8, xing + 12)
        stated = int.from_bytes(head[field])
        if count > stated:
            head = head[: field.start] + count.to_bytes(4) + head[field.stop :]
            return Contents((_part(path, head, first + frame.size),))
        counts_itself = count == stated - 1 and not is_last_cut
        return Contents(stated=None if counts_itself else frames)
    if frame.layer != 3 or (len({each.kbps for _, each in found}) == 1 and not has_header):
        return Contents()  # its frames are of one size, so dividing is right
    # libsndfile takes the decoder's delay off the start behind an Info header; a frame of silence gives it back.
    header = _silent_frame(data[first : first + 4], count + 1) + _silent_frame(data[first : first + 4])
    start = first + frame.size if has_header else first
    return Contents((_part(path, header, start),), skip=frame.samples - DECODER_DELAY)


def _mpeg_frames(data: bytes) -> Iterator[tuple[int, _MpegFrame]]:
    """Offsets and headers of the frames; the last one may be cut. Tags and all else between frames are skipped."""
    position = _skip_id3(io.BytesIO(data))
    kind = None
    while 0 <= position <= len(data) - 4:
        frame = _mpeg_frame(data[position : position + 4])
        behind = position + frame.size if frame else 0
        if frame is None or kind not in (None, frame.kind) or not _is_frame_or_end(data, behind, frame.kind, kind):
            position = data.find(b"\xff", position + 1)
            continue
        kind = frame.kind
        yield position, frame
        position = behind


def _is_frame_or_end(data: bytes, position: int, kind: tuple[int, int], known: tuple[int, int] | None) -> bool:
    """True unless the bytes behind a frame show that it is none. In the middle of a stream (`known`) it is one."""
    following = _mpeg_frame(data[position : position + 4])
    return known is not None or position >= len(data) - 4 or (following is not None and following.kind == kind)


def _mpeg_frame(header: bytes) -> _MpegFrame | None:
    """Parse the four bytes of a frame's header."""
    if len(header) < 4 or header[0] != 0xFF or header[1] < 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)  # version 3: MPEG 1, 2: MPEG 2, 0: 2.5
    bitrate, rate, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer == 4 or bitrate in (0, 15) or rate == 3:
        return None
    hertz = MPEG_RATES[rate] // {3: 1, 2: 2, 0: 4}[version]
    kbps = MPEG_KBPS[version == 3, layer][bitrate - 1]
    samples = 384 if layer == 1 else 1152 if layer == 2 or version == 3 else 576
    slot = 4 if layer == 1 else 1  # bytes
    size = (samples // 8 * 1000 * kbps // hertz // slot + padding) * slot
    return _MpegFrame(size, samples, kbps, layer, (header[1] & 0xFE, rate))


def _silent_frame(header: bytes, frames: int | None = None) -> bytes:
    """A frame without sound of the kind that `header` is of; with `frames`, an Info header that states their number."""
    side = {(True, False): 32, (True, True): 17, (False, False): 17, (False, True): 9}  # (MPEG 1, mono) -> bytes
    zeros = bytes(side[header[1] >> 3 & 3 == 3, header[3] >> 6 == 3])
    info = b"" if frames is None else b"Info" + HAS_COUNT.to_bytes(4) + frames.to_bytes(4)
    for bitrate in range(1, 15):
        start = bytes([0xFF, header[1] | 1, bitrate << 4 | header[2] & 0x0C, header[3] & 0xC0])  # no CRC, no padding
        frame = _mpeg_frame(start)
        if frame is not None and frame.size >= len(start + zeros) + INFO:
            return (start + zeros + info).ljust(frame.size, b"\0")
    raise AssertionError("the largest frame of any kind has room")


def _skip_id3(file: BinaryIO) -> int:
    """The offset behind ID3v2 tags at the start of a file."""
    position = 0
    while file.seek(position) == position and (tag := file.read(10))[:3] == b"ID3" and len(tag) == 10:
        size = tag[6] << 21 | tag[7] << 14 | tag[8] << 7 | tag[9]
        position += 10 + size + (10 if tag[5] & 0x10 else 0)
    return position


def _audio_end(file: BinaryIO) -> int:
    """The offset of an ID3v1 tag at the end of a file, or its size."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - ID3V1))
    return size - ID3V1 if file.read(3) == b"TAG" and size > ID3V1 else size


def describe_content(path: Path) -> str:
    """Say what a file is that libsndfile does not read, by its first bytes; empty if they do not tell."""
    with path.open("rb") as file:
        head = file.read(CHUNK)
    for start, kind in KINDS.items():
        if head.startswith(start):
            return kind
    if head[4:8] == b"ftyp":
        return f"it is an MP4 or M4A file, {FFMPEG}"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return f"it is an AAC file, {FFMPEG}"
    return "" if head.strip(b"\0") else "it holds zeros only"
