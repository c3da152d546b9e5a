"""Measurements of samples, each beside its floors: real notes, and real notes after the codec.

A figure that cannot be measured says why. Knows nothing of how figures are stored and shown.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.audio import AudioError, fit, resample
from pipeline.codec.distance import mel_distance
from pipeline.codec.model import EnCodec
from pipeline.notes.nsynth import MIDI_MAX
from pipeline.score.frechet import Gaussian, Moments, fit_gaussian, frechet, interval, moments, pooled
from pipeline.score.nearest import Nearest
from pipeline.score.pitch import IN_TUNE, POWER_FLOOR, cents, fundamental, hertz_of, loudness
from pipeline.score.references import ReferenceNote, ShardSet
from pipeline.score.samples import SampleFolder
from pipeline.score.scores import SAMPLES, Figure, Measured, Score, Scores
from shards.errors import UserError
from shards.note import Codec

MAX_LATENTS = 64  # samples whose latents are compared, and train notes beside them
MIN_RANKS = 3  # values that a rank correlation needs
UNSEEN, TRAIN, ROUND_TRIP = "unseen real notes", "train notes", "their round trip"  # floors
NO_RECORDINGS = "the recordings are gone"
DECAYED = 40.0  # dB below a note's loudest frame
WILSON = 1.96  # standard deviations of a normal distribution around 95 % of it


@dataclass(frozen=True)
class NoteFeatures:
    """Measurements of one note, with its labels."""

    labels: Mapping[str, Any]
    hertz: float | None
    level: float  # dB
    tokens: np.ndarray | None = None  # (token,) up to where the note has decayed
    latents: Moments | None = None

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
    features = dict(_sample_features(samples, shard_set))
    if not features:
        raise UserError(
            f"{samples.path}: none of its {len(samples)} samples has both its tokens and its WAV; decode them first"
        )
    split, chosen = shard_set.choose(notes)
    unseen = shard_set.references(chosen)
    recordings = [
        None if real.recording is None else note_features(real.note.labels, real.recording, codec.spec)
        for real in unseen
    ]
    round_trips = [note_features(real.note.labels, real.round_trip, codec.spec, real.note.tokens) for real in unseen]
    pairs = [(before, after) for before, after in zip(recordings, round_trips, strict=True) if before is not None]
    floor = UNSEEN if split != "train" else "real train notes"  # of a set that has no other split
    subjects = {SAMPLES: [*features.values()], floor: [before for before, _ in pairs], ROUND_TRIP: round_trips}
    scores = [_pitch_score(subjects), _loudness_score(subjects)]

    on_stage("comparing latents")
    _, chosen = shard_set.choose(min(len(features), MAX_LATENTS), ("train",))
    latents = [note.latents for note in features.values() if note.latents is not None]
    scores.append(_frechet_score(latents, shard_set.references(chosen), unseen, codec))

    on_stage("searching for copies")
    queries = [*features.values(), *(round_trips if split != "train" else [])]
    nearest = shard_set.nearest([note.tokens for note in queries if note.tokens is not None])
    scores.append(_copy_score(nearest[: len(features)], nearest[len(features) :]))
    scores += _codec_scores(pairs, unseen, floor)

    measured = {
        name: Measured(note.hertz, note.cents, note.level, train.note.key if train.note else None, train.agreement)
        for (name, note), train in zip(features.items(), nearest, strict=False)
    }
    return Scores(samples.fingerprint(), str(shard_set.folder), tuple(scores), measured)


def note_features(
    labels: Mapping[str, Any], waveform: np.ndarray, codec: Codec, tokens: np.ndarray | None = None
) -> NoteFeatures:
    """Measure the pitch and level of one note; find where its tokens are silent."""
    sounding = None if tokens is None else _sounding_tokens(tokens, waveform, codec)
    return NoteFeatures(
        labels, fundamental(waveform, codec.sample_rate), loudness(waveform, codec.sample_rate), sounding
    )


def _sample_features(samples: SampleFolder, shard_set: ShardSet) -> Iterator[tuple[str, NoteFeatures]]:
    """Stream name and features of the samples that have both tokens and WAV; the page says what the others lack."""
    codec, count = shard_set.codec, 0
    for sample in samples:
        if sample.codec is None or sample.tokens is None or not sample.wav.is_file():
            continue
        if sample.codec != codec.spec:
            raise UserError(
                f"{sample.wav}: its tokens are of another codec than those of {shard_set.folder}; give its --shards"
            )
        try:
            waveform = resample(*sample.waveform(), codec.spec.sample_rate)
        except AudioError:
            continue
        features = note_features(sample.labels, waveform, codec.spec, sample.tokens)
        yield sample.name, replace(features, latents=_latents(waveform, codec) if count < MAX_LATENTS else None)
        count += 1


def _pitch_score(subjects: Mapping[str, Sequence[NoteFeatures]]) -> Score:
    return Score(
        "pitch",
        "Pitch matches the label",
        f"Share of notes whose fundamental is within {IN_TUNE:.0f} cents of the pitch in their label.",
        "share",
        tuple(
            _share(subject, [_in_tune(note.cents) for note in notes if note.midi("pitch") is not None])
            for subject, notes in subjects.items()
        ),
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
    samples: Sequence[Moments], train: Sequence[ReferenceNote], unseen: Sequence[ReferenceNote], codec: EnCodec
) -> Score:
    """Compare all subjects, through the same encoder, with the same unseen recordings."""
    recordings = [real.recording for real in unseen if real.recording is not None]
    basis = recordings or [real.round_trip for real in unseen]
    if not basis:
        figures = [Figure(subject, None, why="the set has no unseen notes") for subject in (SAMPLES, TRAIN, ROUND_TRIP)]
    else:
        subjects = {
            SAMPLES: samples,
            TRAIN: [_latents(real.recording, codec) for real in train if real.recording is not None],
            ROUND_TRIP: [_latents(real.round_trip, codec) for real in train],
        }
        reference = fit_gaussian(pooled([_latents(waveform, codec) for waveform in basis]))
        figures = [_distance(subject, notes, reference) for subject, notes in subjects.items()]
    compared_with = "unseen notes" if recordings else "the round trip of unseen notes, as the recordings are gone"
    return Score(
        "frechet",
        "Distance to real notes",
        f"Fréchet distance of the encoder's latents from those of {len(basis)} {compared_with}. Lower is better; "
        "a perfect model of the train notes would reach the floor, and more notes lower every figure.",
        "distance",
        tuple(figures),
    )


def _copy_score(samples: Sequence[Nearest], unseen: Sequence[Nearest]) -> Score:
    return Score(
        "copying",
        "Similarity to a train note",
        "Share of tokens, while a note sounds, that agree with the most similar train note: the median of the notes. "
        "A figure far above that of unseen real notes means that the model repeats its examples.",
        "share",
        (_median(SAMPLES, samples), _median(UNSEEN, unseen)),
    )


def _codec_scores(
    pairs: Sequence[tuple[NoteFeatures, NoteFeatures]], unseen: Sequence[ReferenceNote], subject: str
) -> Iterator[Score]:
    """Compare real notes with their round trip: no model of these tokens can do better."""
    import torch

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
        (_share(subject, same, NO_RECORDINGS),),
    )
    distances = [
        float(mel_distance(torch.from_numpy(real.round_trip)[None], torch.from_numpy(real.recording)[None]))
        for real in unseen
        if real.recording is not None
    ]
    mean = float(np.mean(distances)) if distances else None
    yield Score(
        "codec_distance",
        "Spectrum after the codec",
        "Mean difference of log-mel spectra at six window lengths between real notes and their round trip; 0 is none.",
        "distance",
        (Figure(subject, mean, len(distances), why="" if distances else NO_RECORDINGS),),
    )


def _share(subject: str, hits: Sequence[bool], why: str = "no notes with a label") -> Figure:
    """Return a share with its Wilson interval."""
    count = len(hits)
    if not count:
        return Figure(subject, None, why=why)
    share = sum(hits) / count
    centre = share + WILSON**2 / (2 * count)
    reach = WILSON * math.sqrt(share * (1 - share) / count + WILSON**2 / (4 * count**2))
    scale = 1 + WILSON**2 / count
    return Figure(subject, share, count, max(0.0, (centre - reach) / scale), min(1.0, (centre + reach) / scale))


def _correlation(subject: str, notes: Sequence[NoteFeatures]) -> Figure:
    """Return Spearman's correlation of level and velocity."""
    from scipy import stats

    pairs = [(velocity, note.level) for note in notes if (velocity := note.midi("velocity")) is not None]
    velocities, levels = zip(*pairs, strict=True) if pairs else ((), ())
    if len(pairs) < MIN_RANKS or len(set(velocities)) < 2 or len(set(levels)) < 2:
        return Figure(subject, None, len(pairs), why="too few notes of different velocities")
    return Figure(subject, float(stats.spearmanr(velocities, levels).statistic), len(pairs))


