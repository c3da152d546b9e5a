"""Choice of a candidate for each pair of key and velocity: each is good by itself, and all are of one timbre.

The cost of a choice is the sum of the candidates' own terms and of the distances in timbre between neighbours, in key
and in velocity. Along the keys of one velocity the cheapest path is exact (Viterbi, "Error bounds for convolutional
codes", 1967); the velocities take turns until none changes, which never makes the cost larger. Opens no file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pipeline.score.pitch import IN_TUNE
from pipeline.score.timbre import distance

Pair = tuple[int, int]  # key, velocity

TERMS = {  # how much of each costs 1
    "cents": 2.0,  # off the key
    "level": 3.0,  # dB off the level of its neighbourhood
    "log_likelihood": 0.3,  # nats a token less than the likeliest candidate of the pair
    "seconds": 1.0,  # halvings or doublings of the time in which its neighbourhood dies away
    "clipping": 0.25,  # of a peak above full scale, in shares of it
    "distance": 0.3,  # in timbre, to each neighbour and to the note that was asked for
    "other_instrument": 0.2,  # 1 if the most similar real note is of another instrument than the one that was asked for
}
MOST = 25.0  # of one term, so that none outweighs all others
LOUDNESS = 9.0  # dB off the level of its neighbourhood, at most, for a good candidate
AUDIBLE = 1e-3  # peak, at least
CLOSE = 10.0  # cents off the key at most, for an excellent candidate
NEIGHBOURHOOD = 6  # keys on each side whose median level and length are expected
ROUNDS = 20  # of the velocities at most; a few are enough


@dataclass(frozen=True, eq=False)
class Candidate:
    """Measurements of one sample of a pair."""

    key: str  # of its token file
    number: int | None  # among those of its pair; None: a real note
    cents: float | None  # off the key; None: no pitch was found
    level: float  # dB against full scale, of its first second
    peak: float  # 1 is full scale
    seconds: float  # until it has died away
    log_likelihood: float | None  # nats a token
    timbre: np.ndarray  # (coefficient,)
    is_as_asked: bool | None = None  # the most similar real note is of the instrument asked for; None: not known


def good_candidates(candidates: Mapping[Pair, Sequence[Candidate]]) -> dict[Pair, list[Candidate]]:
    """Those in tune, audible, and at about the level of their neighbourhood; pairs without one are left out."""
    levels, _ = _expected(candidates)
    good = {
        pair: [candidate for candidate in some if _is_good(candidate, levels[pair])]
        for pair, some in candidates.items()
    }
    return {pair: some for pair, some in good.items() if some}


def is_excellent(candidate: Candidate, like: np.ndarray | None = None) -> bool:
    """True for a real note, or a good candidate close to its key and, without `like`, of the instrument asked for."""
    is_close = candidate.cents is not None and abs(candidate.cents) <= CLOSE
    return candidate.number is None or (is_close and not _is_other(candidate, like))


def choose(candidates: Mapping[Pair, Sequence[Candidate]], like: np.ndarray | None = None) -> dict[Pair, Candidate]:
    """Choose a candidate of each pair; there is at least one of each.

    `like`: a timbre that all should be near, whatever instrument was asked for.
    """
    own = own_costs(candidates, like)
    layers = sorted({velocity for _, velocity in candidates})
    chosen = {pair: int(np.argmin(costs)) for pair, costs in own.items()}
    for _ in range(ROUNDS):
        before = dict(chosen)
        for index, velocity in enumerate(layers):
            others = [*layers[max(0, index - 1) : index], *layers[index + 1 : index + 2]]
            keys = sorted(key for key, layer in candidates if layer == velocity)
            costs = []
            for key in keys:
                cost = own[key, velocity].copy()
                for other in others:
                    if (key, other) in chosen:
                        neighbour = candidates[key, other][chosen[key, other]]
                        cost += _distances(candidates[key, velocity], [neighbour])[:, 0]
                costs.append(cost)
            path = _cheapest_path(costs, [candidates[key, velocity] for key in keys])
            chosen.update({(key, velocity): step for key, step in zip(keys, path, strict=True)})
        if chosen == before:
            break
    return {pair: candidates[pair][index] for pair, index in chosen.items()}


def mean_distances(chosen: Mapping[Pair, Candidate]) -> dict[Pair, float]:
    """The mean distance in timbre of each pair to its neighbours along the keys; pairs without any are left out."""
    distances: dict[Pair, list[float]] = {}
    for velocity in {velocity for _, velocity in chosen}:
        keys = sorted(key for key, layer in chosen if layer == velocity)
        for key, following in pairwise(keys):
            length = distance(chosen[key, velocity].timbre, chosen[following, velocity].timbre)
            for end in (key, following):
                distances.setdefault((end, velocity), []).append(length)
    return {pair: float(np.mean(lengths)) for pair, lengths in distances.items()}


def _is_good(candidate: Candidate, level: float) -> bool:
    in_tune = candidate.cents is not None and abs(candidate.cents) <= IN_TUNE
    return in_tune and candidate.peak >= AUDIBLE and abs(candidate.level - level) <= LOUDNESS


def own_costs(candidates: Mapping[Pair, Sequence[Candidate]], like: np.ndarray | None) -> dict[Pair, np.ndarray]:
    """The sum of each candidate's own terms: pair -> (candidate,)."""
    levels, lengths = _expected(candidates)
    costs = {}
    for pair, some in candidates.items():
        likeliest = max((candidate.log_likelihood or 0.0) for candidate in some)
        rows = []
        for candidate in some:
            terms = {
                "cents": IN_TUNE if candidate.cents is None else abs(candidate.cents),
                "level": abs(candidate.level - levels[pair]),
                "log_likelihood": likeliest - (candidate.log_likelihood or 0.0),
                "seconds": abs(np.log2(max(candidate.seconds, 1e-2) / lengths[pair])),
                "clipping": max(0.0, candidate.peak - 1),
                "distance": 0.0 if like is None else distance(candidate.timbre, like),
                "other_instrument": float(_is_other(candidate, like)),
            }
            rows.append(sum(min(MOST, value / TERMS[name]) for name, value in terms.items()))
        costs[pair] = np.array(rows)
    return costs


