"""Candidates -> an instrument: measure them, choose one a pair, write the sounds and all files that play them.

The same candidates give the same bytes. Draws nothing: pairs without an excellent candidate are listed in
`wanted.json`, for the trainer.
"""

import io
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.audio import save
from pipeline.codec.loaded import LoadedCodec
from pipeline.decode.run import decode_notes
from pipeline.decode.source import load_codec_for
from pipeline.instrument.candidates import (
    INSTRUMENT_LABEL,
    CandidateFiles,
    measure_candidates,
    read_candidates,
    read_real_notes,
    read_recorded,
    recorded_pairs,
)
from pipeline.instrument.choose import (
    CLOSE,
    TERMS,
    Candidate,
    Pair,
    choose,
    good_candidates,
    is_excellent,
    mean_distances,
)
from pipeline.instrument.instrument import Figures, Instrument, Missing, Quality, Region
from pipeline.instrument.octaves import OCTAVE, describe_octaves, sounding_octaves
from pipeline.instrument.page import write_keyboard
from pipeline.instrument.regions import SAMPLES, make_regions, region_of, sample_path, trim
from pipeline.instrument.sfz import decent_sampler_text, sfz_text
from pipeline.progress import Progress
from pipeline.score.pitch import IN_TUNE
from pipeline.score.references import ShardSet, open_shard_set
from pipeline.score.timbre import RealNote, TimbreScale, comparable_notes, nearest_note, timbre_of, timbre_scale
from shards.console import counted, quote
from shards.errors import ShardError, UserError
from shards.files import atomic_write
from shards.note import Note
from shards.storage import path_text, text_path
from shards.wanted import WANTED, Wanted, WantedPair, write_wanted

MEASURED = "measured.json"  # cache of the candidates' measurements
ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that a ZIP file can hold


@dataclass(frozen=True)
class BuildRequest:
    """The candidates, the instrument to make of them, and how more are drawn."""

    candidates: Path  # folder of token files
    out: Path
    shards: Path | None = None  # None: as in the token files
    like: str | None = None  # SET:KEY, a note whose timbre all should be near
    complete: str | None = None  # SET:INSTRUMENT, whose real notes are kept; candidates fill in what it lacks
    weights: Path | None = None
    device: str = "auto"
    draw: int = 4  # candidates that are wanted more of a pair without an excellent one
    most: int = 16  # candidates of a pair


@dataclass(frozen=True)
class BuildOutcome:
    """The instrument, and what is wanted."""

    request: BuildRequest
    instrument: Instrument
    levels: tuple[float, float]  # dB, of the quietest and the loudest layer
    wanted: Wanted
    notes: tuple[str, ...]  # what could not be measured, and why

    def lines(self) -> Iterator[str]:
        """Report to print; the last line says the next command."""
        instrument, out = self.instrument, self.request.out
        yield from self.notes
        yield (
            f"{out}: {counted(len(instrument.regions), 'sound')} for {counted(len(instrument.keys), 'key')} "
            f"at velocities {', '.join(map(str, instrument.velocities))}, "
            f"{self.levels[0]:.0f} to {self.levels[1]:.0f} dB; "
            f"{counted(len(instrument.missing), 'pair')} without a good candidate."
        )
        for name, quality in (("first candidates", instrument.before), ("chosen", instrument.after)):
            more = "" if quality.distance is None else f", distance in timbre {quality.distance:.2f}"
            more += "" if quality.as_asked is None else f", most like {instrument.timbre} {quality.as_asked:.0%}"
            yield f"  {name:<17} in tune {quality.in_tune:.0%}, within 10 cents {quality.within_10_cents:.0%}{more}"
        if self.wanted.pairs:
            is_asked = instrument.after.as_asked is not None and self.request.like is None
            of = f" and most like {instrument.timbre}" if is_asked else ""
            pairs = counted(len(self.wanted.pairs), "pair")
            yield f"{out / 'index.html'} can be played; of {pairs} no candidate is within {CLOSE:g} cents{of}."
            run = quote(instrument.run or "RUN")
            candidates, wanted = quote(self.request.candidates), quote(out / WANTED)
            yield f"Next: python -m trainer sample --run {run} --out {candidates} --wanted {wanted}"
        else:
            yield f"Next: open {out / 'index.html'} in a browser; {out / instrument.name}.sfz is for samplers."


