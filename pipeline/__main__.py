"""`python -m pipeline`: audio <-> codes. Each command parses, calls one function, reports."""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from shards.errors import UserError
from shards.storage import PATH_OR_URL

FEW = 5  # lines of a list that are shown in full
COMPARED = 16  # notes that are encoded again to say what a precision costs

WEIGHTS = click.option(
    "--weights",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The codec's weights, .th or .safetensors.  [default: encodec_mini's own; EnCodec's, downloaded]",
)
DEVICE = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
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


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
def main() -> None:
    """From a folder of notes to a shard set of EnCodec tokens, and from sampled tokens to notes you hear."""


@main.command("demo-notes")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True, help="Another seed, other plucks of the same notes.")
@click.option(
    "--velocities",
    type=click.IntRange(1, 5),
    default=2,
    show_default=True,
    help="How many of the five velocities each train instrument plays at each pitch; 5 makes 1,110 notes.",
)
@click.option(
    "--pitches",
    type=(click.IntRange(28, 88), click.IntRange(28, 88)),
    default=(40, 76),
    show_default=True,
    metavar="LOWEST HIGHEST",
    help="MIDI pitches, both included.",
)
def demo_notes(out: Path, seed: int, velocities: int, pitches: tuple[int, int]) -> None:
    """Make a few hundred plucked-string notes as MP3 in the folder OUT, named and laid out as NSynth's.

    A physical model of a string (extended Karplus-Strong) on eight guitars, two of them in the valid split only. The
    same options give the same bytes; a run that was interrupted goes on where it stopped.

    \b
    Example:
      python -m pipeline demo-notes demo-notes
      python -m pipeline encode demo-notes --out shards/demo --codec encodec_mini
    """
    from pipeline.notes.demo import Recipe, make_demo_notes, notes_of

    recipe = Recipe(seed, velocities, *pitches)
    made = make_demo_notes(out, recipe)
    click.echo(
        f"{out}: {sum(1 for _ in notes_of(recipe))} notes, {made} of them new. "
        f"Next: python -m pipeline encode {out} --out shards/demo --codec encodec_mini"
    )


@main.command()
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("data"), show_default=True, help="Folder to put it in."
)
def download(out: Path) -> None:
    """Download NSynth's guitar notes (335 MB), check them and unpack them into OUT.

    A download that breaks off goes on where it stopped when the command is run again.

    \b
    Example:
      python -m pipeline download --out data
      python -m pipeline encode data/NSYNTH_GUITAR_MP3 --out shards/nsynth-guitar --codec encodec_24khz
    """
    from tqdm import tqdm

    from pipeline.notes.download import NSYNTH_GUITAR
    from pipeline.notes.download import download as fetch

    with tqdm(total=NSYNTH_GUITAR.size, unit="B", unit_scale=True, desc="download", leave=False) as bar:
        folder = fetch(NSYNTH_GUITAR, out, bar.update)
    click.echo(f"{folder}: NSynth's guitar notes. Next: make shards AUDIO={folder} NAME=nsynth-guitar")


