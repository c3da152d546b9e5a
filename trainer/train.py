"""Training loop: shard set -> run. It can stop at any step and go on exactly.

The state at a step is the weights and the optimizer's moments; the rest (the notes of each step, the labels hidden,
the learning rate, the noise of dropout) is a function of the settings and the step.

A GPU works through a queue of kernels, which runs dry whenever this process waits for a number from it. So losses and
norms are read from a GPU every READ_EVERY steps only, and until then the device itself guards the weights: the first
loss or norm that is not finite sets `found_inf`, and no update is made any more. Knows no codec and no audio.
"""

import math
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from shards.console import counted, echo_above_bar, progress_bar, quote
from shards.errors import name_lack_of_memory
from shards.sample_info import TOKENS
from trainer.checkpoint import (
    Best,
    Checkpoint,
    Facts,
    check_tensors,
    checkpoint_path,
    newest_checkpoint,
    prune_checkpoints,
    set_aside,
    write_checkpoint,
)
from trainer.config import Config
from trainer.data import Batch, NoteReader, TrainStream, name_dead_workers, train_batches
from trainer.errors import TrainError
from trainer.evaluate import TUTORIAL_FRAMES, evaluate
from trainer.flops import TrainFlops, measure_peak
from trainer.metrics import MetricsWriter
from trainer.mixture import Mixture, open_split, read_sets
from trainer.model import NoteModel
from trainer.optim import (
    expected_state,
    make_optimizers,
    restore_state,
    state_tensors,
    update_ema,
    update_weights,
)
from trainer.order import Order, split_range
from trainer.run import RUN_FILE, RunInfo, fit_config, lock_run, open_run
from trainer.runtime import (
    Ranks,
    join_ranks,
    peak_memory,
    resolve_device,
    resolve_dtype,
    to_device,
    widest_float,
)
from trainer.schedule import StepEstimator, dropout_share, learning_rate, planned_steps
from trainer.start import check_same_start, describe_start, load_start, read_start
from trainer.vocabulary import Vocabulary

EVALUATIONS = 5  # of a run whose settings do not say how often
NAMED_NOTES = 8  # notes of a batch that an error names
READ_EVERY = {"cpu": 1, "mps": 1, "cuda": 16}  # steps between readings of losses and norms from a device


@dataclass(frozen=True)
class Outcome:
    """The result of a training."""

    run: Path
    step: int
    steps: int
    checkpoint: Path
    valid: dict[str, float]  # of the last evaluation; empty if the set has no valid split
    best: Best | None
    signal: int = 0  # that stopped it; 0: it is finished
    is_main: bool = True  # of the ranks, only this process reports

    def lines(self) -> list[str]:
        if not self.is_main:
            return []
        if self.signal:
            return [
                f"Stopped at step {self.step} of {self.steps}, saved in {self.checkpoint}.",
                "Next: the same command goes on from there.",
            ]
        out = Path("samples", self.run.absolute().name, TOKENS)
        best = f"; the best, {self.best.loss:.4f}, at step {self.best.step}" if self.best else ""
        loss = f" Valid loss {self.valid['loss']:.4f} a token{best}." if self.valid else ""
        return [
            f"Trained {self.run} for {counted(self.step, 'step')}.{loss} Weights: {self.checkpoint}",
            f"Next: python -m trainer sample --run {quote(self.run)} --out {quote(out)} --count 16",
        ]


