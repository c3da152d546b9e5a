"""Encoding as the tutorial does it against `pipeline encode`: the same files, full-size EnCodec, in alternation.

The tutorial's loop is written out plainly: one file at a time through the `encodec` package as it comes, with torch's
own choice of threads. Both resample by soxr, so that their codes can be compared. EnCodec has random weights of the
official shapes: speed does not depend on their values. What takes time once (loading, starting workers) is left out.
"""

import multiprocessing
import tempfile
import time
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import click
import numpy as np
import soundfile
import soxr
import torch
from safetensors.torch import save_file

from pipeline.codec.model import untrained_24khz
from pipeline.encode.plan import Batch, Task, make_plan
from pipeline.encode.run import make_encoder
from pipeline.encode.settings import EncodingOptions, default_batch, default_workers
from pipeline.encode.workers import BatchEncoder, encode_batches
from pipeline.notes.folder import scan_folder
from shards.note import Note

ROUNDS = 4
NOTES_A_ROUND = 16
SECONDS = 4.0  # a note
RATE = 16_000  # Hz, as NSynth
BANDWIDTH = 1.5  # kbps
TUTORIAL = "tutorial's loop"
OURS = "pipeline encode"


def write_notes(folder: Path, count: int) -> None:
    """Decaying harmonics of random pitch, as MP3."""
    random = np.random.default_rng(0)
    time_axis = np.arange(round(SECONDS * RATE)) / RATE
    for index in range(count):
        pitch = random.integers(40, 77)
        harmonics = 2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * np.arange(1, 9)[:, None] * time_axis
        sound = (random.random((8, 1)) * np.sin(harmonics) * np.exp(-2 * time_axis)).sum(axis=0)
        soundfile.write(folder / f"guitar_acoustic_{index:03d}-{pitch:03d}-100.mp3", sound / 8, RATE)


def tutorial(model: torch.nn.Module, path: Path) -> np.ndarray:
    """The tutorial's `encode_audio`: (frame * codebook,)."""
    waveform, rate = soundfile.read(path, dtype="float32")
    waveform = torch.from_numpy(soxr.resample(waveform, rate, model.sample_rate))[None, None]
    with torch.no_grad():
        encoded_frames = model.encode(waveform)
    return encoded_frames[0][0].contiguous().permute(0, 2, 1).reshape(-1).numpy()


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        compare(Path(name))


def compare(home: Path) -> None:
    torch.manual_seed(0)
    model = untrained_24khz().eval()
    model.set_target_bandwidth(BANDWIDTH)
    weights = home / "random.safetensors"
    save_file(model.state_dict(), weights)
    (home / "notes").mkdir()
    write_notes(home / "notes", ROUNDS * NOTES_A_ROUND)

    options = EncodingOptions(
        codec="encodec_24khz", bandwidth=BANDWIDTH, duration=str(SECONDS), weights=weights, device="cpu",
        min_peak=1e-4, precision="float32", notes_per_shard=1000, valid_fraction=0.0, seed=0,
    )  # fmt: skip
    settings = options.settings()
    settings = replace(settings, batch=default_batch(settings, "cpu"))
    folder = scan_folder(home / "notes")
    [task] = make_plan(folder.inputs, settings).tasks
    workers = default_workers("cpu")
    encoder = partial(make_encoder, settings, weights, "cpu", folder.root)
    tutorial(model, folder.root / task.notes[0].file.path)  # the first call allocates

    elapsed = dict.fromkeys([TUTORIAL, OURS], 0.0)  # seconds
    peak = 0  # MB
    equal: list[np.ndarray] = []  # (token,) of each note
    for start in range(0, len(task.notes), NOTES_A_ROUND):
        part = replace(task, notes=task.notes[start : start + NOTES_A_ROUND])
        started = time.perf_counter()
        expected = {note.key: tutorial(model, folder.root / note.file.path) for note in part.notes}
        elapsed[TUTORIAL] += time.perf_counter() - started
        encoded, seconds, memory = encode(encoder, part, settings.batch, workers)
        elapsed[OURS] += seconds
        peak = max(peak, memory)
        equal += [encoded[key] == tokens for key, tokens in expected.items()]

    audio = len(task.notes) * SECONDS
    shares = np.concatenate(equal).reshape(-1, settings.codec.codebooks).mean(axis=0)  # (codebook,)
    click.echo(f"encoding {len(task.notes)} notes of {SECONDS:g} s with full-size EnCodec at {BANDWIDTH:g} kbps")
    click.echo(f"  {TUTORIAL:<16}{audio / elapsed[TUTORIAL]:6.1f} x real time")
    click.echo(
        f"  {OURS:<16}{audio / elapsed[OURS]:6.1f} x real time, ratio {elapsed[TUTORIAL] / elapsed[OURS]:.2f}, equal "
        f"codes {', '.join(f'{share:.3%}' for share in shares)}, {workers} workers of {peak} MB"
    )


def encode(
    encoder: partial[BatchEncoder], task: Task, size: int, workers: int
) -> tuple[dict[str, np.ndarray], float, int]:
    """Encode a task, `size` notes at a time: tokens by key, seconds, and a worker's peak of memory in MB.

    The clock starts when the first worker has encoded a note; that the others are not quite ready counts against us.
    """
    warm_up = [Batch((note,)) for note in task.notes[:workers]]
    results = encode_batches(encoder, chain(warm_up, task.batches(size)), workers)
    next(results)
    started = time.perf_counter()
    tokens = {}
    memory = 0
    for result in results:
        for note in result.notes:
            assert isinstance(note, Note)
            tokens[note.key] = note.tokens
        memory = max(memory, *map(peak_memory, multiprocessing.active_children()))
    return tokens, time.perf_counter() - started, memory


def peak_memory(process: multiprocessing.process.BaseProcess) -> int:
    """MB that were resident at once, as Linux counts them; 0 where it cannot be asked."""
    status = Path(f"/proc/{process.pid}/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024


if __name__ == "__main__":
    main()
