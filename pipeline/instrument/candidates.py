"""Token files -> measured candidates, by key and velocity; and the real notes that they are compared with."""

import hashlib
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.audio import AudioError
from pipeline.codec.loaded import LoadedCodec
from pipeline.decode.run import decode_notes
from pipeline.instrument.choose import Candidate, Pair
from pipeline.notes.nsynth import midi
from pipeline.progress import Progress
from pipeline.score.measure import note_features
from pipeline.score.pitch import PITCH_END, cents, fundamental, hertz_of, sounding_frames
from pipeline.score.references import Recording, ShardSet
from pipeline.score.timbre import RATE, RealNote, timbre_of
from shards.errors import UserError
from shards.files import write_json
from shards.note import Codec, Note, TokenFile, read_token_file
from shards.parse import read_object, to_dataclass
from shards.sample_info import SET_LABEL, SampleInfo, common
from shards.sample_list import select_last_call

MOST_REAL = 3_000  # train notes that are compared
INSTRUMENT_LABEL = "instrument_str"
VERSION = 1  # of the measurements, in the cache of them


@dataclass(frozen=True)
class Measurements:
    """Measurements of a sound: the fields of a `Candidate` that depend on its tokens alone."""

    cents: float | None
    level: float
    peak: float
    seconds: float
    timbre: tuple[float, ...]


@dataclass(frozen=True)
class CandidateFiles:
    """The token files of a folder, all of one run, checkpoint and codec."""

    folder: Path
    files: dict[str, TokenFile]  # key -> file
    codec: Codec
    origin: SampleInfo  # the fields in which all agree
    notices: tuple[str, ...]  # of files of other calls, which are left out

    def pairs(self) -> dict[Pair, list[str]]:
        """Key and velocity -> the keys of its token files, by their numbers."""
        pairs: dict[Pair, list[str]] = {}
        for key, file in sorted(self.files.items(), key=lambda item: (_number(item[1]), item[0])):
            pairs.setdefault((file.note.labels["pitch"], file.note.labels["velocity"]), []).append(key)
        return dict(sorted(pairs.items()))

    def label(self, name: str) -> Any:
        """The value of a label if all have the same one, else None."""
        values = [file.note.labels.get(name) for file in self.files.values()]
        return values[0] if all(value == values[0] for value in values) else None

    def shards(self) -> tuple[str, ...]:
        """Path of the shard set that they state; of a run of several, of the set in their label, or of all."""
        return self.origin.sets_of([self.label(SET_LABEL)])


def read_candidates(folder: Path) -> CandidateFiles:
    """Read the token files in `folder`: those of the last call of `sample`, and of its additions.

    Raises:
        UserError: no folder, no token files, a damaged one, files of several runs, or without pitch and velocity.
    """
    keys, notice = select_last_call(folder, [path.stem for path in folder.glob("*.npy")])
    files = {key: read_token_file(folder / f"{key}.npy") for key in keys}
    if not files:
        raise UserError(
            f"{folder}: no token files in it; `python -m trainer sample --run RUN --out {folder} --candidates 4` "
            "makes them"
        )
    first = next(iter(files.values()))
    origins = [file.sampled or SampleInfo() for file in files.values()]
    for (key, file), origin in zip(files.items(), origins, strict=True):
        made_by = (file.codec, origin.run, origin.checkpoint)
        if made_by != (first.codec, origins[0].run, origins[0].checkpoint):
            raise UserError(f"{folder / key}.npy: is of another run or checkpoint than the others; use another folder")
        for name in ("pitch", "velocity"):
            if midi(file.note.labels, name) is None:
                raise UserError(f"{folder / key}.npy: has no {name}, as its run has not learned it; train one that has")
    return CandidateFiles(folder, files, first.codec, common(origins), (notice,) if notice else ())


def measure_candidates(
    files: CandidateFiles, codec: LoadedCodec, progress: Progress, cache: Path | None = None
) -> dict[Pair, list[Candidate]]:
    """Decode and measure every candidate, but for those whose measurements are in the file `cache`; add them to it."""
    sounds = _read_cache(cache)
    digests = {key: _digest(file) for key, file in files.files.items()}
    new = [file.note for key, file in files.files.items() if digests[key] not in sounds]
    progress.start(len(files.files), len(files.files) - len(new))
    for note, waveform in decode_notes(new, codec):
        sounds[digests[note.key]] = _measure(note, waveform, codec.spec)
        progress.step(1, len(waveform) / codec.spec.sample_rate)
    if cache is not None and new:
        write_json(cache, {digest: asdict(sounds[digest]) for digest in sorted(digests.values())})
    candidates = {key: _candidate(file, sounds[digests[key]]) for key, file in files.files.items()}
    return {pair: [candidates[key] for key in keys] for pair, keys in files.pairs().items()}


