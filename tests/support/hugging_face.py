"""Codecs of transformers with a few channels, whose codebooks are really used."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.codec.hugging_face import import_transformers
from tests.support.notes import tone

SMALL: dict[str, tuple[str, dict[str, Any]]] = {  # name -> class, fields of its config
    "encodec": ("Encodec", {
        "num_filters": 4, "sampling_rate": 32_000, "upsampling_ratios": [8, 5, 4, 4], "codebook_size": 64,
        "target_bandwidths": [1.2], "hidden_size": 16,
    }),
    "dac": ("Dac", {
        "encoder_hidden_size": 4, "decoder_hidden_size": 64, "n_codebooks": 3, "codebook_size": 256,
        "sampling_rate": 44_100,
    }),
    "dac of an odd stride": ("Dac", {
        "encoder_hidden_size": 4, "decoder_hidden_size": 64, "n_codebooks": 3, "codebook_size": 256,
        "sampling_rate": 16_000, "downsampling_ratios": [2, 4, 5, 8],
    }),
    "mimi": ("Mimi", {
        "hidden_size": 16, "num_filters": 4, "num_hidden_layers": 1, "intermediate_size": 32, "num_attention_heads": 2,
        "num_key_value_heads": 2, "num_quantizers": 4, "codebook_size": 128, "codebook_dim": 8,
        "vector_quantization_hidden_dimension": 8, "upsample_groups": 16,
    }),
}  # fmt: skip


def transformers_module() -> Any:
    return import_transformers("a test")


def save_small(name: str, folder: Path) -> Path:
    """Save a codec of `SMALL` with random weights; return its folder."""
    transformers = transformers_module()
    kind, fields = SMALL[name]
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**fields))
    fill_codebooks(model.eval())
    model.save_pretrained(folder)
    return folder


@torch.no_grad()
def fill_codebooks(model: Any) -> None:
    """Fill EnCodec's and Mimi's codebooks, which begin at zero, with vectors that they get to quantize."""
    codebooks = [module for module in model.modules() if hasattr(module, "quantize")]
    for codebook in codebooks:
        codebook.encode = partial(_fill_and_encode, codebook, codebook.encode)
    notes = [tone(pitch, 2.0, model.config.sampling_rate) for pitch in range(40, 88, 4)]
    model.encode(torch.from_numpy(np.stack(notes))[:, None])
    for codebook in codebooks:
        del codebook.encode


def _fill_and_encode(codebook: Any, encode: Callable[[torch.Tensor], torch.Tensor], states: torch.Tensor) -> Any:
    entries = codebook.embed_sum if hasattr(codebook, "embed_sum") else codebook.embed
    rows = states.reshape(-1, states.shape[-1])
    entries.copy_(rows[torch.randperm(len(rows))[: len(entries)]])
    codebook._embed = None  # Mimi's cache of them
    return encode(states)
