"""Sampling on a CPU, one position at a time over a whole batch, whose notes are divided among torch's threads."""

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

import torch
from torch import Tensor

from trainer.cpu.decoder import CpuDecoder, CpuWeights
from trainer.cpu.draw import draw, log_likelihoods
from trainer.generate import Request, cut, overlap, with_uncond
from trainer.model import NoteModel
from trainer.sampling import sample_codes

NOTES_PER_THREAD = 4  # fewer are not worth another thread
MOST_ENDED = 0.25  # share of a batch: with more ended notes in it, they are taken out


def generate_on_cpu(
    model: NoteModel,
    request: Request,
    progress: Callable[[int], object],
) -> tuple[Tensor, Tensor]:
    """`generate`. A step's products are too small to gain from several threads: each has notes of its own."""
    weights = CpuWeights(model)
    before = torch.get_num_threads()
    threads = min(before, len(request.uniforms) // NOTES_PER_THREAD)
    if threads < 2:
        return _generate(weights, request, progress)
    stopped, lock = threading.Event(), threading.Lock()

    def report(tokens: int) -> None:
        if stopped.is_set():
            raise InterruptedError("another thread has stopped")
        with lock:
            progress(tokens)

    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = [pool.submit(_generate, weights, part, report) for part in request.split(threads)]
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
    weights: CpuWeights,
    request: Request,
    progress: Callable[[int], object],
) -> tuple[Tensor, Tensor]:
    """`generate`, in this thread."""
    model, uniforms, sampling = weights.model, request.uniforms, request.sampling
    notes, length = uniforms.shape
    codebooks, end = model.vocabulary.codebooks, model.vocabulary.end
    can_end = request.can_end and model.vocabulary.has_end
    labels = with_uncond(model, request.labels, sampling)
    guided = len(labels) > notes

    def twice(codes: Tensor) -> Tensor:  # with guidance each note is in the batch with and without its labels
        return torch.cat([codes, codes]) if guided else codes

    decoder = CpuDecoder(weights, len(labels))
    codes = torch.zeros(notes, length, dtype=torch.long)
    likelihoods = torch.zeros(notes, length)
    lengths = torch.full((notes,), length)
    going_on = notes  # that have not ended
    rows: slice | Tensor = slice(None)  # the notes in the decoder
    prompt_length = request.prompt_length
    if request.prompts is not None:
        codes[:, :prompt_length] = request.prompts
    ids = model.inputs(labels, twice(codes[:, :prompt_length]))
    for first in range(prompt_length, length, model.group):
        if decoder.position == model.positions:
            slid = first - overlap(model)
            ids = model.inputs(labels, twice(codes[rows, slid:first]), slid)
            decoder.position = 0
        hidden = decoder.feed(ids)
        ended = 0  # notes whose end is sampled at this position
        for position in range(first, first + model.group):
            codebook = position % codebooks
            frame = twice(codes[rows, position - codebook : position])
            logits = weights.code_logits(hidden, codebook, frame)  # (note, code)
            if logits.shape[1] > end and (not can_end or position == prompt_length):
                logits = logits[:, :end].contiguous()
            if guided:
                cond, uncond = logits.chunk(2)
                logits = uncond + sampling.guidance * (cond - uncond)
            sampled = sample_codes(logits, uniforms[rows, position].contiguous(), sampling, draw_codes)
            likelihoods[rows, position] = torch.from_numpy(log_likelihoods(logits.numpy(), sampled.numpy()))
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
                rows = torch.arange(notes)[rows][is_going_on]
                part = twice(is_going_on).nonzero()[:, 0]
                labels = labels[part]
                decoder.keep(part)
        ids = model.ids(labels, twice(codes[rows, first : first + model.group]), first)
    return cut(codes, likelihoods, lengths)


def draw_codes(logits: Tensor, uniforms: Tensor) -> Tensor:
    """`sampling.draw_codes` by the compiled loops."""
    return torch.from_numpy(draw(logits.numpy(), uniforms.numpy()))