@name_lack_of_memory("make data.micro_batch smaller, or the model, in another --run")
def train(
    shards: Path | Sequence[Path],
    run: Path,
    config: Config,
    device: str = "auto",
    wandb_project: str | None = None,
    start: str | None = None,
    weights: Sequence[str] = (),
) -> Outcome:
    """Train a run, or go on with it from its newest checkpoint.

    shards: a set, or several. weights: of several sets, texts `NAME=N`; a set without one has weight 1.
    wandb_project: a Weights & Biases project that gets its metrics too; None: none does. start: for `read_start`.

    Raises:
        UserError: a set, settings or a run that do not fit each other, or a loss that is no number.
    """
    target = resolve_device(device)
    with join_ranks(target) as ranks:
        sets = read_sets(shards if isinstance(shards, Sequence) else [shards], weights)
        train_notes, valid_notes = Mixture(sets), open_split(sets, "valid")
        config = fit_config(config, train_notes, ranks)
        with lock_run(run) if ranks.is_main else nullcontext():
            is_new = not (run / RUN_FILE).is_file()
            info = open_run(
                train_notes,
                run,
                config,
                ranks,
                read_start(start, config, train_notes.codec) if start and is_new else None,
            )
            if start:
                check_same_start(run, info, start)
            return Training(info, run, train_notes, valid_notes, target, ranks).fit(wandb_project)


@dataclass(frozen=True)
class UnreadStep:
    """A step whose losses are still on the device."""

    step: int  # updates with this one
    keys: list[str]  # of its notes on this rank
    tokens: int  # over all ranks
    rate: float  # learning rate
    flops: float  # of this rank
    waited: float  # seconds for the batch
    sums: Tensor  # (codebook + 1,) nll of each codebook over all ranks, then the gradient's norm


