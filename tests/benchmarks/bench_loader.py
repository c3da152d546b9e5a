"""The loader alone: notes a second in one process, against stock WebDataset's `.decode()` on the same shards."""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import webdataset as wds

from shards.manifest import Ledger, Manifest, read_manifest, write_manifest
from shards.note import Codec, Note
from shards.writer import write_shard
from trainer.data import NoteReader, TrainStream, train_batches
from trainer.order import Order
from trainer.vocabulary import Vocabulary

CODEC = Codec("encodec_24khz", "0" * 64, 24_000, hop=320, codebooks=2, codebook_size=1024, bandwidth=1.5)
SHARDS, NOTES, TOKENS, BATCH = 4, 1000, 600, 125
REPEATS = 5  # the best of them counts: the machine's noise only ever adds


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_set(Path(folder))
        stock = best(lambda: stock_notes(Path(folder)))
        ours = best(lambda: our_notes(Path(folder)))
    total = SHARDS * NOTES
    sys.stdout.write(
        f"stock WebDataset .decode(): {total / stock:>8,.0f} notes/s (npy and JSON, in the order of the tar)\n"
        f"trainer.data:               {total / ours:>8,.0f} notes/s (shuffled, batches of {BATCH}, labels as ids)\n"
        f"ratio: {stock / ours:.1f}\n"
    )


def write_set(folder: Path) -> None:
    rng = np.random.default_rng(0)
    shards = []
    for index in range(SHARDS):
        notes = (
            Note(
                f"guitar_acoustic_{index:03d}-{row:04d}",
                rng.integers(1024, size=TOKENS, dtype=np.int16),
                {"pitch": 40 + row % 37, "velocity": 100, "instrument_str": f"guitar_acoustic_{index:03d}"},
            )
            for row in range(NOTES)
        )
        shards.append(write_shard(folder / f"train-{index:05d}.tar", notes))
    total = SHARDS * NOTES
    splits = {"train": tuple(shards)}
    write_manifest(
        folder, Manifest(CODEC, {}, {}, "0" * 64, splits, ("pitch", "velocity"), Ledger(total, total, 0), {})
    )


def stock_notes(folder: Path) -> Iterator[Any]:
    urls = [str(path) for path in sorted(folder.glob("train-*.tar"))]
    for sample in wds.WebDataset(urls, shardshuffle=False).decode():
        yield sample["npy"], sample["json"]


def our_notes(folder: Path) -> Iterator[Any]:
    reader = NoteReader(folder, read_manifest(folder), "train")
    order = Order(reader.counts, seed=0, batch=BATCH)
    vocabulary = Vocabulary(2, 1024, labels=(("pitch", tuple(range(40, 77))), ("velocity", (100,))))
    steps = range(order.steps_per_epoch)
    return train_batches(TrainStream(reader, order, vocabulary, TOKENS, 0.1, steps, range(BATCH)), workers=0)


def best(make: Callable[[], Iterator[Any]]) -> float:
    """Seconds of the fastest of some passes."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        for _ in make():
            pass
        times.append(time.perf_counter() - start)
    return min(times)
