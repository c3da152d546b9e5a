"""The loader alone: notes a second in one process, against others on the same notes, each in its own format.

Those that are not installed are left out. What mosaicml-streaming and litdata require conflicts with the versions here,
and does not stop them: `pip install --no-deps --target peers litdata mosaicml-streaming lightning-utilities boto3
botocore s3transfer jmespath tifffile obstore Brotli python-snappy cramjam zstd catalogue`, with the torchvision that
fits the torch here, which mosaicml-streaming imports, and then `PYTHONPATH=peers make bench`.
"""

import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import webdataset as wds

from shards.manifest import Ledger, Manifest, read_manifest, write_manifest
from shards.note import Codec, Note
from shards.reader import read_shard
from shards.writer import write_shard
from trainer.data import NoteReader, TrainStream, train_batches
from trainer.order import Order
from trainer.vocabulary import Vocabulary

CODEC = Codec("encodec_24khz", "0" * 64, 24_000, hop=320, codebooks=2, codebook_size=1024, bandwidth=1.5)
SHARDS, NOTES, TOKENS, BATCH = 4, 1000, 600, 125
REPEATS = 10  # the best of them counts: the machine's noise only ever adds

Passes = Callable[[], Iterator[Any]]  # each call is a pass over all notes


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_set(root)
        passes: dict[str, Passes] = {"trainer.data": lambda: our_notes(root)}
        for name, (package, make_passes) in PEERS.items():
            if importlib.util.find_spec(package) is None:
                sys.stdout.write(f"{name}: not installed\n")
            else:
                passes[name] = make_passes(root)
        rates = measure(passes)
    for name, rate in rates.items():
        sys.stdout.write(f"{name + ':':<28}{rate:>8,.0f} notes/s; ratio: {rates['trainer.data'] / rate:.1f}\n")


def write_set(folder: Path) -> None:
    rng = np.random.default_rng(0)
    shards = []
    for index in range(SHARDS):
        notes = (
            Note(
                f"guitar_acoustic_{index:03d}-{row:04d}",
                rng.integers(1024, size=TOKENS, dtype=np.int16),
                {  # as the names of NSynth's notes give
                    "note_str": f"guitar_acoustic_{index:03d}-{row:04d}",
                    "instrument_str": f"guitar_acoustic_{index:03d}",
                    "instrument_family_str": "guitar",
                    "instrument_source_str": "acoustic",
                    "pitch": 40 + row % 37,
                    "velocity": 100,
                },
            )
            for row in range(NOTES)
        )
        shards.append(write_shard(folder / f"train-{index:05d}.tar", notes))
    total = SHARDS * NOTES
    splits = {"train": tuple(shards)}
    write_manifest(
        folder, Manifest(CODEC, {}, {}, "0" * 64, splits, ("pitch", "velocity"), Ledger(total, total, 0), {})
    )


def our_notes(folder: Path) -> Iterator[Any]:
    """Shuffled over all notes: batches of int16 codes, label ids and keys."""
    reader = NoteReader(folder, read_manifest(folder), "train")
    order = Order(reader.counts, seed=0, batch=BATCH)
    vocabulary = Vocabulary(2, 1024, labels=(("pitch", tuple(range(40, 77))), ("velocity", (100,))))
    steps = range(order.steps_per_epoch)
    return train_batches(TrainStream(reader, order, vocabulary, TOKENS, 0.1, steps, range(BATCH)), workers=0)


def webdataset_passes(folder: Path) -> Passes:
    """The same tars with WebDataset's own decoders, in the order of the tars: one note at a time, all labels."""
    urls = [str(path) for path in sorted(folder.glob("train-*.tar"))]
    return lambda: ((note["npy"], note["json"]) for note in wds.WebDataset(urls, shardshuffle=False).decode())


def datasets_passes(folder: Path) -> Passes:
    """Parquet, a file a shard, streamed, shuffled in a buffer of a shard's notes: batches of NumPy arrays, int64."""
    import datasets
    import pyarrow as pa
    import pyarrow.parquet

    for index, notes in enumerate(rows_of_shards(folder)):
        columns = {name: [note[name] for note in notes] for name in notes[0]}
        tokens = pa.array(columns.pop("tokens"), pa.list_(pa.int16()))
        pyarrow.parquet.write_table(pa.table({"tokens": tokens, **columns}), folder / f"train-{index}.parquet")
    datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0  # at the end of a pass, else 5 seconds
    stream = datasets.load_dataset(
        "parquet", data_files=str(folder / "*.parquet"), split="train", streaming=True, cache_dir=str(folder / "cache")
    )
    shuffled = stream.with_format("numpy").shuffle(seed=0, buffer_size=NOTES)
    return lambda: shuffled.iter(batch_size=BATCH)


def mosaicml_passes(folder: Path) -> Passes:
    """Its MDS, with its shuffle and its loader: batches by `stack`, which is faster than the loader's default."""
    from streaming import MDSWriter, StreamingDataLoader, StreamingDataset

    columns = {"tokens": "ndarray:int16", "pitch": "int", "velocity": "int"}
    with MDSWriter(out=str(folder / "mds"), columns=columns) as writer:
        for notes in rows_of_shards(folder):
            for note in notes:
                writer.write(note)
    stream = StreamingDataset(local=str(folder / "mds"), shuffle=True, batch_size=BATCH)
    return lambda: iter(StreamingDataLoader(stream, batch_size=BATCH, num_workers=0, collate_fn=stack))


def litdata_passes(folder: Path) -> Passes:
    """Its chunks of up to 64 MB, with its shuffle and its loader: batches by `stack`, as above."""
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming import Cache

    cache = Cache(str(folder / "litdata"), chunk_bytes="64MB")  # as `litdata.optimize` writes them, in this process
    for index, note in enumerate(note for notes in rows_of_shards(folder) for note in notes):
        cache[index] = note
    cache.done()
    cache.merge()
    stream = StreamingDataset(str(folder / "litdata"), shuffle=True)
    return lambda: iter(StreamingDataLoader(stream, batch_size=BATCH, num_workers=0, collate_fn=stack))


def rows_of_shards(folder: Path) -> Iterator[list[dict[str, Any]]]:
    """Tokens and labels of the notes of each tar: only the labels that the loader's ids are made of."""
    for path in sorted(folder.glob("train-*.tar")):
        yield [
            {"tokens": note.tokens, "pitch": note.labels["pitch"], "velocity": note.labels["velocity"]}
            for note in read_shard(path)
        ]


def stack(notes: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """A batch of notes of one length."""
    return {name: np.stack([note[name] for note in notes]) for name in notes[0]}


PEERS: dict[str, tuple[str, Callable[[Path], Passes]]] = {  # name -> package, passes over the notes of a set
    "stock WebDataset .decode()": ("webdataset", webdataset_passes),
    "Hugging Face datasets": ("datasets", datasets_passes),
    "mosaicml-streaming": ("streaming", mosaicml_passes),
    "litdata": ("litdata", litdata_passes),
}


def measure(passes: Mapping[str, Passes]) -> dict[str, float]:
    """Notes a second of CPU time, of all threads, in the fastest of some passes of each, which take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(REPEATS):
        for name, make in passes.items():
            start = time.process_time()
            for _ in make():
                pass
            seconds[name].append(time.process_time() - start)
    return {name: SHARDS * NOTES / min(times) for name, times in seconds.items()}
