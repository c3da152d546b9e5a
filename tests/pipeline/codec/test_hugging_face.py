"""pipeline.codec.hugging_face: codecs of transformers have the geometry of their configs, and their models' codes.

Models of a few channels, saved as `save_pretrained` saves them. transformers leaves EnCodec's and Mimi's codebooks at
zero, which would give one code for everything, so codebooks are filled with latents of notes.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from pipeline.codec.hugging_face import HuggingFaceCodec, load_hugging_face
from pipeline.codec.loaded import load_codec
from pipeline.codec.spec import CodecError, codec_spec, weights_file
from shards.errors import UserError
from shards.files import sha256_of
from tests.support.hugging_face import SMALL, save_small, transformers_module
from tests.support.notes import tone

GEOMETRIES = {  # sample rate, hop, codebooks, codebook size, bandwidth
    "encodec": (32_000, 640, 4, 64, 1.2),
    "dac": (44_100, 512, 3, 256, None),
    "dac of an odd stride": (16_000, 320, 3, 256, None),
    "mimi": (24_000, 1920, 4, 128, None),
}

DAMAGED = r"config\.json: is damaged \(.+\); download it again"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("codecs")
    return {name: save_small(name, root / name) for name in SMALL}


@pytest.mark.parametrize("name", SMALL)
def test_the_spec_is_the_geometry_of_the_config(folders: dict[str, Path], name: str) -> None:
    spec = codec_spec(f"hf:{folders[name]}")
    assert (spec.sample_rate, spec.hop, spec.codebooks, spec.codebook_size, spec.bandwidth) == GEOMETRIES[name]
    assert spec.weights_sha256 == sha256_of(folders[name] / "model.safetensors")


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("samples", [9, 8_000, 1920 * 3])
def test_a_part_of_a_hop_is_a_frame_and_a_frame_is_decoded_to_a_hop(
    folders: dict[str, Path], name: str, samples: int
) -> None:
    codec = load_codec(f"hf:{folders[name]}")
    frames = -(-samples // codec.spec.hop)
    codes = codec.encode(torch.randn(2, samples, generator=torch.Generator().manual_seed(samples)))
    assert codes.shape == (2, codec.spec.codebooks, frames) and codes.dtype == torch.int64
    assert codes.min() >= 0 and codes.max() < codec.spec.codebook_size
    assert codec.decode(codes).shape == (2, frames * codec.spec.hop)
    notes, _, latent_frames = codec.latents(torch.zeros(2, samples)).shape
    assert notes == 2 and frames <= latent_frames <= 2 * frames  # earlier versions have Mimi's at twice the rate


@pytest.mark.parametrize("name", SMALL)
def test_codes_and_sound_are_those_of_the_model(folders: dict[str, Path], name: str) -> None:
    codec = load_codec(f"hf:{folders[name]}")
    assert isinstance(codec, HuggingFaceCodec)
    samples = torch.randn(3, 1, 20 * codec.spec.hop, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = codec.model(samples)  # encodes and decodes
    codes = codec.encode(samples[:, 0])
    assert torch.equal(codes, expected.audio_codes.reshape(codes.shape))
    sound, values = codec.decode(codes), expected.audio_values.reshape(3, -1)
    shared = min(sound.shape[1], values.shape[1])
    assert shared > 19 * codec.spec.hop
    torch.testing.assert_close(sound[:, :shared], values[:, :shared])
    assert all(len(book.unique()) > 10 for book in codes.transpose(0, 1)), "codes that are all alike prove nothing"


def test_an_encodec_with_the_weights_of_encodec_mini_gives_its_codes(tmp_path: Path) -> None:
    save_mini(tmp_path / "mini")
    theirs, ours = load_codec(f"hf:{tmp_path / 'mini'}"), load_codec("encodec_mini")
    assert theirs.spec.identity() == {
        **ours.spec.identity(), "name": theirs.spec.name, "weights_sha256": theirs.spec.weights_sha256
    }  # fmt: skip
    samples = torch.stack([torch.from_numpy(tone(pitch, 1.0, 24_000)) for pitch in range(40, 72, 4)])
    codes = ours.encode(samples)
    assert [len(book.unique()) > 60 for book in codes.transpose(0, 1)] == [True, True]
    assert (theirs.encode(samples) == codes).float().mean() > 0.999
    torch.testing.assert_close(theirs.decode(codes), ours.decode(codes), rtol=1e-3, atol=1e-4)


def save_mini(folder: Path) -> None:
    """Save `encodec_mini` as an EncodecModel of transformers: its layers in their order, weight norm included."""
    transformers = transformers_module()
    model = transformers.EncodecModel(transformers.EncodecConfig(num_filters=8, target_bandwidths=[1.5]))
    state = safetensors.torch.load_file(weights_file("encodec_mini"))
    names = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
    renamed: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        key = key.replace(".conv.conv.", ".conv.").replace(".convtr.convtr.", ".conv.")
        key = key.replace("encoder.model.", "encoder.layers.").replace("decoder.model.", "decoder.layers.")
        key = key.replace("quantizer.vq.layers.", "quantizer.layers.").replace("._codebook.", ".codebook.")
        head, _, tail = key.rpartition(".")
        renamed[f"{head}.{names.get(tail, tail)}"] = value.float()
    report = model.load_state_dict(renamed, strict=False)
    assert not report.unexpected_keys
    assert {key.rpartition(".")[2] for key in report.missing_keys} <= {"inited", "cluster_size", "embed_avg"}
    model.save_pretrained(folder)


def test_a_hub_id_can_have_its_files_in_a_folder(folders: dict[str, Path]) -> None:
    spec = codec_spec("hf:descript/dac_44khz", weights=folders["dac"])
    assert spec.name == "hf:descript/dac_44khz"
    codec = load_codec(spec.name, weights=folders["dac"], spec=spec)
    assert codec.spec == spec and codec.encode(torch.zeros(1, 512)).shape == (1, 3, 1)


def change_config(folder: Path, out: Path, **changes: Any) -> Path:
    shutil.copytree(folder, out)
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, **changes}))
    return out


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("encodec", {"audio_channels": 2}, "not supported, because it is stereo"),
        ("encodec", {"normalize": True}, "keeps a loudness for each"),
        ("encodec", {"chunk_length_s": 1.0, "overlap": 0.1}, "encodes overlapping segments"),
        ("dac", {"codebook_size": 1 << 16}, "its codes go up to 65535, and int16 ends at 32767"),
        ("dac", {"model_type": "bert"}, "is a model of type bert; codecs are encodec, dac, mimi"),
        ("dac", {"model_type": "nothing"}, DAMAGED),
        ("dac", {"n_codebooks": "three"}, DAMAGED),
        ("dac", {"n_codebooks": 200}, DAMAGED),
        ("dac", {"sampling_rate": 0}, DAMAGED),
        ("mimi", {"sampling_rate": 0}, DAMAGED),
        ("mimi", {"upsampling_ratios": [0]}, DAMAGED),
        ("encodec", {"sampling_rate": 0}, DAMAGED),
        ("encodec", {"target_bandwidths": []}, DAMAGED),
        ("encodec", {"upsampling_ratios": [0]}, DAMAGED),
    ],
)
def test_a_config_of_no_such_codec_is_refused_in_one_line(
    folders: dict[str, Path], tmp_path: Path, name: str, changes: dict[str, Any], says: str
) -> None:
    folder = change_config(folders[name], tmp_path / "changed", **changes)
    with pytest.raises(UserError, match=says) as caught:
        codec_spec(f"hf:{folder}")
    assert "\n" not in caught.value.message


def test_bandwidths_are_those_of_the_config(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = change_config(folders["encodec"], tmp_path / "two", target_bandwidths=[0.6, 1.2])
    assert codec_spec(f"hf:{folder}").codebooks == 2  # the lowest
    assert codec_spec(f"hf:{folder}", 1.2).codebooks == 4
    with pytest.raises(CodecError, match=r"bandwidth 3: hf:.* has 0\.6, 1\.2 kbps"):
        codec_spec(f"hf:{folder}", 3)


@pytest.mark.parametrize(
    ("name", "kbps"), [("dac", [0.689, 1.38]), ("dac of an odd stride", [0.4, 0.8]), ("mimi", [0.0875, 0.175, 0.263])]
)
def test_of_dac_and_mimi_a_lower_bandwidth_is_the_first_codebooks(
    folders: dict[str, Path], name: str, kbps: list[float]
) -> None:
    codec = f"hf:{folders[name]}"
    whole = load_codec(codec)
    assert codec_spec(codec, float(f"{whole.spec.kbps:.3g}")) == whole.spec and whole.spec.bandwidth is None
    samples = torch.randn(2, 20 * whole.spec.hop, generator=torch.Generator().manual_seed(0))
    codes = whole.encode(samples)
    sounds = [whole.decode(codes)]
    for codebooks, bandwidth in enumerate(kbps, start=1):
        part = load_codec(codec, bandwidth)
        assert (part.spec.codebooks, part.spec.bandwidth) == (codebooks, bandwidth)
        assert part.spec.kbps == pytest.approx(bandwidth, rel=0.01)
        assert torch.equal(part.encode(samples), codes[:, :codebooks])
        sounds.append(part.decode(codes[:, :codebooks]))
    assert all(sound.shape == sounds[0].shape and not torch.equal(sound, sounds[0]) for sound in sounds[1:])
    with pytest.raises(CodecError, match=f"bandwidth 9: hf:.* has {kbps[0]:g}, {kbps[1]:g}, .* kbps"):
        codec_spec(codec, 9)


def load(folder: Path) -> HuggingFaceCodec:
    return load_hugging_face(codec_spec(f"hf:{folder}"), None, torch.device("cpu"))


def test_weights_that_are_damaged_or_of_another_model_are_refused_in_one_line(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "dac"
    shutil.copytree(folders["dac"], folder)
    weights = folder / "model.safetensors"
    state = safetensors.torch.load_file(weights)
    name = next(key for key in state if key.startswith("encoder"))
    broken = state[name].clone()
    broken.view(-1)[0] = float("nan")
    faults = {
        f"tensor {name} is not finite": {**state, name: broken},
        f"tensor {name} is missing": {key: value for key, value in state.items() if key != name},
        "is damaged, or does not fit": {**state, name: torch.zeros(1)},
    }
    for says, changed in faults.items():
        safetensors.torch.save_file(changed, weights, {"format": "pt"})
        with pytest.raises(CodecError, match=says) as caught:
            load(folder)
        assert "\n" not in caught.value.message and str(weights) in caught.value.message
    weights.write_bytes(b"no tensors")
    with pytest.raises(CodecError, match="is damaged, or does not fit"):
        load(folder)
    weights.unlink()
    with pytest.raises(CodecError, match=r"model\.safetensors: missing; `save_pretrained`"):
        load(folder)


def test_a_name_that_is_nothing_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for name in ("hf:nobody/nothing", "hf:", "hf:a/b/c"):
        with pytest.raises(CodecError, match=f"^{name}: .*--weights FOLDER$") as caught:
            codec_spec(name)
        assert "\n" not in caught.value.message
    with pytest.raises(CodecError, match=r"no such folder; hf:a/b wants one with config\.json"):
        codec_spec("hf:a/b", weights=tmp_path / "absent")


def test_the_extra_that_is_missing_is_named(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(CodecError, match=r"needs transformers \(.*\); pip install '\.\[codecs\]'"):
        codec_spec(f"hf:{folders['dac']}")
