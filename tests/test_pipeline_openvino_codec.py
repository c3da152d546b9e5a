"""pipeline.openvino_codec: the same codes from another runtime, where it is installed; a clear word where it is not."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from notes import Silent, choice, files_of, nsynth_folder, tone

from pipeline.codec import CodecError, load_codec
from pipeline.openvino_codec import OpenVinoEnCodec
from pipeline.run import Request, encode_folder
from shards.errors import UserError

installed = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")


@installed
def test_float32_codes_are_torchs() -> None:
    torch.set_num_threads(1)
    codec = load_codec("encodec_mini")
    samples = torch.stack([torch.from_numpy(tone(pitch, 0.5, 24_000)) for pitch in (45, 60)])  # (note, sample)
    assert (OpenVinoEnCodec(codec, "float32").encode(samples) == codec.encode(samples)).float().mean() > 0.995


@installed
def test_a_set_of_openvino_is_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    root = nsynth_folder(tmp_path / "audio", train=4, valid=1)
    for workers in (1, 2):
        ours = choice(backend="openvino")
        made = encode_folder(Request(root, tmp_path / str(workers), lambda ours=ours: ours, workers), Silent())
        assert made.manifest.audio["backend"] == "openvino"
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2")


def test_where_it_is_not_installed_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(CodecError, match="pip install openvino"):
        OpenVinoEnCodec(load_codec("encodec_mini"), "float32")


def test_notes_of_any_length_are_for_torch() -> None:
    with pytest.raises(UserError, match="compiled for one length"):
        replace(choice().settings, backend="openvino", duration=None)
