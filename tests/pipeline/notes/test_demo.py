"""The demo notes: a function of their recipe, laid out as NSynth, whole files only, in a folder of their own."""

import io
import re

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from pipeline.__main__ import main
from pipeline.notes import demo as demo_notes
from pipeline.notes.demo import (
    INSTRUMENTS,
    RECIPE,
    DemoNote,
    Recipe,
    make_demo_notes,
    mp3,
    notes_of,
    render,
)
from pipeline.notes.nsynth import VELOCITIES
from shards.errors import UserError

TINY = Recipe(velocities=1, lowest=60, highest=60)


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_default_set_covers_every_pitch_of_every_instrument():
    notes = list(notes_of(Recipe()))
    train, valid = ([note for note in notes if note.split == split] for split in ("train", "valid"))
    assert len(set(notes)) == len(notes) and 400 <= len(train) <= 500 and 50 <= len(valid) <= 100
    for split, part in (("train", train), ("valid", valid)):
        covered = {(note.instrument, note.pitch) for note in part}
        assert covered == {(name, pitch) for name in INSTRUMENTS[split] for pitch in range(40, 77)}
        assert {note.velocity for note in part} == set(VELOCITIES)


def test_train_and_valid_share_no_instrument():
    assert not set(INSTRUMENTS["train"]) & set(INSTRUMENTS["valid"])


def test_five_velocities_are_all_five():
    per_string = {}
    for note in notes_of(Recipe(velocities=5)):
        if note.split == "train":
            per_string.setdefault((note.instrument, note.pitch), set()).add(note.velocity)
    assert all(velocities == set(VELOCITIES) for velocities in per_string.values())


def test_names_and_folders_are_nsynths():
    note = DemoNote("train", "guitar_acoustic_000", 40, 25)
    assert str(note.path) == "nsynth-guitar-train/guitar_acoustic_000-040-025.mp3"
    pattern = re.compile(r"nsynth-guitar-(train|valid)/guitar_(acoustic|electronic)_\d{3}-\d{3}-\d{3}\.mp3")
    assert all(pattern.fullmatch(str(note.path)) for note in notes_of(Recipe()))


def test_a_note_depends_on_seed_and_name_alone():
    note = DemoNote("train", "guitar_acoustic_000", 60, 100)
    assert np.array_equal(render(note, 0), render(note, 0))
    assert not np.array_equal(render(note, 0), render(note, 1))


def test_mp3_keeps_length_time_and_sound():
    samples = render(DemoNote("train", "guitar_electronic_001", 57, 127), 0)
    encoded = mp3(samples)
    assert encoded == mp3(samples)
    decoded, rate = soundfile.read(io.BytesIO(encoded), dtype="float32")
    assert rate == 16_000 and decoded.shape == samples.shape
    assert np.mean((decoded - samples) ** 2) < 0.01 * np.mean(samples**2)


def test_a_folder_is_a_function_of_its_recipe(tmp_path):
    made = make_demo_notes(tmp_path / "a", TINY)
    assert made.notes == made.new == sum(1 for _ in notes_of(TINY)) == 8
    make_demo_notes(tmp_path / "b", TINY)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_a_wider_recipe_holds_the_same_notes(tmp_path):
    make_demo_notes(tmp_path / "a", TINY)
    make_demo_notes(tmp_path / "b", Recipe(velocities=2, lowest=60, highest=60))
    a, b = (
        {path: data for path, data in files(folder).items() if path.suffix == ".mp3"}
        for folder in (tmp_path / "a", tmp_path / "b")
    )
    assert a.items() < b.items()


def test_an_interrupted_run_goes_on_and_a_finished_one_makes_nothing(tmp_path, monkeypatch):
    plucked = []

    def interrupted(note, seed):
        if len(plucked) == 3:
            raise KeyboardInterrupt
        plucked.append(note)
        return render(note, seed)

    monkeypatch.setattr(demo_notes.os, "cpu_count", lambda: 1)
    monkeypatch.setattr(demo_notes, "render", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_demo_notes(tmp_path / "cut", TINY)
    monkeypatch.undo()
    assert not list((tmp_path / "cut").rglob("*.part"))
    assert make_demo_notes(tmp_path / "cut", TINY).new == 5
    assert make_demo_notes(tmp_path / "cut", TINY).new == 0
    make_demo_notes(tmp_path / "whole", TINY)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_a_folder_with_other_things_is_refused_untouched(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match=r"holds thesis\.tex"):
        make_demo_notes(tmp_path, TINY)
    assert list(files(tmp_path).values()) == [b"precious"]


def test_another_recipe_under_the_same_name_is_refused_with_the_field(tmp_path):
    make_demo_notes(tmp_path / "notes", TINY)
    before = files(tmp_path)
    with pytest.raises(UserError, match="seed 0, not 1"):
        make_demo_notes(tmp_path / "notes", Recipe(seed=1, velocities=1, lowest=60, highest=60))
    assert files(tmp_path) == before


def test_a_damaged_recipe_is_one_line(tmp_path):
    (tmp_path / RECIPE).write_text("[")
    with pytest.raises(UserError, match="not the recipe"):
        make_demo_notes(tmp_path, TINY)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["FILE"], "is a file"),
        (["NEW", "--pitches", "60", "59"], "give the lower one first"),
        (["NEW", "--velocities", "6"], "1<=x<=5"),
    ],
)
def test_what_cannot_be_made_is_one_line_and_nothing_written(tmp_path, arguments, said):
    (tmp_path / "FILE").write_text("")
    result = CliRunner().invoke(main, ["demo-notes", str(tmp_path / arguments[0]), *arguments[1:]])
    assert result.exit_code == 2 and said in result.output and not (tmp_path / "NEW").exists()


def test_the_command_says_what_it_made_and_what_to_run_next(tmp_path):
    out = tmp_path / "notes"
    arguments = ["demo-notes", str(out), "--velocities", "1", "--pitches", "60", "60"]
    for new in (8, 0):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
        last = result.stdout.splitlines()[-1]
        assert f"8 notes, {new} of them new" in last and f"python -m pipeline encode {out}" in last
