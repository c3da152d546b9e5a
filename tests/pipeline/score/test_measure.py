"""Scores: cases with known answers, `scores.json`, and the report."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from pipeline.__main__ import main
from pipeline.audio import save
from pipeline.score.measure import NoteFeatures
from pipeline.score.run import Report, score_folders
from pipeline.score.samples import read_samples
from pipeline.score.scores import read_scores
from shards.errors import ShardError, UserError
from shards.manifest import read_manifest
from shards.note import Codec
from shards.reader import read_shard
from shards.scores import FILE, SAMPLES
from tests.support.listening import RATE, VELOCITIES, add_sample, make_listening_set, set_source, sound_of

PITCHES = (45, 50, 55, 60, 65)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_listening_set(tmp_path_factory.mktemp("listening"))


@pytest.fixture(scope="module")
def samples(world):
    return fill(world.parent / "samples", world)


@pytest.fixture(scope="module")
def scored(samples):
    return score(samples, notes=4)


def score(folder, **options):
    return score_folders([folder], **options).folders[str(folder)]


def fill(folder, world, up=0.0, louder=True, sound=sound_of, **labels):
    """Samples that sound `up` semitones higher than their label says, and as loud as it says or the other way round."""
    codec = read_manifest(world).codec
    for index, pitch in enumerate(PITCHES):
        velocity = VELOCITIES[index]
        waveform = sound(pitch + up, velocity if louder else 152 - velocity)
        conditions = {"pitch": pitch, "velocity": velocity} | labels
        add_sample(folder, f"sample_{index}", codec, waveform, conditions, shards=str(world), seed=0)
    return folder


def figures(scores, key):
    """Return subject -> value."""
    [score] = [score for score in scores.scores if score.key == key]
    return {figure.of: figure.value for figure in score.figures}


def test_only_notes_within_50_cents_are_in_tune(tmp_path, world):
    for index, up in enumerate((0.0, 0.4, 0.6, -12.0, 3.0)):
        labels = {"pitch": 60, "velocity": 100}
        add_sample(
            tmp_path, f"sample_{index}", read_manifest(world).codec, sound_of(60 + up), labels, shards=str(world)
        )
    scores = score(tmp_path, notes=1)
    assert figures(scores, "pitch")[SAMPLES] == 2 / 5
    off = [scores.samples[f"sample_{index}"].cents for index in range(5)]
    assert off == pytest.approx([0, 40, 60, -1_200, 300], abs=5)


def test_real_notes_are_in_tune_and_as_loud_as_their_labels(scored):
    assert figures(scored, "pitch")["unseen real notes"] == 1
    assert figures(scored, "loudness")["unseen real notes"] == pytest.approx(1)


def test_loudness_follows_velocity_or_runs_against_it(tmp_path, world, scored):
    against = score(fill(tmp_path, world, louder=False), notes=1)
    assert figures(scored, "loudness")[SAMPLES] == pytest.approx(1)
    assert figures(against, "loudness")[SAMPLES] == pytest.approx(-1)


def test_a_copied_train_note_is_found_and_named(tmp_path, world):
    manifest = read_manifest(world)
    notes = list(read_shard(world / manifest.splits["train"][0].name))
    fill(tmp_path, world)
    add_sample(tmp_path, "copy", manifest.codec, sound_of(60), {}, notes[2].tokens, shards=str(world))
    scores = score(tmp_path, notes=1)
    assert (scores.samples["copy"].nearest, scores.samples["copy"].agreement) == (notes[2].key, 1)
    assert all(scores.samples[f"sample_{index}"].agreement < 0.2 for index in range(5))
    assert figures(scores, "copying")[SAMPLES] < 0.2 and figures(scores, "copying")["unseen real notes"] < 1


def test_silence_after_a_note_does_not_make_it_a_copy(tmp_path, world):
    manifest = read_manifest(world)
    notes = list(read_shard(world / manifest.splits["train"][0].name))
    tokens = notes[2].tokens.copy()
    sounding = len(tokens) // 4
    tokens[:sounding] = (tokens[:sounding] + 1) % 1024
    sound = sound_of(60)
    sound[len(sound) // 4 :] = 0
    add_sample(tmp_path, "short", manifest.codec, sound, {}, tokens, shards=str(world))
    assert score(tmp_path, notes=1).samples["short"].agreement < 0.1


@pytest.fixture
def compare_few(monkeypatch):
    """Let the few notes of these tests be enough for a Fréchet distance."""
    monkeypatch.setattr("pipeline.score.measure.MIN_NOTES", 1)


@pytest.mark.usefixtures("compare_few")
def test_distances_order_as_they_must(tmp_path, world):
    rng = np.random.default_rng(0)
    real = fill(tmp_path / "real", world)
    noise = fill(tmp_path / "noise", world, sound=lambda pitch, velocity: rng.normal(0, 0.1, RATE).astype(np.float32))
    of_noise, of_real = figures(score(noise, notes=4), "frechet"), figures(score(real, notes=4), "frechet")
    assert of_real[SAMPLES] < of_noise[SAMPLES] and of_real["train notes"] < of_noise[SAMPLES]
    assert of_real["train notes"] == of_noise["train notes"]


def test_the_codec_has_its_own_scores(scored):
    assert 0 <= figures(scored, "codec_pitch")["unseen real notes"] <= 1
    assert 0 < figures(scored, "codec_distance")["unseen real notes"] < 2


def test_a_frechet_distance_of_few_notes_is_no_figure(scored):
    [distance] = [score for score in scored.scores if score.key == "frechet"]
    assert {figure.value for figure in distance.figures} == {None}
    assert {figure.why for figure in distance.figures} == {"needs 32 unseen notes"}
    report = "\n".join(Report({"samples": scored}).lines())
    assert "needs 32 unseen notes" in report


def test_a_frechet_distance_of_few_notes_in_an_older_file_is_not_shown(tmp_path, samples, scored):
    shutil.copytree(samples, tmp_path / "samples")
    value = json.loads((tmp_path / "samples" / FILE).read_text())
    [distance] = [score for score in value["scores"] if score["key"] == "frechet"]
    distance["figures"][0] |= {"value": 0.5, "count": 31, "low": 0.4, "high": 0.6}
    distance["figures"][1] |= {"value": 0.7, "count": 32}
    (tmp_path / "samples" / FILE).write_text(json.dumps(value))
    shown = figures(read_scores(read_samples(tmp_path / "samples")), "frechet")
    assert shown == {SAMPLES: None, "train notes": 0.7, "their round trip": None}


@pytest.mark.usefixtures("compare_few")
def test_without_recordings_what_needs_them_says_so(tmp_path, world):
    shutil.copytree(world, tmp_path / "set")
    set_source(tmp_path / "set", tmp_path / "gone")
    scores = score(fill(tmp_path / "samples", world), shards=tmp_path / "set", notes=1)
    assert figures(scores, "codec_pitch")["unseen real notes"] is None
    assert figures(scores, "frechet")[SAMPLES] > 0
    assert any("the recordings are gone" in line for line in Report({"samples": scores}).lines())


def test_samples_without_labels_have_no_score_of_them(tmp_path, world):
    add_sample(tmp_path, "free", read_manifest(world).codec, sound_of(60), {}, shards=str(world))
    scores = score(tmp_path, notes=1)
    assert figures(scores, "pitch")[SAMPLES] is figures(scores, "loudness")[SAMPLES] is None
    assert scores.samples["free"].hertz == pytest.approx(261.6, abs=1) and scores.samples["free"].cents is None


@pytest.mark.parametrize("label", [10**400, -1, 1e300, True, "60", None, [60]])
def test_labels_outside_of_midi_count_as_absent(label):
    note = NoteFeatures({"pitch": label}, 261.6, -20.0, np.zeros(0, np.int16))
    assert note.midi("pitch") is None and note.cents is None


def test_silent_and_damaged_samples_do_not_stop_the_others(tmp_path, world):
    fill(tmp_path, world, sound=lambda pitch, velocity: np.zeros(RATE, np.float32))
    (tmp_path / "sample_0.wav").write_bytes(b"RIFF")
    (tmp_path / "sample_1.wav").unlink()
    (tmp_path / "tokens" / "sample_2.npy").write_bytes(b"")
    scores = score(tmp_path, notes=1)
    assert set(scores.samples) == {"sample_3", "sample_4"}
    assert scores.samples["sample_3"].hertz is None and figures(scores, "pitch")[SAMPLES] == 0


def test_scores_are_read_back_as_they_were(samples, scored):
    assert read_scores(read_samples(samples)) == scored
    before = (samples / FILE).read_bytes()
    score(samples, notes=4)
    assert (samples / FILE).read_bytes() == before


def test_scores_of_other_samples_are_refused(tmp_path, samples, scored):
    shutil.copytree(samples, tmp_path / "samples")
    (tmp_path / "samples" / "sample_0.wav").rename(tmp_path / "samples" / "later.wav")
    with pytest.raises(ShardError, match="other samples"):
        read_scores(read_samples(tmp_path / "samples"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: value.pop("scores"),
        lambda value: value.update(version=0),
        lambda value: value["scores"][0]["figures"][0].update(value="<b>"),
        lambda value: value["scores"][0].update(kind="unknown"),
        lambda value: value["samples"]["sample_0"].update(hertz=[]),
        lambda value: value.update(samples=3),
    ],
)
def test_damaged_scores_are_one_line(tmp_path, samples, scored, damage):
    shutil.copytree(samples, tmp_path / "samples")
    value = json.loads((samples / FILE).read_text())
    damage(value)
    (tmp_path / "samples" / FILE).write_text(json.dumps(value))
    with pytest.raises(ShardError, match="pipeline score"):
        read_scores(read_samples(tmp_path / "samples"))


def test_no_scores_are_none(tmp_path):
    save(tmp_path / "a.wav", sound_of(60), RATE)
    assert read_scores(read_samples(tmp_path)) is None


def test_two_folders_stand_side_by_side(tmp_path, world):
    folders = [fill(tmp_path / "good", world), fill(tmp_path / "bad", world, up=2)]
    result = CliRunner().invoke(main, ["score", *map(str, folders), "--notes", "2"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    row = next(line for line in lines if line.startswith("  samples"))
    assert re.findall(r"(\d+) %  \(5 notes", row) == ["100", "0"] and lines[0].split() == [*map(str, folders)]
    assert "Next: python -m pipeline page" in lines[-1]


def test_a_folder_that_does_not_name_its_set_needs_the_option(tmp_path, world):
    add_sample(tmp_path, "free", read_manifest(world).codec, sound_of(60), {})
    with pytest.raises(UserError, match="--shards"):
        score(tmp_path)


def test_samples_of_another_codec_are_refused(tmp_path, world):
    codec: Codec = replace(read_manifest(world).codec, weights_sha256="0" * 64)
    add_sample(tmp_path, "other", codec, sound_of(60), {}, shards=str(world))
    with pytest.raises(UserError, match="another codec"):
        score(tmp_path)
    assert not (tmp_path / FILE).exists()
