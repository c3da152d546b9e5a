"""Codes -> WAV or FLAC files: token files and shard sets alike.

A file's comment holds a digest of the codes that it was decoded from, so a second run decodes only what is missing.
Knows nothing of audio that is encoded, and nothing of models.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from pipeline.audio import FULL_SCALE, read_comment, save
from pipeline.codec.ecdc import SUFFIX, check_readable, write_ecdc
from pipeline.codec.loaded import LoadedCodec
from pipeline.codec.spec import CodecError
from pipeline.decode.source import TokenSource, load_codec_for, open_source
from pipeline.progress import Progress
from shards.console import counted
from shards.note import Codec, Note, unflatten

BATCH = 8  # notes of one length in one call of the codec
MAX_WAITING = 256  # notes that wait for others of their length: bounds memory
SCALED_SHOWN = 5  # notes above full scale that a report names


@dataclass
class Decoded:
    """Result of decoding a folder."""

    out: Path
    form: str  # wav or flac
    left_out: str = ""  # as in `TokenSource`
    notes: int = 0
    reused: int = 0  # notes whose files an earlier run has written
    seconds: float = 0.0
    scaled: dict[str, float] = field(default_factory=dict)  # key -> peak, of notes that were scaled down to fit

    def lines(self) -> Iterator[str]:
        """Report for the command line."""
        if self.left_out:
            yield self.left_out
        for key in sorted(self.scaled)[:SCALED_SHOWN]:
            yield f"{key}: peaked at {self.scaled[key]:.2f} of full scale, scaled down to fit"
        if len(self.scaled) > SCALED_SHOWN:
            yield f"... and {counted(len(self.scaled) - SCALED_SHOWN, 'more note')}"
        reused = f" ({self.reused} from an earlier run)" if self.reused else ""
        yield f"{self.out}: {counted(self.notes, f'{self.form.upper()} file')}{reused}, {self.seconds:.1f} seconds."
        yield "Next: open them in any player."


def decode_folder(
    folder: Path,
    out: Path,
    progress: Progress,
    weights: Path | None = None,
    device: str = "auto",
    form: str = "wav",
    with_ecdc: bool = False,
) -> Decoded:
    """Write `out`/KEY.wav for every token file, or every note of a shard set, in `folder`.

    form: wav or flac. with_ecdc: write KEY.ecdc beside it, EnCodec's own compressed form of the same codes.

    Raises:
        ShardError: neither is in it, or codes that do not fit their codec block.
        CodecError: the codec cannot be loaded, other weights were given, or the `encodec` package could not read its
            .ecdc files.
    """
    source = open_source(folder)
    if with_ecdc:
        check_readable(source.codec)
        source = replace(source, notes=_write_ecdc_files(source, out))
    codec = load_codec_for(source.codec, folder, weights, device)
    return decode_source(source, codec, out, progress, form)


def decode_source(
    source: TokenSource,
    codec: LoadedCodec,
    out: Path,
    progress: Progress,
    form: str = "wav",
    on_waveform: Callable[[str, np.ndarray], None] = lambda key, waveform: None,
) -> Decoded:
    """Write an audio file for every note of `source`; `codec` is loaded already.

    on_waveform: called with the key and the waveform, (sample,) float32, of each note that was decoded, not reused.
    """
    decoded = Decoded(out, form, source.left_out)
    progress.start(source.count, 0)
    for note, waveform in decode_notes(_skip_decoded(source, decoded, progress), codec):
        rate = codec.spec.sample_rate
        peak = save(out / f"{note.key}.{form}", waveform, rate, _comment(note, source.codec))
        if peak > FULL_SCALE:
            decoded.scaled[note.key] = peak
        on_waveform(note.key, waveform)
        progress.step(1, len(waveform) / rate)
    return decoded


def decode_notes(notes: Iterable[Note], codec: LoadedCodec) -> Iterator[tuple[Note, np.ndarray]]:
    """Stream each note with its waveform, (sample,) float32.

    Notes of equal length share a call of the codec, so their order may change a little.
    """
    for batch in _group_by_length(notes):
        codes = np.stack([unflatten(note.tokens, codec.spec.codebooks) for note in batch])  # (note, codebook, frame)
        waveforms = codec.decode(torch.from_numpy(codes.astype(np.int64))).cpu().numpy()  # (note, sample)
        if not np.isfinite(waveforms).all():
            name = codec.spec.name
            raise CodecError(
                f"{name}: its weights decode {batch[0].key} to numbers that are not finite; use other weights"
            )
        yield from zip(batch, waveforms, strict=True)


def _group_by_length(notes: Iterable[Note]) -> Iterator[list[Note]]:
    waiting: dict[int, list[Note]] = {}  # tokens -> notes
    for note in notes:
        batch = waiting.setdefault(len(note.tokens), [])
        batch.append(note)
        if len(batch) == BATCH:
            yield waiting.pop(len(note.tokens))
        elif sum(map(len, waiting.values())) == MAX_WAITING:
            yield from waiting.values()
            waiting.clear()
    yield from waiting.values()


def _skip_decoded(source: TokenSource, decoded: Decoded, progress: Progress) -> Iterator[Note]:
    """Stream the notes whose files are missing or were made of other codes; count all of them in `decoded`."""
    for note in source.notes:
        decoded.notes += 1
        decoded.seconds += len(note.tokens) / source.codec.tokens_per_second
        if read_comment(decoded.out / f"{note.key}.{decoded.form}") == _comment(note, source.codec):
            decoded.reused += 1
            progress.step(1, 0.0)
        else:
            yield note


def _write_ecdc_files(source: TokenSource, out: Path) -> Iterator[Note]:
    for note in source.notes:
        write_ecdc(out / f"{note.key}{SUFFIX}", note, source.codec)
        yield note


def _comment(note: Note, codec: Codec) -> str:
    """Comment of a note's audio file: it differs for other codes and for another codec."""
    digest = hashlib.sha256(json.dumps(codec.identity(), sort_keys=True).encode() + note.tokens.tobytes())
    return f"{codec.name} codes {digest.hexdigest()}"
