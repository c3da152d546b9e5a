"""The listening page: one static folder with the samples, their scores, real notes, and commands for more samples.

`index.html` is beside the WAVs and a folder of pictures: relative paths, no server, no network. A damaged token file or
WAV is reported in its card, and the rest of the page works.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.codec.loaded import LoadedCodec
from pipeline.decode.source import load_codec_for
from pipeline.page.boards import send_sounds
from pipeline.page.cards import common_settings, make_card
from pipeline.page.learning import Learning, decode_evaluations
from pipeline.page.players import MEDIA, Facts, Player, plain
from pipeline.page.plots import RANGE_DB, frequency_height
from pipeline.page.real_notes import RealNotes, nearest_notes, real_notes
from pipeline.page.score_bars import headlines, score_bars
from pipeline.score.references import ShardSet, open_shard_set
from pipeline.score.samples import SampleFolder, read_samples
from pipeline.score.scores import read_scores
from shards.console import counted, quote
from shards.curve import Curve, training_curve
from shards.errors import UserError
from shards.files import atomic_write
from shards.metrics import METRICS
from shards.note import Codec
from shards.sample_info import PREVIEWS, SampleInfo
from shards.scores import Scores
from shards.storage import text_path

INDEX = "index.html"
TEMPLATE = "template.html"
FREQUENCY_TICKS = ((200, "200 Hz"), (1_000, "1 kHz"), (5_000, "5 kHz"))  # at the side of a spectrogram
LONGEST = 1000  # characters of a line on the page that names a file


@dataclass(frozen=True)
class PageOutcome:
    """The result of `write_page`."""

    path: Path
    samples: int
    faults: tuple[str, ...]  # damaged, missing or left out files, one line each
    missing: tuple[str, ...] = ()  # the run or the shard set: what the page lacks without them, one line each
    boards: tuple[str, ...] = ()  # sounds that TensorBoard and Weights & Biases have got, a line each

    def lines(self) -> Iterator[str]:
        """Yield the report, with the next step in its last line."""
        yield from self.missing
        yield from self.boards
        samples = counted(self.samples, "sample")
        yield f"{self.path}: {samples}. Next: open it in a browser; it ends with the commands for more."


@dataclass(frozen=True)
class RunSamples:
    """The samples in one folder, their scores, and where their run and shard set are."""

    name: str  # of the run, or of the folder
    samples: SampleFolder
    common: SampleInfo  # the fields in which all samples agree
    run: Path | None
    shards: tuple[Path, ...]
    scores: Scores | None
    no_scores: str  # the reason that there are none


def write_page(
    folder: Path,
    run: Path | None = None,
    shards: Path | None = None,
    real: int = 4,
    beside: Path | None = None,
    weights: Path | None = None,
    device: str = "auto",
    samples: SampleFolder | None = None,
    shard_set: ShardSet | None = None,
    codec: LoadedCodec | None = None,
) -> PageOutcome:
    """Write `folder/index.html` about the samples in `folder`.

    run, shards: their paths now, if not those in the token files. real: number of real notes on the page.
    beside: a second folder of samples to compare with. samples, shard_set, codec: if they are in memory already.

    Raises:
        UserError: no such folder, or no samples in it.
    """
    first = _read_run(samples or read_samples(folder), run, shards)
    runs = [first] if beside is None else [first, _copy_wavs(_read_run(read_samples(beside), None, None), folder)]
    real_section, neighbours, missing = _real_sections(folder, first, real, weights, device, shard_set)
    missing += [_no_run(each) for each in runs if not _has_run(each)]
    groups = [
        (each.name, [make_card(folder, sample, each.common, each.scores, players) for sample in each.samples])
        for each, players in zip(runs, (neighbours, {}), strict=False)  # train notes of the first run alone
    ]
    learning = _learning(folder, first, weights, device, codec)
    names = [each.name for each in runs]
    count = counted(len(first.samples), "note")
    second_scores = runs[1].scores if beside else None
    content = {
        "title": f"{' and '.join(names)}: {count} to listen to",
        "names": names,
        "count": count,
        "lead": _lead(first.samples.codec()),
        "facts": _header_facts(first),
        "groups": groups,
        "headlines": headlines(first.scores, second_scores, names),
        "scores": score_bars(first.scores, second_scores, names),
        "no_scores": first.no_scores,
        "real": real_section,
        "curves": [(each.name, _curve(each)) for each in runs],
        "evaluations": learning.evaluations,
        "commands": _commands(folder, first.run, first.shards),
        "frequency_ticks": [{"height": frequency_height(hertz), "text": text} for hertz, text in FREQUENCY_TICKS],
        "range_db": RANGE_DB,
    }
    path = folder / INDEX
    with atomic_write(path) as file:
        file.write(render(Path(__file__).with_name(TEMPLATE), content).encode())
    players = [card.player for _, cards in groups for card in cards]
    faults = [each.samples.left_out for each in runs if each.samples.left_out]
    faults += [f"{player.name}: {player.fault}" for player in players if player.fault]
    boards = send_sounds(first.run, learning.evaluations) if first.run else ()
    return PageOutcome(path, len(first.samples), (*faults, *learning.faults), tuple(missing), boards)


def _read_run(samples: SampleFolder, run: Path | None, shards: Path | None) -> RunSamples:
    common = samples.common()
    run = run or _path(common.run)
    no_scores = (
        f"Not scored yet: run `python -m pipeline score {plain(quote(samples.path))}`, then write this page again."
    )
    try:
        scores = read_scores(samples)
    except UserError as error:
        scores, no_scores = None, plain(error.message)
    name = plain(run.name if run else samples.path.resolve().name)
    return RunSamples(name, samples, common, run, (shards,) if shards else _named_sets(samples), scores, no_scores)


def _copy_wavs(run: RunSamples, folder: Path) -> RunSamples:
    """Copy the WAVs of another folder's samples into the page's folder."""
    samples = []
    for sample in run.samples:
        if sample.wav.is_file():
            wav = folder / MEDIA / "beside" / sample.wav.name
            with atomic_write(wav) as file:
                file.write(sample.wav.read_bytes())
            sample = replace(sample, wav=wav)
        samples.append(sample)
    return replace(run, samples=replace(run.samples, samples=tuple(samples)))


def _curve(run: RunSamples) -> Curve:
    return training_curve(run.run) if run.run and _has_run(run) else Curve(plain(_no_run(run), LONGEST))


def _learning(folder: Path, run: RunSamples, weights: Path | None, device: str, codec: LoadedCodec | None) -> Learning:
    """The notes of the run's evaluations; none where the codec that decodes them is not there."""
    spec = run.samples.codec()
    if run.run is None or spec is None or not (run.run / PREVIEWS).is_dir():
        return Learning()
    try:
        return decode_evaluations(folder, run.run, codec or load_codec_for(spec, folder, weights, device))
    except UserError as error:
        return Learning(faults=(f"No notes of the run's evaluations: {error.message}",))


