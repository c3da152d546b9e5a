"""Measurements of samples, each beside its floors: real notes, and real notes after the codec.

A figure that cannot be measured says why. Knows nothing of how figures are stored and shown.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from pipeline.audio import AudioError, fit, resample
from pipeline.codec.distance import note_distance
from pipeline.codec.loaded import LoadedCodec
from pipeline.notes.nsynth import MIDI_MAX
from pipeline.score.frechet import MIN_NOTES, Moments, frechet, interval, moments, pooled
from pipeline.score.nearest import Nearest
from pipeline.score.pitch import IN_TUNE, cents, fundamental, hertz_of, loudness, sounding_frames
from pipeline.score.references import ReferenceNote, ShardSet
from pipeline.score.samples import SampleFolder
from pipeline.score.scores import FRECHET
from shards.console import counted
from shards.errors import UserError
from shards.note import Codec, Note
from shards.scores import SAMPLES, Figure, Measured, Score, Scores

MAX_LATENTS = 64  # samples whose latents are compared, and train notes beside them
MIN_RANKS = 3  # values that a rank correlation needs
UNSEEN, TRAIN, ROUND_TRIP = "unseen real notes", "train notes", "their round trip"  # floors
NO_RECORDINGS = "the recordings are gone"
WILSON = 1.96  # standard deviations of a normal distribution around 95 % of it

T = TypeVar("T")
Estimate = tuple[float, float | None, float | None]  # a value, and the ends of its interval if there is one


@dataclass(frozen=True)
class NoteFeatures:
    """Measurements of one note, with its labels."""

    labels: Mapping[str, Any]
    hertz: float | None
    level: float  # dB
    tokens: np.ndarray  # (token,) up to where the note has decayed

    @property
    def cents(self) -> float | None:
        """Interval from the pitch in the label."""
        pitch = self.midi("pitch")
        return None if self.hertz is None or pitch is None else cents(self.hertz, hertz_of(pitch))

    def midi(self, label: str) -> float | None:
        """Return the value of a label if it is a number in the range of MIDI."""
        value = self.labels.get(label)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= MIDI_MAX:
            return None
        return value


def measure(
    samples: SampleFolder,
    shard_set: ShardSet,
    notes: int = 40,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Scores:
    """Measure the samples that have both tokens and a WAV, and `notes` unseen real notes of the shard set.

    on_stage: called with the name of each stage. Memory grows with the samples' tokens; a waveform is needed once.

    Raises:
        UserError: no samples with both, or samples of another codec than the set's.
    """
    codec = shard_set.codec
    on_stage("measuring pitch and loudness")
    features: dict[str, NoteFeatures] = {}
    latents: list[Moments] = []
    for note, waveform in _usable_samples(samples, shard_set):
        features[note.key] = note_features(note, waveform, codec.spec)
        if len(latents) < MAX_LATENTS:
            latents.append(_latents(waveform, codec))
    if not features:
        raise UserError(
            f"{samples.path}: none of its {counted(len(samples), 'sample')} has both its tokens and its WAV; "
            "decode them first"
        )
    split, unseen = shard_set.choose(notes)
    recordings = [
        None if real.recording is None else note_features(real.note, real.recording, codec.spec) for real in unseen
    ]
    round_trips = [note_features(real.note, real.round_trip, codec.spec) for real in unseen]
    pairs = [(before, after) for before, after in zip(recordings, round_trips, strict=True) if before is not None]
    floor = UNSEEN if split != "train" else "real train notes"  # of a set that has no other split
    subjects = {SAMPLES: [*features.values()], floor: [before for before, _ in pairs], ROUND_TRIP: round_trips}
    scores = [_pitch_score(subjects), _loudness_score(subjects)]

    on_stage("comparing latents")
    _, train = shard_set.choose(len(latents), ("train",)) if len(latents) >= MIN_NOTES else ("", [])
    scores.append(_frechet_score(latents, train, unseen, codec))

    on_stage("searching for copies")
    queries = [*features.values(), *(round_trips if split != "train" else [])]
    nearest = shard_set.nearest([query.tokens for query in queries])
    scores.append(_copy_score(nearest[: len(features)], nearest[len(features) :]))
    scores += _codec_scores(pairs, unseen, codec.spec.sample_rate, floor)

    measured = {
        name: Measured(note.hertz, note.cents, note.level, match.note.key if match.note else None, match.agreement)
        for (name, note), match in zip(features.items(), nearest, strict=False)
    }
    return Scores(samples.fingerprint(), shard_set.name, tuple(scores), measured)


def note_features(note: Note, waveform: np.ndarray, codec: Codec) -> NoteFeatures:
    """Measure the pitch and level of one note; find where its tokens are silent."""
    hertz, level = fundamental(waveform, codec.sample_rate), loudness(waveform, codec.sample_rate)
    return NoteFeatures(note.labels, hertz, level, _sounding_tokens(note.tokens, waveform, codec))


def _usable_samples(samples: SampleFolder, shard_set: ShardSet) -> Iterator[tuple[Note, np.ndarray]]:
    """Stream the samples that have both tokens and WAV, with their waveforms; the page says what the others lack."""
    spec = shard_set.codec.spec
    for sample in samples:
        if sample.file is None or not sample.wav.is_file():
            continue
        if sample.file.codec != spec:
            raise UserError(
                f"{sample.wav}: its tokens are of another codec than those of {shard_set.name}; give its --shards"
            )
        try:
            yield sample.file.note, resample(*sample.waveform(), spec.sample_rate)
        except AudioError:
            continue


def _pitch_score(subjects: Mapping[str, Sequence[NoteFeatures]]) -> Score:
    hits = {
        subject: [_in_tune(note.cents) for note in notes if note.midi("pitch") is not None]
        for subject, notes in subjects.items()
    }
    return Score(
        "pitch",
        "Pitch matches the label",
        f"Share of notes whose fundamental is within {IN_TUNE:.0f} cents of the pitch in their label.",
        "share",
        tuple(_figure(subject, notes, _share, "no notes with a label") for subject, notes in hits.items()),
    )


def _loudness_score(subjects: Mapping[str, Sequence[NoteFeatures]]) -> Score:
    return Score(
        "loudness",
        "Loudness follows velocity",
        "Rank correlation of a note's level with the velocity in its label: 1 if a harder pluck is always louder.",
        "correlation",
        tuple(_correlation(subject, notes) for subject, notes in subjects.items()),
    )


def _frechet_score(
    samples: Sequence[Moments], train: Sequence[ReferenceNote], unseen: Sequence[ReferenceNote], codec: LoadedCodec
) -> Score:
    """Compare all subjects, through the same encoder, with the same unseen recordings."""
    recordings = [real.recording for real in unseen if real.recording is not None]
    basis = recordings or [real.round_trip for real in unseen]
    is_enough = len(basis) >= MIN_NOTES
    subjects = {
        SAMPLES: samples,
        TRAIN: [_latents(real.recording, codec) for real in train if is_enough and real.recording is not None],
        ROUND_TRIP: [_latents(real.round_trip, codec) for real in train if is_enough],
    }
    reference = pooled([_latents(waveform, codec) for waveform in basis]) if is_enough else None

    def figure(subject: str, notes: Sequence[Moments]) -> Figure:
        if reference is None:
            return Figure(
                subject, None, why=f"needs {MIN_NOTES} unseen notes" if basis else "the set has no unseen notes"
            )
        if subject == TRAIN and train and not notes:
            return Figure(subject, None, why=NO_RECORDINGS)
        if len(notes) < MIN_NOTES:
            return Figure(subject, None, len(notes), why=f"needs {MIN_NOTES} notes")
        return Figure(subject, frechet(pooled(notes), reference), len(notes), *interval(notes, reference))

    compared_with = "unseen notes" if recordings else "the round trip of unseen notes, as the recordings are gone"
    return Score(
        FRECHET,
        "Distance to real notes",
        f"Fréchet distance of the encoder's latents from those of {len(basis)} {compared_with}. Lower is better; "
        "a perfect model of the train notes would reach the floor, and more notes lower every figure.",
        "distance",
        tuple(figure(subject, notes) for subject, notes in subjects.items()),
    )


def _copy_score(samples: Sequence[Nearest], unseen: Sequence[Nearest]) -> Score:
    subjects = {
        subject: [match.agreement for match in matches if match.note is not None]
        for subject, matches in ((SAMPLES, samples), (UNSEEN, unseen))
    }
    return Score(
        "copying",
        "Similarity to a train note",
        "Share of tokens, while a note sounds, that agree with the most similar train note: the median of the notes. "
        "A figure far above that of unseen real notes means that the model repeats its examples.",
        "share",
        tuple(_figure(subject, values, _median, "nothing to compare with") for subject, values in subjects.items()),
    )


def _codec_scores(
    pairs: Sequence[tuple[NoteFeatures, NoteFeatures]], unseen: Sequence[ReferenceNote], sample_rate: int, subject: str
) -> Iterator[Score]:
    """Compare real notes with their round trip: no model of these tokens can do better."""
    same = [
        after.hertz is not None and _in_tune(cents(after.hertz, before.hertz))
        for before, after in pairs
        if before.hertz is not None
    ]
    yield Score(
        "codec_pitch",
        "Pitch after the codec",
        f"Share of real notes whose fundamental moves by less than {IN_TUNE:.0f} cents on the way through the codec.",
        "share",
        (_figure(subject, same, _share, NO_RECORDINGS),),
    )
    distances = [
        note_distance(real.round_trip, real.recording, sample_rate) for real in unseen if real.recording is not None
    ]
    yield Score(
        "codec_distance",
        "Spectrum after the codec",
        "Mean difference of log-mel spectra at six window lengths between real notes and their round trip; 0 is none.",
        "distance",
        (_figure(subject, distances, lambda distances: (float(np.mean(distances)), None, None), NO_RECORDINGS),),
    )


def _figure(subject: str, notes: Sequence[T], estimate: Callable[[Sequence[T]], Estimate], why: str) -> Figure:
    """Estimate a figure of some notes; without notes, say `why` there are none."""
    if not notes:
        return Figure(subject, None, why=why)
    value, low, high = estimate(notes)
    return Figure(subject, value, len(notes), low, high)


def _share(hits: Sequence[bool]) -> Estimate:
    """Return a share with its Wilson interval."""
    count = len(hits)
    share = sum(hits) / count
    centre = share + WILSON**2 / (2 * count)
    reach = WILSON * math.sqrt(share * (1 - share) / count + WILSON**2 / (4 * count**2))
    scale = 1 + WILSON**2 / count
    return share, max(0.0, (centre - reach) / scale), min(1.0, (centre + reach) / scale)


def _median(values: Sequence[float]) -> Estimate:
    """Return the median; its interval is the whole range."""
    return float(np.median(values)), min(values), max(values)


def _correlation(subject: str, notes: Sequence[NoteFeatures]) -> Figure:
    """Return Spearman's correlation of level and velocity."""
    from scipy import stats

    pairs = [(velocity, note.level) for note in notes if (velocity := note.midi("velocity")) is not None]
    velocities, levels = zip(*pairs, strict=True) if pairs else ((), ())
    if len(pairs) < MIN_RANKS or len(set(velocities)) < 2 or len(set(levels)) < 2:
        return Figure(subject, None, len(pairs), why="too few notes of different velocities")
    return Figure(subject, float(stats.spearmanr(velocities, levels).statistic), len(pairs))


def _latents(waveform: np.ndarray, codec: LoadedCodec) -> Moments:
    """Encode one note; return the moments of its frames before quantization."""
    import torch

    with torch.inference_mode():
        [frames] = codec.latents(torch.from_numpy(waveform)[None].to(codec.device))
    return moments(frames.cpu().numpy())  # (channel, frame)


def _sounding_tokens(tokens: np.ndarray, waveform: np.ndarray, codec: Codec) -> np.ndarray:
    """Cut the tokens where the note has decayed, because all silence has equal tokens. (token,) -> (token,)"""
    frames = len(tokens) // codec.codebooks
    sounding = sounding_frames(fit(waveform, frames * codec.hop), codec.hop)
    return tokens[: sounding * codec.codebooks]


def _in_tune(interval: float | None) -> bool:
    return interval is not None and abs(interval) < IN_TUNE
