"""pipeline.page.learning: the notes of a run's evaluations are on the page, a row each, whatever is damaged."""

from pathlib import Path

from pipeline.codec.loaded import load_codec
from pipeline.page.learning import Learning, decode_evaluations
from shards.metrics import METRICS, MetricsLine
from tests.support.candidates import Sound, write_candidates

FIRST = "candidate-060-100-00"


def make_run(folder: Path, *steps: int) -> Path:
    """A run with two notes at each step."""
    run = folder / "run"
    for step in steps:
        write_candidates(run / f"samples/step-{step:08d}", [Sound(60, 100), Sound(64, 75)])
    lines = [MetricsLine("valid", step, {"loss": 3.0 - step / 100}) for step in steps]
    (run / METRICS).write_text("".join(line.to_line() for line in lines))
    return run


def test_each_evaluation_is_a_row_with_its_loss_and_players(tmp_path: Path) -> None:
    learning = decode_evaluations(tmp_path / "page", make_run(tmp_path, 5, 10), load_codec("encodec_mini"))
    rows = learning.evaluations
    assert learning.faults == () and [(row.title, row.subtitle) for row in rows] == [
        ("Step 5", "valid loss 2.950 a token"),
        ("Step 10", "valid loss 2.900 a token"),
    ]
    for player in (player for row in rows for player in row.players):
        assert player.wav_url is not None and (tmp_path / "page" / player.wav_url).is_file()
        assert player.picture_url is not None and player.fault is None
    assert [player.title for player in rows[0].players] == ["C4", "E4"]


def test_damaged_notes_are_named_and_a_run_without_notes_has_no_rows(tmp_path: Path) -> None:
    run = make_run(tmp_path, 5, 10)
    damaged = [*sorted((run / "samples/step-00000005").glob("*.npy")), run / f"samples/step-00000010/{FIRST}.npy"]
    for path in damaged:
        path.write_bytes(b"")
    (run / METRICS).unlink()
    learning = decode_evaluations(tmp_path / "page", run, load_codec("encodec_mini"))
    [row] = learning.evaluations
    assert (row.title, row.subtitle, len(row.players)) == ("Step 10", "", 1)
    for path, fault in zip(damaged, learning.faults, strict=True):
        assert fault.startswith(f"{path}: ")
    assert decode_evaluations(tmp_path / "page", tmp_path, load_codec("encodec_mini")) == Learning()


def test_notes_of_another_codec_are_named(tmp_path: Path) -> None:
    run = make_run(tmp_path, 5)
    path = run / f"samples/step-00000005/{FIRST}.json"
    path.write_text(path.read_text().replace('"bandwidth": 1.5', '"bandwidth": 1.25'))
    learning = decode_evaluations(tmp_path / "page", run, load_codec("encodec_mini"))
    assert len(learning.evaluations[0].players) == 1
    assert learning.faults == (f"{path.with_suffix('.npy')}: is of another codec than the samples; it is left out",)


def test_of_many_evaluations_some_are_shown_from_the_first_to_the_last(tmp_path: Path) -> None:
    run = make_run(tmp_path, *range(1, 12))
    rows = decode_evaluations(tmp_path / "page", run, load_codec("encodec_mini")).evaluations
    assert len(rows) == 8 and (rows[0].step, rows[-1].step) == (1, 11)
