"""Encoding as the tutorial does it against `pipeline encode`: the same files, full-size EnCodec, in alternation.

The tutorial's loop is written out plainly: one file at a time through the `encodec` package as it comes, with torch's
own choice of threads. Both resample by soxr, so that their codes can be compared. EnCodec has the official shapes,
layers that keep the scale of the notes, and codebooks fitted to them: equal codes say nothing where all are 0. bfloat16
is measured where the processor has units for it. What takes time once (loading, starting workers) is left out.

Where there is a GPU, also the whole of `encode` on all of them, from MP3 files and with what takes time once, and the
codec alone, on notes in memory.
"""

import multiprocessing
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import click
import numpy as np
import soundfile
import soxr
import torch
from safetensors.torch import save_file

from pipeline.codec.model import fold_weight_norm, quiet_weight_norm, untrained_24khz
from pipeline.codec.training.codebooks import fit_codebooks
from pipeline.codec.training.initialization import initialise
from pipeline.encode.encoder import load_audio_encoder
from pipeline.encode.plan import Batch, Task, make_plan
from pipeline.encode.reader import Reader
from pipeline.encode.run import EncodeRequest, encode_folder, make_encoder
from pipeline.encode.settings import PRECISIONS, EncodingOptions, default_batch, default_workers
from pipeline.encode.workers import BatchEncoder, encode_batches
from pipeline.notes.folder import scan_folder
from shards.note import Note
from tests.support.notes import Silent
from trainer.runtime import resolve_dtype

ROUNDS = 3
NOTES_A_ROUND = 32  # starting the workers again costs each round a little
SECONDS = 4.0  # a note
RATE = 16_000  # Hz, as NSynth
BANDWIDTH = 1.5  # kbps
LEAST_USED = 500  # codes of each codebook
GPU_NOTES = 8192
GPU_CALLS = 200  # of the codec alone
PUBLISHED = 380  # x real time, as the tutorial says, on a GPU
WEIGHTS = "fitted.safetensors"
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


def fitted_24khz(notes: Sequence[Path]) -> Any:
    """Full-size EnCodec with orthogonal layers, scaled on some of the notes, and codebooks of k-means on all."""
    torch.manual_seed(0)
    model = untrained_24khz().eval()
    normalised = [module for module in model.modules() if hasattr(module, "weight_g")]
    fold_weight_norm(model)
    sounds = torch.stack([load(note, model.sample_rate) for note in notes])
    initialise(model, sounds[:NOTES_A_ROUND])
    with torch.no_grad():
        latents = torch.cat([model.encoder(part[:, None]) for part in sounds.split(NOTES_A_ROUND)])
        flat = latents.transpose(1, 2).flatten(0, 1)  # (frame of all notes, channel)
        model.set_target_bandwidth(BANDWIDTH)
        count = model.quantizer.get_num_quantizers_for_bandwidth(model.frame_rate, BANDWIDTH)
        generator = torch.Generator().manual_seed(0)
        books = fit_codebooks(flat, count, model.quantizer.bins, len(flat), generator)
        for layer, entries in zip(model.quantizer.vq.layers, books.entries, strict=False):
            layer._codebook.embed.copy_(entries)
    with quiet_weight_norm():  # as the package's model comes
        for module in normalised:
            torch.nn.utils.weight_norm(module)
    return model


def load(path: Path, sample_rate: int) -> torch.Tensor:
    waveform, rate = soundfile.read(path, dtype="float32")
    return torch.from_numpy(soxr.resample(waveform, rate, sample_rate))


def tutorial(model: torch.nn.Module, path: Path) -> np.ndarray:
    """The tutorial's `encode_audio`: (frame * codebook,)."""
    with torch.no_grad():
        encoded_frames = model.encode(load(path, model.sample_rate)[None, None])
    return encoded_frames[0][0].contiguous().permute(0, 2, 1).reshape(-1).numpy()


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        compare(Path(name))
        if torch.cuda.is_available():
            time_gpus(Path(name), "cuda")


