"""Labels -> codes: one position at a time over a whole batch, with keys and values kept in buffers made once.

x-transformers' own cache grows by concatenation and rotates all keys again at each step; here each step writes one
row of a buffer and reads the rest. Every token comes from the head of its own codebook, so what is sampled can always
be decoded. Knows no files.
"""

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, linear, scaled_dot_product_attention

from trainer import cpu_kernels
from trainer.errors import ConfigError
from trainer.model import NoteModel

SHARE = 4  # notes that are worth a thread


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


class Layer:
    """Attention and feed-forward of one depth, with the weights of x-transformers' modules.

    On a CPU all is computed in float32, whatever the weights are kept in: few have units for anything narrower.
    """

    def __init__(self, attention_norm: Any, attention: Any, feed_norm: Any, feed: Any) -> None:
        project = torch.cat([attention.to_q.weight, attention.to_k.weight, attention.to_v.weight])
        widen, narrow = feed.ff[0][0], feed.ff[-1]
        kept = [
            *(norm_weight(attention_norm), project, attention.to_out.weight),
            *(norm_weight(feed_norm), widen.weight, widen.bias, narrow.weight, narrow.bias),
        ]
        self.kept = project.dtype
        self.heads = attention.heads
        self.head_width = len(attention.to_k.weight) // self.heads
        on_cpu = project.device.type == "cpu"
        self.weights = [weight.float() if on_cpu else weight for weight in kept]
        self.arrays = [array(weight.contiguous()) for weight in kept] if on_cpu else []  # for `cpu_kernels.layer`

    def attend(self, x: Tensor, cache: Tensor, new: slice, turns: Tensor) -> Tensor:
        """What attention adds to x, (note, position, width), the positions `new`; it keeps their keys and values in
        `cache`, (keys and values, note, head, position, feature)."""
        norm, project, to_out = self.weights[:3]
        projected = linear(layer_norm(x, x.shape[-1:], norm), project)
        projected = projected.view(*x.shape[:2], 3, self.heads, self.head_width)
        turning = projected[:, :, :2].float()
        pairs = torch.view_as_complex(turning.view(*turning.shape[:-1], -1, 2))
        turned = torch.view_as_real(pairs * turns[:, None, None]).flatten(-2).type_as(x)
        queries, keys = turned.transpose(1, 3).unbind(2)  # (note, head, position, feature)
        cache[0, :, :, new] = keys
        cache[1, :, :, new] = projected[:, :, 2].transpose(1, 2)
        keys, values = cache[:, :, :, : new.stop].type_as(x)
        out = scaled_dot_product_attention(queries, keys, values, is_causal=x.shape[1] > 1)
        return linear(out.transpose(1, 2).flatten(2), to_out)

    def feed_forward(self, x: Tensor) -> Tensor:
        norm, widen, widen_bias, narrow, narrow_bias = self.weights[3:]
        return linear(gelu(linear(layer_norm(x, x.shape[-1:], norm), widen, widen_bias)), narrow, narrow_bias)


