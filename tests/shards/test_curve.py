"""The training curve: every loss has its place, damaged lines are counted, nothing is invented."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.curve import POINTS, read_curve


def write_metrics(run, *lines):
    run.mkdir(exist_ok=True)
    (run / "metrics.jsonl").write_text(
        "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    )
    return run


def points_of(path):
    return [tuple(map(float, point.split())) for point in path.removeprefix("M").split("L")] if path else []


def test_losses_are_read_by_kind(tmp_path):
    run = write_metrics(
        tmp_path / "run",
        *({"kind": "train", "step": step, "loss": 5 - step / 100, "lr": 1e-3} for step in range(1, 201)),
        {"kind": "valid", "step": 100, "loss": 4.25},
        {"kind": "valid", "step": 200, "loss": 3.5},
    )
    curve = read_curve(run)
    assert curve.intro == "200 steps; train loss 3.015 at the end; lowest validation loss 3.500 at step 200."
    assert len(points_of(curve.raw)) == len(points_of(curve.train)) == 200 and len(curve.dots) == 2
    assert curve.dots[0][0] == 0.5 and curve.dots[0][1] > curve.dots[1][1]


def test_a_long_run_is_drawn_with_few_points(tmp_path):
    run = write_metrics(tmp_path / "run", *({"kind": "train", "step": step, "loss": 2.0} for step in range(1, 5_000)))
    assert POINTS / 2 < len(points_of(read_curve(run).raw)) <= POINTS


def test_damaged_lines_are_left_out_and_counted(tmp_path):
    good = {"kind": "valid", "step": 1, "loss": 2.0}
    run = write_metrics(
        tmp_path / "run", good, '{"kind": "valid", "st', "[]", '{"kind": "train", "step": 1, "loss": NaN}'
    )
    curve = read_curve(run)
    assert len(curve.dots) == 1 and "2 damaged lines were left out" in curve.intro


@pytest.mark.parametrize("lines", [[], ['{"kind": "train", "step": 3}'], ["nonsense"]])
def test_no_losses_give_an_empty_curve_that_says_so(tmp_path, lines):
    curve = read_curve(write_metrics(tmp_path / "run", *lines))
    assert not curve.train and "holds no losses" in curve.intro


def test_a_run_without_metrics_gives_an_empty_curve_that_says_so(tmp_path):
    assert "is not there" in read_curve(tmp_path / "gone").intro


finite = st.floats(-1e6, 1e6)


@given(st.lists(st.tuples(st.sampled_from(["train", "valid"]), st.integers(0, 10**6), finite), min_size=1, max_size=50))
def test_everything_lies_within_the_square(tmp_path_factory, values):
    run = tmp_path_factory.mktemp("run")
    curve = read_curve(write_metrics(run, *({"kind": kind, "step": step, "loss": loss} for kind, step, loss in values)))
    drawn = points_of(curve.raw) + points_of(curve.train) + points_of(curve.valid)
    assert all(0 <= x <= 1000 and 0 <= y <= 1000 for x, y in drawn)
    assert all(0 <= tick.at <= 1 for tick in curve.x + curve.y)
