"""EnCodec: samples <-> codes, and weights files.

The only file that imports the `encodec` package. Knows nothing of audio files, token layout or training;
`training/trainer.py` trains the untrained small model of this file.

EnCodec: Défossez et al., "High Fidelity Neural Audio Compression", 2022, https://arxiv.org/abs/2210.13438
"""

import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pipeline.codec.loaded import LoadedCodec
from pipeline.codec.seanet import CPUEncoder, pad1d
from pipeline.codec.spec import BANDWIDTHS, CODEBOOK_SIZE, SAMPLE_RATE, CodecError, weights_file
from pipeline.codec.torchaudio import without_torchaudio
from shards.errors import first_line
from shards.files import atomic_write, utf8_path
from shards.note import Codec

MINI_FILTERS = 8  # EnCodec has 32, and otherwise the same architecture
MINI_CODEBOOKS = 2
LATENT_CHANNELS = 128

TRAINING_BUFFERS = ("cluster_size", "embed_avg", "inited")  # of a codebook; encoding and decoding do not read them


@dataclass(eq=False)
class EnCodec(LoadedCodec):
    """EnCodec of the `encodec` package, or `encodec_mini`."""

    model: Any  # an encodec.EncodecModel
    encoder_dtype: ClassVar[torch.dtype] = torch.float32

    @torch.inference_mode()
    def encode(self, samples: Tensor) -> Tensor:
        latents = self.latents(samples.to(self.device))
        codes: Tensor = self.model.quantizer.encode(latents, self.model.frame_rate, self.model.bandwidth)
        return codes.transpose(0, 1)  # the package has codebooks first

    def latents(self, samples: Tensor) -> Tensor:
        if self.device.type == "cpu":
            return self._cpu_encoder(samples)
        latents: Tensor = self.model.encoder(samples[:, None])
        return latents

    @cached_property
    def _cpu_encoder(self) -> CPUEncoder:
        return CPUEncoder(self.model.encoder, self.encoder_dtype)

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> Tensor:
        return self.model.decode([(codes.to(self.device), None)])[:, 0]

    def entries(self) -> Tensor:
        """Entries of the codebooks: (codebook, entry, channel)."""
        return torch.stack([layer._codebook.embed for layer in self.model.quantizer.vq.layers])


def load_encodec(spec: Codec, weights: Path | None, device: torch.device) -> EnCodec:
    """Load the codec of this spec; `weights` as in `weights_file`. Raises CodecError."""
    model = untrained_mini() if spec.name == "encodec_mini" else untrained_24khz()
    path = weights_file(spec.name, weights)
    _load_weights(model, read_weights(path), path, spec.name)
    model.set_target_bandwidth(spec.bandwidth)
    fold_weight_norm(model)
    model.eval().requires_grad_(False).to(device)
    return EnCodec(spec, device, model)


def untrained_mini(norm: str = "weight_norm") -> Any:
    """Build an `EncodecModel` with 8 filters in place of 32, random as the `encodec` package initialises it.

    `norm="none"` leaves weight norm out: the same function with fewer parameters, and faster to train.
    """
    encodec = _import_encodec()
    shape = {"channels": 1, "causal": True, "dimension": LATENT_CHANNELS, "n_filters": MINI_FILTERS, "norm": norm}
    with quiet_weight_norm():
        return encodec.EncodecModel(
            encodec.modules.SEANetEncoder(**shape),
            encodec.modules.SEANetDecoder(**shape),
            encodec.quantization.ResidualVectorQuantizer(
                dimension=LATENT_CHANNELS, n_q=MINI_CODEBOOKS, bins=CODEBOOK_SIZE
            ),
            target_bandwidths=list(BANDWIDTHS["encodec_mini"]),
            sample_rate=SAMPLE_RATE,
            channels=1,
            name="encodec_mini",
        )


