"""Commands of this room: `encode`, `plan` and `verify`."""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from pipeline.options import DEVICE, WEIGHTS
from shards.errors import UserError
from shards.storage import parse_path

FEW = 5  # lines of a list that are shown in full
COMPARED = 16  # notes that are encoded again to say what a precision costs


ENCODING_OPTIONS = (
    click.option(
        "--codec", type=str, default="encodec_24khz", show_default=True, help="encodec_24khz or encodec_mini."
    ),
    click.option(
        "--bandwidth", type=float, default=1.5, show_default=True, help="kbps: 1.5, 3, 6, 12 or 24; mini: 1.5."
    ),
    click.option(
        "--duration",
        default="4.0",
        show_default=True,
        help="Seconds of each note, padded or cut; `full` keeps lengths.",
    ),
    WEIGHTS,
    DEVICE,
    click.option(
        "--precision",
        type=click.Choice(["float32", "bfloat16"]),
        default="float32",
        show_default=True,
        help="bfloat16 is faster on processors that have it, and changes a few codes in a hundred.",
    ),
    click.option(
        "--backend",
        type=click.Choice(["torch", "openvino"]),
        default="torch",
        show_default=True,
        help="What runs the encoder; openvino (pip install openvino) is faster on a CPU.",
    ),
    click.option("--notes-per-shard", type=click.IntRange(1), default=1000, show_default=True, help="Notes a tar."),
    click.option(
        "--valid-fraction",
        type=float,
        default=0.02,
        show_default=True,
        help="Share of notes whose folder has no split.",
    ),
    click.option("--seed", default=0, show_default=True, help="Of the order in which notes are mixed into shards."),
    click.option(
        "--min-peak", type=float, default=1e-4, show_default=True, help="Quieter notes are rejected as silent; 0: none."
    ),
)


