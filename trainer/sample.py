"""Run -> token files: load a checkpoint, generate notes with labels, write each with the settings that made it.

Knows no codec and no audio.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from shards.console import counted, progress_bar, quote
from shards.errors import name_lack_of_memory
from shards.note import Note, write_token_file
from shards.sample_info import TOKENS, SampleInfo
from shards.sample_list import SampleList, select_last_call
from shards.storage import path_text
from trainer.batch_size import notes_at_once
from trainer.candidates import CandidateRequest, candidate_draws
from trainer.checkpoint import LAST, checkpoint_path, find_checkpoint
from trainer.conditioning import Draw, Labels, LengthRequest, fill_labels, parse_labels, read_prompt, sample_length
from trainer.generate import generate, prepare
from trainer.model import NoteModel
from trainer.run import RunInfo, read_run
from trainer.runtime import peak_memory, resolve_device, resolve_dtype, widest_float
from trainer.sampling import Sampling
from trainer.weights import load_model

BATCH = 64  # notes at a time, at most
BATCH_ON_GPU = 1024  # more gain nothing, and the files of a batch are written after it
NO_PROMPT = np.zeros(0)
COUNT = 16  # samples, if neither `count` nor `labels` says how many


@dataclass(frozen=True)
class SampleRequest:
    """Settings of a call of `sample`."""

    count: int | None = None  # None: one of each combination of `labels`
    seed: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    labels: tuple[str, ...] = ()  # for `conditioning.parse_labels`
    checkpoint: int | str = LAST  # for `checkpoint.find_checkpoint`
    dtype: str = "auto"  # for `runtime.resolve_dtype`
    prompt: str | None = None  # for `conditioning.read_prompt`
    prompt_seconds: float = 0.5
    candidates: CandidateRequest | None = None  # draw several samples of each key and velocity
    length: LengthRequest = field(default_factory=LengthRequest)


@dataclass(frozen=True)
class Outcome:
    """The result of a call of `sample`."""

    run: Path
    out: Path
    files: list[Path]
    step: int  # of the checkpoint
    log_likelihood: float  # nats a token
    memory: int  # bytes, the most that the process has used
    is_for_instrument: bool

    def lines(self) -> list[str]:
        out, folder = quote(self.out), quote(self.out.parent)
        is_listened_to = self.out.name == TOKENS
        command = f"listen {folder}" if is_listened_to else f"decode {out} --out {out}"
        command = f"instrument {out} --out {folder}" if self.is_for_instrument else command
        hint = f"`listen`, `score` and `page` read samples from a folder {TOKENS}: --out {quote(self.out / TOKENS)}."
        return [
            f"Sampled {counted(len(self.files), 'note')} from step {self.step} of {self.run} into {self.out} "
            f"({self.log_likelihood:.3f} nats a token, {self.memory / 1e6:,.0f} MB of memory).",
            *([] if is_listened_to or self.is_for_instrument else [hint]),
            f"Next: python -m pipeline {command}",
        ]


@name_lack_of_memory("free some that other programs use, or take another --device")
def sample(run: Path, out: Path, request: SampleRequest, device: str = "auto") -> Outcome:
    """Write token files, KEY.npy and KEY.json, into `out`, and the list of them.

    Raises:
        UserError: no run, no checkpoint, labels that the run does not know, or a prompt or length that does not fit it.
    """
    info = read_run(run)
    find_checkpoint(run, request.checkpoint)
    target = resolve_device(device)
    prompt = read_prompt(request.prompt, request.prompt_seconds, info) if request.prompt else Note("", NO_PROMPT)
    length = sample_length(request.length, len(prompt.tokens), info)
    options = request.length.add_label(request.labels, info.vocabulary)
    if request.candidates is not None:
        draws = candidate_draws(request.candidates, options, info, request.seed)
    else:
        draws = _draws(replace(request, labels=options), prompt.labels, info)
    model, step = load_model(run, info, request.checkpoint, target)
    dtype = resolve_dtype(request.dtype, target)
    prepare(model, dtype)
    prompt_length = len(prompt.tokens)
    sample_info = replace(
        sample_origin(run, info, step, dtype, request.seed, request.sampling),
        prompt=path_text(request.prompt) if request.prompt else None,
        prompt_tokens=prompt_length or None,
    )
    files: list[Path] = []
    likelihood_sum = 0.0
    is_addition = request.candidates is not None and request.candidates.wanted is not None
    earlier, _ = select_last_call(out, [path.stem for path in out.glob("*.npy")]) if is_addition else ([], "")
    keys = [*earlier, *(draw.key for draw in draws)]
    total = len(draws) * (length - prompt_length)
    can_end = request.length.seconds is None
    most = BATCH_ON_GPU if target.type == "cuda" else BATCH
    at_once = notes_at_once(model, length, request.sampling.guidance != 1, most)
    with progress_bar(total=total, unit="token", unit_scale=True, leave=False) as bar:
        for first in range(0, len(draws), at_once):
            batch = draws[first : first + at_once]
            notes = draw_notes(model, batch, request.sampling, length, can_end, prompt.tokens, bar.update)
            if not files:  # before files are replaced: after an interruption, the list names none of another call
                SampleList(len(keys), tuple(earlier)).write(out)
            for draw, (note, mean) in zip(batch, notes, strict=True):
                sampled = replace(
                    sample_info, index=draw.index, candidate=draw.candidate, log_likelihood=round(mean, 6)
                )
                files.append(write_token_file(out, note, info.codec, sampled))
                likelihood_sum += mean
            SampleList(len(keys), tuple(keys[: len(earlier) + len(files)])).write(out)
    return Outcome(
        run, out, files, step, likelihood_sum / len(draws), peak_memory(target), request.candidates is not None
    )


def draw_notes(
    model: NoteModel,
    draws: Sequence[Draw],
    sampling: Sampling,
    length: int,
    can_end: bool = True,
    prompt: np.ndarray = NO_PROMPT,
    progress: Callable[[int], object] = lambda tokens: None,
) -> list[tuple[Note, float]]:
    """Sample a batch with a model that is prepared for it: each note, and its log-likelihood in nats a token.

    length: tokens, the most that a note has; all have as many if not `can_end`. prompt: (token,) codes that all of them
    begin with; none if it is empty. The likelihood of a note's end counts, but is that of no token.
    """
    device = next(model.parameters()).device
    labels = [model.label_ids(draw.labels) for draw in draws]
    numbers = np.stack([uniforms(draw.entropy, length) for draw in draws])
    prompts = torch.from_numpy(prompt.astype(np.int64)).expand(len(draws), -1)
    codes, likelihoods = generate(
        model,
        torch.tensor(labels, dtype=torch.long, device=device),
        torch.tensor(numbers, dtype=widest_float(device), device=device),
        sampling,
        prompts.to(device) if len(prompt) else None,
        progress,
        can_end,
    )
    notes = []
    for draw, row, row_likelihoods in zip(draws, codes.cpu(), likelihoods.cpu(), strict=True):
        tokens = row[row >= 0].numpy().astype(np.int16)
        sampled = row_likelihoods[len(prompt) : len(tokens) + 1]
        notes.append((Note(draw.key, tokens, draw.labels), float(sampled.sum() / (len(tokens) - len(prompt)))))
    return notes


def sample_origin(run: Path, info: RunInfo, step: int, dtype: torch.dtype, seed: int, sampling: Sampling) -> SampleInfo:
    """The origin that the samples of a call share: all but the prompt and what each has of its own."""
    return SampleInfo(
        run=path_text(run),
        checkpoint=checkpoint_path(run, step).name,
        step=step,
        shards=tuple(each.shards for each in info.sets) or info.shards,
        dtype=str(dtype).removeprefix("torch."),
        seed=seed,
        **asdict(sampling),
    )


def uniforms(entropy: tuple[int, ...], length: int) -> np.ndarray:
    """The random stream of a sample: (token,) float64 in [0, 1)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((*entropy, 0)))).random(length)


def _draws(request: SampleRequest, prompt_labels: Labels, info: RunInfo) -> list[Draw]:
    combinations = [prompt_labels | labels for labels in parse_labels(info.vocabulary, request.labels)]
    count = request.count or (len(combinations) if request.labels else COUNT)
    draws = []
    for index in range(count):
        entropy = (request.seed, index)
        labels = fill_labels(combinations[index % len(combinations)], info, entropy)
        draws.append(Draw(_key(index, labels), labels, entropy, index=index))
    return draws


def _key(index: int, labels: Labels) -> str:
    """A sample's name: NSynth's scheme, instrument-pitch-velocity, as far as its labels go."""
    numbers = [f"-{labels[name]:03d}" for name in ("pitch", "velocity") if isinstance(labels.get(name), int)]
    return f"sample_{index:04d}" + "".join(numbers)
