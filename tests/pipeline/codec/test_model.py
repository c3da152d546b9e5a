"""pipeline.codec.model gives what the `encodec` package gives, and says in one line what it cannot give."""

import importlib.util
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import safetensors.torch
import torch

from pipeline.codec.loaded import load_codec, resolve_device
from pipeline.codec.model import EnCodec, _import_encodec, read_weights, untrained_24khz, untrained_mini
from pipeline.codec.seanet import pad1d
from pipeline.codec.spec import BANDWIDTHS, MINI_FILE, OFFICIAL_FILE, SAMPLE_RATE, CodecError
from shards.errors import UserError
from shards.files import sha256_of
from tests.support import ROOT

SHIPPED = ROOT / "pipeline" / "codec" / MINI_FILE


@pytest.fixture(scope="module")
def mini() -> EnCodec:
    return load_codec("encodec_mini")


@pytest.fixture(scope="module")
def full_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the full-size model, in the form of the official file."""
    torch.manual_seed(0)
    state = untrained_24khz().state_dict()
    for key, value in state.items():
        if key.endswith("embed"):
            value.normal_()
    path = tmp_path_factory.mktemp("weights") / "random.th"
    torch.save(state, path)
    return path


@pytest.fixture
def package() -> Iterator[ModuleType]:
    """The `encodec` package as it was published."""
    encodec = _import_encodec()
    spec = importlib.util.spec_from_file_location("encodec.modules.published_conv", encodec.modules.conv.__file__)
    assert spec is not None and spec.loader is not None
    published = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(published)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encodec.modules.conv, "pad1d", published.pad1d)
        yield encodec


def sound(notes: int = 2, seconds: float = 0.5, seed: int = 0) -> torch.Tensor:
    """Decaying harmonics and a little noise: (note, sample)."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    pitches = 110.0 * (1 + torch.arange(notes))[:, None]
    harmonics = sum(torch.sin(2 * torch.pi * pitches * k * time) / k for k in range(1, 6))
    assert isinstance(harmonics, torch.Tensor)
    return 0.2 * harmonics * torch.exp(-3 * time) + 0.01 * torch.randn(notes, len(time), generator=generator)


def plain(model: Any, path: Path, bandwidth: float) -> Any:
    """A model of the package with weights, as its own documentation loads one."""
    missing, unexpected = model.load_state_dict(read_weights(path), strict=False)
    assert not unexpected and all(key.endswith(("inited", "cluster_size", "embed_avg")) for key in missing)
    model.set_target_bandwidth(bandwidth)
    return model.eval()


def test_codes_and_sound_of_the_mini_codec_are_the_packages_own(mini: EnCodec, package: ModuleType) -> None:
    samples = sound()
    codes = mini.encode(samples)
    direct = plain(untrained_mini(), SHIPPED, 1.5)
    decoded = mini.decode(codes)[:, : samples.shape[1]]
    with torch.no_grad():
        [(expected, _)] = direct.encode(samples[:, None])
        round_trip = direct(samples[:, None])[:, 0]
    assert torch.equal(codes, expected)
    assert torch.equal(decoded, round_trip)


@pytest.mark.parametrize("bandwidth", BANDWIDTHS["encodec_24khz"])
def test_codes_and_sound_of_the_full_codec_are_the_packages_own_at_every_bandwidth(
    full_weights: Path, package: ModuleType, bandwidth: float
) -> None:
    samples = sound(notes=1, seconds=0.2)
    codec = load_codec("encodec_24khz", bandwidth, full_weights)
    codes = codec.encode(samples)
    decoded = codec.decode(codes)[:, : samples.shape[1]]
    direct = plain(untrained_24khz(), full_weights, bandwidth)
    with torch.no_grad():
        [(expected, _)] = direct.encode(samples[:, None])
        round_trip = direct(samples[:, None])[:, 0]
    assert torch.equal(codes, expected)
    assert torch.equal(decoded, round_trip)
    assert codec.spec.codebooks == codes.shape[1] == bandwidth / 0.75


@pytest.mark.parametrize("paddings", [(0, 0), (2, 0), (6, 0), (0, 4), (1, 3), (6, 2)])
def test_padding_is_the_packages_own(package: ModuleType, paddings: tuple[int, int]) -> None:
    for length in (1, 2, 3, 4, 7, 30):
        x = torch.randn(2, 3, length)
        assert torch.equal(pad1d(x, paddings, "reflect"), package.modules.conv.pad1d(x, paddings, "reflect"))
        assert torch.equal(pad1d(x, paddings), torch.nn.functional.pad(x, paddings))


