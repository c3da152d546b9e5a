"""Prefixes -> codes: one token at a time over a whole batch, with keys and values kept in buffers made once.

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
        self.places = model.net.max_seq_len
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
        """Take the next tokens, (note, token) ids; return their hidden states, (note, token, width)."""
        assert self.place == 0 or ids.shape[1] == 1, "several tokens at once only at the beginning"
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
    prefixes: Tensor,
    uniforms: Tensor,
    sampling: Sampling,
    prompts: Tensor | None = None,
    progress: Callable[[int], object] = lambda tokens: None,
) -> tuple[Tensor, Tensor]:
    """Sample notes.

    prefixes: (note, prefix) ids. uniforms: (note, token) numbers in [0, 1), one for each token of the result: a note's
    stream of chance is its own, whatever batch it is in. prompts: (note, token) raw codes that notes begin with.
    Returns raw codes (note, token) with the prompts, and the log-likelihood of each token, (note, token).
    """
    notes, length = uniforms.shape
    guided = sampling.guidance != 1
    if guided:
        nones = torch.tensor([model.vocabulary.nones()], device=prefixes.device).expand_as(prefixes)
        prefixes = torch.cat([prefixes, nones])
    decoder = CachedDecoder(model, len(prefixes))
    codes = torch.zeros(notes, length, dtype=torch.long, device=prefixes.device)
    likelihoods = torch.zeros(notes, length, device=prefixes.device)
    given = 0
    ids = prefixes
    if prompts is not None:
        given = prompts.shape[1]
        codes[:, :given] = prompts
        ids = torch.cat([prefixes, model.ids(codes[:, :given]).repeat(1 + guided, 1)], dim=1)
    codebooks = model.vocabulary.codebooks
    for place in range(given, length):
        codebook = place % codebooks
        logits = model.head(codebook)(decoder.feed(ids)[:, -1]).float()  # (note, code)
        if guided:
            told, untold = logits.chunk(2)
            logits = untold + sampling.guidance * (told - untold)
        drawn = draw(logits, uniforms[:, place], sampling)
        codes[:, place] = drawn
        likelihoods[:, place] = logits.log_softmax(-1).gather(1, drawn[:, None])[:, 0]
        ids = (drawn + model.vocabulary.offset(codebook)).repeat(1 + guided)[:, None]
        progress(notes)
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