class Training:
    """A run in memory: the model, its optimizers, and the step that they have reached."""

    def __init__(
        self,
        info: RunInfo,
        run: Path,
        train_notes: Mixture,
        valid_notes: Sequence[NoteReader],  # of each set
        device: torch.device,
        ranks: Ranks,
    ) -> None:
        self.info, self.run, self.device, self.ranks = info, run, device, ranks
        self.config = info.config
        self.train_notes, self.valid_notes = train_notes, valid_notes
        self.order = Order(train_notes.counts, self.config.train.seed, self.config.data.batch)
        self.dtype = resolve_dtype(self.config.train.dtype, device)
        torch.manual_seed(self.config.train.seed)
        self.model = NoteModel(self.config.model, info.vocabulary, info.window).to(device)
        self.ema_model = deepcopy(self.model) if self.config.train.ema else self.model  # for evaluation and samples
        self.optimizers = make_optimizers(self.model, self.config.train)
        self.flops = TrainFlops(self.model, self.config.model)
        self.found_inf = torch.zeros((), device=device)  # 1 from the first loss or norm on that is not finite
        self.unread: list[UnreadStep] = []
        self.peak = 0.0  # operations a second; measured when there is a step to make
        self.step = 0
        self.seconds = 0.0  # of training, over all starts
        self.best: Best | None = None
        self.valid: dict[str, float] = {}
        self._restore()
        compiled = torch.compile(self.model) if self.config.train.compile else self.model
        self.network: Any = DistributedDataParallel(compiled, broadcast_buffers=False) if ranks.world > 1 else compiled

    def fit(self, wandb_project: str | None = None) -> Outcome:
        """Make the updates that are missing."""
        if not self._has_steps_left():
            return self._outcome()
        self.peak = measure_peak(self.device, self.dtype)  # before loader processes take the CPU
        sets = {each.name: each.weight for each in self.info.all_sets}
        settings = {"sets": sets, "codec": self.info.codec.to_json(), **self.config.to_json()}
        metrics = MetricsWriter(self.run, self.step, settings, wandb_project) if self.ranks.is_main else None
        bar = progress_bar(
            total=self._steps, initial=self.step, unit="step", disable=not self.ranks.is_main, leave=False
        )
        try:
            with name_dead_workers(), catch_signals() as signals:
                return self._loop(signals, metrics, bar)
        finally:
            bar.close()
            if metrics is not None:
                metrics.close()

    @property
    def _steps(self) -> int | None:
        """Steps in all, by the plan that holds now."""
        return planned_steps(self.info.plans, self.step)

    def _has_steps_left(self) -> bool:
        return self._steps is None or self.step < self._steps

    def _loop(self, signals: list[int], metrics: MetricsWriter | None, bar: Any) -> Outcome:
        checkpoint_every = self.config.train.checkpoint_every
        batches = train_batches(self._stream(), self.config.data.workers)
        estimator = StepEstimator(self.config.train.minutes, self.step, self.seconds)
        stop_signal = 0
        start = clock = time.perf_counter()  # of the unread steps, and of this one
        while self._has_steps_left() and not stop_signal:
            batch = next(batches)
            waited = time.perf_counter() - clock
            is_planner = self.ranks.is_main and not self.unread  # whose steps are all timed
            steps = estimator.propose(self.info.plans, self.step, self.seconds) if is_planner else 0
            tokens, stop_signal, steps = self._agree(batch.tokens, signals, steps)
            if steps:
                self._plan(steps)
                bar.total = steps
            self._update(batch, tokens, waited)
            is_evaluation = self._is_time_to_evaluate()
            is_saved = is_evaluation or stop_signal or (checkpoint_every and self.step % checkpoint_every == 0)
            if is_saved or self._is_time_to_read():
                self._read(metrics, bar, start)
            if is_evaluation and any(notes.shards for notes in self.valid_notes):
                self._evaluate(metrics)
            if is_evaluation and metrics is not None and self.config.train.samples:
                from trainer.preview import write_previews

                write_previews(self.run, self.info, self.ema_model, self.step, self.dtype)
            if is_saved:
                self._save(metrics)
            clock = time.perf_counter()
            if not self.unread:
                start = clock
        return self._outcome(stop_signal)

    def _plan(self, steps: int) -> None:
        """Save that from this step on the run has `steps` steps in all."""
        self.info = replace(self.info, plans=(*self.info.plans, (self.step, steps)))
        if self.ranks.is_main:
            self.info.write(self.run)

    def _is_time_to_evaluate(self) -> bool:
        """True after the last step, and every `evaluate_every` steps or `EVALUATIONS` times a run."""
        if not self._has_steps_left():
            return True
        every = self.config.train.evaluate_every
        if every or self._steps is None:
            return bool(every) and self.step % every == 0
        return self.step * EVALUATIONS // self._steps > (self.step - 1) * EVALUATIONS // self._steps

    def _is_time_to_read(self) -> bool:
        """True every READ_EVERY steps, and before the last step, where a run of minutes may get more steps."""
        is_ending = self._steps is not None and self.step + 1 >= self._steps
        return is_ending or len(self.unread) >= READ_EVERY.get(self.device.type, 1)

    def _update(self, batch: Batch, tokens: int, waited: float) -> None:
        """Make one step on this rank's part of a batch of `tokens` over all ranks, for which it has `waited` seconds.
        Its losses are left unread; the update is not made once a loss or norm was not finite."""
        config = self.config.train
        share = dropout_share(self.config.model.dropout_epochs, self.order.steps_per_epoch, self._steps)
        self.model.scale_dropout(share)
        nll = self._backward(batch, tokens)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip or math.inf)
        sums = torch.cat([nll, norm.to(nll.dtype)[None]])
        self.found_inf.masked_fill_(~sums.isfinite().all(), 1)
        rate = learning_rate(config, self.step, self._steps)
        update_weights(self.optimizers, rate, self.found_inf)
        if self.ema_model is not self.model:
            update_ema(self.ema_model, self.model, config.ema, self.step, self.found_inf)
        self.step += 1
        flops = self.flops.of(batch.lengths)
        self.unread.append(UnreadStep(self.step, batch.keys, tokens, rate, flops, waited, sums))

    def _read(self, metrics: MetricsWriter | None, bar: Any, start: float) -> None:
        """Read the losses and norms of the unread steps, which began at `start`, and write all their numbers.

        Raises TrainError at a step whose loss or norm is not finite; the weights are those before it.
        """
        unread, self.unread = self.unread, []
        rows = torch.stack([step.sums for step in unread]).cpu()
        elapsed = time.perf_counter() - start
        self.seconds += elapsed
        speeds = {
            "tokens_per_second": sum(step.tokens for step in unread) / elapsed,
            "data_wait": sum(step.waited for step in unread) / elapsed,
        }
        if metrics is not None:
            speed = sum(step.flops for step in unread) / elapsed
            self.peak = max(self.peak, speed)  # the machine may have had other work when it was measured
            speeds["mfu"] = speed / self.peak
        for step, row in zip(unread, rows, strict=True):
            nll, norm = row[:-1], float(row[-1])
            loss = float(nll.sum()) / step.tokens
            if not row.isfinite().all():
                self.step = step.step - 1
                self._raise_not_finite(step, loss, norm)
            codebook_tokens = step.tokens / len(nll)
            by_codebook = {f"loss_codebook_{index}": float(value) / codebook_tokens for index, value in enumerate(nll)}
            values = {"loss": loss, **by_codebook, "lr": step.rate, "gradient_norm": norm, **speeds}
            if metrics is not None:
                metrics.write("train", step.step, values)
                bar.set_postfix_str(self._bar_text(values), refresh=False)
                bar.update()

    def _backward(self, batch: Batch, tokens: int) -> Tensor:
        """Add the gradient of the mean over the `tokens` of the global batch, from this rank's part of it, to the
        parameters; return the summed nll of each codebook over all ranks, (codebook,)."""
        torch.manual_seed(_step_seed(self.config.train.seed, self.step, self.ranks.rank))
        self.model.zero_grad(set_to_none=True)
        self.network.train()
        parts = _micro_batches(batch, self.config.data.micro_batch, self.info.vocabulary)
        sums = torch.zeros(self.info.codec.codebooks, device=self.device, dtype=widest_float(self.device))
        for index, part in enumerate(parts):
            is_last = index == len(parts) - 1
            with nullcontext() if is_last or self.ranks.world == 1 else self.network.no_sync():
                with self._autocast():
                    nll, _ = self.network(*(to_device(array, self.device) for array in part.arrays))
                # DDP takes the mean over ranks, but the gradient is a sum over them.
                (nll.sum() / tokens * self.ranks.world).backward()
            sums += nll.detach().sum((0, 1))
        return self.ranks.all_reduce(sums)

    def _evaluate(self, metrics: MetricsWriter | None) -> None:
        """Measure the losses on the valid split, and note whether they are the best so far."""
        self.valid = evaluate(self.ema_model, self.valid_notes, self.info, self.ranks, self.device, self._autocast())
        loss = self.valid["loss"]
        is_best = self.best is None or loss < self.best.loss
        if is_best:
            self.best = Best(self.step, loss)
        if metrics is not None:
            metrics.write("valid", self.step, self.valid | {"seconds": self.seconds})
            metrics.flush()
            echo_above_bar(
                f"step {self.step}: valid loss {loss:.4f} a token ({self.valid['loss_first_125_frames']:.4f} over the "
                f"first {TUTORIAL_FRAMES} frames), {self.valid['bits_per_second']:,.0f} bits/s"
                + (", the best so far" if is_best else "")
            )

    def _bar_text(self, values: dict[str, float]) -> str:
        """The text of the progress bar beside the steps and the time."""
        text = f"loss {values['loss']:.3f}, {values['tokens_per_second']:,.0f} tokens/s, {values['mfu']:.0%} of peak, "
        text += f"data wait {values['data_wait']:.1%}, {peak_memory(self.device) / 1e6:,.0f} MB"
        return text + (f", valid {self.valid['loss']:.3f}" if self.valid else "")

    def _agree(self, tokens: int, signals: list[int], steps: int) -> tuple[int, int, int]:
        """(tokens over all ranks, the signal that any rank has got or 0, the main rank's estimate of steps), the same
        on all ranks, so that they stop after the same step and change the plan at the same step."""
        number = signals[0] if signals else 0
        total, number, ranks, steps = self.ranks.sum([tokens, number, bool(number), steps])
        return total, number // ranks if ranks else 0, steps

    def _stream(self) -> TrainStream:
        """The batches from this step on, without end: the loop stops by itself."""
        data = self.config.data
        return TrainStream(
            reader=self.train_notes,
            order=self.order,
            vocabulary=self.info.vocabulary,
            window=self.info.window,
            label_dropout=data.label_dropout,
            steps=range(self.step, sys.maxsize),
            lanes=split_range(data.batch, self.ranks.rank, self.ranks.world),
            crop=data.crop,
        )

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _save(self, metrics: MetricsWriter | None) -> None:
        if metrics is None:
            return
        metrics.flush()
        tensors = self._weights() | _with_prefix("optimizer", state_tensors(self.optimizers))
        facts = asdict(Facts(self.seconds, self.valid, self.best))
        write_checkpoint(self.run, Checkpoint(self.step, tensors, facts))
        prune_checkpoints(self.run, self.config.train.keep, self.best.step if self.best else None)

    def _restore(self) -> None:
        if self.ranks.is_main:
            checkpoint = newest_checkpoint(self.run, on_damaged=set_aside)
            self.ranks.barrier()
        else:
            self.ranks.barrier()  # until the main rank has set the damaged ones aside
            checkpoint = newest_checkpoint(self.run)
        if checkpoint is None:
            if self.info.start is not None:
                load_start(self.model, self.info.start)
                self.ema_model.load_state_dict(self.model.state_dict())
                if self.ranks.is_main:
                    echo_above_bar(describe_start(self.info.start, self.info.vocabulary))
            return
        path = checkpoint_path(self.run, checkpoint.step)
        facts = Facts.of(self.run, checkpoint)
        weights = self._weights()
        check_tensors(path, checkpoint.tensors, weights | _with_prefix("optimizer", expected_state(self.optimizers)))
        for name, tensor in weights.items():
            tensor.copy_(checkpoint.tensors[name])
        state = {name: tensor for name, tensor in checkpoint.tensors.items() if name not in weights}
        restore_state(self.optimizers, {name.partition(".")[2]: tensor for name, tensor in state.items()})
        self.step = checkpoint.step
        self.seconds, self.valid, self.best = facts.seconds, facts.valid, facts.best

    def _weights(self) -> dict[str, Tensor]:
        """The weights by their names in a checkpoint."""
        weights = _with_prefix("model", self.model.state_dict())
        if self.ema_model is not self.model:  # the prefix is that of old checkpoints
            weights |= _with_prefix("average", self.ema_model.state_dict())
        return weights

    def _raise_not_finite(self, step: UnreadStep, loss: float, norm: float) -> None:
        keys = [key for part in self.ranks.all_gather(step.keys) for key in part]
        more = f" and {len(keys) - NAMED_NOTES} more" if len(keys) > NAMED_NOTES else ""
        raise TrainError(
            f"{self.run}: step {step.step}: the loss is {loss} and the gradient's norm {norm}, so the step was "
            f"not made; its notes: {', '.join(keys[:NAMED_NOTES])}{more}; try a lower train.lr or a longer train.warmup"
        )

    def _outcome(self, stop_signal: int = 0) -> Outcome:
        path, steps = checkpoint_path(self.run, self.step), self._steps or self.step
        return Outcome(self.run, self.step, steps, path, self.valid, self.best, stop_signal, self.ranks.is_main)


def _with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _micro_batches(batch: Batch, size: int, vocabulary: Vocabulary) -> list[Batch]:
    """Split a batch into parts of at most `size` notes. A rank that has no note of a short batch gets one of padding,
    because all ranks must take part in the update."""
    if not batch.keys:
        labels = np.array([vocabulary.uncond_ids()], np.int64)
        return [Batch([], labels, np.zeros((1, vocabulary.codebooks), np.int16), np.zeros(1, np.int64))]
    size = size or len(batch.keys)
    return [batch.part(slice(first, first + size)) for first in range(0, len(batch.keys), size)]


def _step_seed(*key: int) -> int:
    """The seed of a step's dropout: a function of `key`, so that a run that goes on has the same noise."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def catch_signals() -> Iterator[list[int]]:
    """Collect SIGTERM and Ctrl-C instead of ending the process; a second Ctrl-C interrupts at once."""
    signals: list[int] = []

    def handle(number: int, frame: Any) -> None:
        if signals and number == signal.SIGINT:
            raise KeyboardInterrupt
        signals.append(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