def _distance(subject: str, notes: Sequence[Moments], reference: Gaussian) -> Figure:
    if not notes:
        return Figure(subject, None, why=NO_RECORDINGS)
    low, high = interval(notes, reference)
    return Figure(subject, frechet(pooled(notes), reference), len(notes), low, high)


def _median(subject: str, nearest: Sequence[Nearest]) -> Figure:
    """Return the median agreement; its interval is the whole range."""
    agreements = [train.agreement for train in nearest if train.note is not None]
    if not agreements:
        return Figure(subject, None, why="nothing to compare with")
    return Figure(subject, float(np.median(agreements)), len(agreements), min(agreements), max(agreements))


def _latents(waveform: np.ndarray, codec: EnCodec) -> Moments:
    """Encode one note; return the moments of its frames before quantization."""
    import torch

    with torch.inference_mode():
        frames = codec.model.encoder(torch.from_numpy(waveform).to(codec.device)[None, None])[0]  # type: ignore[operator]
    return moments(frames.cpu().numpy())  # (channel, frame)


def _sounding_tokens(tokens: np.ndarray, waveform: np.ndarray, codec: Codec) -> np.ndarray:
    """Cut the tokens where the note has decayed, because all silence has equal tokens. (token,) -> (token,)"""
    frames = len(tokens) // codec.codebooks
    samples = fit(waveform, frames * codec.hop).reshape(frames, codec.hop).astype(np.float64)
    level = 10 * np.log10(np.mean(samples**2, axis=1) + POWER_FLOOR)  # (frame,)
    loud = np.flatnonzero(level > level.max(initial=-np.inf) - DECAYED)
    return tokens[: (loud.max(initial=0) + 1) * codec.codebooks]


def _in_tune(interval: float | None) -> bool:
    return interval is not None and abs(interval) < IN_TUNE
