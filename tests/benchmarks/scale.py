"""`make bench-scale`: time and memory of every stage but the codec and the model, by the number of notes.

Makes a folder of small files and a set of its notes, of random codes, and runs each stage in a process of its own.
`python -m tests.benchmarks.scale 10000` measures one number of notes.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from pipeline.encode.batch_result import BatchResult
from pipeline.encode.plan import Batch, make_plan
from pipeline.encode.ranks import Rank
from pipeline.encode.run import EncodeRequest, encode_folder
from pipeline.encode.settings import EncodingOptions
from pipeline.notes.folder import scan_folder
from shards.manifest import MANIFEST, read_manifest
from shards.note import Note
from shards.summary import summarize
from shards.verify import find_faults
from tests.support.notes import Silent
from trainer.config import load_config
from trainer.data import NoteReader, TrainStream, train_batches
from trainer.order import Order
from trainer.sample import SampleRequest, sample
from trainer.train import train
from trainer.vocabulary import Vocabulary

NUMBERS = (10_000, 100_000, 1_000_000)
TOKENS = 40  # of a note
BATCH = 64
TINY = ["width=16", "depth=1", "heads=2", "head_width=8", f"batch={BATCH}", "workers=0", "warmup=1", "samples=0"]


def main() -> None:
    numbers = [int(word) for word in sys.argv[1:]] or NUMBERS
    rows: dict[str, list[str]] = {}
    for number in numbers:
        with tempfile.TemporaryDirectory() as folder:
            for stage in STAGES:
                command = [sys.executable, "-c", f"from tests.benchmarks.scale import measure; measure({stage!r})"]
                environment = {**os.environ, "OMP_NUM_THREADS": "1"}
                result = subprocess.run(
                    [*command, folder, str(number)], env=environment, capture_output=True, text=True, check=False
                )
                if result.returncode:
                    sys.exit(f"{stage}: {result.stderr}")
                seconds, megabytes = json.loads(result.stdout.splitlines()[-1])
                rows.setdefault(stage, []).append(f"{seconds:8.2f} s {megabytes:6.0f} MB")
                sys.stdout.write(f"{number:>9,} notes  {stage:<42} {rows[stage][-1]}\n")
                sys.stdout.flush()


def measure(stage: str) -> None:
    """Run one stage on the folder and the number of notes in sys.argv; print its seconds, and its peak of memory in MB
    beyond that of a program that has imported everything."""
    folder, number = Path(sys.argv[1]), int(sys.argv[2])
    before = _peak()
    seconds = STAGES[stage](folder, number)
    print(json.dumps([seconds, _peak() - before]))  # noqa: T201


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def make_files(root: Path, number: int) -> float:
    """Files of a few bytes, each with its own; a thousand of them are the valid split."""
    begun = time.perf_counter()
    for split, source, count in (("train", "acoustic", number - 1000), ("valid", "electronic", 1000)):
        folder = root / f"audio/nsynth-{split}"
        folder.mkdir(parents=True)
        for index in range(count):
            name = f"guitar_{source}_{index // 800:03d}-{20 + index % 80:03d}-{25 + 10 * (index // 80 % 10):03d}.wav"
            (folder / name).write_bytes(name.encode())
    return time.perf_counter() - begun


def list_and_plan(root: Path, number: int) -> float:
    begun = time.perf_counter()
    plan = make_plan(scan_folder(root / "audio").inputs, options().settings())
    assert sum(len(task.notes) for task in plan.tasks) == number
    return time.perf_counter() - begun


def encode(root: Path, number: int) -> float:
    """Everything that `encode` does in the parent process: codes are random numbers."""
    request = EncodeRequest(root / "audio", root / "set", options(), 1, rank=Rank())
    begun = time.perf_counter()
    with mock.patch("pipeline.encode.run.encode_batches", random_codes):
        encode_folder(request, Silent())
    seconds = time.perf_counter() - begun
    assert read_manifest(root / "set").ledger.encoded == number
    return seconds


def encode_last_shard(root: Path, number: int) -> float:
    (root / "set" / MANIFEST).unlink()
    max((root / "set").glob("train-*.json")).unlink()
    return encode(root, number)


def random_codes(make_encoder: Any, batches: Iterable[Batch], workers: int) -> Iterator[BatchResult]:
    rng = np.random.default_rng(0)
    for batch in batches:
        codes = rng.integers(1024, size=(len(batch.notes), TOKENS), dtype=np.int16)
        yield BatchResult([Note(note.key, row, note.labels) for note, row in zip(batch.notes, codes, strict=True)])


def inspect(root: Path, number: int) -> float:
    begun = time.perf_counter()
    assert summarize(root / "set")["tokens"] == number * TOKENS
    return time.perf_counter() - begun


def verify(root: Path, number: int) -> float:
    begun = time.perf_counter()
    assert list(find_faults(root / "set")) == []
    return time.perf_counter() - begun


def train_to(step: int) -> Callable[[Path, int], float]:
    def train_run(root: Path, number: int) -> float:
        config = load_config("small", [*TINY, f"steps={step}"])
        begun = time.perf_counter()
        train(root / "set", root / "run", config, "cpu")
        return time.perf_counter() - begun

    return train_run


def batches_from(share: float) -> Callable[[Path, int], float]:
    """The first hundred batches from a place in the first epoch on, by a loader that is opened there."""

    def read_batches(root: Path, number: int) -> float:
        vocabulary = Vocabulary(2, 1024, labels=(("pitch", tuple(range(20, 100))), ("velocity", (25,))))
        begun = time.perf_counter()
        reader = NoteReader(root / "set", read_manifest(root / "set"), "train")
        order = Order(reader.counts, seed=0, batch=BATCH)
        first = int(share * (order.steps_per_epoch - 100))
        steps = range(first, first + 100)
        stream = TrainStream(reader, order, vocabulary, TOKENS, 0.1, steps, range(BATCH))
        assert sum(1 for _ in train_batches(stream, workers=0)) == 100
        return time.perf_counter() - begun

    return read_batches


def sample_run(root: Path, number: int) -> float:
    begun = time.perf_counter()
    sample(root / "run", root / "samples", SampleRequest(8), "cpu")
    return time.perf_counter() - begun


def options() -> EncodingOptions:
    return EncodingOptions(
        codec="encodec_mini", bandwidth=None, duration="0.2", weights=None, device="cpu", min_peak=1e-4,
        precision="float32", notes_per_shard=1000, valid_fraction=0.02, seed=0,
    )  # fmt: skip


STAGES: dict[str, Callable[[Path, int], float]] = {
    "write the files": make_files,
    "list and plan": list_and_plan,
    "encode, but for the codec": encode,
    "encode again: nothing to do": encode,
    "encode the last shard again": encode_last_shard,
    "inspect": inspect,
    "verify": verify,
    "train, one step": train_to(1),
    "go on, one step": train_to(2),
    "100 batches": batches_from(0),
    "100 batches, from the middle of an epoch": batches_from(0.5),
    "sample": sample_run,
}

if __name__ == "__main__":
    main()