def untrained_24khz() -> Any:
    """Build EnCodec's 24 kHz model with random weights."""
    with quiet_weight_norm():
        return _import_encodec().EncodecModel.encodec_model_24khz(pretrained=False)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict from `.safetensors`, or from a file that `torch.load` reads without running code.

    Raises:
        CodecError: damaged, not a file of weights, or one that would run code.
    """
    import safetensors
    import safetensors.torch

    try:
        if path.suffix == ".safetensors":
            with utf8_path(path) as readable:
                state = safetensors.torch.load_file(readable)
        else:
            state = load_pickle(path)
    except (safetensors.SafetensorError, ValueError) as error:
        raise CodecError(
            f"{path}: damaged or not a file of weights ({first_line(error)}); download it again"
        ) from error
    if not isinstance(state, dict) or not all(map(_is_plain, state.values())):
        raise CodecError(f"{path}: holds no state dict of tensors; give EnCodec's own .th file or a .safetensors")
    return state


def _is_plain(value: Any) -> bool:
    """True for a tensor whose numbers are in memory: not a sparse or quantized one, or one without numbers."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
    )


def load_pickle(path: Path) -> Any:
    """Read a file of `torch.save` without running code.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, or has more in it than tensors and plain values.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except pickle.UnpicklingError as error:  # torch's message would advise to run the file's code
        raise ValueError("no tensors that can be read without running code") from error
    except Exception as error:  # the reader of pickles meets damage with errors of any kind
        raise ValueError(first_line(error)) from error


def write_weights(path: Path, model: Any, entries: Tensor) -> None:
    """Write a trained `untrained_mini("none")` and its codebooks, (codebook, entry, channel), in half precision.

    The tensors have the names of EnCodec's own weights, so the `encodec` package's modules load them.
    """
    import safetensors.torch

    model = deepcopy(model)
    with quiet_weight_norm():
        for module in [*model.modules()]:
            if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)):
                nn.utils.weight_norm(module)
    for layer, codebook in zip(model.quantizer.vq.layers, entries, strict=True):
        layer._codebook.embed.copy_(codebook)
    state = {
        key: value.detach().half().cpu().contiguous()
        for key, value in model.state_dict().items()
        if key.rpartition(".")[2] not in TRAINING_BUFFERS
    }
    with atomic_write(path) as file:
        file.write(safetensors.torch.save(state))


def _load_weights(model: nn.Module, weights: dict[str, Tensor], path: Path, name: str) -> None:
    """Copy `weights` into `model`; a CodecError names the first tensor that does not fit."""
    expected = model.state_dict()
    for key, value in expected.items():
        if key in weights and weights[key].shape != value.shape:
            shapes = f"is {tuple(weights[key].shape)} where {name} has {tuple(value.shape)}"
            raise CodecError(f"{path}: not the weights of {name}: tensor {key} {shapes}")
        if key in weights and weights[key].is_floating_point() and not torch.isfinite(weights[key]).all():
            raise CodecError(f"{path}: damaged, tensor {key} is not finite; download it again")
        if key not in weights and key.rpartition(".")[2] not in TRAINING_BUFFERS:
            raise CodecError(f"{path}: not the weights of {name}: tensor {key} is missing")
    for key in weights:
        if key not in expected:
            raise CodecError(f"{path}: not the weights of {name}, which has no tensor {key}")
    model.load_state_dict(weights, strict=False)


def fold_weight_norm(model: nn.Module) -> None:
    """Compute each normalised weight once, not at every call: the same product, so the same codes."""
    for module in model.modules():
        if hasattr(module, "weight_g"):
            nn.utils.remove_weight_norm(module)


@contextmanager
def quiet_weight_norm() -> Iterator[None]:
    """Silence the deprecated `torch.nn.utils.weight_norm`, which warns once a module."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*weight_norm", category=FutureWarning)
        yield


def _import_encodec() -> Any:
    with without_torchaudio(ModuleType("torchaudio")):
        import encodec
    encodec.modules.conv.pad1d = pad1d
    return encodec
