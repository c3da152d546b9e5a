"""Codecs of Hugging Face's `transformers`: EnCodec, DAC and Mimi, by the id of a repository or by a folder.

The only file that imports `transformers`. Knows nothing of audio files and token layout.

EnCodec: Défossez et al., 2022, https://arxiv.org/abs/2210.13438
DAC: Kumar et al., 2023, https://arxiv.org/abs/2306.06546
Mimi: Défossez et al., "Moshi", 2024, https://arxiv.org/abs/2410.00037
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.codec.loaded import LoadedCodec
from pipeline.codec.spec import HUGGING_FACE, CodecError
from pipeline.codec.torchaudio import without_torchaudio
from shards.errors import UserError, first_line
from shards.files import sha256_of
from shards.hub import fetch_repository
from shards.note import LARGEST_CODEBOOK, Codec
from shards.parse import to_dataclass

CONFIG, WEIGHTS = "config.json", "model.safetensors"
IN_SEGMENTS = ("normalize", "chunk_length_s")  # fields of the config
CURE = "download it again"
CLASSES = {"encodec": "EncodecModel", "dac": "DacModel", "mimi": "MimiModel"}  # type in the config -> class
CODEBOOKS = {"dac": "n_quantizers", "mimi": "num_quantizers"}  # type -> argument of `encode`


@dataclass(eq=False)
class HuggingFaceCodec(LoadedCodec):
    """A codec of `transformers`."""

    model: Any  # an EncodecModel, DacModel or MimiModel

    @property
    def kind(self) -> str:
        """The type in the model's config."""
        return str(self.model.config.model_type)

    @torch.inference_mode()
    def encode(self, samples: Tensor) -> Tensor:
        waves = self._waves(samples)
        codes: Tensor
        if self.kind == "encodec":
            [codes] = self.model.encode(waves, bandwidth=self.spec.bandwidth).audio_codes  # of chunks, but it has one
        else:
            codes = self.model.encode(waves, **{CODEBOOKS[self.kind]: self.spec.codebooks}).audio_codes
        return codes

    @torch.inference_mode()
    def latents(self, samples: Tensor) -> Tensor:
        output = self.model.encoder(self._waves(samples))
        # Mimi's has several fields; with earlier transformers it is a tensor, at twice the frame rate.
        latents: Tensor = getattr(output, "latents", output)
        return latents

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> Tensor:
        length = codes.shape[-1] * self.spec.hop
        codes = codes.to(self.device)
        if self.kind == "encodec":
            values = self.model.decode(codes[None], [None]).audio_values
        else:
            values = self.model.decode(audio_codes=codes).audio_values
        samples = values.reshape(len(codes), -1)[:, :length]
        return nn.functional.pad(samples, (0, length - samples.shape[1]))  # DAC of odd strides lacks some samples

    def _waves(self, samples: Tensor) -> Tensor:
        """(note, sample) -> (note, channel, sample); DAC itself would leave out a part of a hop at the end."""
        missing = -samples.shape[-1] % self.spec.hop if self.kind == "dac" else 0
        return nn.functional.pad(samples.to(self.device), (0, missing))[:, None]


def describe_hugging_face(name: str, bandwidth: float | None, weights: Path | None) -> Codec:
    """As `codec_spec`, for a name that begins with hf:. `weights`: the folder of its files; None: where `name` says.

    Raises:
        CodecError: no such folder or repository, or a model that is no codec of flat int16 codes.
    """
    folder = _find_folder(name, weights)
    config = _read_config(name, folder)
    if getattr(config, "audio_channels", 1) != 1 or any(getattr(config, field, None) for field in IN_SEGMENTS):
        raise CodecError(
            f"{name}: not supported, because it is stereo, or encodes overlapping segments or keeps a loudness for "
            "each, which a flat sequence of codes cannot carry"
        )
    if config.codebook_size > LARGEST_CODEBOOK:
        raise CodecError(
            f"{name}: not supported, because its codes go up to {config.codebook_size - 1}, and int16 ends at "
            f"{LARGEST_CODEBOOK - 1}"
        )
    try:
        rate = config.sampling_rate
        hop = round(rate / config.frame_rate) if config.model_type == "mimi" else config.hop_length
        bandwidth, codebooks = _choose_bandwidth(name, config, rate / hop, bandwidth)
    except (ArithmeticError, StopIteration, TypeError, ValueError) as error:
        raise CodecError(f"{folder / CONFIG}: is damaged ({first_line(error)}); {CURE}") from error
    block = {
        "name": name,
        "weights_sha256": sha256_of(folder / WEIGHTS),
        "sample_rate": rate,
        "hop": hop,
        "codebooks": codebooks,
        "codebook_size": config.codebook_size,
        "bandwidth": bandwidth,
    }
    return to_dataclass(Codec, block, f"{folder / CONFIG}:", CURE, CodecError)