def read_real_notes(shard_set: ShardSet, velocities: set[int], instrument: str | None = None) -> list[RealNote]:
    """The timbres of train notes at these velocities; their recordings, or where those are gone, their round trips.

    Of notes of `instrument` the pitch is measured as well.
    """
    usable = (
        (note, recording)
        for note, recording in shard_set.with_recordings("train")
        if (pair := _pair(note)) is not None and pair[1] in velocities
    )
    return [_real_note(note, recording, shard_set, instrument) for note, recording in islice(usable, MOST_REAL)]


def read_recorded(shard_set: ShardSet, instrument: str, velocities: set[int]) -> dict[Pair, tuple[Note, Candidate]]:
    """The real notes of an instrument at these velocities, through the codec, as candidates without a number.

    Raises:
        UserError: the set has no notes of it.
    """
    notes = {
        pair: note
        for split in shard_set.splits
        for note in shard_set.notes(split)
        if note.labels.get(INSTRUMENT_LABEL) == instrument
        and (pair := _pair(note)) is not None
        and pair[1] in velocities
    }
    if not notes:
        raise UserError(f"{shard_set.name}: has no notes of an instrument {instrument} at these velocities")
    spec = shard_set.codec.spec
    measured = {
        note.key: (note, replace(_candidate(TokenFile(note, spec), _measure(note, waveform, spec)), number=None))
        for note, waveform in decode_notes(notes.values(), shard_set.codec)
    }
    return {pair: measured[note.key] for pair, note in notes.items()}


def recorded_pairs(shard_set: ShardSet, instrument: str) -> set[Pair]:
    """The keys and velocities that the train notes of an instrument have."""
    notes = (note for note in shard_set.notes("train") if note.labels.get(INSTRUMENT_LABEL) == instrument)
    return {pair for note in notes if (pair := _pair(note)) is not None}


def _pair(note: Note) -> Pair | None:
    """The key and velocity of a note; None if its labels do not state them."""
    pitch, velocity = midi(note.labels, "pitch"), midi(note.labels, "velocity")
    return None if pitch is None or velocity is None else (pitch, velocity)


def _measure(note: Note, waveform: np.ndarray, spec: Codec) -> Measurements:
    features = note_features(note, waveform, spec)
    return Measurements(
        cents=features.cents,
        level=features.level,
        peak=float(np.abs(waveform).max(initial=0.0)),
        seconds=sounding_frames(waveform, spec.hop) / spec.frame_rate,
        timbre=tuple(timbre_of(waveform, spec.sample_rate).tolist()),
    )


def _candidate(file: TokenFile, sound: Measurements) -> Candidate:
    log_likelihood = file.sampled.log_likelihood if file.sampled else None
    fields = {**vars(sound), "timbre": np.array(sound.timbre)}
    return Candidate(file.note.key, _number(file), log_likelihood=log_likelihood, **fields)


def _digest(file: TokenFile) -> str:
    """A digest of all that the measurements depend on."""
    labels = (VERSION, file.codec.weights_sha256, file.note.labels["pitch"])
    return hashlib.sha256(repr(labels).encode() + file.note.tokens.tobytes()).hexdigest()


def _read_cache(path: Path | None) -> dict[str, Measurements]:
    """The measurements in a cache; none if there is none, or it is damaged."""
    try:
        value = read_object(path, "delete it") if path is not None else {}
        return {digest: to_dataclass(Measurements, fields, digest, "") for digest, fields in value.items()}
    except (OSError, UserError):
        return {}


def _number(file: TokenFile) -> int:
    info = file.sampled or SampleInfo()
    return next((number for number in (info.candidate, info.index) if number is not None), 0)


def _real_note(note: Note, recording: Recording | None, shard_set: ShardSet, instrument: str | None) -> RealNote:
    try:
        sound = None if recording is None or not recording.path.is_file() else recording.read(RATE, PITCH_END)
        rate = RATE
    except AudioError:
        sound = None
    if sound is None:
        [(_, sound)] = decode_notes([note], shard_set.codec)
        rate = shard_set.codec.spec.sample_rate
    labels = note.labels
    name = str(labels.get(INSTRUMENT_LABEL, ""))
    hertz = fundamental(sound, rate) if name == instrument else None
    off = None if hertz is None else cents(hertz, hertz_of(labels["pitch"]))
    return RealNote(note.key, name, labels["pitch"], labels["velocity"], timbre_of(sound, rate), off)
