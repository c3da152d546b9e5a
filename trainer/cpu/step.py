"""A position's way through the decoder and the heads: each a single call, for which Python's lock is released.

Weights and the cache are float32 or bfloat16; all sums, and what goes from layer to layer, are float32.
"""

import numpy as np

from trainer.cpu.attention import attend
from trainer.cpu.compiled import compiled
from trainer.cpu.functions import gelu, layer_norm
from trainer.cpu.products import add_product, input_of


@compiled
def decode(
    x: np.ndarray,
    rotary: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    position: int,
    attn_norm: np.ndarray,
    qkv_proj: np.ndarray,
    out_proj: np.ndarray,
    ffn_norm: np.ndarray,
    up_proj: np.ndarray,
    up_bias: np.ndarray,
    down_proj: np.ndarray,
    down_bias: np.ndarray,
    final_norm: np.ndarray,
) -> None:
    """Replace x, (note, feature), by the hidden states of one position; its keys and values are added.

    keys, values (layer, note, head, block, number). All weights but the last are (layer, ...), matrices in the order of
    `pack`. rotary as `attend`.
    """
    notes, width = x.shape
    heads, head_width = keys.shape[2], 2 * len(rotary)
    attn = np.empty((notes, heads * head_width), np.float32)
    normed = np.empty((notes, width), np.float32)
    for layer in range(len(keys)):
        layer_norm(x, attn_norm[layer], normed)
        qkv = np.zeros((notes, 3 * heads * head_width), np.float32)
        add_product(input_of(normed, qkv_proj[layer]), qkv_proj[layer], qkv)
        by_head = qkv.reshape(notes, 3, heads, head_width)
        attend(by_head, rotary, keys[layer], values[layer], position, attn.reshape(notes, heads, head_width))
        add_product(input_of(attn, out_proj[layer]), out_proj[layer], x)
        layer_norm(x, ffn_norm[layer], normed)
        feed_forward(normed, up_proj[layer], up_bias[layer], down_proj[layer], down_bias[layer], x)
    layer_norm(x, final_norm, normed)
    x[:] = normed


@compiled
def feed_forward(
    normed: np.ndarray,
    up_proj: np.ndarray,
    up_bias: np.ndarray,
    down_proj: np.ndarray,
    down_bias: np.ndarray,
    out: np.ndarray,
) -> None:
    """Add a feed-forward net of normed states, (note, feature), to `out`, (note, feature)."""
    hidden = np.empty((len(normed), len(up_bias)), np.float32)
    hidden[:] = up_bias
    add_product(input_of(normed, up_proj), up_proj, hidden)
    gelu(hidden.reshape(-1))
    out += down_bias
    add_product(input_of(hidden, down_proj), down_proj, out)


@compiled
def add_codes(
    hidden: np.ndarray,
    codes: np.ndarray,
    embedding: np.ndarray,
    norm: np.ndarray,
    norm_bias: np.ndarray,
    up_proj: np.ndarray,
    up_bias: np.ndarray,
    down_proj: np.ndarray,
    down_bias: np.ndarray,
) -> np.ndarray:
    """`DepthHead`: a frame's states, (note, feature), and its lower codes, (note, codebook) -> (note, feature).

    embedding (codebook, code, feature), the weights those of the codebook that comes next.
    """
    states = hidden.copy()
    for note in range(len(states)):
        for codebook in range(codes.shape[1]):
            states[note] += embedding[codebook, codes[note, codebook]]
    normed = np.empty_like(states)
    layer_norm(states, norm, normed)
    normed += norm_bias
    feed_forward(normed, up_proj, up_bias, down_proj, down_bias, states)
    return states


@compiled
def project(hidden: np.ndarray, head: np.ndarray, codes: int) -> np.ndarray:
    """Logits, (note, code), of states, (note, feature), by a head in the order of `pack`."""
    logits = np.zeros((len(hidden), codes), np.float32)
    add_product(input_of(hidden, head), head, logits)
    return logits
