"""shards.curve: every loss is drawn, damaged lines are counted, and the drawing fits any page."""

import json
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.curve import POINTS, plot_runs, training_curve
from shards.errors import UserError


def write_metrics(run, *lines):
    run.mkdir(exist_ok=True)
    (run / "metrics.jsonl").write_text(
        "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    )
    return run


def groups_of(svg, name):
    return [group for group in ElementTree.fromstring(svg).iter("g") if group.get("class") == name]


def points_of(svg, name):
    """(x, y) of the first line of a class, in the units of the drawing, y downwards."""
    groups = groups_of(svg, name)
    numbers = [float(number) for number in re.findall(r"[-\d.]+", groups[0].find("path").get("d"))] if groups else []
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def dots_of(svg):
    return [(float(dot.get("cx")), float(dot.get("cy"))) for dot in ElementTree.fromstring(svg).iter("circle")]


def test_losses_are_read_by_kind(tmp_path):
    run = write_metrics(
        tmp_path / "run",
        *({"kind": "train", "step": step, "loss": 5 - step / 100, "lr": 1e-3} for step in range(1, 201)),
        {"kind": "valid", "step": 100, "loss": 4.25},
        {"kind": "valid", "step": 200, "loss": 3.5},
    )
    curve = training_curve(run)
    assert curve.intro == "200 steps; train loss 3.015 at the end; lowest validation loss 3.500 at step 200."
    raw = points_of(curve.svg, "raw")
    assert len(raw) == len(points_of(curve.svg, "train")) == 200
    assert [x for x, _ in raw] == sorted(x for x, _ in raw) and raw[0][1] < raw[-1][1]
    first, last = dots_of(curve.svg)
    grid = [group.find("path").get("d").split() for group in groups_of(curve.svg, "grid")]
    left, right = min(float(path[1]) for path in grid), max(float(path[4]) for path in grid)
    assert first[0] == pytest.approx((left + right) / 2, abs=0.02) and last[0] == pytest.approx(right, abs=0.02)
    assert first[1] < last[1]


def test_a_long_run_is_drawn_with_few_points(tmp_path):
    run = write_metrics(tmp_path / "run", *({"kind": "train", "step": step, "loss": 2.0} for step in range(1, 5_000)))
    assert POINTS / 2 < len(points_of(training_curve(run).svg, "raw")) <= POINTS


def test_damaged_lines_are_left_out_and_counted(tmp_path):
    good = {"kind": "valid", "step": 1, "loss": 2.0}
    run = write_metrics(
        tmp_path / "run", good, '{"kind": "valid", "st', "[]", '{"kind": "train", "step": 1, "loss": NaN}'
    )
    curve = training_curve(run)
    assert len(dots_of(curve.svg)) == 1 and "Left out: 2 damaged lines." in curve.intro


@pytest.mark.parametrize("lines", [[], ['{"kind": "train", "step": 3}'], ["nonsense"]])
def test_no_losses_give_an_empty_curve_that_says_so(tmp_path, lines):
    curve = training_curve(write_metrics(tmp_path / "run", *lines))
    assert curve.svg == "" and "holds no losses" in curve.intro


def test_a_run_without_metrics_gives_an_empty_curve_that_says_so(tmp_path):
    curve = training_curve(tmp_path / "gone")
    assert curve.svg == "" and "is not there" in curve.intro


@pytest.mark.parametrize("kinds", [["train"], ["valid"], ["train", "valid"]])
def test_the_svg_has_no_id_no_style_and_no_colour_that_a_page_cannot_set(tmp_path, kinds):
    lines = [{"kind": kind, "step": step, "loss": 5.0 - step} for kind in kinds for step in range(4)]
    svg = training_curve(write_metrics(tmp_path / "run", *lines)).svg
    assert not re.search(r"\b(id|style|clip-path|href)=|<style|<use|#", svg)
    assert {*re.findall(r"(?:fill|stroke)=\"([^\"]*)", svg)} == {"none", "currentColor"}
    assert [bool(groups_of(svg, name)) for name in ("raw", "train", "valid")] == [
        "train" in kinds,
        "train" in kinds,
        "valid" in kinds,
    ]
    texts = ["".join(text.itertext()) for text in ElementTree.fromstring(svg).iter("text")]
    assert {"step", "nats a token", "0", "3"} <= {*texts}
    assert ("validation loss" in texts, "train loss" in texts) == ("valid" in kinds, "train" in kinds)
    assert len(dots_of(svg)) == 4 * ("valid" in kinds)


def test_the_same_metrics_give_the_same_bytes(tmp_path):
    run = make_run(tmp_path / "run", 3)
    for name in ("a.svg", "b.svg"):
        plot_runs([run], tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert training_curve(run).svg == training_curve(run).svg


losses = st.floats(-1e6, 1e6) | st.sampled_from([1e30, -1e300, 0.0, 5e-324])
steps = st.integers(0, 10**6) | st.sampled_from([2**63 - 1])


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.sampled_from(["train", "valid"]), steps, losses), min_size=1, max_size=50))
def test_everything_lies_within_the_drawing(tmp_path_factory, values):
    run = tmp_path_factory.mktemp("run")
    lines = [{"kind": kind, "step": step, "loss": loss} for kind, step, loss in values]
    svg = training_curve(write_metrics(run, *lines)).svg
    if not svg:
        assert all(abs(loss) >= 1e30 for _, _, loss in values)
        return
    *_, width, height = map(float, ElementTree.fromstring(svg).get("viewBox").split())
    points = [*dots_of(svg), *(point for name in ("raw", "train", "valid") for point in points_of(svg, name))]
    points += [(float(text.get("x")), float(text.get("y"))) for text in ElementTree.fromstring(svg).iter("text")]
    assert all(0 <= x <= width and 0 <= y <= height for x, y in points)


def make_run(folder, evaluations):
    lines = [
        {"kind": "valid", "step": step, "seconds": 60.0 * step, "loss": 5.0, "loss_first_125_frames": 5.0 - step}
        for step in range(evaluations)
    ]
    return write_metrics(folder, *lines)


@pytest.mark.parametrize(("name", "first_bytes"), [("c.png", b"\x89PNG"), ("c.svg", b"<?xml")])
def test_runs_are_drawn_side_by_side(tmp_path, name, first_bytes):
    plot_runs([make_run(tmp_path / "a", 3), make_run(tmp_path / "b $x", 2)], tmp_path / name)
    data = (tmp_path / name).read_bytes()
    assert data.startswith(first_bytes) and (name == "c.png" or b">b $x<" in data)


def test_runs_that_cannot_be_drawn_are_refused(tmp_path):
    for run in (make_run(tmp_path / "a", 0), tmp_path / "gone"):
        with pytest.raises(UserError, match="no evaluation to draw"):
            plot_runs([run], tmp_path / "c.png")
    with pytest.raises(UserError, match=r"c\.doc: must end in \.png or \.svg"):
        plot_runs([make_run(tmp_path / "b", 2)], tmp_path / "c.doc")
    assert not list(tmp_path.glob("c.*"))
