"""pipeline.instrument.best: the best samples are kept, those of every key before the second best of one."""

from pathlib import Path

import pytest

from pipeline.instrument.best import choose_best
from shards.errors import UserError
from tests.support.candidates import Sound, write_candidates
from tests.support.notes import Silent, files_of


def test_the_good_ones_of_all_keys_come_first_then_second_best_then_bad_ones(tmp_path: Path) -> None:
    sounds = [
        Sound(60, 100, 0, cents=30.0), Sound(60, 100, 1), Sound(62, 100, 0), Sound(62, 100, 1, cents=70.0),
        Sound(64, 100, 0, cents=20.0),
    ]  # fmt: skip
    folder = write_candidates(tmp_path / "many", sounds)
    outcome = choose_best(folder, tmp_path / "best/tokens", 4, None, "cpu", Silent())
    names = [f"candidate-{sound.pitch:03d}-100-{sound.number:02d}" for sound in sounds]
    assert set(outcome.keys[:3]) == {names[1], names[2], names[4]}
    assert outcome.keys[3] == names[0] and outcome.good == 4
    many = files_of(folder)
    assert files_of(tmp_path / "best/tokens") == {
        f"{key}.{kind}": many[f"{key}.{kind}"] for key in outcome.keys for kind in ("npy", "json")
    }
    *_, last = outcome.lines()
    assert last == f"Next: python -m pipeline listen {tmp_path / 'best'}"


def test_too_few_samples_and_a_folder_in_use_are_refused(tmp_path: Path) -> None:
    folder = write_candidates(tmp_path / "many", [Sound(60, 100)])
    with pytest.raises(UserError, match="has 1 sample, fewer than --count 2"):
        choose_best(folder, tmp_path / "best", 2, None, "cpu", Silent())
    with pytest.raises(UserError, match="holds token files already"):
        choose_best(folder, folder, 1, None, "cpu", Silent())
