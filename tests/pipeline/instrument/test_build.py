"""pipeline.instrument.build: an instrument of candidates is in tune, even, whole, and the same bytes each time."""

import json
import math
import os
import re
import zipfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from pipeline.__main__ import main
from pipeline.instrument import candidates as candidates_module
from pipeline.instrument.build import BuildOutcome, BuildRequest, build_instrument
from pipeline.instrument.candidates import read_candidates
from pipeline.instrument.instrument import read_instrument
from pipeline.score.pitch import cents, fundamental, hertz_of, loudness
from shards.errors import UserError
from shards.wanted import read_wanted
from tests.support.candidates import NYLON, STEEL, Sound, write_candidates
from tests.support.notes import Silent, files_of
from tests.support.shard_sets import write_set

if TYPE_CHECKING:
    import pysfizz

KEYS = range(52, 60, 2)
VELOCITIES = (25, 75, 127)
RATE = 48_000  # Hz, of the sampler


def build(candidates: Path, out: Path, **changes: object) -> BuildOutcome:
    return build_instrument(replace(BuildRequest(candidates, out, device="cpu"), **changes), Silent())


@pytest.fixture(scope="module")
def candidates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two candidates of each pair: one some cents off, one of another instrument; the last key has none in tune."""
    folder = tmp_path_factory.mktemp("candidates")
    for velocity in VELOCITIES:
        for key in KEYS:
            off = 70.0 if key == KEYS[-1] else 6.0
            write_candidates(
                folder,
                [
                    Sound(key, velocity, 0, -off, NYLON if key == KEYS[1] else STEEL),
                    Sound(key, velocity, 1, off, STEEL),
                ],
            )
    return folder


@pytest.fixture(scope="module")
def built(candidates: Path, tmp_path_factory: pytest.TempPathFactory) -> BuildOutcome:
    return build(candidates, tmp_path_factory.mktemp("build") / "an instrument")


def opcodes(text: str) -> list[dict[str, str]]:
    """The regions of an SFZ file with what they inherit from their group and from all."""
    levels: dict[str, dict[str, str]] = {}
    regions = []
    for header, body in re.findall(r"<(\w+)>([^<]*)", re.sub(r"//.*", "", text)):
        levels[header] = dict(re.findall(r"(\w+)=(\S+)", body))
        if header == "region":
            regions.append({**levels["global"], **levels["group"], **levels["region"]})
    return regions


def test_the_timbre_of_the_neighbours_is_chosen_and_what_is_out_of_tune_is_left_to_the_neighbour(
    built: BuildOutcome,
) -> None:
    instrument = built.instrument
    assert [(region.pitch, region.velocity) for region in instrument.regions] == [
        (key, velocity) for velocity in VELOCITIES for key in KEYS[:-1]
    ]
    assert all(region.figures.candidate == 1 for region in instrument.regions if region.pitch == KEYS[1])
    assert [(pair.pitch, pair.velocity, pair.filled_by) for pair in instrument.missing] == [
        (KEYS[-1], velocity, KEYS[-2]) for velocity in VELOCITIES
    ]
    assert instrument.after.in_tune == pytest.approx(3 / 4) == instrument.before.in_tune
    assert instrument.after.within_10_cents <= 3 / 4


def test_more_of_the_missing_pairs_are_wanted_until_there_are_enough(
    candidates: Path, built: BuildOutcome, tmp_path: Path
) -> None:
    wanted = read_wanted(built.request.out / "wanted.json")
    assert [vars(pair) for pair in wanted.pairs] == [
        {"pitch": KEYS[-1], "velocity": velocity, "first": 2, "count": 4} for velocity in VELOCITIES
    ]
    *_, last = built.lines()
    assert last.startswith("Next: python -m trainer sample --run runs/x --out ") and "'" in last.split("--wanted ")[1]
    enough = build(candidates, built.request.out, most=2)
    assert not enough.wanted.pairs and not (built.request.out / "wanted.json").exists()


def test_more_are_wanted_of_pairs_whose_candidates_are_off_their_key_or_of_another_instrument(tmp_path: Path) -> None:
    sounds = [Sound(52, 100), Sound(54, 100, cents=30.0), Sound(56, 100, instrument=NYLON)]
    folder = write_candidates(tmp_path / "c", sounds, instrument_str="steel")
    names = {STEEL: "steel", NYLON: "nylon"}
    real = [
        (replace(file.note, key=f"{name}-{key}", labels={**file.note.labels, "instrument_str": names[name]}))
        for name in names
        for key, file in read_candidates(
            write_candidates(tmp_path / name, [Sound(key, 100, instrument=name) for key in (52, 54, 56)])
        ).files.items()
    ]
    write_set(tmp_path / "set", {"train": [real]}, read_candidates(folder).codec)
    outcome = build(folder, tmp_path / "x", shards=tmp_path / "set")
    assert [pair.pitch for pair in outcome.wanted.pairs] == [54, 56] and not outcome.instrument.missing
    assert any("2 pairs no candidate is within 10 cents and most like steel" in line for line in outcome.lines())
    like = build(folder, tmp_path / "y", shards=tmp_path / "set", like=f"{tmp_path / 'set'}:{real[-1].key}")
    assert [pair.pitch for pair in like.wanted.pairs] == [54]


def test_an_instrument_whose_real_notes_sound_an_octave_up_is_in_tune_there(tmp_path: Path) -> None:
    pairs = [(key, velocity) for key in (52, 53) for velocity in (50, 100)]
    sounds = [Sound(*pair, number, cents) for pair in pairs for number, cents in enumerate((4.0, 1206.0))]
    folder = write_candidates(tmp_path / "c", sounds, instrument_str="harmonics")
    octave_up = [Sound(key, 100, cents=1200.0) for key in (51, 52, 53, 54)]
    files = read_candidates(write_candidates(tmp_path / "real", octave_up, instrument_str="harmonics"))
    write_set(tmp_path / "set", {"train": [[file.note for file in files.files.values()]]}, files.codec)
    outcome = build(folder, tmp_path / "x", shards=tmp_path / "set")
    assert all(region.figures.candidate == 1 and region.figures.octaves == 1 for region in outcome.instrument.regions)
    assert all(abs(region.tune + 6) < 6 for region in outcome.instrument.regions)
    assert outcome.instrument.after.in_tune == 1 and outcome.instrument.before.in_tune == 0
    assert any("harmonics sound 1 octave above 2 of 2 keys" in line for line in outcome.lines())
    assert "off 1 octave above the key" in (tmp_path / "x" / "index.html").read_text()
    kept = build(folder, tmp_path / "y", complete=f"{tmp_path / 'set'}:harmonics", shards=tmp_path / "set")
    assert kept.instrument.after.in_tune == 1
    assert all(region.figures.candidate is None for region in kept.instrument.layer(100))
    without = build(folder, tmp_path / "z")
    assert all(region.figures.candidate == 0 for region in without.instrument.regions)


def test_a_candidate_is_not_said_to_be_of_another_instrument_where_the_asked_one_has_no_real_notes(
    tmp_path: Path,
) -> None:
    folder = write_candidates(tmp_path / "c", [Sound(52, 100), Sound(64, 100)], instrument_str="steel")
    files = read_candidates(folder).files.values()
    names = {52: "steel", 64: "nylon"}
    real = [
        replace(file.note, labels={**file.note.labels, "instrument_str": names[file.note.labels["pitch"]]})
        for file in files
    ]
    write_set(tmp_path / "set", {"train": [real]}, read_candidates(folder).codec)
    outcome = build(folder, tmp_path / "x", shards=tmp_path / "set")
    assert outcome.instrument.after.as_asked == 1.0 and not outcome.wanted.pairs


def test_an_independent_reader_finds_every_key_at_every_velocity_once(built: BuildOutcome) -> None:
    out = built.request.out
    regions = opcodes((out / "an instrument.sfz").read_text())
    for key in range(KEYS[0], KEYS[-2] + 1):
        for velocity in range(1, 128):
            playing = [
                region
                for region in regions
                if int(region["lokey"]) <= key <= int(region["hikey"])
                and int(region["lovel"]) <= velocity <= int(region["hivel"])
            ]
            assert len(playing) == 1, (key, velocity)
            assert abs(int(playing[0]["pitch_keycenter"]) - key) <= 1
    for region in regions:
        assert not Path(region["sample"]).is_absolute() and (out / region["sample"]).is_file()
        assert abs(int(region["tune"])) <= 50


def test_the_archive_holds_the_instrument(built: BuildOutcome, tmp_path: Path) -> None:
    out = built.request.out
    with zipfile.ZipFile(out / "an instrument.zip") as archive:
        archive.extractall(tmp_path)
    assert (tmp_path / "an instrument.sfz").read_bytes() == (out / "an instrument.sfz").read_bytes()
    assert {path.name for path in tmp_path.glob("samples/*.flac")} == {path.name for path in out.glob("samples/*.flac")}


def test_the_same_candidates_give_the_same_bytes(candidates: Path, built: BuildOutcome, tmp_path: Path) -> None:
    build(candidates, built.request.out)
    build(candidates, tmp_path / "an instrument")
    for folder in ("", "samples"):
        first, second = built.request.out / folder, tmp_path / "an instrument" / folder
        assert {path.name: path.read_bytes() for path in first.iterdir() if path.is_file()} == {
            path.name: path.read_bytes() for path in second.iterdir() if path.is_file()
        }


def test_a_candidate_is_measured_once_and_a_damaged_cache_is_only_a_cache(
    candidates: Path, built: BuildOutcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []
    real = candidates_module._measure
    monkeypatch.setattr(
        candidates_module, "_measure", lambda note, *rest: (measured.append(note.key), real(note, *rest))[1]
    )
    assert build(candidates, built.request.out).instrument == built.instrument and measured == []
    (built.request.out / "measured.json").write_text('{"a": 1')
    assert build(candidates, built.request.out).instrument == built.instrument
    assert len(measured) == 2 * len(KEYS) * len(VELOCITIES)


def test_sounds_keep_their_attack_and_begin_and_end_at_zero(built: BuildOutcome) -> None:
    for region in built.instrument.regions:
        samples, rate = soundfile.read(built.request.out / region.sample)
        level = np.abs(samples)
        assert level[0] < 1e-3 and level[-1] < 1e-3
        assert np.argmax(level >= 0.5 * level.max()) < 0.05 * rate


@pytest.fixture(scope="module")
def sampler(built: BuildOutcome) -> "pysfizz.Synth":
    """The sfizz engine with the instrument."""
    import pysfizz  # needs the system's libatomic, which a bare Ubuntu lacks

    synth = pysfizz.Synth(sample_rate=RATE)
    synth.load_sfz_file(str(built.request.out / "an instrument.sfz"))
    for region in built.instrument.regions:  # the engine reads files in the background, once they are played
        play(synth, region.pitch, region.velocity)
    return synth


def play(sampler: "pysfizz.Synth", key: int, velocity: int, held: float = 1.2) -> np.ndarray:
    return np.asarray(sampler.render_note(key, velocity, held, 2.0), np.float32)[0]


def test_a_real_sampler_plays_every_key_in_tune_and_louder_velocities_louder(sampler: "pysfizz.Synth") -> None:
    keys = range(KEYS[0], KEYS[-2] + 1)
    in_tune = 0
    for key in keys:
        levels = []
        for velocity in (10, 25, 50, 51, 75, 101, 102, 127):
            sound = play(sampler, key, velocity)
            assert np.isfinite(sound).all()
            levels.append(loudness(sound, RATE))
        hertz = fundamental(sound, RATE)
        in_tune += hertz is not None and abs(cents(hertz, hertz_of(key))) <= 10
        assert all(after > before - 0.5 for before, after in pairwise(levels)), levels
        assert levels[-1] > levels[0] + 3
    assert in_tune >= 0.95 * len(keys)


def test_a_release_does_not_click(sampler: "pysfizz.Synth") -> None:
    for key in KEYS[:-1]:
        whole, released = play(sampler, key, 100, 2.0), play(sampler, key, 100, 0.3)
        assert np.abs(np.diff(released)).max() <= np.abs(np.diff(whole)).max() * 1.01
        assert loudness(released[-RATE // 4 :], RATE) < loudness(whole, RATE) - 30


def test_levels_in_a_layer_change_slowly_along_the_keys(built: BuildOutcome) -> None:
    for velocity in VELOCITIES:
        levels = []
        for region in built.instrument.layer(velocity):
            samples, rate = soundfile.read(built.request.out / region.sample)
            levels.append(loudness(samples, rate) + region.volume)
        assert np.abs(np.diff(levels)).max() < 1.0


def test_instrument_json_comes_back(built: BuildOutcome) -> None:
    assert read_instrument(built.request.out) == built.instrument
    text = json.loads((built.request.out / "instrument.json").read_text())
    assert (text["run"], text["step"], text["seed"]) == ("runs/x", 7, 0)


def test_real_notes_are_kept_and_only_what_is_missing_is_filled_in(
    candidates: Path, built: BuildOutcome, tmp_path: Path
) -> None:
    key, missing = KEYS[0], KEYS[-1]
    folder = write_candidates(tmp_path / "real", [Sound(key, 75), Sound(missing, 75)], instrument_str="steel")
    files = read_candidates(folder)
    notes = [replace(file.note, key=f"real-{key}") for key, file in files.files.items()]
    write_set(tmp_path / "set", {"train": [notes]}, files.codec)
    outcome = build(candidates, tmp_path / "whole", complete=f"{tmp_path / 'set'}:steel")
    real = [region for region in outcome.instrument.regions if region.figures.candidate is None]
    assert [(region.pitch, region.velocity) for region in real] == [(key, 75), (missing, 75)]
    assert [(pair.pitch, pair.velocity) for pair in outcome.instrument.missing] == [(missing, 25), (missing, 127)]
    with pytest.raises(UserError, match="has no notes of an instrument brass"):
        build(candidates, tmp_path / "none", complete=f"{tmp_path / 'set'}:brass")
    with pytest.raises(UserError, match="is not SET:INSTRUMENT"):
        build(candidates, tmp_path / "none", complete="steel")


def test_the_asked_instrument_is_compared_with_the_real_ones_of_the_set(tmp_path: Path) -> None:
    strings = [*enumerate((NYLON, STEEL))]
    sounds = [Sound(key, 100, number, instrument=name) for key in (52, 53) for number, name in strings]
    folder = write_candidates(tmp_path / "c", sounds, instrument_str="steel")
    names = {0: "nylon", 1: "steel"}
    notes = [
        replace(file.note, key=key, labels={**file.note.labels, "instrument_str": names[int(key[-1])]})
        for key, file in read_candidates(folder).files.items()
    ]
    codec = read_candidates(folder).codec
    write_set(tmp_path / "set", {"train": [notes]}, codec)
    for like, expected in (("candidate-052-100-00", "nylon"), ("candidate-052-100-01", "steel")):
        outcome = build(folder, tmp_path / expected, shards=tmp_path / "set", like=f"{tmp_path / 'set'}:{like}")
        nearest = [str(region.figures.nearest) for region in outcome.instrument.regions]
        assert {names[int(key[-1])] for key in nearest} == {expected}
        assert outcome.instrument.after.as_asked == (1.0 if expected == "steel" else 0.0)
        assert all(region.figures.is_recorded for region in outcome.instrument.regions)
        assert all(region.figures.distance is not None for region in outcome.instrument.regions)
    with pytest.raises(UserError, match="has no note of this name"):
        build(folder, tmp_path / "none", like=f"{tmp_path / 'set'}:nobody")


def test_the_command_says_what_was_made_how_good_it_is_and_what_to_do_next(candidates: Path, tmp_path: Path) -> None:
    words = ["instrument", str(candidates), "--out", str(tmp_path / "x"), "--most", "2", "--device", "cpu"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0
    *_, made, before, after, following = result.stdout.splitlines()
    assert made.startswith(f"{tmp_path / 'x'}: 9 sounds for 4 keys at velocities 25, 75, 127")
    assert before.startswith("  first candidates  in tune 75%") and after.startswith("  chosen            in tune 75%")
    assert following.startswith(f"Next: open {tmp_path / 'x' / 'index.html'}")


def test_one_pitch_and_one_candidate_are_an_instrument(tmp_path: Path) -> None:
    outcome = build(write_candidates(tmp_path / "c", [Sound(60, 100)]), tmp_path / os.fsdecode(b"caf\xe9 one"))
    assert read_instrument(outcome.request.out) == outcome.instrument
    [region] = outcome.instrument.regions
    assert (region.low_key, region.high_key, region.low_velocity, region.high_velocity) == (60, 60, 1, 127)
    assert region.figures.distance is None and math.isfinite(region.volume)


@pytest.mark.parametrize("sound", [Sound(60, 100, cents=60.0), Sound(60, 100, peak=0.0)])
def test_without_a_good_candidate_there_is_one_line_and_a_wish(tmp_path: Path, sound: Sound) -> None:
    folder = write_candidates(tmp_path / "c", [sound])
    with pytest.raises(UserError, match="none of its 1 candidate is in tune and audible; draw more"):
        build(folder, tmp_path / "none")
    assert sorted(files_of(tmp_path / "none")) == ["measured.json", "wanted.json"]


def test_candidates_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no token files in it"):
        build(tmp_path, tmp_path / "out")
    folder = write_candidates(tmp_path / "c", [Sound(60, 100), Sound(62, 100)])
    path = folder / "candidate-062-100-00.json"
    path.write_text(path.read_text().replace("step-00000007", "step-00000008"))
    with pytest.raises(UserError, match="of another run or checkpoint"):
        build(folder, tmp_path / "out")
    whole = path.read_text().replace("step-00000008", "step-00000007")
    for wrong in ('"peach": 62', '"pitch": 62.5', '"pitch": "62"', '"pitch": 200', '"pitch": true'):
        path.write_text(whole.replace('"pitch": 62', wrong))
        with pytest.raises(UserError, match="has no pitch"):
            build(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_real_notes_whose_labels_are_no_midi_numbers_are_left_out(tmp_path: Path) -> None:
    """As a set has them that a stranger made, or one of notes without names."""
    folder = write_candidates(tmp_path / "c", [Sound(60, 100)], instrument_str="steel", qualities_str=["bright"])
    files = read_candidates(folder)
    [file] = files.files.values()
    foreign = [
        {"pitch": "60"},
        {"pitch": 60.5},
        {"velocity": [100]},
        {"pitch": 10**9},
        {"pitch": None},
        {"velocity": {}},
    ]
    labels = [file.note.labels, *({**file.note.labels, **change} for change in foreign)]
    labels.append({"instrument_str": "steel"})
    labels.append({**file.note.labels, "note_str": {}})
    notes = [replace(file.note, key=f"real-{index}", labels=each) for index, each in enumerate(labels)]
    write_set(tmp_path / "set", {"train": [notes]}, files.codec)
    outcome = build(folder, tmp_path / "x", shards=tmp_path / "set", complete=f"{tmp_path / 'set'}:steel")
    [region] = outcome.instrument.regions
    assert (region.pitch, region.velocity, region.figures.candidate) == (60, 100, None)
    assert region.figures.nearest in {"real-0", "real-8"} and region.figures.is_recorded
