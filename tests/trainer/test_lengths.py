"""Notes of several lengths: the model learns where a note ends, sampling stops there, and goes on beyond the window."""

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from shards.errors import UserError
from shards.note import read_token_file
from tests.support.shard_sets import CODEC, random_note, write_set
from trainer import sample as sample_module
from trainer.candidates import CandidateRequest
from trainer.conditioning import LengthRequest
from trainer.config import ModelConfig, load_config
from trainer.cpu.decoder import CpuWeights
from trainer.cpu.generate import NOTES_PER_THREAD
from trainer.errors import ConfigError
from trainer.generate import generate, overlap, prepare
from trainer.model import NoteModel
from trainer.run import read_run
from trainer.sample import SampleRequest, sample
from trainer.sampling import Sampling
from trainer.start import EMBEDDINGS, fit_embeddings
from trainer.train import train
from trainer.vocabulary import Vocabulary

TINY = ["width=16", "depth=1", "heads=2", "head_width=8", "batch=4", "workers=0", "warmup=2", "steps=2", "samples=0"]
LABELS = (("pitch", (40, 41, 42)), ("seconds", (0.4, 0.8)))
FRAMES, CODEBOOKS, CODES = 8, 2, 32
END = CODES
WINDOW = FRAMES * CODEBOOKS


def vocabulary(window_frames: int = FRAMES) -> Vocabulary:
    frame_rate = 5 if window_frames else 0
    borders = (("seconds", (0.6,)),)
    return Vocabulary(CODEBOOKS, CODES, False, LABELS, borders, frame_rate, window_frames)


def model_with_end(position: str = "frame", has_end: bool = True) -> NoteModel:
    """A model whose notes end after a few frames."""
    torch.manual_seed(0)
    config = ModelConfig(width=16, depth=2, heads=2, head_width=8, position=position, labels=("pitch", "seconds"))
    model = NoteModel(config, vocabulary(FRAMES if has_end else 0), WINDOW).eval()
    with torch.no_grad():
        for head in model.heads:
            head.weight.mul_(4)
        if has_end:
            model.heads[0].weight[END] = 2 * torch.randn(16, generator=torch.Generator().manual_seed(2))
    return model


def label_ids(model: NoteModel, notes: int) -> torch.Tensor:
    ids = [model.vocabulary.label_ids({"pitch": 40 + note % 3, "seconds": 0.4}) for note in range(notes)]
    return torch.tensor(ids)


def random_uniforms(notes: int, length: int = WINDOW) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).random((notes, length)))


def lengths_of(codes: torch.Tensor) -> list[int]:
    """Tokens of each note; all after them is -1."""
    lengths = (codes >= 0).sum(1)
    assert all((row[length:] == -1).all() for row, length in zip(codes, lengths, strict=True))
    return lengths.tolist()


def slow(model: NoteModel, labels: torch.Tensor, uniforms: torch.Tensor, sampling: Sampling) -> list[list[int]]:
    """One note after the other, the whole note through the model again for each token."""
    notes = []
    for ids, numbers in zip(labels, uniforms.tolist(), strict=True):
        codes: list[int] = []
        for position, number in enumerate(numbers):
            frame, codebook = divmod(position, CODEBOOKS)
            so_far = torch.tensor([[*codes, *[0] * (CODEBOOKS - position % CODEBOOKS)]])
            with torch.no_grad():
                cond = model.logits(ids[None], so_far)[0, frame, codebook]
                uncond = model.logits(torch.tensor([model.vocabulary.uncond_ids()]), so_far)[0, frame, codebook]
            both = cond.isfinite()
            logits = torch.where(both, uncond + sampling.guidance * (cond - uncond), -torch.inf)
            cumulative = (logits / sampling.temperature).softmax(-1).double().cumsum(-1)
            code = int((cumulative <= number * cumulative[-1]).sum())
            if code == END:
                break
            codes.append(code)
        notes.append(codes)
    return notes


