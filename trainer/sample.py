"""Run -> token files: loads a checkpoint, generates notes of the labels asked for, writes what made each file."""

import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from shards.note import Note, write_token_file
from shards.sample_info import SampleInfo
from trainer.checkpoint import find_checkpoint, read_checkpoint
from trainer.conditioning import Labels, combinations, completed
from trainer.generate import Sampling, arrange, generate
from trainer.model import NoteModel
from trainer.prompt import find_prompt
from trainer.run import Record, read_record
from trainer.runtime import peak_memory, resolve_device, resolve_dtype

BATCH = 64  # notes at a time
COUNT = 16  # samples, if neither a number nor labels are asked for


@dataclass(frozen=True)
class Request:
    """What is to be sampled."""

    count: int | None = None  # None: one of each combination of the labels asked for
    seed: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    labels: tuple[str, ...] = ()  # as `trainer.conditioning.combinations` reads them
    step: int | None = None  # of the checkpoint; None: the newest
    dtype: str = "auto"  # as `trainer.runtime.resolve_dtype` reads it
    prompt: str | None = None  # as `trainer.prompt.find_prompt` reads it
    prompt_seconds: float = 0.5


@dataclass(frozen=True)
class Sampled:
    """What a call of `sample` has made."""

    files: list[Path]
    step: int  # of the checkpoint
    log_likelihood: float  # nats a token
    memory: int  # bytes, the most that the process has held


def sample(run: Path, out: Path, request: Request, device: str = "auto") -> Sampled:
    """Write token files, KEY.npy and KEY.json, into `out`.

    Raises:
        UserError: no run, no checkpoint, labels that the run does not know, or a prompt that does not fit it.
    """
    record = read_record(run)
    path = find_checkpoint(run, request.step)
    target = resolve_device(device)
    prompt = find_prompt(request.prompt, request.prompt_seconds, record) if request.prompt else None
    known = prompt.labels if prompt else {}
    asked = [known | labels for labels in combinations(record.vocabulary, request.labels)]
    count = request.count or (len(asked) if request.labels else COUNT)
    labels = [completed(asked[index % len(asked)], record, request.seed, index) for index in range(count)]
    model, step = _load(record, path, target)
    dtype = resolve_dtype(request.dtype, target)
    arrange(model, dtype)
    info = SampleInfo(
        run=str(run),
        checkpoint=path.name,
        step=step,
        shards=record.shards,
        dtype=str(dtype).removeprefix("torch."),
        seed=request.seed,
        **asdict(request.sampling),
        prompt=request.prompt,
        prompt_tokens=len(prompt.tokens) if prompt else None,
    )
    files, nats = [], 0.0
    with tqdm(
        total=count * (record.window - (len(prompt.tokens) if prompt else 0)),
        unit="token",
        unit_scale=True,
        file=sys.stderr,
        leave=False,
    ) as bar:
        for first in range(0, count, BATCH):
            indices = range(first, min(first + BATCH, count))
            ids = torch.tensor([record.vocabulary.label_ids(labels[index]) for index in indices], dtype=torch.long)
            chance = torch.from_numpy(np.stack([uniforms(request.seed, index, record.window) for index in indices]))
            given = torch.from_numpy(prompt.tokens.astype(np.int64)).expand(len(indices), -1) if prompt else None
            codes, likelihoods = generate(
                model,
                ids.to(target),
                chance.to(target),
                request.sampling,
                given.to(target) if given is not None else None,
                bar.update,
            )
            for index, tokens, likelihood in zip(indices, codes.cpu().numpy(), likelihoods.cpu(), strict=True):
                mean = float(likelihood[len(prompt.tokens) if prompt else 0 :].mean())
                sampled = replace(info, index=index, log_likelihood=round(mean, 6))
                note = Note(_key(index, labels[index]), tokens.astype(np.int16), labels[index])
                files.append(write_token_file(out, note, record.codec, sampled))
                nats += mean
    return Sampled(files, step, nats / count, peak_memory(target))


def uniforms(seed: int, index: int, length: int) -> np.ndarray:
    """A sample's own stream of chance: (token,) float64 in [0, 1)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, index, 0)))).random(length)


def _load(record: Record, path: Path, device: torch.device) -> tuple[NoteModel, int]:
    checkpoint = read_checkpoint(path, "average." if record.config.train.ema else "model.")
    model = NoteModel(record.config.model, record.vocabulary, record.window)
    model.load_state_dict(checkpoint.tensors)
    return model.to(device).eval(), checkpoint.step


def _key(index: int, labels: Labels) -> str:
    """A sample's name: NSynth's scheme, instrument-pitch-velocity, as far as its labels go."""
    numbers = [f"-{labels[name]:03d}" for name in ("pitch", "velocity") if isinstance(labels.get(name), int)]
    return f"sample_{index:04d}" + "".join(numbers)
