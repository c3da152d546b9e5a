"""Shard set -> run: the loop that finds the weights, and everything that lets it stop anywhere and go on exactly.

The state at a step is the weights and the optimizer's moments; the rest (the notes of each step, the labels hidden,
the learning rate, the noise of dropout) is a function of the settings and the step. Knows no codec and no audio.
"""

import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from shards.manifest import Manifest, read_manifest
from trainer.checkpoint import Checkpoint, newest_checkpoint, prune_checkpoints, write_checkpoint
from trainer.config import Config
from trainer.data import Batch, NoteReader, TrainStream, train_batches, valid_batches
from trainer.errors import TrainError
from trainer.metrics import Metrics
from trainer.model import NoteModel
from trainer.optim import follow, learning_rate, make_optimizers, restore_state, state_tensors
from trainer.order import Order, divided
from trainer.ranks import Ranks, joined
from trainer.run import Record, make_record
from trainer.runtime import peak_memory, resolve_device, resolve_dtype
from trainer.schedule import Pace, planned
from trainer.vocabulary import Vocabulary

TUTORIAL_FRAMES = 125  # a note's start, on which models that see different lengths are compared
EVALUATIONS = 5  # a run, if not said how often
NAMED_NOTES = 8  # of a batch that broke the training
BAR_INTERVAL = 0.5, 15.0  # seconds between updates of the progress bar: a terminal, a log file


@dataclass(frozen=True)
class Outcome:
    """What a training has come to."""

    step: int
    steps: int
    checkpoint: Path
    valid: dict[str, float]  # of the last evaluation; empty if the set has no valid split
    best: dict[str, float] | None  # step, loss
    stopped_by: int = 0  # signal
    first: bool = True  # whether this process is the one that reports


def train(shards: Path, run: Path, config: Config, device: str = "auto", wandb_project: str | None = None) -> Outcome:
    """Train a run, or go on with it where its newest checkpoint stands.

    wandb_project: where Weights & Biases keeps its numbers too; None: nowhere.

    Raises:
        UserError: a set, settings or a run that do not fit each other, or a loss that is no number.
    """
    target = resolve_device(device)
    with joined(target) as ranks:
        if target.type == "cuda":
            target = torch.device("cuda", ranks.local_rank)
        manifest = read_manifest(shards)
        record = make_record(shards, run, config, manifest, ranks)
        return Training(record, run, shards, manifest, target, ranks).go(wandb_project)


