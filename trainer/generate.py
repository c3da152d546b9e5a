"""Sampling: labels -> codes, a batch of notes at a time, on the device of the labels.

Every token comes from the head of its own codebook, so what is sampled can always be decoded. Beyond the window
sampling goes on by sliding it. Knows no files.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.frame_step import CudaGraphs, FrameStep, capture_stream
from trainer.model import NoteModel
from trainer.sampling import Sampling

OVERLAP = 0.5  # share of the window that stays when it slides
CHECK_EVERY = 32  # frames between two looks at the notes that have ended on a GPU: each look waits for it
MOST_ENDED_ON_GPU = 0.5  # a smaller batch costs new graphs
FEW_ON_GPU = 64  # notes: a step of fewer takes as long


@dataclass(frozen=True)
class Request:
    """Notes to sample, as `generate` describes them."""

    labels: Tensor
    uniforms: Tensor
    sampling: Sampling
    prompts: Tensor | None
    can_end: bool

    @property
    def prompt_length(self) -> int:
        """Tokens that each note begins with."""
        return 0 if self.prompts is None else self.prompts.shape[1]

    def split(self, parts: int) -> "list[Request]":
        """The notes, divided."""
        prompts = [None] * parts if self.prompts is None else self.prompts.tensor_split(parts)
        notes = zip(self.labels.tensor_split(parts), self.uniforms.tensor_split(parts), prompts, strict=True)
        return [Request(labels, uniforms, self.sampling, prompt, self.can_end) for labels, uniforms, prompt in notes]


def prepare(model: NoteModel, dtype: torch.dtype) -> None:
    """Convert the model to the dtype in which it is to generate.

    On a CPU only the layers' matrices get this dtype: they are what each step reads. Buffers stay as they are: angles
    of rotary positions need all of float32.
    """
    if model.offsets.device.type == "cpu":
        parameters = [parameter for parameter in model.net.attn_layers.parameters() if parameter.ndim > 1]
    else:
        parameters = [*model.parameters()]
    for parameter in parameters:
        parameter.data = parameter.data.to(dtype)


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

    On a CPU the notes are divided among torch's threads. A step's products are too small to gain from several. On a GPU
    a frame is a CUDA graph.
    """
    request = Request(labels, uniforms, sampling, prompts, can_end)
    if labels.device.type == "cuda":
        with capture_stream(labels.device):
            return generate_by_frames(model, request, progress, CudaGraphs)
    if is_compiled(labels.device):
        from trainer.cpu.generate import generate_on_cpu  # imports numba, which a GPU does without

        return generate_on_cpu(model, request, progress)
    return generate_by_frames(model, request, progress, lambda step: step)


def is_compiled(device: torch.device) -> bool:
    """If the compiled loops sample on this device."""
    return device.type == "cpu"


@torch.inference_mode()
def generate_by_frames(
    model: NoteModel,
    request: Request,
    progress: Callable[[int], object],
    runner: Callable[[FrameStep], Callable[[int], object]],
) -> tuple[Tensor, Tensor]:
    """`generate`, by calls of what `runner` makes of a frame step, with the span of each frame."""
    notes, length = request.uniforms.shape
    codebooks = model.vocabulary.codebooks
    labels = with_uncond(model, request.labels, request.sampling)
    prompt_length = request.prompt_length
    can_end = request.can_end and model.vocabulary.has_end
    step = FrameStep(model, labels, request.uniforms, request.sampling, prompt_length, can_end)
    if request.prompts is not None:
        step.codes[:, :prompt_length] = request.prompts
    run = runner(step)
    results = step.codes.clone(), step.likelihoods.clone(), step.lengths.clone()
    rows = torch.arange(notes, device=labels.device)  # the notes in the step
    position = model.positions  # that is fed next, in the window
    progressed = 0  # tokens
    for frame, first in enumerate(range(prompt_length, length, codebooks), 1):
        if position == model.positions:
            start = 0 if first == prompt_length else first - overlap(model)
            ids = model.inputs(step.labels, step.rows(step.codes[:, start:first]), start)
            step.feed(ids)
            position = ids.shape[1] - 1
        run(step.span(position))
        position += codebooks // model.group
        if frame % CHECK_EVERY:
            continue
        is_going_on = step.lengths == length
        going_on = int(is_going_on.sum())
        sampled = (notes - going_on) * (length - prompt_length) + going_on * (first + codebooks - prompt_length)
        progress(sampled - progressed)
        progressed = sampled
        if not going_on:
            break
        if len(is_going_on) > FEW_ON_GPU and going_on <= (1 - MOST_ENDED_ON_GPU) * len(is_going_on):
            for result, part in zip(results, (step.codes, step.likelihoods, step.lengths), strict=True):
                result[rows] = part
            part = is_going_on.nonzero()[:, 0]
            rows = rows[part]
            step.keep(part, position)
            run = runner(step)
    for result, part in zip(results, (step.codes, step.likelihoods, step.lengths), strict=True):
        result[rows] = part
    progress(notes * (length - prompt_length) - progressed)
    return cut(*results)


def with_uncond(model: NoteModel, labels: Tensor, sampling: Sampling) -> Tensor:
    """(note, label) ids and, for guidance by them, a second row of each note without labels: (row, label)."""
    if sampling.guidance == 1 or not labels.shape[1]:
        return labels
    return torch.cat([labels, labels.new_tensor([model.vocabulary.uncond_ids()]).expand_as(labels)])


def cut(codes: Tensor, likelihoods: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Codes that are -1 from each note's length on, and likelihoods that are 0 after the end's."""
    after = torch.arange(codes.shape[1], device=codes.device) - lengths[:, None]  # (note, token): 0 is the end's
    return codes.masked_fill(after >= 0, -1), likelihoods.masked_fill(after > 0, 0)


def overlap(model: NoteModel) -> int:
    """Tokens, of whole frames, that the window begins with when it has slid."""
    codebooks = model.vocabulary.codebooks
    return int(model.window // codebooks * OVERLAP) * codebooks