@main.command()
@click.argument("audio", type=PATH_OR_URL)
@click.option(
    "--out", type=PATH_OR_URL, required=True, metavar="SET", help="The shard set: shards/NAME, or s3://BUCKET/NAME."
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


@main.command()
@click.argument("audio", type=PATH_OR_URL)
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
    from pipeline.notes.folder import find_inputs

    folder = find_inputs(audio)
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


@main.command()
@click.argument("folder", metavar="SET", type=PATH_OR_URL)
@click.option(
    "--reencode", "count", type=click.IntRange(0), default=20, show_default=True, help="Notes to encode again."
)
@click.option("--audio", type=PATH_OR_URL, help="Where the set's audio is now.  [default: where it was]")
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


@main.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Where the audio goes.")
@click.option(
    "--format", "form", type=click.Choice(["wav", "flac"]), default="wav", show_default=True, help="Both of 16 bits."
)
@click.option("--ecdc", is_flag=True, help="Write EnCodec's own compressed files too (encodec_24khz only).")
@WEIGHTS
@DEVICE
def decode(folder: Path, out: Path, form: str, ecdc: bool, weights: Path | None, device: str) -> None:
    """Turn token files, or the notes of a shard set, into WAV or FLAC files.

    The codec block beside the codes says which codec decodes them. Nothing is clipped: a note that peaks above full
    scale is scaled down as a whole, and named. What is there already and was made of the same codes is kept.

    \b
    Examples:
      python -m trainer sample --run runs/demo --out samples/demo/tokens --count 8
      python -m pipeline decode samples/demo/tokens --out samples/demo
      python -m pipeline decode shards/demo --out decoded --format flac
    """
    from pipeline.decode.run import decode_folder
    from pipeline.progress import NoteBar

    with NoteBar("decode") as bar:
        decoded = decode_folder(folder, out, bar, weights, device, form, ecdc)
    for key, peak in decoded.scaled[:FEW]:
        click.echo(f"{key}: peaked at {peak:.2f} of full scale, scaled down to fit")
    if len(decoded.scaled) > FEW:
        click.echo(f"... and {len(decoded.scaled) - FEW} more notes")
    kept = f" ({decoded.kept} were there already)" if decoded.kept else ""
    click.echo(
        f"{out}: {decoded.notes} {form.upper()} files{kept}, {decoded.seconds:.1f} seconds. Open them in any player."
    )


def _shares(shares: Sequence[float]) -> str:
    return ", ".join(f"{share:.2%}" for share in shares) or "none"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


@main.command()
@click.argument("samples", metavar="SAMPLES...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--shards", type=click.Path(path_type=Path), help="The shard set, if not where the token files say.")
@click.option("--notes", type=click.IntRange(2), default=40, show_default=True, help="Unseen real notes to measure.")
@WEIGHTS
@DEVICE
def score(samples: tuple[Path, ...], shards: Path | None, notes: int, weights: Path | None, device: str) -> None:
    """Measure how good samples are: pitch and loudness as asked, distance to real notes, likeness to train notes.

    Each figure stands beside its floor: what real notes reach, and what is left of that after the codec. Several
    folders are shown side by side. The figures are kept in SAMPLES/scores.json, where `page` finds them.

    \b
    Examples:
      python -m pipeline score samples/demo
      python -m pipeline score samples/small samples/base
    """
    from tqdm import tqdm

    from pipeline.score.measure import score as measure
    from pipeline.score.scores import table

    with tqdm(total=len(samples) * 3, leave=False, bar_format="{desc} {bar} {elapsed}") as bar:

        def stage(words: str) -> None:
            bar.set_description_str(words)
            bar.update()

        found = {str(folder): measure(folder, shards, notes, weights, device, stage) for folder in samples}
    for line in table(found):
        click.echo(line)
    click.echo(f"Next: python -m pipeline page {samples[0]}")


@main.command()
@click.argument("samples", metavar="SAMPLES", type=click.Path(path_type=Path))
@click.option("--run", type=click.Path(path_type=Path), help="The run's folder, if not where the token files say.")
@click.option("--shards", type=click.Path(path_type=Path), help="The shard set, if not where the token files say.")
@click.option("--real", type=click.IntRange(0), default=4, show_default=True, help="How many real notes to show.")
@click.option("--beside", type=click.Path(path_type=Path), metavar="SAMPLES", help="Samples to compare with.")
@WEIGHTS
@DEVICE
def page(
    samples: Path,
    run: Path | None,
    shards: Path | None,
    real: int,
    beside: Path | None,
    weights: Path | None,
    device: str,
) -> None:
    """Write SAMPLES/index.html: a page to listen to the notes in the folder SAMPLES.

    SAMPLES holds NAME.wav for each token file in SAMPLES/tokens. The page stands in one folder and needs no server.

    \b
    Examples:
      python -m trainer sample --run runs/demo --out samples/demo/tokens --count 16
      python -m pipeline decode samples/demo/tokens --out samples/demo
      python -m pipeline score samples/demo
      python -m pipeline page samples/demo
      python -m pipeline page samples/demo --beside samples/longer
    """
    from pipeline.page.page import write_page

    written = write_page(samples, run, shards, real, beside, weights, device)
    for fault in written.faults:
        click.echo(fault, err=True)
    click.echo(f"{written.path}: {written.samples} samples. Next: open it in a browser, it ends with how to make more.")


@main.command("train-codec")
@click.argument("audio", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, metavar="FILE", type=click.Path(path_type=Path), help="The weights: .safetensors."
)
@click.option(
    "--start", metavar="CODEC", help="Go on from encodec_mini, or from a file of its form.  [default: from nothing]"
)
@click.option("--minutes", default=95.0, show_default=True, help="How long to train.")
@click.option("--steps", type=click.IntRange(1), help="Train so many steps instead, however long they take.")
@click.option("--seed", default=0, show_default=True, help="Of the first weights and of everything drawn.")
@DEVICE
def train_codec_command(
    audio: tuple[Path, ...],
    out: Path,
    start: str | None,
    minutes: float,
    steps: int | None,
    seed: int,
    device: str,
) -> None:
    """Train a codec of encodec_mini's form on your own notes.

    From nothing, that takes hours. From a codec that is trained already (--start), minutes show what it will be.

    Each folder in AUDIO is drawn from as often as the square root of its number of notes.

    Notes in folders named *-valid are held out and measured on, those in *-test are left alone; the rest is trained on.
    A training that was interrupted goes on where it stopped; what it needs for that, and what TensorBoard shows, is in
    the folder beside FILE that ends in .training. On a CPU that others use too, set OMP_NUM_THREADS=1.

    \b
    Example:
      python -m pipeline train-codec demo-notes --start encodec_mini --out runs/codec/mine.safetensors --minutes 20
      python -m pipeline score-codec demo-notes/nsynth-guitar-valid --weights runs/codec/mine.safetensors
    """
    from pipeline.codec.model import load_codec
    from pipeline.codec.training.run import Length, train_codec
    from pipeline.codec.training.trainer import Recipe

    if out.suffix != ".safetensors":
        raise UserError(f"{out}: weights are written as .safetensors; name the file so")
    first = None
    if start is not None:
        first = load_codec("encodec_mini", weights=None if start == "encodec_mini" else Path(start))
    trained = train_codec(list(audio), out, Recipe(seed=seed), Length(minutes, steps), device, first)
    click.echo(
        f"{out}: {trained.steps} steps in {trained.minutes:.1f} minutes, log-mel distance {trained.distance:.3f} on "
        f"notes held out. Next: python -m pipeline score-codec FOLDER --weights {out}"
    )


@main.command("score-codec")
@click.argument("audio", type=click.Path(path_type=Path))
@click.option("--codec", default="encodec_mini", show_default=True, help="encodec_24khz or encodec_mini.")
@WEIGHTS
@click.option("--count", type=click.IntRange(1), help="Score so many notes at even distances.  [default: all]")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def score_codec(audio: Path, codec: str, weights: Path | None, count: int | None, as_json: bool) -> None:
    """Measure what a codec keeps of the notes in AUDIO, and how much of its codebooks it uses.

    Whole notes at their own levels: the share whose fundamental survives (YIN, MIDI 40-84), the log-mel distance with
    both codebooks and with one, codes used and perplexity. Use instruments that the codec was not trained on.

    \b
    Example:
      python -m pipeline score-codec demo-notes/nsynth-guitar-valid
      python -m pipeline score-codec demo-notes/nsynth-guitar-valid --weights runs/codec/codec.safetensors
    """
    import json

    from pipeline.codec.evaluate import score_folder
    from pipeline.progress import NoteBar

    with NoteBar("score") as bar:
        score = score_folder(audio, codec, weights, count, bar)
    if as_json:
        click.echo(json.dumps(score.to_json()))
        return
    for line in score.lines():
        click.echo(line)
    click.echo(f"{audio}: {score.notes} notes through {weights or codec}.")


if __name__ == "__main__":
    main(prog_name="python -m pipeline")
