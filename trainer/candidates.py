"""Candidates for an instrument: several samples of each pair of key and velocity, for the pipeline to choose from.

Knows nothing of models and of how candidates are chosen.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.console import counted
from shards.note import SECONDS
from shards.sample_info import SET_LABEL
from shards.wanted import Wanted, WantedPair, read_wanted
from trainer.conditioning import Draw, Labels, fill_labels, parse_labels
from trainer.errors import ConfigError
from trainer.run import RunInfo
from trainer.vocabulary import parse_mixture

PAIR = ("pitch", "velocity")
INSTRUMENT = "instrument_str"  # label that all candidates share, if the run has learned it
LIST = "list"  # asks for the names of the instruments


@dataclass(frozen=True)
class CandidateRequest:
    """Settings of a call that draws candidates."""

    count: int | None = None  # of each pair
    wanted: Path | None = None  # file with the pairs of which more are drawn


def candidate_draws(request: CandidateRequest, options: Sequence[str], info: RunInfo, seed: int) -> list[Draw]:
    """The samples to draw: those of the file, or `count` of each pair of the `--label` options.

    Without options: all pitches that the run has learned, at the lowest, the middle and the highest velocity. A run
    that has learned instruments draws all of one: the one with most train notes, then the first by name. A run of
    several sets draws all of one set.

    Raises:
        UserError: a run without pitch and velocity, labels that it does not know, or a damaged file.
    """
    trained = dict(info.vocabulary.labels)
    if missing := [name for name in PAIR if name not in trained]:
        raise ConfigError(f"--candidates: this run has not learned {' and '.join(missing)}; train one that has")
    if not all(trained[name] and all(isinstance(value, int) for value in trained[name]) for name in PAIR):
        raise ConfigError("--candidates: pitch and velocity of this run are not whole numbers; train one whose are")
    if request.wanted is not None:
        try:
            wanted = read_wanted(request.wanted)
        except OSError as error:
            raise ConfigError(f"--wanted {request.wanted}: cannot be read ({error.strerror})") from error
    else:
        wanted = _all_pairs(request.count or 1, options, info)
    texts = [f"{name}={value}" for name, value in wanted.labels.items()]
    for pair in wanted.pairs:  # a file may name what the run has not learned
        parse_labels(info.vocabulary, [*texts, f"pitch={pair.pitch}", f"velocity={pair.velocity}"])
    draws = list(_draws(wanted, info, seed))
    if not draws:
        raise ConfigError(f"--wanted {request.wanted}: names no candidates to draw; write the instrument again")
    return draws


def _all_pairs(count: int, options: Sequence[str], info: RunInfo) -> Wanted:
    trained = dict(info.vocabulary.labels)
    if f"{INSTRUMENT}={LIST}" in options and INSTRUMENT in trained:
        names = ", ".join(f"{name} ({counted(notes, 'note')})" for name, notes in instrument_notes(info).most_common())
        raise ConfigError(f"--label {INSTRUMENT}: choose from {names}, or a mixture, mix:NAME=WEIGHT,NAME=WEIGHT")
    combinations = parse_labels(info.vocabulary, options)
    given = {name: sorted({labels[name] for labels in combinations}) for name in combinations[0]}
    others = {name: values for name, values in given.items() if name not in PAIR}
    if several := [name for name, values in others.items() if len(values) > 1]:
        raise ConfigError(f"--label {several[0]}: an instrument has one value of it; make an instrument of each")
    labels = {name: values[0] for name, values in others.items()}
    if INSTRUMENT in trained and INSTRUMENT not in labels:
        labels[INSTRUMENT] = default_instrument(info)
    if info.sets and SET_LABEL in trained and SET_LABEL not in labels:
        labels[SET_LABEL] = _default_set(labels, info)
    if info.vocabulary.length_ids and SECONDS not in labels:
        labels[SECONDS] = trained[SECONDS][-1]  # a key may be held as long
    velocities = trained["velocity"]
    middle = {velocities[0], velocities[len(velocities) // 2], velocities[-1]}
    pairs = itertools.product(given.get("pitch", trained["pitch"]), given.get("velocity", sorted(middle)))
    return Wanted(labels, tuple(WantedPair(pitch, velocity, 0, count) for pitch, velocity in pairs))


def default_instrument(info: RunInfo) -> Any:
    """The instrument with most train notes, then the first by name."""
    notes = instrument_notes(info)
    return min(notes, key=lambda name: (-notes[name], name))


def _default_set(labels: Labels, info: RunInfo) -> Any:
    """Of several sets, that with most train notes of these labels, then the first by name."""
    trained = dict(info.vocabulary.labels)
    choices = {name: [*parse_mixture(value, trained[name])] or [value] for name, value in labels.items()}
    notes: Counter[Any] = Counter()
    for values, count in info.combinations:
        note = dict(zip(trained, values, strict=True))
        notes[note[SET_LABEL]] += count if all(note[name] in some for name, some in choices.items()) else 0
    return min(notes, key=lambda name: (-notes[name], name))


def instrument_notes(info: RunInfo) -> Counter[Any]:
    """The number of train notes of each instrument."""
    index = [name for name, _ in info.vocabulary.labels].index(INSTRUMENT)
    notes: Counter[Any] = Counter()
    for values, count in info.combinations:
        notes[values[index]] += count
    notes.pop(None, None)
    return notes


def _draws(wanted: Wanted, info: RunInfo, seed: int) -> Iterator[Draw]:
    """A candidate's random numbers depend on the seed, its pair and its number alone."""
    for pair in wanted.pairs:
        for number in range(pair.first, pair.first + pair.count):
            entropy = (seed, pair.pitch, pair.velocity, number)
            labels = fill_labels({**wanted.labels, "pitch": pair.pitch, "velocity": pair.velocity}, info, entropy)
            key = f"candidate-{pair.pitch:03d}-{pair.velocity:03d}-{number:02d}"
            yield Draw(key, labels, entropy, candidate=number)
