"""pipeline.instrument.choose: candidates with known answers, and the cheapest path against all paths."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.instrument import choose as module
from pipeline.instrument.choose import Candidate, Pair, choose, good_candidates, is_excellent, mean_distances

PLAIN = Candidate("a", 0, 0.0, -20.0, 0.5, 2.0, -3.0, np.zeros(12))
OTHER_TIMBRE = np.full(12, 0.5)  # a distance of 1.7: another instrument


def candidates(**changes: object) -> Candidate:
    return replace(PLAIN, **changes)


def keyboard(*keys: list[Candidate]) -> dict[Pair, list[Candidate]]:
    """Keys from 40 on at one velocity."""
    return {(40 + index, 100): some for index, some in enumerate(keys)}


def test_a_key_in_tune_but_of_another_timbre_loses_against_one_a_few_cents_off() -> None:
    in_tune = candidates(number=0, timbre=OTHER_TIMBRE)
    right = candidates(number=1, cents=8.0)
    chosen = choose(keyboard([PLAIN], [in_tune, right], [PLAIN]))
    assert chosen[41, 100].number == 1


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"cents": 2.0}, {"cents": -30.0}),
        ({"level": -21.0}, {"level": -28.0}),
        ({"log_likelihood": -3.0}, {"log_likelihood": -3.5}),
        ({"seconds": 2.0}, {"seconds": 0.2}),
        ({"peak": 0.9}, {"peak": 1.4}),
        ({"timbre": np.zeros(12)}, {"timbre": OTHER_TIMBRE}),
        ({"is_as_asked": True}, {"is_as_asked": False}),
    ],
)
def test_every_term_decides_where_all_others_are_equal(better: dict[str, object], worse: dict[str, object]) -> None:
    for order in ((better, worse), (worse, better)):
        some = [candidates(number=number, **change) for number, change in enumerate(order)]
        assert order[choose(keyboard([PLAIN], some, [PLAIN]))[41, 100].number] is better


def test_a_velocity_follows_the_timbre_of_the_next_one() -> None:
    pairs = {(40, 50): [PLAIN], (40, 100): [candidates(number=0, timbre=OTHER_TIMBRE), candidates(number=1)]}
    assert choose(pairs)[40, 100].number == 1


def test_a_timbre_that_is_asked_for_decides_between_two_that_agree_in_themselves() -> None:
    keys = keyboard(*([candidates(number=0), candidates(number=1, timbre=OTHER_TIMBRE)] for _ in range(5)))
    assert {candidate.number for candidate in choose(keys, like=np.zeros(12)).values()} == {0}
    assert {candidate.number for candidate in choose(keys, like=OTHER_TIMBRE).values()} == {1}


def test_a_timbre_that_is_asked_for_counts_more_than_the_instrument_of_the_label() -> None:
    keys = keyboard([candidates(number=0, is_as_asked=True, cents=1.0), candidates(number=1, is_as_asked=False)])
    assert choose(keys)[40, 100].number == 0
    assert choose(keys, like=PLAIN.timbre)[40, 100].number == 1


def test_an_excellent_candidate_is_close_to_its_key_and_as_asked() -> None:
    assert is_excellent(candidates(cents=-10.0)) and is_excellent(candidates(is_as_asked=True))
    assert not is_excellent(candidates(cents=10.5)) and not is_excellent(candidates(cents=None))
    assert not is_excellent(candidates(is_as_asked=False)) and is_excellent(candidates(is_as_asked=False), PLAIN.timbre)
    assert is_excellent(candidates(number=None, cents=40.0, is_as_asked=False))  # a real note


RANDOM = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def random_candidate(random: np.random.Generator, number: int) -> Candidate:
    return Candidate(
        f"{number}", number, random.normal(0, 20), random.normal(-20, 3), random.uniform(0.1, 1.3),
        random.uniform(0.5, 3), random.normal(-3, 0.3), random.normal(0, 0.2, 12),
    )  # fmt: skip


def total_cost(pairs: dict[Pair, list[Candidate]], numbers: dict[Pair, int]) -> float:
    """The cost of a choice, added up plainly."""
    own = module.own_costs(pairs, None)
    cost = sum(own[pair][number] for pair, number in numbers.items())
    for (key, velocity), number in numbers.items():
        timbre = pairs[key, velocity][number].timbre
        layers = sorted({other for _, other in pairs})
        above = layers[layers.index(velocity) + 1 :][:1]
        for neighbour in [(key + 1, velocity), *((key, other) for other in above)]:
            if neighbour in numbers:
                length = np.linalg.norm(timbre - pairs[neighbour][numbers[neighbour]].timbre)
                cost += min(module.MOST, length / module.TERMS["distance"])
    return float(cost)


@settings(max_examples=30)
@given(RANDOM, st.integers(1, 5), st.integers(1, 4))
def test_the_path_of_one_velocity_is_the_cheapest_of_all(random: np.random.Generator, keys: int, count: int) -> None:
    pairs = keyboard(*([random_candidate(random, number) for number in range(count)] for _ in range(keys)))
    chosen = {pair: candidate.number for pair, candidate in choose(pairs).items()}
    every = (dict(zip(pairs, path, strict=True)) for path in itertools.product(range(count), repeat=keys))
    assert total_cost(pairs, chosen) == pytest.approx(min(total_cost(pairs, path) for path in every))


@settings(max_examples=30)
@given(RANDOM)
def test_of_several_velocities_no_single_change_is_cheaper(random: np.random.Generator) -> None:
    pairs = {
        (key, velocity): [random_candidate(random, number) for number in range(3)]
        for key in range(40, 44)
        for velocity in (25, 75, 127)
    }
    chosen = {pair: candidate.number for pair, candidate in choose(pairs).items()}
    cost = total_cost(pairs, chosen)
    for pair in pairs:
        for number in range(3):
            assert cost <= total_cost(pairs, {**chosen, pair: number}) + 1e-9


def test_good_candidates_are_in_tune_audible_and_about_as_loud_as_their_neighbours() -> None:
    bad = [{"cents": None}, {"cents": 51.0}, {"peak": 1e-4}, {"level": -40.0}]
    pairs = keyboard([PLAIN], [PLAIN, *(candidates(number=1 + index, **change) for index, change in enumerate(bad))])
    assert [candidate.number for candidate in good_candidates(pairs)[41, 100]] == [0]
    assert good_candidates(keyboard([candidates(cents=None)])) == {}


def test_distances_are_means_over_the_neighbours_along_the_keys() -> None:
    chosen = {(40, 100): PLAIN, (42, 100): candidates(timbre=OTHER_TIMBRE), (43, 100): PLAIN, (40, 25): PLAIN}
    length = float(np.linalg.norm(OTHER_TIMBRE))
    assert mean_distances(chosen) == {pair: pytest.approx(length) for pair in ((40, 100), (42, 100), (43, 100))}