class CachedDecoder:
    """A `NoteModel`'s decoder that takes a few positions at a time and remembers the ones before."""

    @torch.inference_mode()
    def __init__(self, model: NoteModel, layers: Sequence[Layer], notes: int) -> None:
        """`layers`: the model's, as `layers_of` has them; decoders may share them."""
        self.embed = model.net.token_emb
        self.layers = layers
        self.final = norm_weight(model.net.attn_layers.final_norm)
        one = self.layers[0]
        shape = (len(layers), 2, notes, one.heads, model.positions, one.head_width)
        # (layer, keys and values, note, head, position, feature)
        self.cache = empty(shape, one.kept, self.final.device)
        angles, _ = model.net.attn_layers.rotary_pos_emb.forward_from_seq_len(model.positions)
        angles = angles[0, :, ::2]  # neighbours turn together: one complex number, one angle
        still = angles.new_zeros(len(angles), one.head_width // 2 - angles.shape[1])
        angles = torch.cat([angles, still], dim=1)
        self.turns = torch.polar(torch.ones_like(angles), angles)  # (position, pair of features)
        self.place = 0

    @torch.inference_mode()
    def feed(self, ids: Tensor) -> Tensor:
        """Take the next positions, (note, position, id); return their hidden states, (note, position, width)."""
        assert self.place == 0 or ids.shape[1] == 1, "several positions at once only at the beginning"
        x = self.embed(ids)
        if ids.shape[1] == 1 and x.device.type == "cpu":
            self._feed_one(x)
        else:
            new = slice(self.place, self.place + ids.shape[1])
            for layer, cache in zip(self.layers, self.cache, strict=True):
                x = x + layer.attend(x, cache, new, self.turns[new])
                x = x + layer.feed_forward(x)
        self.place += ids.shape[1]
        return layer_norm(x, x.shape[-1:], self.final)

    def _feed_one(self, x: Tensor) -> None:
        """All layers at one position; changes x, (note, 1, width)."""
        turns, caches, state = torch.view_as_real(self.turns[self.place]).numpy(), array(self.cache), x[:, 0].numpy()
        for layer, cache in zip(self.layers, caches, strict=True):
            cpu_kernels.layer(state, turns, cache, self.place, *layer.arrays)


def norm_weight(norm: Any) -> Tensor:
    """The scale of x-transformers' LayerNorm, which it keeps as the difference from 1."""
    return norm.gamma + float(norm.unit_offset)


@torch.inference_mode()
def layers_of(model: NoteModel) -> list[Layer]:
    """The layers of a model's decoder."""
    return [
        Layer(attention_norms[0], attention, feed_norms[0], feed)
        for (attention_norms, attention, _), (feed_norms, feed, _) in in_pairs(model.net.attn_layers.layers)
    ]


def in_pairs(layers: Any) -> Iterable[tuple[Any, Any]]:
    """x-transformers lists attention and feed-forward in turn."""
    return zip(layers[::2], layers[1::2], strict=True)


def arrange(model: NoteModel, dtype: torch.dtype) -> None:
    """Make the model ready to generate: in this precision, its matrices in the order in which they are read.

    On a CPU only the layers' matrices are in this precision: they are what each step reads. Buffers keep theirs: angles
    of rotary positions need all of float32.
    """
    if model.offsets.device.type == "cpu":
        chosen = [parameter for parameter in model.net.attn_layers.parameters() if parameter.ndim > 1]
    else:
        chosen = [*model.parameters()]
    for parameter in chosen:
        parameter.data = parameter.data.to(dtype)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.weight.data = by_columns(module.weight.data)


def by_columns(weight: Tensor) -> Tensor:
    """The same matrix, stored column by column; a vector as it is.

    With a few notes, torch's product with a matrix that has more rows than columns takes up to three times as long if
    it is stored by rows.
    """
    return weight.t().contiguous().t()


def empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A buffer. On a CPU numpy's, which asks the system for large pages: they are read faster."""
    if device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    size = math.prod(shape) * dtype.itemsize
    return torch.from_numpy(np.empty(size, np.uint8)).view(dtype).view(shape)


def array(tensor: Tensor) -> np.ndarray:
    """The same memory for numpy; bfloat16 as uint16, as `cpu_kernels` has it."""
    made: np.ndarray = tensor.detach().view(torch.uint16 if tensor.dtype == torch.bfloat16 else tensor.dtype).numpy()
    return made


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

    On a CPU the notes are shared out among torch's threads. A step's products are too small to gain from several.
    """
    layers = layers_of(model)
    before = torch.get_num_threads()
    threads = min(before, len(uniforms) // SHARE) if labels.device.type == "cpu" else 1
    if threads < 2:
        return _generate(model, layers, labels, uniforms, sampling, prompts, progress)
    stopped, lock = threading.Event(), threading.Lock()

    def report(tokens: int) -> None:
        if stopped.is_set():
            raise InterruptedError("another thread has stopped")
        with lock:
            progress(tokens)

    given = [None] * threads if prompts is None else prompts.tensor_split(threads)
    shares = zip(labels.tensor_split(threads), uniforms.tensor_split(threads), given, strict=True)
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = [pool.submit(_generate, model, layers, *share[:2], sampling, share[2], report) for share in shares]
        try:
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
        finally:
            stopped.set()  # Ctrl-C, or a fault in one thread, waits for a step of the others, not for their notes
            torch.set_num_threads(before)
    codes, likelihoods = zip(*(future.result() for future in futures), strict=True)
    return torch.cat(codes), torch.cat(likelihoods)


@torch.inference_mode()
def _generate(
    model: NoteModel,
    layers: Sequence[Layer],
    labels: Tensor,
    uniforms: Tensor,
    sampling: Sampling,
    prompts: Tensor | None,
    progress: Callable[[int], object],
) -> tuple[Tensor, Tensor]:
    """`generate`, in this thread."""
    notes, length = uniforms.shape
    codebooks = model.vocabulary.codebooks
    guided = sampling.guidance != 1 and labels.shape[1] > 0
    if guided:
        labels = torch.cat([labels, labels.new_tensor([model.vocabulary.nones()]).expand_as(labels)])

    def twice(codes: Tensor) -> Tensor:  # for the notes without labels
        return torch.cat([codes, codes]) if guided else codes

    decoder = CachedDecoder(model, layers, len(labels))
    codes = torch.zeros(notes, length, dtype=torch.long, device=labels.device)
    likelihoods = torch.zeros(notes, length, device=labels.device)
    given = 0 if prompts is None else prompts.shape[1]
    if prompts is not None:
        codes[:, :given] = prompts
    ids = model.inputs(labels, twice(codes[:, :given]))
    for first in range(given, length, model.group):
        hidden = decoder.feed(ids)[:, -1]  # (note, width)
        for place in range(first, first + model.group):
            codebook = place % codebooks
            frame = twice(codes[:, place - codebook : place])
            logits = model.code_logits(hidden, codebook, frame).float()  # (note, code)
            if guided:
                told, untold = logits.chunk(2)
                logits = untold + sampling.guidance * (told - untold)
            drawn = draw(logits, uniforms[:, place], sampling)
            codes[:, place] = drawn
            likelihoods[:, place] = logits.log_softmax(-1).gather(1, drawn[:, None])[:, 0]
        ids = model.ids(labels, twice(codes[:, first : first + model.group]), first)
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