def _is_other(candidate: Candidate, like: np.ndarray | None) -> bool:
    """True for a candidate of another instrument than the one that was asked for by its label alone."""
    return like is None and candidate.is_as_asked is False


def _expected(candidates: Mapping[Pair, Sequence[Candidate]]) -> tuple[dict[Pair, float], dict[Pair, float]]:
    """The median level and length around each pair, at its velocity."""
    levels, lengths = {}, {}
    for key, velocity in candidates:
        around = [
            candidate
            for other in range(key - NEIGHBOURHOOD, key + NEIGHBOURHOOD + 1)
            for candidate in candidates.get((other, velocity), ())
            if candidate.peak >= AUDIBLE
        ]
        levels[key, velocity] = float(np.median([candidate.level for candidate in around] or [0.0]))
        lengths[key, velocity] = max(1e-2, float(np.median([candidate.seconds for candidate in around] or [1.0])))
    return levels, lengths


def _distances(some: Sequence[Candidate], others: Sequence[Candidate]) -> np.ndarray:
    """The cost of being neighbours: (candidate, other)."""
    timbres, other_timbres = (np.stack([candidate.timbre for candidate in each]) for each in (some, others))
    lengths = np.linalg.norm(timbres[:, None] - other_timbres[None], axis=-1)
    return np.minimum(MOST, lengths / TERMS["distance"])


def _cheapest_path(costs: Sequence[np.ndarray], candidates: Sequence[Sequence[Candidate]]) -> list[int]:
    """The index of a candidate for each key of one velocity, of the least total cost."""
    total = costs[0]
    back: list[np.ndarray] = []
    for index in range(1, len(costs)):
        steps = total[:, None] + _distances(candidates[index - 1], candidates[index])  # (before, candidate)
        back.append(np.argmin(steps, axis=0))
        total = steps.min(axis=0) + costs[index]
    path = [int(np.argmin(total))]
    for origin in reversed(back):
        path.append(int(origin[path[-1]]))
    return path[::-1]
