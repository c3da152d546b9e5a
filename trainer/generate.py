"""Sampling: labels -> codes, one position at a time over a whole batch.

Every token comes from the head of its own codebook, so what is sampled can always be decoded. Beyond the window
sampling goes on by sliding it. Knows no files.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

import torch
from torch import Tensor, nn

from trainer.cached_decoder import CachedDecoder, Layer, layers_of
from trainer.frame_step import CudaGraphs, FrameStep, capture_stream
from trainer.model import NoteModel
from trainer.sampling import Sampling, sample_codes

NOTES_PER_THREAD = 4  # fewer are not worth another thread
OVERLAP = 0.5  # share of the window that stays when it slides
MOST_ENDED = 0.25  # share of a batch: with more ended notes in it, they are taken out
CHECK_EVERY = 32  # frames between two looks at the notes that have ended on a GPU: each look waits for it
MOST_ENDED_ON_GPU = 0.5  # a smaller batch costs new graphs
FEW_ON_GPU = 64  # notes: a step of fewer takes as long


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
    layers = layers_of(model)
    if labels.device.type == "cuda":
        with capture_stream(labels.device):
            return generate_by_frames(model, layers, labels, uniforms, sampling, prompts, progress, can_end, CudaGraphs)
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
    labels = _with_uncond(model, labels, sampling)
    guided = len(labels) > notes

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
    return _cut(codes, likelihoods, lengths)


@torch.inference_mode()
def generate_by_frames(
    model: NoteModel,
    layers: Sequence[Layer],
    labels: Tensor,
    uniforms: Tensor,
    sampling: Sampling,
    prompts: Tensor | None,
    progress: Callable[[int], object],
    can_end: bool,
    runner: Callable[[FrameStep], Callable[[int], object]],
) -> tuple[Tensor, Tensor]:
    """`generate`, by calls of what `runner` makes of a frame step, with the span of each frame."""
    notes, length = uniforms.shape
    codebooks = model.vocabulary.codebooks
    labels = _with_uncond(model, labels, sampling)
    prompt_length = 0 if prompts is None else prompts.shape[1]
    can_end = can_end and model.vocabulary.has_end
    step = FrameStep(model, layers, labels, uniforms, sampling, prompt_length, can_end)
    if prompts is not None:
        step.codes[:, :prompt_length] = prompts
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
    return _cut(*results)


def _with_uncond(model: NoteModel, labels: Tensor, sampling: Sampling) -> Tensor:
    """(note, label) ids and, for guidance by them, a second row of each note without labels: (row, label)."""
    if sampling.guidance == 1 or not labels.shape[1]:
        return labels
    return torch.cat([labels, labels.new_tensor([model.vocabulary.uncond_ids()]).expand_as(labels)])


def _cut(codes: Tensor, likelihoods: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Codes that are -1 from each note's length on, and likelihoods that are 0 after the end's."""
    after = torch.arange(codes.shape[1], device=codes.device) - lengths[:, None]  # (note, token): 0 is the end's
    return codes.masked_fill(after >= 0, -1), likelihoods.masked_fill(after > 0, 0)


def overlap(model: NoteModel) -> int:
    """Tokens, of whole frames, that the window begins with when it has slid."""
    codebooks = model.vocabulary.codebooks
    return int(model.window // codebooks * OVERLAP) * codebooks