def build_instrument(
    request: BuildRequest, progress: Progress, on_stage: Callable[[str], None] = lambda stage: None
) -> BuildOutcome:
    """Write `request.out`: sounds, SFZ, ZIP, preset, keyboard page, `instrument.json`, and `wanted.json` if any are.

    Raises:
        UserError: no candidates, or none that is good, or the note to be like is not there.
    """
    files = read_candidates(request.candidates)
    on_stage("decoding")
    codec = load_codec_for(files.codec, files.folder, request.weights, request.device)
    candidates = measure_candidates(files, codec, progress, request.out / MEASURED)
    on_stage("comparing timbres")
    real, recorded, notes = _real_notes(request, files, codec, {velocity for _, velocity in candidates})
    timbre = files.label(INSTRUMENT_LABEL)
    recordings = _recorded_notes(request, codec, {velocity for _, velocity in candidates})
    keys = sorted({key for key, _ in (*candidates, *recordings)})
    octaves = sounding_octaves(real, timbre, keys)
    candidates = _compared(candidates, real, timbre, octaves)
    like = None if request.like is None else _timbre_of_note(request, codec)
    good = good_candidates(candidates)
    recorded_candidates = {pair: [each] for pair, (_, each) in recordings.items()}
    for pair, some in _compared(recorded_candidates, real, timbre, octaves).items():
        candidates[pair] = good[pair] = some
    wanted = _wanted(request, files, candidates, good, like)
    if not good:
        write_wanted(request.out, wanted)
        more = (
            f"draw more with --wanted {quote(request.out / WANTED)}, or train longer"
            if wanted.pairs
            else "train longer"
        )
        raise UserError(
            f"{request.candidates}: none of its {counted(len(files.files), 'candidate')} is in tune and audible; {more}"
        )
    on_stage("choosing")
    chosen = choose(good, like)
    on_stage("writing")
    pairs = {candidate.key: pair for pair, candidate in sorted(chosen.items())}
    notes_by_key = {note.key: note for note, _ in recordings.values()} | {
        key: file.note for key, file in files.files.items()
    }
    sounds = {
        pairs[note.key]: trim(waveform, codec.spec.sample_rate)
        for note, waveform in decode_notes((notes_by_key[key] for key in pairs), codec)
    }
    scales = {velocity: timbre_scale(real, velocity) for _, velocity in candidates}
    figures = _figures(candidates, good, chosen, real, scales, recorded, octaves)
    regions, levels = make_regions(sounds, figures, codec.spec.sample_rate, keys)
    first = {pair: some[0] for pair, some in candidates.items()}
    instrument = Instrument(
        name=path_text(request.out.absolute().name),
        run=files.origin.run,
        step=files.origin.step,
        shards=", ".join(files.shards()) or None,
        seed=files.origin.seed,
        timbre=timbre or request.like,
        sample_rate=codec.spec.sample_rate,
        velocities=tuple(sorted({velocity for _, velocity in chosen})),
        keys=tuple(keys),
        regions=regions,
        missing=_missing(candidates, good, regions),
        before=_quality(first, len(candidates), scales),
        after=_quality(chosen, len(candidates), scales),
        terms=TERMS,
    )
    _write(request.out, instrument, {sample_path(pair): sound for pair, sound in sounds.items()})
    write_wanted(request.out, wanted)
    octaves_line = describe_octaves(octaves, timbre, len(keys))
    notes += (octaves_line,) if octaves_line else ()
    return BuildOutcome(request, instrument, levels, wanted, (*files.notices, *notes))


def _real_notes(
    request: BuildRequest, files: CandidateFiles, codec: LoadedCodec, velocities: set[int]
) -> tuple[list[RealNote], set[Pair] | None, tuple[str, ...]]:
    """Real notes to compare with, and the pairs that the timbre has among them; none if the set is not there."""
    folders = (request.shards,) if request.shards else tuple(map(text_path, files.shards()))
    timbre = files.label(INSTRUMENT_LABEL)
    try:
        if not folders:
            raise ShardError("its token files name no shard set")
        shard_set = open_shard_set(folders, request.weights, request.device, codec)
    except UserError as error:
        return [], None, (f"No distances in timbre of real notes: {error.message}; name the set with --shards",)
    real = read_real_notes(shard_set, velocities, timbre)
    return real, recorded_pairs(shard_set, timbre) if timbre else None, ()


def _recorded_notes(
    request: BuildRequest, codec: LoadedCodec, velocities: set[int]
) -> dict[Pair, tuple[Note, Candidate]]:
    if request.complete is None:
        return {}
    folder, colon, instrument = request.complete.rpartition(":")
    if not colon:
        raise UserError(f"--complete {request.complete}: is not SET:INSTRUMENT, as shards/demo:guitar_acoustic_000")
    shard_set = open_shard_set(text_path(folder), request.weights, request.device, codec)
    return read_recorded(shard_set, instrument, velocities)


def _timbre_of_note(request: BuildRequest, codec: LoadedCodec) -> np.ndarray:
    folder, colon, key = (request.like or "").rpartition(":")
    if not colon:
        raise UserError(f"--like {request.like}: is not SET:KEY, such as shards/demo:guitar_acoustic_001-060-100")
    shard_set: ShardSet = open_shard_set(text_path(folder), request.weights, request.device, codec)
    for split in shard_set.splits:
        for _, waveform in shard_set.find([key], split):
            return timbre_of(waveform, codec.spec.sample_rate)
    raise UserError(f"--like {request.like}: {folder} has no note of this name")