@pytest.mark.parametrize("position", ["token", "frame"])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_ends_are_those_of_the_full_forward_pass(position: str, guidance: float) -> None:
    model, sampling = model_with_end(position), Sampling(guidance=guidance)
    labels, uniforms = label_ids(model, 19), random_uniforms(19)
    codes, _ = generate(model, labels, uniforms, sampling)
    assert [row[row >= 0].tolist() for row in codes] == slow(model, labels, uniforms, sampling)
    assert len({*lengths_of(codes)}) > 3 and min(lengths_of(codes)) >= CODEBOOKS


@pytest.mark.parametrize("position", ["token", "frame"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("frames", [0, 2])
def test_a_note_that_ends_does_not_disturb_the_others(position: str, dtype: torch.dtype, frames: int) -> None:
    model = model_with_end(position)
    prepare(model, dtype)
    # A layer sums eight notes in another order than one, which bfloat16's cache shows.
    notes, sampling = (24, Sampling(guidance=1.5)) if dtype == torch.float32 else (7, Sampling())
    labels, uniforms = label_ids(model, notes), random_uniforms(notes)
    prompts = torch.randint(CODES, (notes, CODEBOOKS * frames)) if frames else None
    counted: list[int] = []
    codes, likelihoods = generate(model, labels, uniforms, sampling, prompts, counted.append)
    assert len({*lengths_of(codes)}) > 1
    assert min(lengths_of(codes)) > CODEBOOKS * frames
    assert sum(counted) == notes * (WINDOW - CODEBOOKS * frames)
    for note in range(notes):
        row = slice(note, note + 1)
        prompt = None if prompts is None else prompts[row]
        alone, its = generate(model, labels[row], uniforms[row], sampling, prompt)
        assert torch.equal(alone[0], codes[note])
        assert torch.allclose(its[0], likelihoods[note], atol=1e-3)


def test_ended_notes_leave_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = model_with_end(), []
    original = CpuWeights.code_logits

    def counting(self: CpuWeights, hidden: torch.Tensor, codebook: int, before: torch.Tensor) -> torch.Tensor:
        sizes.append(len(hidden))
        return original(self, hidden, codebook, before)

    monkeypatch.setattr(CpuWeights, "code_logits", counting)
    codes, _ = generate(model, label_ids(model, 24), random_uniforms(24), Sampling())
    assert sizes[0] == 24
    assert sum(sizes) < 1.4 * sum(lengths_of(codes)) + 24 < 24 * WINDOW


@pytest.mark.usefixtures("two_threads")
def test_threads_change_no_end() -> None:
    model, notes = model_with_end(), 2 * NOTES_PER_THREAD + 1
    shared, _ = generate(model, label_ids(model, notes), random_uniforms(notes), Sampling())
    torch.set_num_threads(1)
    alone, _ = generate(model, label_ids(model, notes), random_uniforms(notes), Sampling())
    assert torch.equal(shared, alone)


def test_likelihoods_with_the_end_are_those_of_the_model() -> None:
    model = model_with_end()
    codes, likelihoods = generate(model, label_ids(model, 24), random_uniforms(24), Sampling())
    lengths = torch.tensor(lengths_of(codes))
    with torch.no_grad():
        nll, _ = model(label_ids(model, 24), codes.clamp(min=0), lengths)
    assert torch.allclose(likelihoods, -nll.flatten(1), atol=1e-3)
    assert (likelihoods != 0).sum() == lengths.sum() + (lengths < WINDOW).sum()


@pytest.mark.parametrize("position", ["token", "frame"])
def test_the_loss_of_a_note_is_that_of_its_codes_and_of_its_end(position: str) -> None:
    model = model_with_end(position)
    labels = label_ids(model, 4)
    codes = torch.randint(CODES, (4, 6), generator=torch.Generator().manual_seed(2))
    lengths = torch.tensor([6, 4, 2, 0])
    with torch.no_grad():
        nll, hits = model(labels, codes, lengths)
        whole, _ = model(labels, torch.nn.functional.pad(codes, (0, WINDOW - 6)), torch.tensor([WINDOW, 4, 2, 0]))
    assert nll.shape == (4, 4, CODEBOOKS) and not nll[3].any()  # a frame more than the codes
    for note, length in enumerate(lengths.tolist()[:3]):
        frame = length // CODEBOOKS
        with torch.no_grad():
            logits = model.logits(labels[note : note + 1], torch.nn.functional.pad(codes[note : note + 1], (0, 2)))
        assert torch.allclose(nll[note, frame, 0], -logits[0, frame, 0].log_softmax(-1)[END], atol=1e-4)
        assert not nll[note, frame, 1:].any() and not nll[note, frame + 1 :].any() and not hits[note, frame:].any()
        assert (nll[note, :frame] > 0).all()
    assert (whole[0] > 0).all() and whole.shape[1] == FRAMES  # cut by the window: no end
    assert torch.allclose(whole[1:, :4], nll[1:], atol=1e-4)


def test_without_an_end_the_model_is_as_before() -> None:
    ours, theirs = model_with_end(has_end=False), model_with_end()
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    others = {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    assert shapes["heads.0.weight"] == shapes["heads.1.weight"] == (CODES, 16)
    assert others == {
        **shapes,
        "heads.0.weight": (CODES + 1, 16),
        EMBEDDINGS: (ours.vocabulary.size - 2 + 2 * FRAMES + 1, 16),  # frames that are left in the place of two lengths
    }
    assert "frame_rate" not in ours.vocabulary.to_json() and theirs.vocabulary.to_json()["frame_rate"] == 5
    codes = torch.zeros(1, 4, dtype=torch.long)
    assert ours(label_ids(ours, 1), codes, torch.tensor([4]))[0].shape == (1, 2, CODEBOOKS)


@pytest.mark.parametrize("position", ["token", "frame"])
@pytest.mark.parametrize("has_end", [True, False])
def test_a_forced_length_has_no_end_before_it_and_begins_as_a_longer_one(position: str, has_end: bool) -> None:
    model = model_with_end(position, has_end)
    labels, uniforms = label_ids(model, 9), random_uniforms(9, 5 * WINDOW)
    longest, _ = generate(model, labels, uniforms, Sampling(guidance=1.5), can_end=False)
    assert lengths_of(longest) == [5 * WINDOW] * 9
    for length in (2, WINDOW - 2, WINDOW, WINDOW + 2, 3 * WINDOW):
        codes, _ = generate(model, labels, uniforms[:, :length], Sampling(guidance=1.5), can_end=False)
        assert torch.equal(codes, longest[:, :length])


@pytest.mark.parametrize("position", ["token", "frame"])
def test_beyond_the_window_the_last_part_of_it_is_the_prompt(position: str) -> None:
    model = model_with_end(position, has_end=False)
    labels, uniforms = label_ids(model, 3), random_uniforms(3, 2 * WINDOW)
    codes, _ = generate(model, labels, uniforms, Sampling())
    start, stop = WINDOW - overlap(model), 2 * WINDOW - overlap(model)
    window, _ = generate(model, labels, uniforms[:, start:stop], Sampling(), codes[:, start:WINDOW])
    assert overlap(model) == WINDOW // 2
    assert torch.equal(codes[:, start:stop], window)


def test_the_label_of_a_length_is_its_number_of_frames() -> None:
    words = vocabulary()
    none = words.uncond_ids()[1]
    lengths = [words.label_ids({"seconds": seconds})[1] - none for seconds in (0.2, 0.4, 0.41, 1, 1.6)]
    assert lengths == [FRAMES + 1 + frames for frames in (1, 2, 2, 5, 8)]
    assert none + 1 == words.length_ids[0] and words.size == words.length_ids[-1] + 1
    for seconds in (None, "0.4", 0, -1, 0.01, 1.8, math.nan, math.inf):
        assert words.label_ids({"seconds": seconds})[1] == none


@pytest.mark.parametrize("position", ["token", "frame"])
def test_each_position_knows_the_frames_that_are_left(position: str) -> None:
    model = model_with_end(position)
    lengths = model.vocabulary.length_ids
    labels = torch.tensor([model.vocabulary.label_ids({"seconds": seconds}) for seconds in (0.8, None)])
    codes = torch.zeros((2, WINDOW), dtype=torch.long)
    for first in (0, CODEBOOKS, WINDOW, 5 * WINDOW):
        ids = model.inputs(labels, codes, first)[:, :, -1]
        frames = [(first + model.group * position) // CODEBOOKS for position in range(ids.shape[1])]
        assert [lengths.index(label) - FRAMES for label in ids[0].tolist()] == [
            max(4 - frame, -FRAMES) for frame in frames
        ]
        assert {*ids[1].tolist()} == {lengths.start - 1}


def notes_of_lengths(count: int = 24) -> list:  # type: ignore[type-arg]
    return [random_note(f"n{index}", (3, 6, 12)[index % 3]) for index in range(count)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lengths")
    notes = notes_of_lengths()
    write_set(folder / "set", {"train": [notes[:12], notes[12:]], "valid": [[random_note("v", 6)]]})
    train(folder / "set", folder / "run", load_config("small", [*TINY, "samples=3"]))
    return folder / "run"


def frames_of(files: list[Path]) -> list[int]:
    return [len(read_token_file(path).note.tokens) // 2 for path in files]


def request(count: int = 6, *labels: str, seconds: float | None = None, longest: float | None = None) -> SampleRequest:
    return SampleRequest(count, labels=labels, length=LengthRequest(seconds, longest))


def test_a_preset_learns_ends_and_lengths_where_they_differ(run: Path, tmp_path: Path) -> None:
    info = read_run(run)
    assert info.vocabulary.has_end and info.window == 24
    assert dict(info.vocabulary.labels)["seconds"] == (0.04, 0.08, 0.16)
    assert info.config.model.labels[-1] == "seconds"
    lengths = Counter[float]()
    for values, count in info.combinations:
        lengths[values[-1]] += count
    assert lengths == {0.04: 8, 0.08: 8, 0.16: 8}
    assert train(run.parent / "set", run, load_config("small", [*TINY, "samples=3", "steps=3"])).step == 3
    assert all(path.is_file() for path in (run / "samples").glob("*/preview_2.npy"))
    for name, options in (("tutorial", ["batch=4", "epochs=1", "width=16", "depth=1"]), ("small", [*TINY, "window=6"])):
        train(run.parent / "set", tmp_path / name, load_config(name, options))
        other = read_run(tmp_path / name)
        assert not other.vocabulary.has_end and "seconds" not in other.config.model.labels
        assert "frame_rate" not in json.loads((tmp_path / name / "run.json").read_text())["vocabulary"]


def test_a_set_of_one_length_has_no_label_of_it(tmp_path: Path) -> None:
    write_set(tmp_path / "set", {"train": [[random_note(f"n{index}") for index in range(4)]]})
    assert "shortest" not in (tmp_path / "set/train-00000.json").read_text()
    train(tmp_path / "set", tmp_path / "run", load_config("small", TINY))
    assert "seconds" not in read_run(tmp_path / "run").config.model.labels
    with pytest.raises(ConfigError, match="no train note is shorter than the window"):
        train(tmp_path / "set", tmp_path / "other", load_config("small", [*TINY, "labels=pitch,seconds"]))
    assert not (tmp_path / "other").exists()


def test_a_run_that_began_without_ends_goes_on_without(run: Path, tmp_path: Path) -> None:
    names = "labels=pitch,velocity,instrument_str"
    train(run.parent / "set", tmp_path / "run", load_config("small", [*TINY, names]))
    path = tmp_path / "run/run.json"
    value = json.loads(path.read_text())
    for name in ("frame_rate", "window_frames"):  # which earlier versions did not write
        assert value["vocabulary"].pop(name)
    path.write_text(json.dumps(value))
    for file in (tmp_path / "run/checkpoints").iterdir():
        file.unlink()
    train(run.parent / "set", tmp_path / "run", load_config("small", TINY))
    assert not read_run(tmp_path / "run").vocabulary.has_end
    assert frames_of(sample(tmp_path / "run", tmp_path / "out", request(2)).files) == [12, 12]


def test_lengths_of_the_notes_are_those_of_the_records(run: Path, tmp_path: Path) -> None:
    """Records of earlier versions have no lengths."""
    notes = notes_of_lengths()
    write_set(tmp_path / "set", {"train": [notes[:12], notes[12:]]})
    for path in (tmp_path / "set").glob("train-*.json"):
        value = json.loads(path.read_text())
        assert value.pop("shortest") == 6
        path.write_text(json.dumps(value))
    train(tmp_path / "set", tmp_path / "run", load_config("small", TINY))
    ours, theirs = read_run(tmp_path / "run"), read_run(run)
    assert (ours.combinations, ours.vocabulary) == (theirs.combinations, theirs.vocabulary)


def test_samples_have_their_own_lengths_and_the_label_that_was_asked_for(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = sample_module.load_model

    def ending(*arguments: object) -> tuple[NoteModel, int]:
        model, step = load(*arguments)  # type: ignore[arg-type]
        with torch.no_grad():
            model.heads[0].weight[-1] = 4 * torch.randn(16, generator=torch.Generator().manual_seed(2))
        return model, step

    monkeypatch.setattr(sample_module, "load_model", ending)
    files = sample(run, tmp_path / "out", request(12, "seconds=0.08")).files
    notes = [read_token_file(path) for path in files]
    assert {note.note.labels["seconds"] for note in notes} == {0.08}
    assert all(note.sampled is not None and math.isfinite(note.sampled.log_likelihood or math.nan) for note in notes)
    assert len({*frames_of(files)}) > 1 and min(frames_of(files)) >= 1
    few = sample(run, tmp_path / "few", request(12, "seconds=0.08", longest=2 / 75)).files
    assert frames_of(few) == [min(2, frames) for frames in frames_of(files)]
    candidates = SampleRequest(candidates=CandidateRequest(1), labels=("seconds=0.16",))
    assert len({*frames_of(sample(run, tmp_path / "candidates", candidates).files)}) > 1


@pytest.mark.parametrize("seconds", [1 / 75, 5 / 75, 12 / 75, 1.0])
def test_a_forced_length_is_that_of_every_sample(run: Path, tmp_path: Path, seconds: float) -> None:
    files = sample(run, tmp_path, request(3, seconds=seconds)).files
    assert frames_of(files) == [round(75 * seconds)] * 3
    labels = {read_token_file(path).note.labels.get("seconds") for path in files}
    assert labels == ({seconds} if seconds <= 12 / 75 else {None})  # what is longer than the window is of no length


def test_a_prompt_brings_its_own_length(run: Path, tmp_path: Path) -> None:
    prompt = replace(request(2), prompt=f"{run.parent / 'set'}:n4", prompt_seconds=2 / 75)
    labels = {read_token_file(path).note.labels["seconds"] for path in sample(run, tmp_path, prompt).files}
    assert labels == {CODEC.seconds(12)}


@pytest.mark.parametrize(
    ("length", "says"),
    [
        *(
            (LengthRequest(**{name: value}), f"--{name} .*must be from 0.0133, a frame, to 150")
            for name in ("seconds", "longest")
            for value in (0.0, -1.0, 1e-9, math.nan, math.inf, 1e9, 151.0)
        ),
        (LengthRequest(0.1, 0.1), "--seconds and --longest: give one of them"),
        (LengthRequest(seconds=2 / 75), "--seconds .*not longer than the prompt, 0.0266667 s"),
    ],
)
def test_a_length_that_makes_no_sense_is_refused(run: Path, tmp_path: Path, length: LengthRequest, says: str) -> None:
    prompt = replace(SampleRequest(1), prompt=f"{run.parent / 'set'}:n4", prompt_seconds=2 / 75, length=length)
    with pytest.raises(UserError, match=says) as caught:
        sample(run, tmp_path / "out", prompt)
    assert "\n" not in caught.value.message and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("0.2", "must be from 0.0133, a frame, to 0.16, all that the model sees; --seconds goes on"),
        ("0.001", "must be from 0.0133"),
        *((value, "it knows 0.04, 0.08, 0.16") for value in ("nan", "1e999", "long", "mix:0.04=0.5,0.08=0.5")),
    ],
)
def test_a_length_that_the_model_does_not_see_is_refused(run: Path, tmp_path: Path, value: str, says: str) -> None:
    with pytest.raises(ConfigError, match=f"--label seconds=.*{says}"):
        sample(run, tmp_path / "out", request(1, f"seconds={value}"))


@pytest.mark.parametrize("position", ["frame", "token"])
def test_a_start_without_ends_has_the_logits_of_one_with_them_and_back(position: str) -> None:
    without, ending = model_with_end(position, has_end=False), model_with_end(position)
    for source, target in ((without, ending), (ending, without)):
        tensors, head = source.state_dict(), target.state_dict()["heads.0.weight"]
        tensors[EMBEDDINGS] = fit_embeddings(tensors[EMBEDDINGS], source.vocabulary, target.vocabulary, target.group)
        tensors["heads.0.weight"] = torch.cat([tensors["heads.0.weight"][:CODES], head[CODES:]])
        target.load_state_dict(tensors)
        labels = torch.tensor([target.vocabulary.label_ids({"pitch": 41})])
        codes = torch.randint(CODES, (1, WINDOW))
        with torch.no_grad():
            logits = [model.logits(labels, codes)[..., :END] for model in (source, target)]
        assert torch.allclose(*logits, atol=1e-4)


def test_frames_that_are_left_fit_another_window() -> None:
    old = vocabulary(2)
    rows = torch.zeros(old.size, 1)
    rows[old.length_ids.start - 1 :, 0] = torch.tensor([9.0, -2, -1, 0, 1, 2])
    for frames, expected in ((1, [9, -1, 0, 1]), (4, [9, -2, -2, -2, -1, 0, 1, 2, 2, 2])):
        new = vocabulary(frames)
        assert fit_embeddings(rows, old, new, 2)[new.length_ids.start - 1 :, 0].tolist() == expected


def test_runs_start_from_others_with_and_without_ends(run: Path, tmp_path: Path) -> None:
    write_set(tmp_path / "set", {"train": [[random_note(f"n{index}") for index in range(4)]]})
    train(tmp_path / "set", tmp_path / "fixed", load_config("small", TINY), start=str(run))
    assert not read_run(tmp_path / "fixed").vocabulary.has_end
    train(run.parent / "set", tmp_path / "ends", load_config("small", TINY), start=str(tmp_path / "fixed"))
    assert read_run(tmp_path / "ends").vocabulary.has_end


def test_longest_needs_ends(tmp_path: Path) -> None:
    write_set(tmp_path / "set", {"train": [[random_note(f"n{index}") for index in range(4)]]})
    train(tmp_path / "set", tmp_path / "run", load_config("small", TINY))
    with pytest.raises(ConfigError, match="--longest: the notes of this run have no ends"):
        sample(tmp_path / "run", tmp_path / "out", request(1, longest=0.1))
    assert frames_of(sample(tmp_path / "run", tmp_path / "out", request(2, seconds=0.5)).files) == [38, 38]
