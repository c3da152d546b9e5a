"""Commands of this room: `encode`, `plan`, `relabel` and `verify`."""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from pipeline.encode.settings import CPU_BATCH, FILES_PER_SHARD, GPU_BATCH, RECORDINGS_PER_SHARD
from pipeline.notes.nsynth import NSYNTH_SECONDS
from pipeline.options import DEVICE, WEIGHTS
from shards.console import echo, quote
from shards.errors import UserError
from shards.storage import parse_path

if TYPE_CHECKING:
    from pipeline.encode.cluster import SlurmJob
    from pipeline.encode.run import EncodeOutcome, EncodeRequest
    from pipeline.progress import Progress

option = partial(click.option, show_default=True)

LABELS = click.option(
    "--labels",
    type=parse_path,
    multiple=True,
    metavar="FILE",
    help="Labels of the notes: .json as NSynth's, .jsonl or .csv; repeatable.",
)
ENCODING_OPTIONS = (
    option("--codec", default="encodec_24khz", help="encodec_24khz, encodec_mini, or hf: and a Hub id or folder."),
    click.option(
        "--bandwidth",
        type=float,
        help="kbps; of EnCodec 1.5, 3, 6, 12 or 24.  [default: the lowest; of DAC and Mimi the highest]",
    ),
    click.option(
        "--duration", help=f"Seconds of each note, padded or cut; `full` keeps lengths.  [default: {NSYNTH_SECONDS}]"
    ),
    click.option(
        "--segment",
        type=float,
        metavar="SECONDS",
        help="Cut each file into notes of so many seconds, as long recordings need; the last one keeps its length.",
    ),
    WEIGHTS,
    DEVICE,
    option(
        "--precision",
        type=click.Choice(["float32", "bfloat16"]),
        default="float32",
        help="bfloat16 is faster on processors that have it, and changes a few codes in a hundred.",
    ),
    click.option(
        "--notes-per-shard",
        type=click.IntRange(1),
        help=f"Files of a tar.  [default: {FILES_PER_SHARD}; {RECORDINGS_PER_SHARD} with --segment]",
    ),
    option("--valid-fraction", type=float, default=0.02, help="Share of valid files where no folder names a split."),
    option("--seed", default=0, help="Random seed of the order in which notes are mixed into shards."),
    option(
        "--min-peak",
        type=float,
        default=1e-4,
        help="Quieter notes are rejected as silent, and segments left out; 0: none.",
    ),
    click.option("--trim", is_flag=True, help="Leave out the silence before each note."),
    click.option(
        "--batch",
        type=click.IntRange(1),
        help=f"Notes in a call of the codec; a set keeps its own.  [default: {CPU_BATCH}; {GPU_BATCH} on a GPU]",
    ),
)


