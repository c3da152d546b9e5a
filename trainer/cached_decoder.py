"""A model's decoder with a cache of keys and values that is made once.

x-transformers' own cache grows by concatenation and rotates all keys again at each step; here each step writes one
row of a buffer and reads the rest. Knows no codes.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, linear, scaled_dot_product_attention

from trainer.model import NoteModel


class Layer:
    """Attention and feed-forward of one layer, with the weights of x-transformers' modules.

    On a CPU, where prompts go through it, it computes in float32, whatever the dtype of the weights.
    """

    def __init__(self, attn_norm: Any, attn: Any, ffn_norm: Any, ffn: Any) -> None:
        qkv_proj = torch.cat([attn.to_q.weight, attn.to_k.weight, attn.to_v.weight])
        is_projected = isinstance(attn.to_out, nn.Linear)  # one head as wide as the model is added as it is
        out_proj = attn.to_out.weight if is_projected else torch.eye(len(qkv_proj) // 3).to(qkv_proj)
        up_proj, down_proj = ffn.ff[0][0], ffn.ff[-1]
        self.weights = [
            *(norm_weight(attn_norm), qkv_proj, out_proj),
            *(norm_weight(ffn_norm), up_proj.weight, up_proj.bias, down_proj.weight, down_proj.bias),
        ]
        self.cache_dtype = qkv_proj.dtype
        self.heads = attn.heads
        self.head_width = len(attn.to_k.weight) // self.heads

    def attend(self, x: Tensor, cache: Tensor, new: slice, rotary: Tensor) -> Tensor:
        """Compute what attention adds to x, (note, position, width), the positions `new`; their keys and values go into
        `cache`, (keys and values, note, head, position, feature)."""
        queries, cache[0, :, :, new], cache[1, :, :, new] = self._project(x, rotary)
        keys, values = cache[:, :, :, : new.stop].type_as(x)
        out = scaled_dot_product_attention(queries, keys, values, is_causal=x.shape[1] > 1)
        return linear(out.transpose(1, 2).flatten(2), self.weights[2].type_as(x))

    def attend_at(self, x: Tensor, cache: Tensor, position: Tensor, rotary: Tensor, is_visible: Tensor) -> Tensor:
        """`attend` at one position that only the device knows, (1,), to those of `cache` that are visible, (position,).

        All of `cache` is read, so what is not visible must be finite.
        """
        queries, keys, values = self._project(x, rotary)
        cache[0].index_copy_(2, position, keys.to(cache.dtype))
        cache[1].index_copy_(2, position, values.to(cache.dtype))
        keys, values = cache.type_as(x)
        out = scaled_dot_product_attention(queries, keys, values, attn_mask=is_visible[None])
        return linear(out.transpose(1, 2).flatten(2), self.weights[2].type_as(x))

    def _project(self, x: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries and keys, and values, each (note, head, position, feature)."""
        norm, qkv_proj = (weight.type_as(x) for weight in self.weights[:2])
        qkv = linear(layer_norm(x, x.shape[-1:], norm), qkv_proj)
        qkv = qkv.view(*x.shape[:2], 3, self.heads, self.head_width)
        queries_keys = qkv[:, :, :2].float()
        pairs = torch.view_as_complex(queries_keys.view(*queries_keys.shape[:-1], -1, 2))
        rotated = torch.view_as_real(pairs * rotary[:, None, None]).flatten(-2).type_as(x)
        queries, keys = rotated.transpose(1, 3).unbind(2)
        return queries, keys, qkv[:, :, 2].transpose(1, 2)

    def feed_forward(self, x: Tensor) -> Tensor:
        norm, up_proj, up_bias, down_proj, down_bias = (weight.type_as(x) for weight in self.weights[3:])
        return linear(gelu(linear(layer_norm(x, x.shape[-1:], norm), up_proj, up_bias)), down_proj, down_bias)


class CachedDecoder:
    """A `NoteModel`'s decoder with a cache: it takes the next positions and attends to all before them."""

    @torch.inference_mode()
    def __init__(self, model: NoteModel, layers: Sequence[Layer], notes: int) -> None:
        """`layers`: the model's, from `layers_of`; decoders may share them."""
        self.embed = model.net.token_emb
        self.layers = layers
        self.final_norm = norm_weight(model.net.attn_layers.final_norm)
        first = layers[0]
        shape = (len(layers), 2, notes, first.heads, model.positions, first.head_width)
        # (layer, keys and values, note, head, position, feature)
        self.cache = empty(shape, first.cache_dtype, self.final_norm.device)
        self.rotary = rotary_positions(model, first.head_width)

    def run_layers(self, x: Tensor, rows: slice, new: slice) -> Tensor:
        """All layers at the positions `new` of some rows: (row, position, width) to the same shape."""
        for layer, cache in zip(self.layers, self.cache, strict=True):
            x = x + layer.attend(x, cache[:, rows], new, self.rotary[new])
            x = x + layer.feed_forward(x)
        return x

    @torch.inference_mode()
    def keep(self, rows: Tensor, positions: int) -> None:
        """Go on with some of the notes alone: (note,) rows in ascending order. positions: that have been taken."""
        self.cache = keep_rows(self.cache, rows, 2, (slice(positions), slice(None)))


def keep_rows(cache: Tensor, rows: Tensor, axis: int, used: tuple[slice, ...]) -> Tensor:
    """Some notes of a cache, in the same memory. Its first axis are layers.

    rows: (note,) in ascending order, on `axis`. used: the part of the last axes that has been written.
    """
    shape = [*cache.shape]
    shape[axis] = len(rows)
    smaller = cache.flatten()[: math.prod(shape)].view(shape)  # no layer moves up
    for new, old in zip(smaller, cache, strict=True):
        new[..., *used] = old[..., *used].index_select(axis - 1, rows)
    return smaller


def rotary_positions(model: NoteModel, head_width: int) -> Tensor:
    """Of each position, by which complex number the pairs of features are turned: (position, pair of features)."""
    angles, _ = model.net.attn_layers.rotary_pos_emb.forward_from_seq_len(model.positions)
    angles = angles[0, :, ::2]  # neighbours rotate together: one complex number, one angle
    unrotated = angles.new_zeros(len(angles), head_width // 2 - angles.shape[1])
    angles = torch.cat([angles, unrotated], dim=1)
    return torch.polar(torch.ones_like(angles), angles)


def norm_weight(norm: Any) -> Tensor:
    """The scale of x-transformers' LayerNorm, which it stores as the difference from 1."""
    return norm.gamma + float(norm.unit_offset)


@torch.inference_mode()
def layers_of(model: NoteModel) -> list[Layer]:
    """The layers of a model's decoder. x-transformers lists attention and feed-forward in turn."""
    modules = model.net.attn_layers.layers
    return [
        Layer(attn_norms[0], attn, ffn_norms[0], ffn)
        for (attn_norms, attn, _), (ffn_norms, ffn, _) in zip(modules[::2], modules[1::2], strict=True)
    ]


def empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A buffer. On a CPU numpy's, which asks the system for large pages: they are read faster."""
    if device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    size = math.prod(shape) * dtype.itemsize
    return torch.from_numpy(np.empty(size, np.uint8)).view(dtype).view(shape)