class Training:
    """A run in memory: the model, its optimizer, and where it stands."""

    def __init__(
        self, record: Record, run: Path, shards: Path, manifest: Manifest, device: torch.device, ranks: Ranks
    ) -> None:
        self.record, self.run, self.device, self.ranks = record, run, device, ranks
        self.config = record.config
        self.train_notes = NoteReader(shards, manifest, "train")
        self.valid_notes = NoteReader(shards, manifest, "valid")
        self.dtype = resolve_dtype(self.config.train.dtype, device)
        self.exact = torch.float32 if device.type == "mps" else torch.float64  # of sums; MPS has no float64
        torch.manual_seed(self.config.train.seed)
        self.model = NoteModel(self.config.model, record.vocabulary, record.window).to(device)
        self.average = deepcopy(self.model) if self.config.train.ema else self.model  # what is evaluated
        self.optimizers = make_optimizers(self.model, self.config.train)
        self.step = 0
        self.seconds = 0.0  # of training, over all starts
        self.best: dict[str, float] | None = None
        self.valid: dict[str, float] = {}
        self._restore()
        compiled = torch.compile(self.model) if self.config.train.compile else self.model
        self.network: Any = DistributedDataParallel(compiled, broadcast_buffers=False) if ranks.world > 1 else compiled

    def go(self, wandb_project: str | None = None) -> Outcome:
        """Make the updates that are missing."""
        if not self._goes_on():
            return self._outcome()
        metrics = Metrics(self.run, self.step, self.config.to_json(), wandb_project) if self.ranks.first else None
        bar = tqdm(
            total=self._planned,
            initial=self.step,
            unit="step",
            mininterval=BAR_INTERVAL[not sys.stderr.isatty()],
            disable=not self.ranks.first,
            leave=False,
        )
        try:
            with watched_signals() as caught:
                return self._loop(caught, metrics, bar)
        finally:
            bar.close()
            if metrics is not None:
                metrics.close()

    @property
    def _planned(self) -> int | None:
        """Steps in all, as planned now."""
        return planned(self.record.plans, self.step)

    def _goes_on(self) -> bool:
        return self._planned is None or self.step < self._planned

    def _loop(self, caught: list[int], metrics: Metrics | None, bar: tqdm) -> Outcome:
        checkpoint_every = self.config.train.checkpoint_every
        batches = train_batches(self._stream(), self.config.data.workers)
        pace = Pace(self.config.train.minutes, self.step, self.seconds)
        stopped_by = 0
        clock = time.perf_counter()
        while self._goes_on() and not stopped_by:
            batch = next(batches)
            waited = time.perf_counter() - clock
            proposal = pace.proposal(self.record.plans, self.step, self.seconds) if self.ranks.first else 0
            tokens, stopped_by, proposal = self._agreed(batch.tokens, caught, proposal)
            if proposal:
                self._plan(proposal)
                bar.total = proposal
            values = self._update(batch, tokens)
            now = time.perf_counter()
            took, clock = now - clock, now
            self.seconds += took
            values |= {"tokens_per_second": tokens / took, "data_wait": waited / took}
            if metrics is not None:
                metrics.write("train", self.step, values)
                bar.set_postfix_str(self._shown(values), refresh=False)
                bar.update()
            evaluated = self._is_time_to_evaluate()
            if evaluated and self.valid_notes.shards:
                self._evaluate(metrics)
            if evaluated or stopped_by or (checkpoint_every and self.step % checkpoint_every == 0):
                self._save(metrics)
            clock = time.perf_counter()
        return self._outcome(stopped_by)

    def _plan(self, steps: int) -> None:
        """From now on the run is to have so many steps."""
        self.record = replace(self.record, plans=(*self.record.plans, (self.step, steps)))
        if self.ranks.first:
            self.record.write(self.run)

    def _is_time_to_evaluate(self) -> bool:
        """After the last step, and as often as the settings say or `EVALUATIONS` times."""
        if not self._goes_on():
            return True
        every = self.config.train.evaluate_every
        if every or self._planned is None:
            return bool(every) and self.step % every == 0
        return self.step * EVALUATIONS // self._planned > (self.step - 1) * EVALUATIONS // self._planned

    def _update(self, batch: Batch, tokens: int) -> dict[str, float]:
        """One step on this rank's share of a batch of `tokens` over all ranks."""
        config = self.config.train
        nats = self._gradients(batch, tokens)
        loss = float(nats.sum()) / tokens
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip or math.inf))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._refuse(batch, loss, norm)
        rate = learning_rate(config, self.step, self._planned)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        if self.average is not self.model:
            follow(self.average, self.model, config.ema, self.step)
        self.step += 1
        share = tokens / len(nats)
        by_codebook = {f"loss_codebook_{index}": float(value) / share for index, value in enumerate(nats)}
        return {"loss": loss, **by_codebook, "lr": rate, "gradient_norm": norm}

    def _gradients(self, batch: Batch, tokens: int) -> Tensor:
        """The gradient of the mean over the `tokens` of the global batch, from this rank's share of it, into the
        parameters; returns the summed losses of each codebook over all ranks, (codebook,)."""
        torch.manual_seed(_step_seed(self.config.train.seed, self.step, self.ranks.rank))
        self.model.zero_grad(set_to_none=True)
        self.network.train()
        parts = _micro_batches(batch, self.config.data.micro_batch, self.record.vocabulary)
        nats = torch.zeros(self.record.codec.codebooks, device=self.device, dtype=self.exact)
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            waiting = nullcontext() if last or self.ranks.world == 1 else self.network.no_sync()
            with waiting:
                with self._autocast():
                    losses, _ = self.network(*_tensors(part, self.device))
                # DDP takes the mean over ranks where a sum is meant, so their number goes in.
                (losses.sum() / tokens * self.ranks.world).backward()
            nats += losses.detach().sum((0, 1))
        return self.ranks.sum(nats)

    def _evaluate(self, metrics: Metrics | None) -> None:
        """The loss over the whole valid split, each note once over all ranks."""
        codebooks = self.record.codec.codebooks
        sums = torch.zeros(5, codebooks, device=self.device, dtype=self.exact)
        self.average.eval()
        batches = valid_batches(
            self.valid_notes,
            self.record.vocabulary,
            self.record.window,
            self.config.data,
            self.ranks.rank,
            self.ranks.world,
        )
        for batch in batches:
            labels, codes, lengths = _tensors(batch, self.device)
            with torch.inference_mode(), self._autocast():
                losses, hits = self.average(labels, codes, lengths)  # (note, frame, codebook)
            frames = (lengths // codebooks)[:, None]
            real = torch.arange(losses.shape[1], device=self.device) < frames  # (note, frame)
            start = slice(0, TUTORIAL_FRAMES)
            sums[0] += losses.sum((0, 1))
            sums[1] += hits.sum((0, 1))
            sums[2] += real.sum()
            sums[3] += losses[:, start].sum((0, 1))
            sums[4] += real[:, start].sum()
        nats, hits, count, start_nats, start_count = self.ranks.sum(sums).cpu()
        loss = float(nats.sum() / count.sum())
        self.valid = {"loss": loss, "loss_first_125_frames": float(start_nats.sum() / start_count.sum())}
        for index in range(codebooks):
            self.valid[f"loss_codebook_{index}"] = float(nats[index] / count[index])
            self.valid[f"accuracy_codebook_{index}"] = float(hits[index] / count[index])
        self.valid["bits_per_second"] = loss / math.log(2) * self.record.codec.tokens_per_second
        best = self.best is None or loss < self.best["loss"]
        if best:
            self.best = {"step": self.step, "loss": loss}
        if metrics is not None:
            metrics.write("valid", self.step, self.valid | {"seconds": self.seconds})
            metrics.flush()
            mark = ", the best so far" if best else ""
            tqdm.write(
                f"step {self.step}: valid loss {loss:.4f} a token ({self.valid['loss_first_125_frames']:.4f} over the "
                f"first {TUTORIAL_FRAMES} frames), {self.valid['bits_per_second']:,.0f} bits/s{mark}",
                file=sys.stderr,
            )

    def _shown(self, values: dict[str, float]) -> str:
        """What the progress bar tells beside the steps and the time."""
        shown = f"loss {values['loss']:.3f}, {values['tokens_per_second']:,.0f} tokens/s, "
        shown += f"data wait {values['data_wait']:.1%}, {peak_memory(self.device) / 1e6:,.0f} MB"
        return shown + (f", valid {self.valid['loss']:.3f}" if self.valid else "")

    def _agreed(self, tokens: int, caught: list[int], proposal: int) -> tuple[int, int, int]:
        """(tokens over all ranks, the signal that any of them has got, the first one's proposal): so all ranks stop
        after the same step, and plan at the same one."""
        found = torch.tensor([tokens, 0, 0, proposal], device=self.device)
        for number in caught[:1]:
            found[1] = number
            found[2] = 1
        total, number, ranks, proposal = self.ranks.sum(found).tolist()
        return total, number // ranks if ranks else 0, proposal

    def _stream(self) -> TrainStream:
        """From this step on, without end: whoever reads knows when to stop."""
        data = self.config.data
        return TrainStream(
            reader=self.train_notes,
            order=Order(self.train_notes.notes, self.config.train.seed, data.batch),
            vocabulary=self.record.vocabulary,
            window=self.record.window,
            label_dropout=data.label_dropout,
            steps=range(self.step, sys.maxsize),
            lanes=divided(data.batch, self.ranks.rank, self.ranks.world),
        )

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _save(self, metrics: Metrics | None) -> None:
        if metrics is None:
            return
        metrics.flush()
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        if self.average is not self.model:
            tensors |= {f"average.{name}": tensor for name, tensor in self.average.state_dict().items()}
        tensors |= {f"optimizer.{name}": tensor for name, tensor in state_tensors(self.optimizers).items()}
        facts = {"seconds": self.seconds, "valid": self.valid, "best": self.best}
        write_checkpoint(self.run, Checkpoint(self.step, tensors, facts))
        prune_checkpoints(self.run, self.config.train.keep, int(self.best["step"]) if self.best else None)

    def _restore(self) -> None:
        checkpoint = newest_checkpoint(self.run)
        if checkpoint is None:
            return
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}}
        for name, tensor in checkpoint.tensors.items():
            group, _, rest = name.partition(".")
            groups[group][rest] = tensor
        self.model.load_state_dict(groups["model"])
        if self.average is not self.model:
            self.average.load_state_dict(groups["average"])
        restore_state(self.optimizers, groups["optimizer"])
        self.step = checkpoint.step
        self.seconds = checkpoint.facts["seconds"]
        self.valid = checkpoint.facts["valid"]
        self.best = checkpoint.facts["best"]

    def _refuse(self, batch: Batch, loss: float, norm: float) -> None:
        keys = [key for part in self.ranks.gathered(batch.keys) for key in part]
        more = f" and {len(keys) - NAMED_NOTES} more" if len(keys) > NAMED_NOTES else ""
        raise TrainError(
            f"{self.run}: step {self.step + 1}: the loss is {loss} and the gradient's norm {norm}, so the step was "
            f"not made; its notes: {', '.join(keys[:NAMED_NOTES])}{more}; try a lower train.lr or a longer train.warmup"
        )

    def _outcome(self, stopped_by: int = 0) -> Outcome:
        path = self.run / "checkpoints" / f"step-{self.step:08d}.safetensors"
        return Outcome(self.step, self._planned or self.step, path, self.valid, self.best, stopped_by, self.ranks.first)


def _micro_batches(batch: Batch, size: int, vocabulary: Vocabulary) -> list[Batch]:
    """The batch in pieces of at most `size` notes; one note of padding for a rank that has none of a short batch."""
    if not batch.keys:
        labels = np.array([vocabulary.nones()], np.int64)
        return [Batch([], labels, np.zeros((1, vocabulary.codebooks), np.int16), np.zeros(1, np.int64))]
    size = size or len(batch.keys)
    return [batch.part(slice(first, first + size)) for first in range(0, len(batch.keys), size)]


def _tensors(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """(labels, codes, lengths) on the device."""
    labels, codes, lengths = (torch.from_numpy(array) for array in (batch.labels, batch.codes, batch.lengths))
    return labels.to(device), codes.to(device), lengths.to(device)


def _step_seed(*key: int) -> int:
    """What the noise of a step is drawn from, so that a run that goes on draws what it would have drawn."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def watched_signals() -> Iterator[list[int]]:
    """Collect SIGTERM and Ctrl-C instead of dying of them; a second Ctrl-C interrupts at once."""
    caught: list[int] = []

    def handle(number: int, frame: Any) -> None:
        if caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        caught.append(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