def _compared(
    candidates: Mapping[Pair, Sequence[Candidate]],
    real: Sequence[RealNote],
    timbre: str | None,
    octaves: Mapping[int, int],
) -> dict[Pair, list[Candidate]]:
    """The candidates, with cents off the octave at which the instrument `timbre` sounds, and with `is_as_asked` where
    there are real notes of it to compare them with."""
    compared = {
        (key, velocity): [
            each if each.cents is None else replace(each, cents=each.cents - octaves.get(key, 0) * OCTAVE)
            for each in some
        ]
        for (key, velocity), some in candidates.items()
    }
    for pair, some in compared.items():
        notes = comparable_notes(*pair, real)
        if any(note.instrument == timbre for note in notes):
            for index, candidate in enumerate(some):
                nearest = nearest_note(candidate.timbre, notes)
                some[index] = replace(candidate, is_as_asked=nearest is not None and nearest.instrument == timbre)
    return compared


def _wanted(
    request: BuildRequest,
    files: CandidateFiles,
    candidates: Mapping[Pair, Sequence[Candidate]],
    good: Mapping[Pair, Sequence[Candidate]],
    like: np.ndarray | None,
) -> Wanted:
    """More candidates of the pairs without an excellent one, up to `request.most`."""
    labels = {name: files.label(name) for name in next(iter(files.files.values())).note.labels}
    pairs = [
        WantedPair(*pair, 1 + max(each.number or 0 for each in some), min(request.draw, request.most - len(some)))
        for pair, some in candidates.items()
        if len(some) < request.most and not any(is_excellent(each, like) for each in good.get(pair, ()))
    ]
    others = {name: value for name, value in labels.items() if name not in ("pitch", "velocity") and value is not None}
    return Wanted(others, tuple(pairs))


def _figures(
    candidates: Mapping[Pair, Sequence[Candidate]],
    good: Mapping[Pair, Sequence[Candidate]],
    chosen: Mapping[Pair, Candidate],
    real: Sequence[RealNote],
    scales: Mapping[int, TimbreScale | None],
    recorded: set[Pair] | None,
    octaves: Mapping[int, int],
) -> dict[Pair, Figures]:
    distances = mean_distances(chosen)
    figures = {}
    for pair, candidate in chosen.items():
        scale = scales[pair[1]]
        nearest = nearest_note(candidate.timbre, comparable_notes(*pair, real))
        figures[pair] = Figures(
            candidate=candidate.number,
            candidates=len(candidates[pair]),
            good=len(good[pair]),
            cents=candidate.cents,
            level=candidate.level,
            log_likelihood=candidate.log_likelihood,
            distance=None if scale is None or pair not in distances else scale.share(distances[pair]),
            nearest=nearest.key if nearest else None,
            is_recorded=None if recorded is None else pair in recorded,
            octaves=octaves.get(pair[0], 0),
        )
    return figures


def _missing(
    candidates: Mapping[Pair, Sequence[Candidate]], good: Mapping[Pair, Sequence[Candidate]], regions: Sequence[Region]
) -> tuple[Missing, ...]:
    return tuple(
        Missing(key, velocity, len(some), region_of(key, velocity, regions))
        for (key, velocity), some in candidates.items()
        if (key, velocity) not in good
    )


def _quality(
    candidates: Mapping[Pair, Candidate],
    pairs: int,
    scales: Mapping[int, TimbreScale | None],
) -> Quality:
    cents = [abs(candidate.cents) for candidate in candidates.values() if candidate.cents is not None]
    shares = [
        scale.share(length)
        for (_, velocity), length in mean_distances(candidates).items()
        if (scale := scales[velocity]) is not None
    ]
    as_asked = [candidate.is_as_asked for candidate in candidates.values()]
    unknown = as_asked.count(None)
    return Quality(
        in_tune=sum(interval <= IN_TUNE for interval in cents) / pairs,
        within_10_cents=sum(interval <= CLOSE for interval in cents) / pairs,
        distance=float(np.mean(shares)) if shares else None,
        as_asked=None if unknown == len(candidates) else as_asked.count(True) / (pairs - unknown),
    )


def _write(out: Path, instrument: Instrument, sounds: Mapping[str, np.ndarray]) -> None:
    """Write all files of the instrument, `instrument.json` last; sounds of an earlier one are removed."""
    for path, sound in sounds.items():
        save(out / path, sound, instrument.sample_rate)
    for earlier in (out / SAMPLES).glob("*.flac"):
        if f"{SAMPLES}/{earlier.name}" not in sounds:
            earlier.unlink()
    texts = {
        f"{instrument.name}.sfz": sfz_text(instrument).encode(),
        f"{instrument.name}.dspreset": decent_sampler_text(instrument).encode(),
    }
    for name, text in texts.items():
        with atomic_write(out / name) as file:
            file.write(text)
    with atomic_write(out / f"{instrument.name}.zip") as file:
        file.write(_zip({**texts, **{path: (out / path).read_bytes() for path in sounds}}))
    write_keyboard(out, instrument)
    instrument.write(out)


def _zip(files: Mapping[str, bytes]) -> bytes:
    """A ZIP archive of these files; the same files give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # FLAC is compressed already
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, ZIP_TIME), content)
    return buffer.getvalue()