def load_hugging_face(spec: Codec, weights: Path | None, device: torch.device) -> HuggingFaceCodec:
    """Load the codec of this spec. Raises CodecError: its files are missing, damaged or of another model."""
    transformers = import_transformers(spec.name)
    folder = _find_folder(spec.name, weights)
    config = _read_config(spec.name, folder)
    try:
        model, report = getattr(transformers, CLASSES[config.model_type]).from_pretrained(
            folder, config=config, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # damaged weights, or other shapes: each has its own kind
        raise CodecError(
            f"{folder / WEIGHTS}: is damaged, or does not fit {CONFIG} ({first_line(error)}); {CURE}"
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise CodecError(f"{folder / WEIGHTS}: not the weights of {CONFIG}: tensor {missing[0]} is missing")
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CodecError(f"{folder / WEIGHTS}: damaged, tensor {name} is not finite; {CURE}")
    model.eval().requires_grad_(False).to(device)
    return HuggingFaceCodec(spec, device, model)


def _find_folder(name: str, weights: Path | None) -> Path:
    """The folder of a codec's config and weights; those of a repository are downloaded, once. Raises CodecError."""
    source = name.removeprefix(HUGGING_FACE)
    folder = weights or Path(source)
    if folder.is_dir() and (weights or source):
        for file in (CONFIG, WEIGHTS):
            if not (folder / file).is_file():
                raise CodecError(f"{folder / file}: missing; `save_pretrained` of transformers writes it")
        return folder
    if weights is not None:
        raise CodecError(f"{weights}: no such folder; {name} wants one with {CONFIG} and {WEIGHTS}")
    try:
        folder = fetch_repository(source, (CONFIG, WEIGHTS))
    except UserError as error:
        raise CodecError(
            f"{HUGGING_FACE}{error.message}; name the folder of its files with --weights FOLDER"
        ) from error
    return _find_folder(name, folder)


def _read_config(name: str, folder: Path) -> Any:
    """The model's config. Raises CodecError: damaged, or of no codec that there is here."""
    transformers = import_transformers(name)
    try:
        config = transformers.AutoConfig.from_pretrained(folder)
    except Exception as error:  # no JSON, an unknown type, fields of another type: each has its own kind
        raise CodecError(f"{folder / CONFIG}: is damaged ({first_line(error)}); {CURE}") from error
    if config.model_type not in CLASSES:
        raise CodecError(f"{name}: is a model of type {config.model_type}; codecs are {', '.join(CLASSES)}")
    return config


def _choose_bandwidth(name: str, config: Any, frame_rate: float, bandwidth: float | None) -> tuple[float | None, int]:
    """(bandwidth, codebooks) of the bandwidth that is asked for.

    EnCodec has those of its config, and the lowest by default. DAC and Mimi have one for each number of codebooks, to
    three digits; all codebooks are the default, and then the bandwidth is None.

    Raises:
        CodecError: a bandwidth that it does not have.
    """
    bits = frame_rate * math.log2(config.codebook_size)  # a second, of one codebook
    is_encodec = config.model_type == "encodec"
    if is_encodec:
        choices = {float(each): max(1, math.floor(1000 * each / bits)) for each in config.target_bandwidths}
        default = next(iter(choices))
    else:
        is_dac = config.model_type == "dac"
        first, last = (1, config.n_codebooks) if is_dac else (config.num_semantic_quantizers, config.num_quantizers)
        choices = {float(f"{bits * codebooks / 1000:.3g}"): codebooks for codebooks in range(first, last + 1)}
        default = max(choices)
    bandwidth = default if bandwidth is None else bandwidth
    if bandwidth not in choices:
        raise CodecError(f"bandwidth {bandwidth:g}: {name} has {', '.join(f'{each:g}' for each in choices)} kbps")
    return bandwidth if is_encodec or bandwidth != default else None, choices[bandwidth]


def import_transformers(name: str) -> Any:
    try:
        with without_torchaudio(None):
            import transformers

            for kind in CLASSES.values():
                getattr(transformers, kind)  # imports it
            transformers.utils.logging.disable_progress_bar()
            transformers.utils.logging.set_verbosity_error()  # what is wrong with weights is said by an error
    except ImportError as error:
        raise CodecError(f"{name}: needs transformers ({first_line(error)}); pip install '.[codecs]'") from error
    return transformers
