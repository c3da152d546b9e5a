"""The decoder and the heads on a CPU: each position is a call of the compiled loops."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from trainer.cached_decoder import empty, keep_rows, layers_of, norm_weight, rotary_positions
from trainer.cpu.attention import cache_shapes, fill
from trainer.cpu.intrinsics import PAIR
from trainer.cpu.products import pack
from trainer.cpu.step import add_codes, decode, project
from trainer.model import NoteModel


class CpuWeights:
    """A model's weights in the order in which the loops read them; those of the heads in float32."""

    @torch.inference_mode()
    def __init__(self, model: NoteModel) -> None:
        self.model = model
        self.layers = layers_of(model)
        by_kind = zip(*(layer.weights for layer in self.layers), strict=True)
        stacked = [np.stack([_packed(weight) for weight in kind]) for kind in by_kind]
        self.decoder = [*stacked, to_numpy(norm_weight(model.net.attn_layers.final_norm))]  # as `decode` takes them
        self.heads = [_packed(weight) for weight in model.heads.parameters()]
        self.codes = [len(weight) for weight in model.heads.parameters()]
        self.depth: list[list[np.ndarray]] = []  # as `add_codes` takes them, of each codebook but the first
        if model.within is not None:
            embedding = to_numpy(model.within.embedding.weight).reshape(-1, model.within.size, self.decoder[-1].size)
            for step in model.within.steps:
                self.depth.append([embedding, *(_packed(parameter) for parameter in step.parameters())])

    def code_logits(self, hidden: Tensor, codebook: int, before: Tensor) -> Tensor:
        """`NoteModel.code_logits` of (note, feature) float32."""
        states = hidden.numpy()
        if self.depth and codebook:
            states = add_codes(states, before.contiguous().numpy(), *self.depth[codebook - 1])
        head = codebook % len(self.heads)
        return torch.from_numpy(project(states, self.heads[head], self.codes[head]))


class CpuDecoder:
    """The decoder with a cache of keys and values: it takes the next positions and attends to all before them."""

    @torch.inference_mode()
    def __init__(self, weights: CpuWeights, notes: int) -> None:
        """Decoders may share the weights."""
        self.weights = weights
        model, first = weights.model, weights.layers[0]
        shapes = cache_shapes(model.positions, first.head_width, first.cache_dtype.itemsize)
        self.keys, self.values = (  # (layer, note, head, block, number)
            empty((len(weights.layers), notes, first.heads, *shape), first.cache_dtype, torch.device("cpu"))
            for shape in shapes
        )
        self.rotary = rotary_positions(model, first.head_width)
        self.position = 0  # that comes next

    @torch.inference_mode()
    def feed(self, ids: Tensor) -> Tensor:
        """Take the next positions, (note, position, id); return the hidden states of the last, (note, width)."""
        positions = ids.shape[1]
        assert self.position == 0 or positions == 1, "several positions at once only at the beginning"
        x = self.weights.model.net.token_emb(ids)
        if positions == 1:
            hidden: Tensor = x[:, 0]
            rotary = torch.view_as_real(self.rotary[self.position]).numpy()
            caches = to_numpy(self.keys), to_numpy(self.values)
            decode(hidden.numpy(), rotary, *caches, self.position, *self.weights.decoder)
        else:
            hidden = self._feed_several(x)
        self.position += positions
        return hidden

    @torch.inference_mode()
    def keep(self, rows: Tensor) -> None:
        """Go on with some of the notes alone: (note,) rows in ascending order."""
        blocks = -(-self.position // PAIR)
        self.keys = keep_rows(self.keys, rows, 1, (slice(blocks), slice(None)))
        self.values = keep_rows(self.values, rows, 1, (slice(blocks * PAIR * PAIR),))

    def _feed_several(self, x: Tensor) -> Tensor:
        """All layers at the first positions at once: (note, position, width) -> those of the last, (note, width)."""
        notes, positions, _ = x.shape
        first = self.weights.layers[0]
        past = empty((2, notes, first.heads, positions, first.head_width), first.cache_dtype, x.device)
        for layer, keys, values in zip(self.weights.layers, self.keys, self.values, strict=True):
            x = x + layer.attend(x, past, slice(positions), self.rotary[:positions])
            x = x + layer.feed_forward(x)
            fill(to_numpy(past), to_numpy(keys), to_numpy(values))
        return layer_norm(x[:, -1], x.shape[-1:], norm_weight(self.weights.model.net.attn_layers.final_norm))


def to_numpy(tensor: Tensor) -> np.ndarray:
    """The same memory as an array; bfloat16 as uint16, as the loops read it."""
    array: np.ndarray = tensor.detach().view(torch.uint16 if tensor.dtype == torch.bfloat16 else tensor.dtype).numpy()
    return array


def _packed(weight: Tensor) -> np.ndarray:
    """A matrix in the order of `pack`; a vector as it is."""
    return to_numpy(weight) if weight.ndim == 1 else pack(to_numpy(weight))
