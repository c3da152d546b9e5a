"""How good the samples are: each figure beside what real notes get, and what they get after the codec.

A figure that cannot be had says why. Knows how to measure; how figures are kept and shown is in `scores`.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.audio import AudioError, fit, load
from pipeline.codec.distance import mel_distance
from pipeline.codec.model import EnCodec
from pipeline.notes.nsynth import HIGHEST
from pipeline.score.frechet import Gaussian, Moments, fit_gaussian, frechet, interval, moments, pooled
from pipeline.score.nearest import Nearest, nearest
from pipeline.score.pitch import IN_TUNE, cents, fundamental, hertz_of, loudness
from pipeline.score.references import Reference, choose_notes, hear, open_set
from pipeline.score.samples import Sample, fingerprint, read_samples
from pipeline.score.scores import SAMPLES, Figure, Measured, Score, Scores, write_scores
from shards.errors import UserError
from shards.note import Codec

MOST_HEARD = 64  # samples whose latents are taken; the floors are taken from as many train notes
FEWEST = 3  # values that a rank correlation says something about
UNSEEN, ROUND_TRIP = "unseen real notes", "their round trip"  # the floors
GONE = "the recordings are gone"
DIED_AWAY = 40.0  # dB below a note's loudest frame
WILSON = 1.96  # standard deviations of a normal distribution around 95 % of it


@dataclass(frozen=True)
class Heard:
    """A note with its sound, and what was heard in it."""

    labels: Mapping[str, Any]
    sound: np.ndarray  # (sample,) at the codec's rate
    pitch: float | None  # Hz
    level: float  # dB

    @property
    def off(self) -> float | None:
        """Cents from the pitch in the label."""
        if self.pitch is None or not self.has("pitch"):
            return None
        return cents(self.pitch, hertz_of(self.labels["pitch"]))

    def has(self, label: str) -> bool:
        """Whether a label is there, and is a number that MIDI knows."""
        value = self.labels.get(label)
        return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= HIGHEST


def listen(labels: Mapping[str, Any], sound: np.ndarray, sample_rate: int) -> Heard:
    """Measure one note."""
    return Heard(labels, sound, fundamental(sound, sample_rate), loudness(sound, sample_rate))


def score(
    folder: Path,
    shards: Path | None = None,
    notes: int = 40,
    weights: Path | None = None,
    device: str = "auto",
    progress: Callable[[str], None] = lambda stage: None,
) -> Scores:
    """Measure the samples in `folder`, and `notes` unseen real notes of the shard set, and write `scores.json`.

    shards: where the set is now, if not where the token files say. progress: told the name of each stage.

    Raises:
        UserError: no samples that can be read, no shard set, or one of another codec.
    """
    every = read_samples(folder)
    shards = shards or _set_of(every, folder)
    source = open_set(shards, weights, device)
    rate = source.manifest.codec.sample_rate

    progress("listening")
    samples = dict(_audible(every, source.manifest.codec, shards))
    if not samples:
        raise UserError(
            f"{folder}: none of its {len(every)} samples has both its tokens and its WAV; decode them first"
        )
    heard = [listen(sample.labels, sound, rate) for sample, sound in samples.values()]
    split, chosen = choose_notes(source, notes)
    unseen = hear(chosen, source)
    trips = [listen(one.note.labels, one.round_trip, rate) for one in unseen]
    real = [one.recording if one.recording is None else listen(one.note.labels, one.recording, rate) for one in unseen]
    pairs = [(before, after) for before, after in zip(real, trips, strict=True) if before is not None]
    floor = UNSEEN if split != "train" else "real train notes"  # of a set that has no other split
    groups = {SAMPLES: heard, floor: [before for before, _ in pairs], ROUND_TRIP: trips}
    scores = [_pitch_score(groups), _loudness_score(groups)]

    progress("comparing latents")
    _, like_samples = choose_notes(source, min(len(samples), MOST_HEARD), ("train",))
    train = hear(like_samples, source)
    scores.append(_frechet_score([one.sound for one in heard[:MOST_HEARD]], train, unseen, source.codec))

    progress("looking for copies")
    asked_for = [_sounding(_tokens(sample), sound, source.manifest.codec) for sample, sound in samples.values()]
    unheard = [] if split == "train" else unseen
    real_tokens = [_sounding(one.note.tokens, one.round_trip, source.manifest.codec) for one in unheard]
    alike, of_unseen = (nearest(tokens, source.notes("train")) for tokens in (asked_for, real_tokens))
    scores += [_copy_score(alike, of_unseen), *_codec_scores(pairs, floor)]

    measured = {
        name: Measured(one.pitch, one.off, one.level, near.note.key if near.note else None, near.agreement)
        for name, one, near in zip(samples, heard, alike, strict=True)
    }
    found = Scores(fingerprint(every), str(shards), tuple(scores), measured)
    write_scores(folder, found)
    return found


def _pitch_score(groups: Mapping[str, Sequence[Heard]]) -> Score:
    return Score(
        "pitch",
        "Pitch as asked",
        f"Share of notes whose fundamental is within {IN_TUNE:.0f} cents of the pitch in their label.",
        "share",
        tuple(_share(of, [_in_tune(one) for one in notes if one.has("pitch")]) for of, notes in groups.items()),
    )


def _loudness_score(groups: Mapping[str, Sequence[Heard]]) -> Score:
    return Score(
        "loudness",
        "Loudness as asked",
        "Rank correlation of a note's level with the velocity in its label: 1 if a harder pluck is always louder.",
        "correlation",
        tuple(_correlation(of, notes) for of, notes in groups.items()),
    )


def _frechet_score(
    heard: Sequence[np.ndarray], train: Sequence[Reference], unseen: Sequence[Reference], codec: EnCodec
) -> Score:
    """Every group through the same encoder, against the same unseen recordings."""
    recordings = [one.recording for one in unseen if one.recording is not None]
    basis = recordings or [one.round_trip for one in unseen]
    groups = {
        SAMPLES: heard,
        "train notes": [one.recording for one in train if one.recording is not None],
        ROUND_TRIP: [one.round_trip for one in train],
    }
    if not basis:
        figures = tuple(Figure(of, None, why="the set has no unseen notes") for of in groups)
    else:
        reference = fit_gaussian(pooled([_latents(sound, codec) for sound in basis]))
        figures = tuple(
            _distance(of, [_latents(sound, codec) for sound in sounds], reference) for of, sounds in groups.items()
        )
    what = "unseen notes" if recordings else "the round trip of unseen notes, as the recordings are gone"
    return Score(
        "frechet",
        "Distance to real notes",
        f"Fréchet distance of the encoder's latents from those of {len(basis)} {what}. Lower is nearer; "
        "a perfect model of the train notes would reach the floor, and more notes lower every figure.",
        "distance",
        figures,
    )


def _copy_score(alike: Sequence[Nearest], of_unseen: Sequence[Nearest]) -> Score:
    return Score(
        "copying",
        "Likeness to a train note",
        "Share of tokens, while a note sounds, that agree with the most similar train note: the median of the notes. "
        "Far above what unseen real notes have, the model repeats its examples.",
        "share",
        (_median(SAMPLES, alike), _median(UNSEEN, of_unseen)),
    )


def _codec_scores(pairs: Sequence[tuple[Heard, Heard]], of: str) -> Iterator[Score]:
    """Of (real note, round trip): what no model of these tokens can do better."""
    import torch

    pitches = [(before.pitch, after.pitch) for before, after in pairs]
    kept = [
        after is not None and abs(cents(after, before)) < IN_TUNE for before, after in pitches if before is not None
    ]
    yield Score(
        "codec_pitch",
        "Pitch the codec keeps",
        f"Share of real notes whose fundamental moves by less than {IN_TUNE:.0f} cents on the way through the codec.",
        "share",
        (_share(of, kept, GONE),),
    )
    sounds = [(torch.from_numpy(after.sound)[None], torch.from_numpy(before.sound)[None]) for before, after in pairs]
    distances = [float(mel_distance(decoded, real)) for decoded, real in sounds]
    mean = Figure(of, float(np.mean(distances)), len(distances)) if distances else Figure(of, None, why=GONE)
    yield Score(
        "codec_distance",
        "What the codec changes",
        "Mean difference of log-mel spectra at six window lengths between real notes and their round trip; 0 is none.",
        "distance",
        (mean,),
    )


def _share(of: str, right: Sequence[bool], why: str = "no notes with a label") -> Figure:
    """A share with its Wilson interval."""
    count = len(right)
    if not count:
        return Figure(of, None, why=why)
    share = sum(right) / count
    centre = share + WILSON**2 / (2 * count)
    reach = WILSON * math.sqrt(share * (1 - share) / count + WILSON**2 / (4 * count**2))
    scale = 1 + WILSON**2 / count
    return Figure(of, share, count, max(0.0, (centre - reach) / scale), min(1.0, (centre + reach) / scale))


def _correlation(of: str, notes: Sequence[Heard]) -> Figure:
    """Spearman's, of level and velocity."""
    from scipy import stats

    asked = [one for one in notes if one.has("velocity")]
    velocities = [one.labels["velocity"] for one in asked]
    levels = [one.level for one in asked]
    if len(asked) < FEWEST or len(set(velocities)) < 2 or len(set(levels)) < 2:
        return Figure(of, None, len(asked), why="too few notes of different velocities")
    return Figure(of, float(stats.spearmanr(velocities, levels).statistic), len(asked))