def compare(home: Path) -> None:
    (home / "notes").mkdir()
    write_notes(home / "notes", ROUNDS * NOTES_A_ROUND)
    weights = home / WEIGHTS
    model = fitted_24khz(sorted((home / "notes").iterdir()))
    save_file(model.state_dict(), weights)

    settings = options(weights, "cpu").settings()
    settings = replace(settings, batch=default_batch(settings, "cpu"))
    folder = scan_folder(home / "notes")
    [task] = make_plan(folder.inputs, settings).tasks
    workers = default_workers(["cpu"])
    has_bfloat16 = resolve_dtype("auto", torch.device("cpu")) == torch.bfloat16
    encoders = {
        precision: partial(make_encoder, replace(settings, precision=precision), weights, "cpu", folder.root)
        for precision in (PRECISIONS if has_bfloat16 else PRECISIONS[:1])
    }
    tutorial(model, folder.root / task.notes[0].file.path)  # the first call allocates

    tutorial_seconds, expected = 0.0, dict[str, np.ndarray]()  # key -> (token,)
    seconds, peaks = dict.fromkeys(encoders, 0.0), dict.fromkeys(encoders, 0)  # by precision; peaks in MB
    encoded: dict[str, dict[str, np.ndarray]] = {precision: {} for precision in encoders}
    for start in range(0, len(task.notes), NOTES_A_ROUND):
        part = replace(task, notes=task.notes[start : start + NOTES_A_ROUND])
        started = time.perf_counter()
        expected |= {note.key: tutorial(model, folder.root / note.file.path) for note in part.notes}
        tutorial_seconds += time.perf_counter() - started
        for precision, encoder in encoders.items():
            tokens, elapsed, peak = encode(encoder, part, settings.batch, workers)
            encoded[precision] |= tokens
            seconds[precision] += elapsed
            peaks[precision] = max(peaks[precision], peak)

    audio = len(task.notes) * SECONDS
    used = [len(np.unique(column)) for column in frames(expected, [*expected], settings.codec.codebooks).T]
    assert min(used) >= LEAST_USED, f"codes used of each codebook: {used}"
    click.echo(f"encoding {len(task.notes)} notes of {SECONDS:g} s with full-size EnCodec at {BANDWIDTH:g} kbps")
    click.echo(f"  {TUTORIAL:<26}{audio / tutorial_seconds:6.1f} x real time, codes used of each codebook: {used}")
    for precision, tokens in encoded.items():
        ours, theirs = (frames(codes, [*expected], settings.codec.codebooks) for codes in (tokens, expected))
        shares = ", ".join(f"{share:.3%}" for share in (ours == theirs).mean(axis=0))
        click.echo(
            f"  {OURS + ', ' + precision:<26}{audio / seconds[precision]:6.1f} x real time, ratio "
            f"{tutorial_seconds / seconds[precision]:.2f}, {workers} workers of {peaks[precision]} MB, equal codes of "
            f"each codebook: {shares}"
        )
    if not has_bfloat16:
        click.echo("  bfloat16: not run, this processor has no units for it")


def frames(tokens: Mapping[str, np.ndarray], keys: Sequence[str], codebooks: int) -> np.ndarray:
    """The codes of these notes, one after the other: (frame, codebook)."""
    return np.concatenate([tokens[key] for key in keys]).reshape(-1, codebooks)


def options(weights: Path, device: str) -> EncodingOptions:
    return EncodingOptions(
        codec="encodec_24khz", bandwidth=BANDWIDTH, duration=str(SECONDS), weights=weights, device=device,
        min_peak=1e-4, precision="float32", notes_per_shard=1000, valid_fraction=0.0, seed=0,
    )  # fmt: skip


def time_gpus(home: Path, device: str) -> None:
    """Time the whole of `encode` and the codec alone, with the notes and weights of `compare`."""
    notes = sorted((home / "notes").iterdir())
    (home / "many").mkdir()
    for index in range(GPU_NOTES):
        note = notes[index % len(notes)]
        (home / "many" / f"{index}_{note.name}").hardlink_to(note)
    request = EncodeRequest(home / "many", home / "set", options(home / WEIGHTS, device))
    devices = request.options.find_devices()
    outcome = encode_folder(replace(request, codecs=devices), Silent())
    assert outcome.manifest is not None and outcome.manifest.ledger.encoded == GPU_NOTES
    assert outcome.data_wait is not None

    settings = request.options.settings()
    settings = replace(settings, batch=default_batch(settings, device))
    codec = load_audio_encoder(settings, home / WEIGHTS, devices[0])
    [task] = make_plan(scan_folder(home / "notes").inputs, settings).tasks
    [audio] = Reader(settings, home / "notes").read(Batch(task.notes[: settings.batch]))
    codec.launch(audio)()  # the first call allocates
    started = time.perf_counter()
    finish = codec.launch(audio)
    for _ in range(GPU_CALLS - 1):
        following = codec.launch(audio)
        finish()
        finish = following
    finish()
    alone = GPU_CALLS * settings.batch * SECONDS / (time.perf_counter() - started)
    click.echo(f"encoding {GPU_NOTES} notes on {len(devices)} GPUs, {torch.cuda.get_device_name()}")
    click.echo(
        f"  {OURS:<16}{outcome.speed:6.0f} x real time from MP3 files (the tutorial says {PUBLISHED}), "
        f"{default_workers(devices)} readers, data wait {outcome.data_wait:.1%}"
    )
    click.echo(f"  {'codec alone':<16}{alone:6.0f} x real time on one GPU, {settings.batch} notes a call")


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