def encoding_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that decide a set: the fields of `EncodingOptions`."""
    for add_option in reversed(ENCODING_OPTIONS):
        command = add_option(command)
    return command


@click.command()
@click.argument("audio", type=parse_path)
@option("--out", type=parse_path, required=True, metavar="SET", help="Shard set: shards/NAME or s3://BUCKET/NAME.")
@encoding_options
@LABELS
@option(
    "--workers",
    type=click.IntRange(1),
    help="Processes, one thread each; with GPUs they read.  [default: one a core; with GPUs a core less]",
)
@click.option("--extend", is_flag=True, help="Add the notes that a finished set does not have, as new shards.")
@click.option("--check-audio", is_flag=True, help="Read all audio again, also files whose size and time are the same.")
@option(
    "--max-rejected",
    type=click.FloatRange(0, 1),
    default=0.01,
    help="Share of files that may be rejected; with more the set is still finished, but the command fails.",
)
@option("--rank", type=click.IntRange(0), metavar="I", help="Make only every N-th shard, from the I-th; see --of.")
@option("--of", "ranks", type=click.IntRange(1), metavar="N", help="Number of ranks that make the set together.")
@option(
    "--engine",
    type=click.Choice(["local", "slurm", "ray"]),
    default="local",
    help="Starts the N ranks: slurm or ray all of them, local only this one (pip install '.[cluster]').",
)
@click.option("--sbatch", multiple=True, metavar="KEY=VALUE", help="Option of sbatch, as time=2:00:00; repeatable.")
def encode(
    audio: Path,
    out: Path,
    labels: tuple[Path, ...],
    workers: int | None,
    extend: bool,
    check_audio: bool,
    max_rejected: float,
    rank: int | None,
    ranks: int | None,
    engine: str,
    sbatch: tuple[str, ...],
    **options: Any,
) -> None:
    """Encode a folder of notes (MP3, WAV, FLAC, OGG; with '.[audio]' also M4A, Opus, WMA ...) into a shard set, once.

    Splits come from the names of the folders below AUDIO: train, valid (or val, validation) and test, or what ends in
    -train or _train and so on; a note in no such folder goes to train or valid by a hash of its key. Files that cannot
    be encoded are listed with the reason in SET/rejected.jsonl.

    Labels come from NSynth's names and from the files of --labels, or without any from NSynth's examples.json below
    AUDIO: words, numbers and lists of words. A .json file is an object of objects, NOTE: {FIELD: VALUE}; in a .jsonl or
    .csv file, a field file_name (or filename, file, path, note_str, key) names the note: the path below AUDIO, the file
    name, or the key in the set. `relabel` gives a finished set other labels.

    Files of more than two minutes need --duration, which keeps their start, or --segment, which cuts each file into
    notes KEY-0000, KEY-0001 ... with the labels of the file: KEY-0003 begins at three times SECONDS. They are in one
    shard. Silent segments are left out, and counted in the manifest. Recordings may have up to 10,000 segments and 12
    hours.

    --device cuda uses all GPUs of the machine: the workers read, and a process for each GPU encodes. A set has the same
    bytes for any number of them.

    A finished set is returned at once: only the names, sizes and times of AUDIO are compared with SET.inputs.json, a
    cache that can be deleted at any time; --check-audio also finds changes that keep a file's size and time. Whatever
    stopped a run, the same command goes on from the last finished shard and ends with the same bytes.

    AUDIO and SET can be URLs: s3:// or gs://, and http:// or https:// for AUDIO (pip install '.[remote]').

    Ranks divide the work: start the command N times, with --rank 0 to N-1 and --of N, wherever AUDIO and SET can be
    reached, or let --engine do so with --workers processes (1 by default) a rank. The rank that ends last finishes
    the set; what a lost rank left is done by starting it, or the command without a rank, again.

    \b
    Examples:
      python -m pipeline encode demo-notes --out shards/demo --codec encodec_mini
      python -m pipeline encode demo-notes --out shards/demo --codec encodec_mini --rank 0 --of 4
      python -m pipeline encode demo-notes --out shards/demo --codec encodec_mini --engine ray --of 4
      python -m pipeline encode albums --out shards/albums --segment 4
      python -m shards inspect shards/demo
    """
    from pipeline.encode.ranks import Rank
    from pipeline.encode.run import EncodeRequest
    from pipeline.encode.settings import EncodingOptions
    from pipeline.progress import NoteBar

    _check_engine(engine, rank, ranks, sbatch)
    own_rank = Rank() if rank is None or ranks is None else Rank(rank, ranks)
    request = EncodeRequest(
        audio, out, EncodingOptions(**options), workers, extend, check_audio, max_rejected, labels, own_rank
    )
    with NoteBar("encode") as bar:
        outcome = _encode_on(engine, request, ranks or 1, sbatch, bar)
    for line in outcome.lines():
        echo(line)


def _encode_on(
    engine: str, request: "EncodeRequest", ranks: int, sbatch: Sequence[str], progress: "Progress"
) -> "EncodeOutcome | SlurmJob":
    if engine == "local":
        from pipeline.encode.run import encode_folder

        return encode_folder(request, progress)
    try:
        from pipeline.encode.cluster import encode_on_ray, submit_to_slurm
    except ModuleNotFoundError as error:
        raise UserError(f"--engine {engine}: needs {error.name}; pip install '.[cluster]'") from error
    if engine == "ray":
        return encode_on_ray(request, ranks, progress)
    return submit_to_slurm(request, ranks, dict(text.split("=", 1) for text in sbatch))


def _check_engine(engine: str, rank: int | None, ranks: int | None, sbatch: Sequence[str]) -> None:
    if engine == "local" and (rank is None) != (ranks is None):
        raise UserError("--rank and --of go together: --rank 0 --of 4 is the first of four")
    if engine != "local" and (rank is not None or ranks is None):
        raise UserError(f"--engine {engine} starts all ranks: say how many with --of N, and no --rank")
    if sbatch and engine != "slurm":
        raise UserError("--sbatch: is for --engine slurm")
    if bad := [text for text in sbatch if not text.partition("=")[1]]:
        raise UserError(f"--sbatch {bad[0]}: give KEY=VALUE, such as partition=cpu")


@click.command()
@click.argument("audio", type=parse_path)
@encoding_options
@LABELS
@click.option("--workers", type=click.IntRange(1), help="Processes to estimate the time for.  [default: as encode]")
def plan(audio: Path, labels: tuple[Path, ...], workers: int | None, **options: Any) -> None:
    """Show what `encode` would make of a folder, without encoding it.

    A few notes are encoded to measure how long all would take.

    \b
    Example:
      python -m pipeline plan data/NSYNTH_GUITAR_MP3 --codec encodec_24khz
    """
    from pipeline.encode.estimate import estimate_set
    from pipeline.encode.settings import EncodingOptions

    for line in estimate_set(audio, EncodingOptions(**options), workers, labels).lines():
        echo(line)
    given = click.get_current_context().get_parameter_source
    words = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f" {quote(str(value))}")
        for name, value in {**options, "workers": workers}.items()
        if given(name) is ParameterSource.COMMANDLINE
    ]
    words += [f"--labels {quote(file)}" for file in labels]
    out = Path("shards", audio.absolute().name)
    echo(" ".join([f"Next: python -m pipeline encode {quote(audio)} --out {quote(out)}", *words]))


@click.command()
@click.argument("folder", metavar="SET", type=parse_path)
@LABELS
@option("--out", type=parse_path, required=True, metavar="NEW", help="Shard set: shards/NAME or s3://BUCKET/NAME.")
def relabel(folder: Path, labels: tuple[Path, ...], out: Path) -> None:
    """Write a finished set anew, with the same codes and the labels of --labels files, without reading audio.

    The labels that an earlier file gave are left out; those of the notes' names stay. SET stays as it is. The files are
    as for `encode`, and the same command of `encode` with --out NEW finds NEW finished.

    \b
    Example:
      python -m pipeline relabel shards/demo --labels labels.csv --out shards/demo-relabelled
    """
    from pipeline.encode.relabel import relabel_set
    from pipeline.progress import NoteBar

    with NoteBar("relabel") as bar:
        outcome = relabel_set(folder, labels, out, bar)
    for line in outcome.lines():
        echo(line)


@click.command()
@click.argument("folder", metavar="SET", type=parse_path)
@option("--reencode", "count", type=click.IntRange(0), default=20, help="Notes to encode again.")
@click.option("--audio", type=parse_path, help="Folder of the set's audio.  [default: as when the set was made]")
@option("--seed", default=0, help="Random seed of the choice of notes.")
@WEIGHTS
@DEVICE
def verify(folder: Path, count: int, audio: Path | None, seed: int, weights: Path | None, device: str) -> None:
    """Check a set as `python -m shards verify` does, then encode some of its notes again and compare.

    Exits with 0 if the set is whole and its codes are what its audio gives, 1 if not.

    \b
    Example:
      python -m pipeline verify shards/demo --reencode 50
    """
    from pipeline.encode.reencode import verify_set
    from pipeline.progress import NoteBar

    with NoteBar("verify") as bar:
        outcome = verify_set(folder, count, audio, weights, device, seed, bar)
    for line in outcome.lines():
        echo(line, err=bool(outcome.faults))
    if outcome.faults:
        sys.exit(1)
