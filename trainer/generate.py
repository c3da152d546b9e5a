"""Sampling: labels -> codes, one position at a time over a whole batch, with a cache of keys and values made once.

x-transformers' own cache grows by concatenation and rotates all keys again at each step; here each step writes one
row of a buffer and reads the rest. Every token comes from the head of its own codebook, so what is sampled can always
be decoded. Beyond the window sampling goes on by sliding it. Knows no files.
"""

import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, linear, scaled_dot_product_attention

from trainer.errors import ConfigError
from trainer.model import NoteModel

NOTES_PER_THREAD = 4  # fewer are not worth another thread
LOWEST, HIGHEST = 1e-6, 1e6  # of temperatures and guidance: beyond, logits leave float32
LARGEST = 1 << 20  # codes
OVERLAP = 0.5  # share of the window that stays when it slides
MOST_ENDED = 0.25  # share of a batch: with more ended notes in it, they are taken out


@dataclass(frozen=True)
class Sampling:
    """Settings that turn logits into a sampled code."""

    temperature: float = 1.0  # 0: always the likeliest
    top_k: int = 0  # only the likeliest k; 0: all
    top_p: float = 1.0  # only the likeliest whose probabilities reach p together
    min_p: float = 0.0  # only those at least this share of the likeliest's probability
    guidance: float = 1.0  # classifier-free: 0: logits without labels; 1: with labels; above 1: further on from there

    def __post_init__(self) -> None:
        if self.temperature != 0 and not LOWEST <= self.temperature <= HIGHEST:
            raise ConfigError(f"--temperature {self.temperature:g}: must be 0, or from {LOWEST:g} to {HIGHEST:g}")
        if not abs(self.guidance) <= HIGHEST:
            raise ConfigError(f"--guidance {self.guidance:g}: must be from {-HIGHEST:g} to {HIGHEST:g}")
        if not 0 <= self.top_k <= LARGEST:
            raise ConfigError(f"--top-k {self.top_k}: must be from 0 to {LARGEST}")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"--top-p {self.top_p:g}: must be more than 0 and at most 1")
        if not 0 <= self.min_p <= 1:
            raise ConfigError(f"--min-p {self.min_p:g}: must be between 0 and 1")