def _has_run(run: RunSamples) -> bool:
    return run.run is not None and (run.run / METRICS).is_file()


def _no_run(run: RunSamples) -> str:
    fact = (
        f"{run.run / METRICS} is not there" if run.run else f"the token files of {run.samples.path} do not name one run"
    )
    return f"No training curve: {fact}; --run FOLDER names the run."


def render(template: Path, content: Mapping[str, Any]) -> str:
    """Fill in an HTML template; all text is escaped."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(template.read_text(encoding="utf-8")).render(content)


def _path(text: str | None) -> Path | None:
    try:
        return text_path(text) if text and "\0" not in text else None
    except UserError:  # a URL that cannot be read
        return None


def _named_sets(samples: SampleFolder) -> tuple[Path, ...]:
    """The shard sets that the token files name; none if they do not agree, or a path that cannot be read."""
    try:
        return samples.shards_folders()
    except UserError:
        return ()


def _lead(codec: Codec | None) -> str:
    if codec is None:
        return "Sound files without the tokens that they were decoded from."
    return (
        f"A Transformer learned to predict the tokens of real notes one after the other, {codec.tokens_per_second:g} "
        f"{plain(codec.name)} tokens for each second of sound. It generated these notes by itself."
    )


def _header_facts(run: RunSamples) -> Facts:
    facts = [("run", plain(run.run))] if run.run is not None else []
    if run.shards:
        facts.append(("shard sets" if len(run.shards) > 1 else "shard set", plain(", ".join(map(str, run.shards)))))
    codec = run.samples.codec()
    if codec is not None:
        facts.append(("codec", plain(f"{codec.name}, {codec.kbps:.3g} kbps")))
    return (*facts, *common_settings(run.common))


def _real_sections(
    folder: Path, run: RunSamples, count: int, weights: Path | None, device: str, shard_set: ShardSet | None
) -> tuple[RealNotes, Mapping[str, Player], list[str]]:
    """Make the section of real notes, the players of the train notes nearest to samples, and a line if they lack."""
    keys = {measured.nearest for measured in run.scores.samples.values() if measured.nearest} if run.scores else set()
    if not count and not keys:
        return RealNotes("No real notes were requested."), {}, []
    try:
        shard_set = shard_set or open_shard_set(run.shards or run.samples.shards_folders(), weights, device)
        return real_notes(folder, shard_set, count), nearest_notes(folder, shard_set, sorted(keys)), []
    except UserError as error:
        line = f"No real notes to compare with: {error.message}"
        return RealNotes(plain(line, LONGEST)), {}, [line]


def _commands(folder: Path, run: Path | None, shards: Sequence[Path]) -> list[tuple[str, str]]:
    """Return (purpose, command lines) for a reader to paste."""
    if run is None:
        return [("Samples of a run, with a page like this one:", "make samples RUN=demo N=16")]

    def sample_and_listen(suffix: str, options: str) -> list[str]:
        """Sample into a folder of its own, beside this page's."""
        out = quote(f"{folder}-{suffix}")
        return [
            f"python -m trainer sample --run {quote(run)} --out {out}/tokens {options}",
            f"python -m pipeline listen {out}",
        ]

    commands = [
        ("More notes from this run, with another seed:", sample_and_listen("more", "--count 16 --seed 1")),
        (
            "Notes of chosen pitches, here a scale (for a run that was trained with labels):",
            sample_and_listen("scale", "--label pitch=40:76:4 --label velocity=100"),
        ),
    ]
    if shards:
        options = " ".join(f"--shards {quote(path)}" for path in shards)
        train = f"python -m trainer train {options} --run runs/longer --set steps=4000"
        same = "on the same shard set" if len(shards) == 1 else "on the same shard sets, each of weight 1"
        commands.append((f"A longer training {same}:", [train, "make samples RUN=longer"]))
    return [(purpose, "\n".join(plain(line, len(line)) for line in lines)) for purpose, lines in commands]
