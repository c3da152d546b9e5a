"""pipeline.encode.encoder: a note's codes are the codec's own, whatever stands beside it in a batch."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.audio import load
from pipeline.codec.loaded import load_codec
from pipeline.codec.model import EnCodec
from pipeline.encode.encoder import Encoder, load_encoder
from pipeline.encode.plan import Batch, PlannedNote, make_plan
from pipeline.encode.settings import Settings
from pipeline.notes.folder import scan_folder
from shards.errors import UserError
from shards.note import Note, unflatten
from shards.record import Rejection
from tests.support.notes import nsynth_folder, tone, write_note


@cache
def codec() -> EnCodec:
    torch.set_num_threads(1)
    return load_codec("encodec_mini")


def encoder(root: Path, **settings: object) -> Encoder:
    return Encoder(codec(), replace(Settings(codec().spec, duration=0.5), **settings), root)  # type: ignore[arg-type]


def planned(root: Path, settings: Settings) -> list[PlannedNote]:
    folder = scan_folder(root)
    return [note for task in make_plan(folder.inputs, settings).tasks for note in task.notes]


def codes_of(outcome: Note | Rejection) -> np.ndarray:
    assert isinstance(outcome, Note)
    return outcome.tokens


def test_codes_are_those_of_a_direct_call_of_the_package(tmp_path: Path) -> None:
    root = nsynth_folder(tmp_path, train=2, valid=1)
    ours = encoder(root)
    for note in planned(root, ours.settings):
        [outcome] = ours.encode(Batch((note,))).notes
        model: Any = codec().model  # an encodec.EncodecModel
        assert type(model).__module__ == "encodec.model"
        samples = torch.from_numpy(load(root / note.file.path, model.sample_rate, 0.5))
        with torch.no_grad():
            [(codes, _)] = model.encode(samples[None, None])  # (note, codebook, frame)
        assert np.array_equal(unflatten(codes_of(outcome), 2), codes[0].numpy())
        assert np.array_equal(codes_of(outcome), codes.permute(0, 2, 1).reshape(-1).numpy())  # as the tutorial has it


def test_labels_and_key_travel_with_the_codes(tmp_path: Path) -> None:
    root = nsynth_folder(tmp_path, train=1, valid=0)
    ours = encoder(root)
    [outcome] = ours.encode(Batch(tuple(planned(root, ours.settings)))).notes
    assert isinstance(outcome, Note)
    assert outcome.key == outcome.labels["note_str"] == "guitar_acoustic_000-040-100"
    assert outcome.labels["pitch"] == 40


def test_a_rejected_neighbour_changes_nothing(tmp_path: Path) -> None:
    root = nsynth_folder(tmp_path, train=3, valid=0)
    ours = encoder(root, batch=3)
    notes = tuple(planned(root, ours.settings))
    whole = ours.encode(Batch(notes)).notes
    (root / notes[1].file.path).write_bytes(b"not audio any more" * 100)
    torn = ours.encode(Batch(notes)).notes
    assert isinstance(torn[1], Rejection) and torn[1].reason == "not audio"
    for index in (0, 2):
        assert np.array_equal(codes_of(whole[index]), codes_of(torn[index]))


def test_the_last_batch_of_a_shard_has_the_shape_of_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = nsynth_folder(tmp_path, train=3, valid=0)
    ours = encoder(root, batch=2)
    shapes = []
    call = codec().encode
    monkeypatch.setattr(ours.codec, "encode", lambda samples: shapes.append(tuple(samples.shape)) or call(samples))
    notes = tuple(planned(root, ours.settings))
    for start in (0, 2):
        ours.encode(Batch(notes[start : start + 2]))
    assert shapes == [(2, 12_000), (2, 12_000)]


def test_without_a_duration_each_note_keeps_its_length(tmp_path: Path) -> None:
    write_note(tmp_path / "a.wav", tone(seconds=0.2))
    write_note(tmp_path / "b.wav", tone(seconds=0.4))
    ours = encoder(tmp_path, duration=None)
    frames = {
        outcome.key: len(codes_of(outcome)) // 2
        for note in planned(tmp_path, ours.settings)
        for outcome in ours.encode(Batch((note,))).notes
        if isinstance(outcome, Note)
    }
    assert frames == {"a": 15, "b": 30}


@pytest.mark.parametrize(
    ("batch", "cure"),
    [(4, "try --batch 2, under a new --out if"), (1, "make the notes shorter by --duration or --segment")],
)
def test_a_full_gpu_is_one_line_with_the_batch_to_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int, cure: str
) -> None:
    root = nsynth_folder(tmp_path, train=1, valid=0)
    ours = encoder(root, batch=batch)

    def fill(samples: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore lines")

    monkeypatch.setattr(ours.codec, "encode", fill)
    with pytest.raises(UserError, match=rf"^cpu: not enough memory \(CUDA out .* GiB\.\); .*{cure}") as caught:
        ours.encode(Batch(tuple(planned(root, ours.settings))))
    assert "\n" not in caught.value.message


def test_a_gpu_without_room_for_the_codec_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: out of memory\nmore lines")

    monkeypatch.setattr("pipeline.encode.encoder.load_codec", fill)
    with pytest.raises(UserError, match=r"^cpu: not enough memory \(CUDA error: out of memory\); .*--device$"):
        load_encoder(Settings(codec().spec), None, "cpu", tmp_path)


def test_codes_of_a_gpu_are_read_when_they_have_arrived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = nsynth_folder(tmp_path, train=3, valid=0)
    ours = encoder(root, batch=4)
    batch = Batch(tuple(planned(root, ours.settings)))
    expected = [codes_of(note) for note in ours.encode(batch).notes]
    arriving: list[torch.Tensor] = []  # codes on the CPU, which hold nothing yet

    class Event:
        """An event of a stream that copies codes only when somebody waits for it."""

        def __init__(self, blocking: bool) -> None: ...

        def record(self) -> None:
            [self.codes] = arriving
            self.copied = self.codes.clone()
            self.codes.zero_()

        def synchronize(self) -> None:
            self.codes.copy_(self.copied)

    call = codec().encode
    monkeypatch.setattr(ours, "_is_cuda", True)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda samples: samples)
    monkeypatch.setattr(ours.codec, "encode", lambda samples: arriving.append(call(samples).clone()) or arriving[0])
    [audio] = ours.reader.read(batch)
    finish = ours.launch(audio)
    assert not arriving[0].any()
    for note, codes in zip(finish().notes, expected, strict=True):
        assert np.array_equal(codes_of(note), codes) and codes.any()


def test_a_silent_note_is_rejected_unless_silence_is_wanted(tmp_path: Path) -> None:
    write_note(tmp_path / "a.wav", tone(peak=5e-5), subtype="FLOAT")
    ours = encoder(tmp_path)
    notes = tuple(planned(tmp_path, ours.settings))
    [outcome] = ours.encode(Batch(notes)).notes
    assert isinstance(outcome, Rejection) and outcome.reason == "silent"
    [outcome] = encoder(tmp_path, min_peak=0.0).encode(Batch(notes)).notes
    assert isinstance(outcome, Note)


def test_a_file_that_was_rejected_before_is_not_opened_again(tmp_path: Path) -> None:
    root = nsynth_folder(tmp_path, train=2, valid=0)
    ours = encoder(root, batch=2)
    notes = tuple(planned(root, ours.settings))
    opened: list[int | None] = []
    rejection = Rejection(notes[0].file.display_path, "damaged", "crashes the decoder")
    outcomes = ours.encode(Batch(notes, {0: rejection}), opened.append).notes
    assert outcomes[0] is rejection and isinstance(outcomes[1], Note)
    assert opened == [1, None]