def test_frames_are_counted_up_and_a_frame_is_a_hop_of_samples(mini: EnCodec) -> None:
    for samples in (1, 319, 320, 321, 6_400):
        codes = mini.encode(torch.zeros(1, samples))
        assert codes.shape == (1, 2, -(-samples // mini.spec.hop))
        assert codes.dtype == torch.int64
        decoded = mini.decode(codes)
        assert (decoded.dtype, decoded.shape) == (torch.float32, (1, codes.shape[2] * mini.spec.hop))


def test_the_spec_says_which_codec_made_the_codes(mini: EnCodec) -> None:
    assert mini.spec.name == "encodec_mini"
    assert mini.spec.weights_sha256 == sha256_of(SHIPPED)
    assert (mini.spec.codebooks, mini.spec.codebook_size, mini.spec.tokens_per_second) == (2, 1024, 150)


def test_a_safetensors_of_the_full_codec_without_training_buffers_loads(full_weights: Path, tmp_path: Path) -> None:
    without_buffers = {
        key: value for key, value in read_weights(full_weights).items() if not key.endswith(("inited", "embed_avg"))
    }
    path = tmp_path / "random.safetensors"
    safetensors.torch.save_file(without_buffers, path)
    samples = sound(notes=1, seconds=0.1)
    codes = load_codec("encodec_24khz", 3.0, path).encode(samples)
    assert torch.equal(codes, load_codec("encodec_24khz", 3.0, full_weights).encode(samples))


def test_loading_warns_of_nothing_and_leaves_torchaudio_alone(mini: EnCodec) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_codec("encodec_mini")
    assert "torchaudio" not in sys.modules or sys.modules["torchaudio"].__spec__ is not None


def test_weights_that_cannot_be_had_say_where_they_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable(*args: Any, **kwargs: Any) -> None:
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(CodecError) as error:
        load_codec("encodec_24khz")
    assert str(tmp_path / "hub" / "checkpoints" / OFFICIAL_FILE) in error.value.message
    assert "encodec_mini needs none" in error.value.message
    assert not list((tmp_path / "hub" / "checkpoints").iterdir())


def test_a_damaged_file_in_the_cache_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / OFFICIAL_FILE
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"cut short")
    with pytest.raises(CodecError, match=r"damaged .* delete it"):
        load_codec("encodec_24khz")


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    state = read_weights(SHIPPED)
    state["decoder.model.15.conv.conv.bias"] = torch.zeros(2)
    path = tmp_path / "wrong.safetensors"
    safetensors.torch.save_file(state, path)
    with pytest.raises(
        CodecError, match=r"decoder\.model\.15\.conv\.conv\.bias is \(2,\) where encodec_mini has \(1,\)"
    ):
        load_codec("encodec_mini", weights=path)


def test_weights_of_the_other_codec_are_refused_with_the_first_tensor_that_differs() -> None:
    with pytest.raises(CodecError, match=r"not the weights of encodec_24khz: tensor encoder\.model\.0"):
        load_codec("encodec_24khz", weights=SHIPPED)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("quantizer.vq.layers.1._codebook.embed"), r"layers\.1\._codebook\.embed is missing"),
        (lambda state: state.update(extra=torch.zeros(1)), "has no tensor extra"),
    ],
)
def test_missing_and_unknown_tensors_are_named(tmp_path: Path, change: Any, words: str) -> None:
    state = read_weights(SHIPPED)
    change(state)
    safetensors.torch.save_file(state, tmp_path / "wrong.safetensors")
    with pytest.raises(CodecError, match=words):
        load_codec("encodec_mini", weights=tmp_path / "wrong.safetensors")


@pytest.mark.parametrize("name", ["weights.th", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04 a zip that ends here"])
def test_a_file_that_is_no_weights_is_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CodecError, match="damaged or not a file of weights") as error:
        load_codec("encodec_mini", weights=path)
    assert "\n" not in error.value.message


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"weight": Harm()}, tmp_path / "weights.th")
    with pytest.raises(CodecError):
        load_codec("encodec_mini", weights=tmp_path / "weights.th")
    assert not (tmp_path / "ran").exists()


def test_a_file_of_something_else_is_no_state_dict(tmp_path: Path) -> None:
    torch.save([1, 2, 3], tmp_path / "list.th")
    with pytest.raises(CodecError, match="no state dict"):
        load_codec("encodec_mini", weights=tmp_path / "list.th")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("encodec_48khz",), "loudness scale for each segment"),
        (("encodec_24",), "no such codec; choose from encodec_24khz, encodec_mini"),
        (("encodec_24khz", 2.0), "encodec_24khz has 1.5, 3, 6, 12, 24 kbps"),
        (("encodec_mini", 3.0), "encodec_mini has 1.5 kbps"),
        (("encodec_mini", 1.5, Path("nowhere.th")), "nowhere.th: no such file"),
    ],
)
def test_what_cannot_be_had_is_said_with_the_cure(arguments: tuple[Any, ...], words: str) -> None:
    with pytest.raises(CodecError, match=words) as error:
        load_codec(*arguments)
    assert "\n" not in error.value.message


def test_a_device_that_is_not_here_is_refused_auto_is_one_that_is_and_an_index_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert torch.zeros(1, device=resolve_device("auto")).sum() == 0
    assert resolve_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    monkeypatch.undo()
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("auto").type != "mps" and resolve_device("mps") == torch.device("mps")
    monkeypatch.undo()
    for name in ("tpu", *([] if torch.cuda.is_available() else ["cuda"])):
        with pytest.raises(UserError, match="not on this machine"):
            resolve_device(name)
