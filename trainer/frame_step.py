"""One frame of sampling as a function of buffers on the device alone, so that a GPU can replay it as a CUDA graph.

Launching the some hundred kernels of a position one by one takes longer than what they compute; a graph is one launch.
So nothing in a frame may wait for the device or depend on a number that the host knows but for the span of the cache
that is read, of which each has a graph of its own. Knows no prompts and no windows.
"""

import functools
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from shards.errors import first_line
from trainer.cached_decoder import CachedDecoder, layers_of
from trainer.model import NoteModel
from trainer.sampling import Sampling, log_likelihoods, sample_codes

log = logging.getLogger(__name__)

SPAN = 128  # positions: spans are multiples of it
TOGETHER = 64  # rows that are fed several positions at once: the memory for them does not grow with the batch
WARM_UPS = 2  # frames of a span before its capture: libraries choose kernels and allocate by their first calls


class FrameStep:
    """Samples the next frame of each note when called.

    Rows are notes or, with guidance, notes with their labels and then the same without.
    """

    def __init__(
        self,
        model: NoteModel,
        labels: Tensor,
        uniforms: Tensor,
        sampling: Sampling,
        first: int,
        can_end: bool,
    ) -> None:
        """labels: (row, label) ids. uniforms: (note, token). first: the first token that is sampled."""
        self.model, self.sampling, self.can_end = model, sampling, can_end
        notes, length = uniforms.shape
        self.labels, self.uniforms = labels, uniforms
        self.is_guided = len(labels) > notes
        self.decoder = CachedDecoder(model, layers_of(model), len(labels))
        self.decoder.cache.zero_()  # attention reads positions that are not written yet, times 0, which needs numbers
        self.codes = torch.zeros(notes, length, dtype=torch.long, device=labels.device)
        self.likelihoods = torch.zeros(notes, length, device=labels.device)
        self.lengths = torch.full((notes,), length, device=labels.device)
        self.ids = labels.new_zeros(len(labels), 1, model.group + labels.shape[1])  # of the position that is fed next
        self.position = labels.new_zeros(1)  # in the window
        self.token = labels.new_full((1,), first)  # that is sampled next
        self.first = self.token.clone()

    def feed(self, ids: Tensor) -> None:
        """Begin the window with positions, (row, position, id): the last of them is fed by the next frame."""
        positions = slice(0, ids.shape[1] - 1)
        for first in range(0, len(ids) if positions.stop else 0, TOGETHER):
            rows = slice(first, first + TOGETHER)
            self.decoder.run_layers(self.decoder.embed(ids[rows, positions]), rows, positions)
        self.ids.copy_(ids[:, -1:])
        self.position.fill_(positions.stop)

    def span(self, position: int) -> int:
        """The positions of the cache that a frame reads which begins at `position`."""
        frame = self.model.vocabulary.codebooks // self.model.group
        return min(-(-(position + frame) // SPAN) * SPAN, self.model.positions)

    def __call__(self, span: int) -> None:
        """Sample a frame, of which all positions are below `span`."""
        vocabulary, group = self.model.vocabulary, self.model.group
        frame: list[Tensor] = []  # its codes so far, (note,) each
        for codebook in range(vocabulary.codebooks):
            if codebook % group == 0:
                hidden = self._hidden(span)
            frame.append(self._sample(hidden, codebook, frame))
            self.token += 1
            if len(frame) % group == 0:
                codes = self.rows(torch.stack(frame[-group:], dim=1))
                self.ids.copy_(self.model.ids(self.labels, codes, self.token - group))
                self.position += 1

    def rows(self, notes: Tensor) -> Tensor:
        """Repeat what each note has for its second row, if it has one."""
        return torch.cat([notes, notes]) if self.is_guided else notes

    def keep(self, notes: Tensor, position: int) -> None:
        """Go on with some of the notes alone: (note,) in ascending order. position: the next one, in the window."""
        rows = torch.cat([notes, notes + len(self.codes)]) if self.is_guided else notes
        self.decoder.keep(rows, position)
        self.labels, self.ids = self.labels[rows], self.ids[rows]
        self.uniforms, self.codes = self.uniforms[notes], self.codes[notes]
        self.likelihoods, self.lengths = self.likelihoods[notes], self.lengths[notes]

    def _hidden(self, span: int) -> Tensor:
        """Feed a position; return its hidden states, (row, width)."""
        decoder = self.decoder
        rotary = decoder.rotary.index_select(0, self.position)
        is_visible = torch.arange(span, device=self.position.device) <= self.position
        x = decoder.embed(self.ids)
        for layer, cache in zip(decoder.layers, decoder.cache, strict=True):
            x = x + layer.attend_at(x, cache[:, :, :, :span], self.position, rotary, is_visible)
            x = x + layer.feed_forward(x)
        return layer_norm(x, x.shape[-1:], decoder.final_norm)[:, 0]

    def _sample(self, hidden: Tensor, codebook: int, frame: Sequence[Tensor]) -> Tensor:
        """Sample the code of each note, (note,), after those of the lower codebooks."""
        end = self.model.vocabulary.end
        before = self.rows(torch.stack([*frame], dim=1)) if frame else hidden.new_empty(len(hidden), 0)
        logits = self.model.code_logits(hidden, codebook, before).float()  # (row, code)
        if self.is_guided:
            cond, uncond = logits.chunk(2)
            logits = uncond + self.sampling.guidance * (cond - uncond)
        is_end_sampled = self.can_end and codebook == 0
        if is_end_sampled:
            logits = torch.cat([logits[:, :end], logits[:, end:].masked_fill(self.token == self.first, -torch.inf)], 1)
        else:
            logits = logits[:, :end]
        sampled = sample_codes(logits, self.uniforms.index_select(1, self.token)[:, 0], self.sampling)
        self.likelihoods.index_copy_(1, self.token, log_likelihoods(logits, sampled)[:, None])
        if is_end_sampled:
            self.lengths.copy_(self.lengths.where(sampled < end, self.lengths.minimum(self.token)))
            sampled = sampled.clamp(max=end - 1)
        self.codes.index_copy_(1, self.token, sampled[:, None])
        return sampled


@functools.cache  # one: what it has freed is its own to use again
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@contextmanager
def capture_stream(device: torch.device) -> Iterator[None]:
    """Run the block in a stream in which graphs can be captured, which the default stream of a GPU is not."""
    stream, current = _side_stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        yield
    current.wait_stream(stream)


class CudaGraphs:
    """Replays a frame step: of each span the first frames are run as they are, then one is captured.

    For the stream of `capture_stream`.
    """

    def __init__(self, step: FrameStep) -> None:
        self.step = step
        self.runs: Counter[int] = Counter()  # by span
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self.pool = torch.cuda.graph_pool_handle()  # the graphs run one after the other, in the same memory
        self.can_capture = True

    def __call__(self, span: int) -> None:
        if self.can_capture and self.runs[span] == WARM_UPS:
            self._capture(span)
        self.runs[span] += 1
        if span in self.graphs:
            self.graphs[span].replay()
        else:
            self.step(span)

    def _capture(self, span: int) -> None:
        """Record a frame without running it. Where that fails, the frames are run as they are from then on."""
        graph = torch.cuda.CUDAGraph()
        try:
            # "thread_local": a loader's thread may allocate meanwhile, as in a training that samples
            with torch.cuda.graph(graph, self.pool, torch.cuda.current_stream(), capture_error_mode="thread_local"):
                self.step(span)
        except RuntimeError as error:  # of the driver or a kernel; the buffers are as before
            log.warning(
                "a CUDA graph cannot be captured (%s): sampling goes on without, more slowly", first_line(error)
            )
            self.can_capture = False
        else:
            self.graphs[span] = graph