def encoding_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that decide what a set is, shared by the commands that need them."""
    for option in reversed(ENCODING_OPTIONS):
        command = option(command)
    return command


@click.command()
@click.argument("audio", type=parse_path)
@click.option(
    "--out", type=parse_path, required=True, metavar="SET", help="The shard set: shards/NAME, or s3://BUCKET/NAME."
)
@encoding_options
@click.option(
    "--workers", type=click.IntRange(1), help="Processes, one thread each.  [default: one a core; 1 on a GPU]"
)
@click.option("--extend", is_flag=True, help="Add the notes that a finished set does not have, as new shards.")
@click.option(
    "--max-rejected",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="Share of files that may be rejected; with more the set is still finished, but the command fails.",
)
@click.option(
    "--rank", type=click.IntRange(0), metavar="I", help="Make only every N-th shard, from the I-th; see --of."
)
@click.option("--of", "ranks", type=click.IntRange(1), metavar="N", help="How many ranks make the set together.")
@click.option(
    "--engine",
    type=click.Choice(["local", "slurm", "ray"]),
    default="local",
    show_default=True,
    help="What runs the N ranks: this process one of them, or a cluster all (pip install '.[cluster]').",
)
@click.option(
    "--sbatch",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option of Slurm's sbatch, as time=2:00:00; can be repeated.",
)
def encode(
    audio: Path,
    out: Path,
    workers: int | None,
    extend: bool,
    max_rejected: float,
    rank: int | None,
    ranks: int | None,
    engine: str,
    sbatch: tuple[str, ...],
    **options: Any,
) -> None:
    """Encode a folder of notes (MP3, WAV, FLAC, OGG) into a shard set, once.

    Splits come from the names of the folders below AUDIO (*-train, *-valid, *-test); a note in no such folder goes to
    train or valid by a hash of its key. Labels come from NSynth's names. Files that cannot be encoded are listed with
    the reason in SET/rejected.jsonl.

    A finished set is returned at once. Whatever stopped a run, the same command goes on from the last finished
    shard and ends with the same bytes.

    AUDIO and SET can be URLs: s3:// or gs://, and http:// or https:// for AUDIO (pip install '.[remote]').

    Ranks divide the work: start the command N times, with --rank 0 to N-1 and --of N, wherever AUDIO and SET can be
    reached, or let --engine do so with --workers processes (1, if not said) a rank. The rank that ends last finishes
    the set; what a lost one left is done by starting it, or the command without a rank, again.

    \b
    Examples:
      python -m pipeline encode demo-notes --out shards/demo --codec encodec_mini
      python -m pipeline encode demo-notes --out shards/demo --codec encodec_mini --rank 0 --of 4
      python -m pipeline encode demo-notes --out shards/demo --codec encodec_mini --engine ray --of 4
      python -m shards inspect shards/demo
    """
    from pipeline.encode.options import choose
    from pipeline.encode.ranks import Rank
    from pipeline.encode.reencode import mean_shares, reencode
    from pipeline.encode.run import Request, count_reasons, encode_folder
    from pipeline.progress import NoteBar

    _check_engine(engine, rank, ranks, sbatch)
    if engine != "local":
        assert ranks is not None, "checked"
        if not _run_on_cluster(engine, audio, out, workers or 1, extend, ranks, sbatch, options):
            return
    mine = Rank() if rank is None or ranks is None else Rank(rank, ranks)
    request = Request(audio, out, partial(choose, **options), workers, extend, mine)
    with NoteBar("encode") as bar:
        outcome = encode_folder(request, bar)
    if outcome.manifest is None:
        click.echo(
            f"{out}: rank {rank} of {ranks} has done its part, {outcome.tasks_run} shards in this run. "
            f"Other ranks have {outcome.tasks_left} to do; the last one finishes the set."
        )
        return
    ledger = outcome.manifest.ledger
    if outcome.ignored:
        click.echo(f"Left out, not audio by name: {_counts(outcome.ignored)}.")
    if outcome.rejected:
        click.echo(f"Rejected {ledger.rejected} of {ledger.inputs} files ({_counts(count_reasons(outcome.rejected))}):")
        for rejection in outcome.rejected[:FEW]:
            click.echo(f"  {rejection.file}: {rejection.reason} ({rejection.detail})")
        if len(outcome.rejected) > FEW:
            click.echo(f"  ... and {len(outcome.rejected) - FEW} more in {out / 'rejected.jsonl'}")
    shards = len(list(outcome.manifest.shards))
    how = f" at {bar.speed():.0f}x real time" if outcome.tasks_run else ", finished before: nothing to do"
    if engine == "ray":
        how = f", finished by {ranks} ranks on Ray"
    click.echo(f"{out}: {ledger.encoded} notes in {shards} shards{how}.")
    if options["precision"] != "float32" and outcome.tasks_run:
        shares = mean_shares(
            list(reencode(out, COMPARED, None, options["weights"], options["device"], precision="float32"))
        )
        click.echo(f"{options['precision']}: codes equal to float32's, by codebook: {_shares(shares)}")
    if ledger.rejected > max_rejected * ledger.inputs:
        raise UserError(
            f"{out}: {ledger.rejected / ledger.inputs:.1%} of the files were rejected, more than {max_rejected:.1%}; "
            "the set is finished and usable: mend the files and encode into a new name, or allow it with --max-rejected"
        )
    click.echo(f"Next: python -m trainer train --shards {out} --run runs/{out.absolute().name} --preset small")


def _check_engine(engine: str, rank: int | None, ranks: int | None, sbatch: Sequence[str]) -> None:
    if engine == "local" and (rank is None) != (ranks is None):
        raise UserError("--rank and --of go together: --rank 0 --of 4 is the first of four")
    if engine != "local" and (rank is not None or ranks is None):
        raise UserError(f"--engine {engine} starts all ranks: say how many with --of N, and no --rank")
    if sbatch and engine != "slurm":
        raise UserError("--sbatch: is for --engine slurm")
    if bad := [text for text in sbatch if not text.partition("=")[1]]:
        raise UserError(f"--sbatch {bad[0]}: give KEY=VALUE, such as partition=cpu")


def _run_on_cluster(
    engine: str,
    audio: Path,
    out: Path,
    workers: int,
    extend: bool,
    ranks: int,
    sbatch: Sequence[str],
    options: Mapping[str, Any],
) -> bool:
    """Start the ranks; returns whether all have ended well. Slurm's are only submitted."""
    try:
        from pipeline.encode.cluster import Job, run_on_ray, submit_to_slurm
    except ModuleNotFoundError as error:
        raise UserError(f"--engine {engine}: needs {error.name}; pip install '.[cluster]'") from error
    from pipeline.notes.folder import check_folder

    check_folder(audio)
    weights = options["weights"]
    choices = {**options, "weights": weights and weights.absolute()}
    job = Job(str(audio.absolute()), str(out.absolute()), choices, workers, extend)
    if engine == "ray":
        run_on_ray(job, ranks)
        return True
    number, logs = submit_to_slurm(job, ranks, dict(text.split("=", 1) for text in sbatch))
    click.echo(
        f"Submitted {ranks} ranks as Slurm job {number}; their logs are in {logs}. The rank that ends last finishes "
        f"{out}; if one is lost, the same command completes it. Next: squeue --job {number}"
    )
    return False


