"""trainer.candidates: which candidates are drawn for an instrument, and what their random numbers depend on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shards.errors import UserError
from shards.note import TokenFile, read_token_file
from shards.wanted import Wanted, WantedPair, write_wanted
from tests.support.shard_sets import random_note, write_set
from trainer.candidates import CandidateRequest
from trainer.config import load_config
from trainer.errors import ConfigError
from trainer.sample import SampleRequest, sample
from trainer.train import train

TINY = ["width=16", "depth=1", "heads=2", "head_width=8", "batch=4", "workers=0", "warmup=2", "steps=2"]
NOTES = [(pitch, velocity, name) for name in "AAB" for pitch in (60, 62) for velocity in (25, 50, 75, 100, 127)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("candidates")
    notes = [
        replace(random_note(f"n{index}", 6), labels={"pitch": pitch, "velocity": velocity, "instrument_str": name})
        for index, (pitch, velocity, name) in enumerate(NOTES)
    ]
    write_set(folder / "set", {"train": [notes]})
    train(folder / "set", folder / "run", load_config("small", [*TINY, "labels=pitch,velocity,instrument_str"]))
    return folder / "run"


def drawn(run: Path, out: Path, request: CandidateRequest, *labels: str, seed: int = 0) -> dict[str, TokenFile]:
    outcome = sample(run, out, SampleRequest(seed=seed, labels=labels, candidates=request))
    return {path.stem: read_token_file(path) for path in outcome.files}


def test_without_options_all_keys_are_drawn_at_three_velocities_of_the_instrument_with_most_notes(
    run: Path, tmp_path: Path
) -> None:
    files = drawn(run, tmp_path, CandidateRequest(2))
    labels = [file.note.labels for file in files.values()]
    assert {(note["pitch"], note["velocity"]) for note in labels} == {(p, v) for p in (60, 62) for v in (25, 75, 127)}
    assert {note["instrument_str"] for note in labels} == {"A"}
    assert len(files) == 12 and "candidate-060-025-01" in files


def test_a_candidate_is_the_same_whatever_else_is_drawn(run: Path, tmp_path: Path) -> None:
    all_files = drawn(run, tmp_path / "all", CandidateRequest(3))
    few = drawn(run, tmp_path / "few", CandidateRequest(1), "pitch=62", "velocity=75")
    write_wanted(tmp_path, Wanted({"instrument_str": "A"}, (WantedPair(62, 75, 2, 1),)))
    more = drawn(run, tmp_path / "few", CandidateRequest(wanted=tmp_path / "wanted.json"))
    for key, file in {**few, **more}.items():
        assert np.array_equal(file.note.tokens, all_files[key].note.tokens)
    assert [*more] == ["candidate-062-075-02"]
    other_seed = drawn(run, tmp_path / "seed", CandidateRequest(1), "pitch=62", "velocity=75", seed=1)
    assert not np.array_equal(other_seed["candidate-062-075-00"].note.tokens, few["candidate-062-075-00"].note.tokens)


def test_a_mixture_of_one_instrument_is_that_instrument_and_of_two_is_neither(run: Path, tmp_path: Path) -> None:
    texts = ("A", "B", "mix:A=1", "mix:B=1.0", "mix:A=0.5,B=0.5", "mix:A=8,B=-7")
    tokens = [
        np.concatenate(
            [
                file.note.tokens
                for file in drawn(run, tmp_path / str(index), CandidateRequest(4), f"instrument_str={text}").values()
            ]
        )
        for index, text in enumerate(texts)
    ]
    assert np.array_equal(tokens[0], tokens[2]) and np.array_equal(tokens[1], tokens[3])
    assert not np.array_equal(tokens[5], tokens[0]) and not np.array_equal(tokens[5], tokens[1])


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["instrument_str=C"], "knows A, B"),
        (["instrument_str=list"], r"choose from A \(20 notes\), B \(10 notes\), or a mixture"),
        (["instrument_str=mix:A=0.5,C=0.5"], "C=0.5 is not VALUE=WEIGHT; the run knows A, B"),
        (["instrument_str=mix:A=much"], "A=much is not VALUE=WEIGHT"),
        (["instrument_str=A", "instrument_str=B"], "an instrument has one value of it"),
        (["pitch=61"], "no note that the run was trained on has it"),
    ],
)
def test_what_the_run_does_not_know_is_one_clear_line(run: Path, tmp_path: Path, labels: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        drawn(run, tmp_path / "out", CandidateRequest(1), *labels)
    assert not (tmp_path / "out").exists()


def test_a_run_without_pitch_makes_no_instrument(run: Path, tmp_path: Path) -> None:
    train(run.parent / "set", tmp_path / "run", load_config("small", [*TINY, "labels=velocity"]))
    with pytest.raises(ConfigError, match="has not learned pitch; train one that has"):
        drawn(tmp_path / "run", tmp_path / "out", CandidateRequest(1))


def test_a_missing_or_unfitting_list_of_wanted_pairs_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"wanted\.json: cannot be read"):
        drawn(run, tmp_path / "out", CandidateRequest(wanted=tmp_path / "wanted.json"))
    write_wanted(tmp_path, Wanted({}, (WantedPair(61, 75, 2, 1),)))
    with pytest.raises(ConfigError, match="pitch=61"):
        drawn(run, tmp_path / "out", CandidateRequest(wanted=tmp_path / "wanted.json"))


def test_a_file_that_wants_a_pair_twice_or_too_many_of_it_is_refused(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "wanted.json"
    for pairs, fact in (
        ((WantedPair(62, 75, 0, 1), WantedPair(62, 75, 1, 1)), "lists a pair of key and velocity twice"),
        ((WantedPair(62, 75, 0, 1_001),), "is damaged"),
    ):
        write_wanted(tmp_path, Wanted({}, pairs))
        with pytest.raises(UserError, match=fact):
            drawn(run, tmp_path / "out", CandidateRequest(wanted=path))
    assert not (tmp_path / "out").exists()


def test_a_file_that_wants_nothing_is_refused_by_name(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "wanted.json"
    for text in (
        '{"labels": {}, "pairs": []}',
        '{"labels": {}, "pairs": [{"pitch": 62, "velocity": 75, "first": 0, "count": 0}]}',
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match="names no candidates to draw"):
            drawn(run, tmp_path / "out", CandidateRequest(wanted=path))
