"""pipeline.codec.evaluate: figures that say what they claim, and the weights that ship reach theirs."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from pipeline.__main__ import main
from pipeline.codec.evaluate import PITCHES, Score, score_folder
from pipeline.notes.demo import Recipe, make_demo_notes
from pipeline.progress import NoteBar
from shards.errors import UserError
from tests.support.notes import tone, write_note


@pytest.fixture(scope="module")
def unseen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few demo notes of instruments that no codec was trained on."""
    folder = tmp_path_factory.mktemp("demo")
    make_demo_notes(folder, Recipe(velocities=1, lowest=45, highest=47))
    return folder / "nsynth-guitar-valid"


@pytest.fixture(scope="module")
def shipped(unseen: Path) -> Score:
    return score_folder(unseen, "encodec_mini", None, None, NoteBar("score"))


def test_the_shipped_codec_keeps_notes_it_was_not_trained_on(shipped: Score) -> None:
    assert shipped.notes == shipped.pitched == 6
    assert shipped.pitch_accuracy == 1.0
    assert shipped.distance < 0.25 < 0.5 * shipped.silence + 0.05


def test_the_second_codebook_earns_its_bits(shipped: Score) -> None:
    assert shipped.distance < 0.9 * shipped.distance_one < shipped.silence


def test_the_codebooks_have_not_collapsed(shipped: Score) -> None:
    assert min(shipped.used) > 80  # of the 1,200 frames of so few notes
    assert min(shipped.perplexity_sounding) > 40
    assert shipped.perplexity < shipped.perplexity_sounding


def test_figures_are_of_so_many_notes_as_asked_for(unseen: Path) -> None:
    result = CliRunner().invoke(main, ["score-codec", str(unseen), "--count", "2", "--json"])
    assert result.exit_code == 0
    figures = json.loads(result.stdout)
    assert figures["notes"] == 2 and len(figures["used"]) == 2


def test_the_json_has_the_field_names_that_scripts_read(shipped: Score) -> None:
    figures = shipped.to_json()
    assert set(figures) - {"audio", "codec"} == {
        "notes", "pitched", "kept", "distance", "distance_one", "silence", "used", "perplexity", "perplexity_sounding",
        "load_seconds",
    }  # fmt: skip
    assert figures["kept"] == shipped.pitch_accuracy


def test_only_notes_with_a_right_fundamental_count_for_it(tmp_path: Path) -> None:
    write_note(tmp_path / "guitar_acoustic_000-060-100.wav", tone(60, 4.0))
    write_note(tmp_path / "guitar_acoustic_000-062-100.wav", tone(64, 4.0))  # its name is wrong
    write_note(tmp_path / f"guitar_acoustic_000-{PITCHES.stop:03d}-100.wav", tone(PITCHES.stop, 4.0))  # out of range
    write_note(tmp_path / "birdsong.wav", np.zeros(64_000, np.float32))
    score = score_folder(tmp_path, "encodec_mini", None, None, NoteBar("score"))
    assert (score.notes, score.pitched) == (4, 1)


def test_a_folder_without_audio_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no audio"):
        score_folder(tmp_path, "encodec_mini", None, None, NoteBar("score"))