def _distance(of: str, notes: Sequence[Moments], reference: Gaussian) -> Figure:
    if not notes:
        return Figure(of, None, why=GONE)
    low, high = interval(notes, reference)
    return Figure(of, frechet(pooled(notes), reference), len(notes), low, high)


def _median(of: str, found: Sequence[Nearest]) -> Figure:
    """With the range from the least to the most alike in place of an interval."""
    agreements = [one.agreement for one in found if one.note is not None]
    if not agreements:
        return Figure(of, None, why="nothing to compare with")
    return Figure(of, float(np.median(agreements)), len(agreements), min(agreements), max(agreements))


def _latents(sound: np.ndarray, codec: EnCodec) -> Moments:
    """The encoder's frames before quantization."""
    import torch

    with torch.inference_mode():
        frames = codec.model.encoder(torch.from_numpy(sound).to(codec.device)[None, None])[0]  # type: ignore[operator]
    return moments(frames.cpu().numpy())  # (channel, frame)


def _sounding(tokens: np.ndarray, sound: np.ndarray, codec: Codec) -> np.ndarray:
    """The tokens up to where the note has died away: all silence is alike. (token,) -> (token,)"""
    frames = len(tokens) // codec.codebooks
    samples = fit(sound, frames * codec.hop).reshape(frames, codec.hop).astype(np.float64)
    level = 10 * np.log10(np.mean(samples**2, axis=1) + 1e-12)  # (frame,)
    heard = np.flatnonzero(level > level.max(initial=-np.inf) - DIED_AWAY)
    return tokens[: (heard.max(initial=0) + 1) * codec.codebooks]


def _in_tune(note: Heard) -> bool:
    return note.off is not None and abs(note.off) < IN_TUNE


def _audible(samples: Sequence[Sample], codec: Codec, shards: Path) -> Iterator[tuple[str, tuple[Sample, np.ndarray]]]:
    """name, (sample, sound) of those that have both tokens and WAV; the page says what the others lack."""
    for sample in samples:
        if sample.codec is None or not sample.wav.is_file():
            continue
        if sample.codec != codec:
            raise UserError(f"{sample.wav}: its tokens are of another codec than those of {shards}; give its --shards")
        with suppress(AudioError):
            yield sample.name, (sample, load(sample.wav, codec.sample_rate))


def _tokens(sample: Sample) -> np.ndarray:
    assert sample.tokens is not None, "it has a codec, so its token file was read"
    return sample.tokens


def _set_of(samples: Sequence[Sample], folder: Path) -> Path:
    """The one shard set that the token files name."""
    sets = {str(sample.sampled["shards"]) for sample in samples if "shards" in sample.sampled}
    if len(sets) != 1:
        raise UserError(f"{folder}: its token files do not name one shard set; say which with --shards FOLDER")
    return Path(sets.pop())
