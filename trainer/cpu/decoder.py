"""The decoder and the heads on a CPU: each position is a call of the compiled loops."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from trainer.cached_decoder import CachedDecoder, layers_of, norm_weight
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


class CpuDecoder(CachedDecoder):
    """Takes the next positions and attends to all before them."""

    @torch.inference_mode()
    def __init__(self, weights: CpuWeights, notes: int) -> None:
        """Decoders may share the weights."""
        super().__init__(weights.model, weights.layers, notes)
        self.weights = weights.decoder
        self.position = 0  # that comes next

    @torch.inference_mode()
    def feed(self, ids: Tensor) -> Tensor:
        """Take the next positions, (note, position, id); return the hidden states of the last, (note, width)."""
        positions = ids.shape[1]
        assert self.position == 0 or positions == 1, "several positions at once only at the beginning"
        x = self.embed(ids)
        if positions == 1:
            hidden = x[:, 0]
            rotary = torch.view_as_real(self.rotary[self.position])
            decode(hidden.numpy(), rotary.numpy(), to_numpy(self.cache), self.position, *self.weights)
        else:
            x = self.run_layers(x, slice(None), slice(positions))
            hidden = layer_norm(x[:, -1], x.shape[-1:], self.final_norm)
        self.position += positions
        return hidden


def to_numpy(tensor: Tensor) -> np.ndarray:
    """The same memory as an array; bfloat16 as uint16, as the loops read it."""
    array: np.ndarray = tensor.detach().view(torch.uint16 if tensor.dtype == torch.bfloat16 else tensor.dtype).numpy()
    return array


def _packed(weight: Tensor) -> np.ndarray:
    """A matrix in the order of `pack`; a vector as it is."""
    return to_numpy(weight) if weight.ndim == 1 else pack(to_numpy(weight))
