"""shards.metrics: a line comes back equal, and damaged lines are left out and counted."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.metrics import METRICS, MetricsLine, read_metrics

numbers = st.dictionaries(st.text(), st.floats(allow_nan=False) | st.integers(-(2**62), 2**62))


@given(st.sampled_from(["train", "valid"]), st.integers(0, 10**6), numbers)
def test_a_line_comes_back_equal(kind: str, step: int, values: dict[str, float]) -> None:
    values = {name: value for name, value in values.items() if name not in ("kind", "step")}
    line = MetricsLine(kind, step, values)
    assert MetricsLine.from_line(line.to_line()) == line
    assert list(json.loads(line.to_line())) == ["kind", "step", *values]


def test_lines_are_read_by_kind_and_damaged_ones_counted(tmp_path: Path) -> None:
    train, valid = MetricsLine("train", 1, {"loss": 2.0}), MetricsLine("valid", 1, {"loss": 3.0})
    damaged = [
        "[]",
        "",
        '{"kind": "train", "step": 1, "lo',
        '{"kind": "train", "step": "1"}',
        '{"step": 1}',
        "[" * 9999,
    ]
    damaged += [f'{{"kind": "valid", "step": 1, "loss": {10**400}}}']
    damaged += ['{"kind": "valid", "step": 1, "loss": "low"}', '{"kind": "test", "step": 1}', "\udcff"]
    text = train.to_line() + "".join(f"{line}\n" for line in damaged) + valid.to_line()
    (tmp_path / METRICS).write_bytes(text.encode(errors="surrogateescape"))
    metrics = read_metrics(tmp_path)
    assert (metrics.lines, metrics.damaged) == ((train, valid), len(damaged))
    assert (metrics.of("train"), metrics.of("valid")) == ([train], [valid])


def test_a_line_without_an_end_ends_the_file(tmp_path: Path) -> None:
    line = MetricsLine("train", 1, {"loss": 2.0})
    with (tmp_path / METRICS).open("wb") as file:
        file.write(line.to_line().encode())
        file.truncate(1 << 40)  # more than there is memory
    metrics = read_metrics(tmp_path)
    assert (metrics.lines, metrics.damaged) == ((line,), 1)


def test_a_run_without_metrics_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_metrics(tmp_path)