@click.command()
@click.argument("audio", type=parse_path)
@encoding_options
@click.option("--workers", type=click.IntRange(1), help="To estimate the time for.  [default: as encode]")
def plan(audio: Path, workers: int | None, **options: Any) -> None:
    """Show what `encode` would make of a folder, without encoding it.

    A few notes are encoded to measure how long all would take.

    \b
    Example:
      python -m pipeline plan data/NSYNTH_GUITAR_MP3 --codec encodec_24khz
    """
    from pipeline.encode.estimate import preview
    from pipeline.encode.options import choose, default_workers
    from pipeline.notes.folder import scan_folder

    folder = scan_folder(audio)
    choice = choose(**options)
    workers = workers or default_workers(choice.device)
    shown = preview(folder, choice)
    codec = choice.settings.codec
    click.echo(
        f"{audio}: {sum(shown.notes.values())} notes, {shown.hours:.2f} hours of sound, for {codec.name} at "
        f"{codec.bandwidth:g} kbps"
    )
    for split, notes in shown.notes.items():
        click.echo(f"  {split:<9} {notes} notes in {shown.shards[split]} shards")
    for rejection in shown.plan.rejected[:FEW]:
        click.echo(f"  rejected  {rejection.file}: {rejection.reason} ({rejection.detail})")
    if len(shown.plan.rejected) > FEW:
        click.echo(f"  rejected  ... and {len(shown.plan.rejected) - FEW} more")
    if folder.ignored:
        click.echo(f"  left out  {_counts(folder.ignored)}")
    click.echo(f"  size      about {shown.bytes / 1e6:.1f} MB")
    click.echo(
        f"  time      about {shown.minutes(workers):.1f} minutes with {workers} workers "
        f"({shown.speed:.0f}x real time each, measured on {shown.sampled} notes)"
    )
    click.echo(
        f"Nothing was written. Next: python -m pipeline encode {audio} --out shards/NAME, with the same options."
    )


@click.command()
@click.argument("folder", metavar="SET", type=parse_path)
@click.option(
    "--reencode", "count", type=click.IntRange(0), default=20, show_default=True, help="Notes to encode again."
)
@click.option("--audio", type=parse_path, help="Where the set's audio is now.  [default: where it was]")
@click.option("--seed", default=0, show_default=True, help="Of the choice of notes.")
@WEIGHTS
@DEVICE
def verify(folder: Path, count: int, audio: Path | None, seed: int, weights: Path | None, device: str) -> None:
    """Check a set as `python -m shards verify` does, then encode some of its notes again and compare.

    Exits with 0 if the set is whole and its codes are what its audio gives, 1 if not.

    \b
    Example:
      python -m pipeline verify shards/demo --reencode 50
    """
    from tqdm import tqdm

    from pipeline.encode.reencode import mean_shares, reencode
    from shards.verify import find_faults

    faults = list(find_faults(folder))
    done = [] if faults else list(tqdm(reencode(folder, count, audio, weights, device, seed), total=count, leave=False))
    faults += [f"{folder / one.shard}: {one.key}: {one.fault}" for one in done if one.fault]
    for fault in faults:
        click.echo(fault, err=True)
    if faults:
        click.echo(f"{folder}: {len(faults)} fault{'s' * (len(faults) > 1)} found.", err=True)
        sys.exit(1)
    shares = _shares(mean_shares(done))
    click.echo(f"{folder}: whole. {len(done)} notes were encoded again; codes that are equal, by codebook: {shares}.")


def _shares(shares: Sequence[float]) -> str:
    return ", ".join(f"{share:.2%}" for share in shares) or "none"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
