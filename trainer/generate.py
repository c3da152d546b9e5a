"""Labels -> codes: one position at a time over a whole batch, with keys and values kept in buffers made once.

x-transformers' own cache grows by concatenation and rotates all keys again at each step; here each step writes one
row of a buffer and reads the rest. Every token comes from the head of its own codebook, so what is sampled can always
be decoded. Knows no files.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from trainer.errors import ConfigError
from trainer.model import NoteModel


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn from the model's logits."""

    temperature: float = 1.0  # 0: always the likeliest
    top_k: int = 0  # only the likeliest k; 0: all
    top_p: float = 1.0  # only the likeliest whose probabilities reach p together
    min_p: float = 0.0  # only those at least this share of the likeliest's probability
    guidance: float = 1.0  # how far to go from the logits without labels to those with; 1: with labels

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ConfigError(f"--temperature {self.temperature:g}: must be 0 or more")
        if self.top_k < 0:
            raise ConfigError(f"--top-k {self.top_k}: must be 0 or more")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"--top-p {self.top_p:g}: must be more than 0 and at most 1")
        if not 0 <= self.min_p <= 1:
            raise ConfigError(f"--min-p {self.min_p:g}: must be between 0 and 1")


class CachedDecoder:
    """A `NoteModel` that takes a few tokens at a time and remembers the ones before."""

    def __init__(self, model: NoteModel, notes: int) -> None:
        layers = model.net.attn_layers
        self.model = model
        self.blocks = [
            (norms[0], block, kind) for (norms, block, _), kind in zip(layers.layers, layers.layer_types, strict=True)
        ]
        attention = next(block for _, block, kind in self.blocks if kind == "a")
        weight = attention.to_k.weight
        self.heads = attention.heads
        self.places = model.positions
        shape = (notes, self.heads, self.places, weight.shape[0] // self.heads)
        self.cache = [(weight.new_empty(shape), weight.new_empty(shape)) for _, _, kind in self.blocks if kind == "a"]
        angles, _ = layers.rotary_pos_emb.forward_from_seq_len(self.places)  # (1, place, rotated)
        self.cos, self.sin = angles[0].cos(), angles[0].sin()
        self.place = 0

    @property
    def bytes(self) -> int:
        """Of the keys and values kept."""
        return sum(buffer.nbytes for pair in self.cache for buffer in pair)

    def feed(self, ids: Tensor) -> Tensor:
        """Take the next positions, (note, position, id); return their hidden states, (note, position, width)."""
        assert self.place == 0 or ids.shape[1] == 1, "several positions at once only at the beginning"
        x = self.model.net.token_emb(ids)
        cache = iter(self.cache)
        for norm, block, kind in self.blocks:
            normed = norm(x)
            x = x + (self._attend(block, normed, *next(cache)) if kind == "a" else block(normed))
        self.place += ids.shape[1]
        return self.model.net.attn_layers.final_norm(x)

    def _attend(self, block: Any, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        new = slice(self.place, self.place + x.shape[1])
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (note, head, token, feature)
            for project in (block.to_q, block.to_k, block.to_v)
        )
        keys[:, :, new] = self._rotated(k, new)
        values[:, :, new] = v
        out = scaled_dot_product_attention(
            self._rotated(q, new), keys[:, :, : new.stop], values[:, :, : new.stop], is_causal=x.shape[1] > 1
        )
        return block.to_out(out.transpose(1, 2).flatten(2))

    def _rotated(self, x: Tensor, places: slice) -> Tensor:
        """Rotary positions of x-transformers: the first features of a head turn, in neighbouring pairs."""
        cos, sin = self.cos[places], self.sin[places]
        turning, still = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
        a, b = turning[..., ::2], turning[..., 1::2]
        turned = torch.stack([-b, a], dim=-1).flatten(-2)
        return torch.cat([turning * cos + turned * sin, still], dim=-1)


@torch.inference_mode()
def generate(
    model: NoteModel,
    labels: Tensor,
    uniforms: Tensor,
    sampling: Sampling,
    prompts: Tensor | None = None,
    progress: Callable[[int], object] = lambda tokens: None,
) -> tuple[Tensor, Tensor]:
    """Sample notes.

    labels: (note, label) ids. uniforms: (note, token) numbers in [0, 1), one for each token of the result: a note's
    stream of chance is its own, whatever batch it is in. prompts: (note, token) raw codes, whole frames that the
    notes begin with. Returns raw codes with the prompts, (note, token), and each one's log-likelihood, (note, token).
    """
    notes, length = uniforms.shape
    codebooks = model.vocabulary.codebooks
    guided = sampling.guidance != 1
    if guided:
        labels = torch.cat([labels, labels.new_tensor([model.vocabulary.nones()]).expand_as(labels)])
    decoder = CachedDecoder(model, len(labels))
    codes = torch.zeros(notes, length, dtype=torch.long, device=labels.device)
    likelihoods = torch.zeros(notes, length, device=labels.device)
    given = 0 if prompts is None else prompts.shape[1]
    if prompts is not None:
        codes[:, :given] = prompts
    ids = model.inputs(labels, codes[:, :given].repeat(1 + guided, 1))
    for first in range(given, length, model.group):
        hidden = decoder.feed(ids)[:, -1]  # (note, width)
        for place in range(first, first + model.group):
            codebook = place % codebooks
            frame = codes[:, place - codebook : place].repeat(1 + guided, 1)
            logits = model.code_logits(hidden, codebook, frame).float()  # (note, code)
            if guided:
                told, untold = logits.chunk(2)
                logits = untold + sampling.guidance * (told - untold)
            drawn = draw(logits, uniforms[:, place], sampling)
            codes[:, place] = drawn
            likelihoods[:, place] = logits.log_softmax(-1).gather(1, drawn[:, None])[:, 0]
        ids = model.inputs(labels, codes[:, : first + model.group].repeat(1 + guided, 1))[:, -1:]
        progress(notes * model.group)
    return codes, likelihoods


def draw(logits: Tensor, uniforms: Tensor, sampling: Sampling) -> Tensor:
    """One code of each row: (note, code) logits and (note,) uniforms -> (note,), by the inverse of the distribution."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    probabilities = filtered(logits / sampling.temperature, sampling).softmax(-1)
    cumulative = probabilities.double().cumsum(-1)
    total = cumulative[:, -1:]
    drawn = torch.searchsorted(cumulative, uniforms[:, None].double() * total, right=True)
    last = (cumulative < total).sum(-1, keepdim=True)  # the last code that has any probability, against rounding
    return torch.minimum(drawn, last)[:, 0]


def filtered(logits: Tensor, sampling: Sampling) -> Tensor:
    """The logits with the codes that may not be drawn at minus infinity; the likeliest always stays."""
    if 0 < sampling.top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(sampling.top_k).values[:, -1:], -torch.inf)
    if sampling.top_p < 1:
        ordered, codes = logits.softmax(-1).sort(descending=True)
        before = ordered.cumsum(-1) - ordered  # probability of all likelier ones
        logits = logits.masked_fill((before >= sampling.top_p).scatter(1, codes, before >= sampling.top_p), -torch.inf)
    if sampling.min_p > 0:
        probabilities = logits.softmax(-1)
        least = sampling.min_p * probabilities.amax(-1, keepdim=True)
        logits = logits.masked_fill(probabilities < least, -torch.inf)
    return logits