class Layer:
    """Attention and feed-forward of one layer, with the weights of x-transformers' modules.

    On a CPU all is computed in float32, whatever the dtype of the weights: few have units for anything narrower.
    """

    def __init__(self, attn_norm: Any, attn: Any, ffn_norm: Any, ffn: Any) -> None:
        qkv_proj = torch.cat([attn.to_q.weight, attn.to_k.weight, attn.to_v.weight])
        is_projected = isinstance(attn.to_out, nn.Linear)  # one head as wide as the model is added as it is
        out_proj = attn.to_out.weight if is_projected else torch.eye(len(qkv_proj) // 3).to(qkv_proj)
        up_proj, down_proj = ffn.ff[0][0], ffn.ff[-1]
        weights = [
            *(norm_weight(attn_norm), qkv_proj, out_proj),
            *(norm_weight(ffn_norm), up_proj.weight, up_proj.bias, down_proj.weight, down_proj.bias),
        ]
        self.cache_dtype = qkv_proj.dtype
        self.heads = attn.heads
        self.head_width = len(attn.to_k.weight) // self.heads
        on_cpu = qkv_proj.device.type == "cpu"
        self.weights = [weight.float() if on_cpu else weight for weight in weights]
        self.arrays = [to_numpy(weight.contiguous()) for weight in weights] if on_cpu else []  # for cpu_kernels.layer

    def attend(self, x: Tensor, cache: Tensor, new: slice, rotary: Tensor) -> Tensor:
        """Compute what attention adds to x, (note, position, width), the positions `new`; their keys and values go into
        `cache`, (keys and values, note, head, position, feature)."""
        norm, qkv_proj, out_proj = self.weights[:3]
        qkv = linear(layer_norm(x, x.shape[-1:], norm), qkv_proj)
        qkv = qkv.view(*x.shape[:2], 3, self.heads, self.head_width)
        queries_keys = qkv[:, :, :2].float()
        pairs = torch.view_as_complex(queries_keys.view(*queries_keys.shape[:-1], -1, 2))
        rotated = torch.view_as_real(pairs * rotary[:, None, None]).flatten(-2).type_as(x)
        queries, keys = rotated.transpose(1, 3).unbind(2)  # (note, head, position, feature)
        cache[0, :, :, new] = keys
        cache[1, :, :, new] = qkv[:, :, 2].transpose(1, 2)
        keys, values = cache[:, :, :, : new.stop].type_as(x)
        out = scaled_dot_product_attention(queries, keys, values, is_causal=x.shape[1] > 1)
        return linear(out.transpose(1, 2).flatten(2), out_proj)

    def feed_forward(self, x: Tensor) -> Tensor:
        norm, up_proj, up_bias, down_proj, down_bias = self.weights[3:]
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
        angles, _ = model.net.attn_layers.rotary_pos_emb.forward_from_seq_len(model.positions)
        angles = angles[0, :, ::2]  # neighbours rotate together: one complex number, one angle
        unrotated = angles.new_zeros(len(angles), first.head_width // 2 - angles.shape[1])
        angles = torch.cat([angles, unrotated], dim=1)
        self.rotary = torch.polar(torch.ones_like(angles), angles)  # (position, pair of features)
        self.position = 0

    @torch.inference_mode()
    def feed(self, ids: Tensor) -> Tensor:
        """Take the next positions, (note, position, id); return their hidden states, (note, position, width)."""
        assert self.position == 0 or ids.shape[1] == 1, "several positions at once only at the beginning"
        x = self.embed(ids)
        if ids.shape[1] == 1 and x.device.type == "cpu":
            self._feed_cpu(x)
        else:
            new = slice(self.position, self.position + ids.shape[1])
            for layer, cache in zip(self.layers, self.cache, strict=True):
                x = x + layer.attend(x, cache, new, self.rotary[new])
                x = x + layer.feed_forward(x)
        self.position += ids.shape[1]
        return layer_norm(x, x.shape[-1:], self.final_norm)

    @torch.inference_mode()
    def keep(self, rows: Tensor) -> None:
        """Go on with some of the notes alone: (note,) rows in ascending order."""
        used = slice(0, self.position)
        shape = (*self.cache.shape[:2], len(rows), *self.cache.shape[3:])
        smaller = self.cache.flatten()[: math.prod(shape)].view(shape)  # the same memory; no layer moves up
        for new, old in zip(smaller, self.cache, strict=True):
            new[:, :, :, used] = old[:, :, :, used][:, rows]
        self.cache = smaller

    def _feed_cpu(self, x: Tensor) -> None:
        """All layers at one position; changes x, (note, 1, width)."""
        rotary = torch.view_as_real(self.rotary[self.position]).numpy()
        from trainer import cpu_kernels  # imports numba, which a GPU does without

        caches, state = to_numpy(self.cache), x[:, 0].numpy()
        for layer, cache in zip(self.layers, caches, strict=True):
            cpu_kernels.layer(state, rotary, cache, self.position, *layer.arrays)


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


def prepare(model: NoteModel, dtype: torch.dtype) -> None:
    """Make the model ready to generate: in this dtype, its matrices in the order in which they are read.

    On a CPU only the layers' matrices get this dtype: they are what each step reads. Buffers stay as they are: angles
    of rotary positions need all of float32.
    """
    if model.offsets.device.type == "cpu":
        parameters = [parameter for parameter in model.net.attn_layers.parameters() if parameter.ndim > 1]
    else:
        parameters = [*model.parameters()]
    for parameter in parameters:
        parameter.data = parameter.data.to(dtype)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            # By columns: with a few notes, torch's product with a matrix that has more rows than columns takes up to
            # three times as long if it is stored by rows.
            module.weight.data = module.weight.data.t().contiguous().t()


def empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A buffer. On a CPU numpy's, which asks the system for large pages: they are read faster."""
    if device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    size = math.prod(shape) * dtype.itemsize
    return torch.from_numpy(np.empty(size, np.uint8)).view(dtype).view(shape)


def to_numpy(tensor: Tensor) -> np.ndarray:
    """The same memory as an array; bfloat16 as uint16, as `cpu_kernels` reads it."""
    array: np.ndarray = tensor.detach().view(torch.uint16 if tensor.dtype == torch.bfloat16 else tensor.dtype).numpy()
    return array


def generate(
    model: NoteModel,
    labels: Tensor,
    uniforms: Tensor,
    sampling: Sampling,
    prompts: Tensor | None = None,
    progress: Callable[[int], object] = lambda tokens: None,
    can_end: bool = True,
) -> tuple[Tensor, Tensor]:
    """Sample notes.

    labels: (note, label) ids. uniforms: (note, token) numbers in [0, 1), one for each token of the result: each note
    has its own random stream, so in float32 batching changes nothing (in bfloat16 a kernel may sum in another order and
    so, rarely, sample another code). prompts: (note, token) raw codes, whole frames that the notes begin with. Returns
    raw codes with the prompts, (note, token), and each one's log-likelihood, (note, token).

    A model with an end in its vocabulary ends notes by itself, none before a sampled frame, unless `can_end` is False.
    Codes after the end are -1; the end's log-likelihood is that of the first of them.

    On a CPU the notes are divided among torch's threads. A step's products are too small to gain from several.
    """
    layers = layers_of(model)
    before = torch.get_num_threads()
    threads = min(before, len(uniforms) // NOTES_PER_THREAD) if labels.device.type == "cpu" else 1
    if threads < 2:
        return _generate(model, layers, labels, uniforms, sampling, prompts, progress, can_end)
    stopped, lock = threading.Event(), threading.Lock()

    def report(tokens: int) -> None:
        if stopped.is_set():
            raise InterruptedError("another thread has stopped")
        with lock:
            progress(tokens)

    prompt_parts = [None] * threads if prompts is None else prompts.tensor_split(threads)
    parts = zip(labels.tensor_split(threads), uniforms.tensor_split(threads), prompt_parts, strict=True)
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = [
            pool.submit(_generate, model, layers, *part[:2], sampling, part[2], report, can_end) for part in parts
        ]
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
    can_end: bool,
) -> tuple[Tensor, Tensor]:
    """`generate`, in this thread."""
    notes, length = uniforms.shape
    codebooks, end = model.vocabulary.codebooks, model.vocabulary.end
    can_end = can_end and model.vocabulary.has_end
    guided = sampling.guidance != 1 and labels.shape[1] > 0
    if guided:
        labels = torch.cat([labels, labels.new_tensor([model.vocabulary.uncond_ids()]).expand_as(labels)])

    def twice(codes: Tensor) -> Tensor:  # with guidance each note is in the batch with and without its labels
        return torch.cat([codes, codes]) if guided else codes

    decoder = CachedDecoder(model, layers, len(labels))
    codes = torch.zeros(notes, length, dtype=torch.long, device=labels.device)
    likelihoods = torch.zeros(notes, length, device=labels.device)
    lengths = torch.full((notes,), length, device=labels.device)
    going_on = notes  # that have not ended
    rows: slice | Tensor = slice(None)  # the notes in the decoder
    prompt_length = 0 if prompts is None else prompts.shape[1]
    if prompts is not None:
        codes[:, :prompt_length] = prompts
    ids = model.inputs(labels, twice(codes[:, :prompt_length]))
    for first in range(prompt_length, length, model.group):
        if decoder.position == model.positions:
            slid = first - overlap(model)
            ids = model.inputs(labels, twice(codes[rows, slid:first]), slid)
            decoder.position = 0
        hidden = decoder.feed(ids)[:, -1]  # (note, width)
        ended = 0  # notes whose end is sampled at this position
        for position in range(first, first + model.group):
            codebook = position % codebooks
            frame = twice(codes[rows, position - codebook : position])
            logits = model.code_logits(hidden, codebook, frame).float()  # (note, code)
            if not can_end or position == prompt_length:
                logits = logits[:, :end]
            if guided:
                cond, uncond = logits.chunk(2)
                logits = uncond + sampling.guidance * (cond - uncond)
            sampled = sample_codes(logits, uniforms[rows, position], sampling)
            likelihoods[rows, position] = logits.log_softmax(-1).gather(1, sampled[:, None])[:, 0]
            if can_end and codebook == 0:
                lengths[rows] = lengths[rows].where(sampled < end, lengths[rows].clamp(max=position))
                ended = int((lengths == position).sum())
                sampled = sampled.clamp(max=end - 1)
            codes[rows, position] = sampled
        going_on -= ended
        progress(going_on * model.group + ended * (length - first))
        if not going_on:
            break
        if ended:
            is_going_on = lengths[rows] == length
            if going_on <= (1 - MOST_ENDED) * len(is_going_on):
                rows = torch.arange(notes, device=labels.device)[rows][is_going_on]
                part = twice(is_going_on).nonzero()[:, 0]
                labels = labels[part]
                decoder.keep(part)
        ids = model.ids(labels, twice(codes[rows, first : first + model.group]), first)
    after = torch.arange(length, device=labels.device) - lengths[:, None]  # (note, token): 0 is the end's
    return codes.masked_fill(after >= 0, -1), likelihoods.masked_fill(after > 0, 0)


def overlap(model: NoteModel) -> int:
    """Tokens, of whole frames, that the window begins with when it has slid."""
    codebooks = model.vocabulary.codebooks
    return int(model.window // codebooks * OVERLAP) * codebooks


def sample_codes(logits: Tensor, uniforms: Tensor, sampling: Sampling) -> Tensor:
    """Sample a code of each row, by inverse transform: (note, code) logits and (note,) uniforms -> (note,).

    Sums have the dtype of the uniforms: float64 where the device has it.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    probabilities = filter_logits(logits / sampling.temperature, sampling).softmax(-1)
    cumulative = probabilities.to(uniforms.dtype).cumsum(-1)
    total = cumulative[:, -1:]
    sampled = torch.searchsorted(cumulative, uniforms[:, None] * total, right=True)
    last = (cumulative < total).sum(-1, keepdim=True)  # the last code that has any probability, against rounding
    return torch.minimum(sampled, last)[:, 0]


def filter_logits(logits: Tensor, sampling: Sampling) -> Tensor:
    """Set the logits of codes outside top-k, top-p or min-p to minus infinity; the likeliest always stays."""
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
