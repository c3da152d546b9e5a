"""The Fréchet distance: zero for the same set, what the formula says for known Gaussians, an interval around it."""

import numpy as np
import pytest

from pipeline.score.frechet import frechet, interval, moments, pooled

rng = np.random.default_rng(0)


def frames(count, mean=0.0, deviation=1.0, channels=4):
    """(channel, frame) with exactly this mean and deviation, uncorrelated."""
    white = rng.normal(size=(channels, count))
    white -= white.mean(1, keepdims=True)
    white = np.linalg.solve(np.linalg.cholesky(white @ white.T / count), white)
    return white * deviation + mean


def test_the_same_set_has_no_distance():
    notes = moments(frames(500, 0.3, 2.0))
    assert frechet(notes, notes) == pytest.approx(0, abs=1e-9)


def test_a_shift_counts_squared_for_each_channel():
    white = frames(500)
    assert frechet(moments(white), moments(white + 3)) == pytest.approx(4 * 9)


def test_a_wider_set_lies_by_the_squared_difference_of_deviations():
    assert frechet(moments(frames(500, 0, 1)), moments(frames(300, 0, 3))) == pytest.approx(4 * (3 - 1) ** 2)


def test_the_distance_is_the_same_from_both_sides():
    first, second = moments(rng.normal(size=(6, 100))), moments(rng.normal(1, 2, size=(6, 80)))
    assert frechet(first, second) == pytest.approx(frechet(second, first))


def test_moments_of_pieces_add_up_to_those_of_the_whole():
    whole = rng.normal(size=(5, 90))
    pieces = pooled([moments(whole[:, :20]), moments(whole[:, 20:])])
    assert frechet(pieces, moments(whole)) == pytest.approx(0, abs=1e-9)


def test_fewer_frames_than_channels_are_no_trouble():
    assert frechet(moments(rng.normal(size=(128, 10))), moments(rng.normal(size=(128, 20)))) > 0


def test_the_interval_surrounds_the_distance_and_narrows_with_more_notes():
    reference = moments(rng.normal(size=(4, 5_000)))
    notes = [moments(rng.normal(rng.normal(), 1, size=(4, 30))) for _ in range(100)]
    widths = []
    for count in (10, 100):
        low, high = interval(notes[:count], reference)
        assert 0 <= low < frechet(pooled(notes[:count]), reference) < high
        widths.append((high - low) / low)
    assert widths[1] < widths[0]
    assert interval(notes, reference) == interval(notes, reference)
