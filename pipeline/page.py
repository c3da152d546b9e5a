"""The listening page: one static folder with the samples, how they look, what was asked for, and how to make more.

`index.html` beside the WAVs and a folder of pictures; relative paths, no server, no network. A token file or a WAV that
is damaged is shown as such, and the rest of the page works.
"""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.curve import Curve, read_curve
from pipeline.pictures import RANGE, frequency_height
from pipeline.real_notes import RealNotes, real_notes
from pipeline.samples import Sample, read_samples
from pipeline.sounds import MINUS, Facts, Sound, in_words, plain, shared, show
from shards.files import atomic_write

INDEX = "index.html"
TEMPLATE = "page.html"
NEUTRAL = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "guidance": 1.0}  # settings that change nothing, and are not shown
HEADER = {"step": "steps trained", "temperature": "temperature", "top_k": "top k", "top_p": "top p", "min_p": "min p"}
HERTZ = ((200, "200 Hz"), (1_000, "1 kHz"), (5_000, "5 kHz"))  # marks at the side of a spectrogram
COUNTS = (
    "No notes",
    "One note",
    "Two notes",
    "Three notes",
    "Four notes",
    "Five notes",
    "Six notes",
    "Seven notes",
    "Eight notes",
)


@dataclass(frozen=True)
class Written:
    """What a call of `write_page` has made."""

    path: Path
    samples: int
    faults: tuple[str, ...]


def write_page(
    folder: Path,
    run: Path | None = None,
    shards: Path | None = None,
    real: int = 4,
    weights: Path | None = None,
    device: str = "auto",
) -> Written:
    """Write `folder/index.html` about the samples in `folder`.

    run, shards: where they are now, if not where the token files say. real: how many real notes stand beside them.

    Raises:
        UserError: no such folder, or no samples in it.
    """
    samples = read_samples(folder)
    common = shared(sample.sampled for sample in samples if sample.sampled)
    run = run or _path(common.get("run"))
    shards = shards or _path(common.get("shards"))
    sounds = [_sound(folder, sample, common) for sample in samples]
    name = plain(run.name if run else folder.resolve().name)
    content = {
        "title": f"{name}: {len(samples)} notes to listen to",
        "run_name": name,
        "count": COUNTS[len(samples)] if len(samples) < len(COUNTS) else f"{len(samples)} notes",
        "lead": _lead(samples, run, shards),
        "facts": _header_facts(samples, common, run, shards),
        "samples": sounds,
        "real": _real(folder, shards, real, weights, device),
        "curve": read_curve(run)
        if run
        else Curve("No training curve: the token files do not say which run made them."),
        "commands": _commands(folder, run, shards),
        "hertz": [{"height": frequency_height(hertz), "text": text} for hertz, text in HERTZ],
        "range": RANGE,
    }
    path = folder / INDEX
    with atomic_write(path) as file:
        file.write(_render(content).encode())
    return Written(path, len(samples), tuple(f"{sound.name}: {sound.fault}" for sound in sounds if sound.fault))


def _render(content: Mapping[str, Any]) -> str:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(Path(__file__).with_name(TEMPLATE).read_text(encoding="utf-8")).render(content)


def _path(value: Any) -> Path | None:
    return Path(value) if isinstance(value, str) and value and "\0" not in value else None


def _sound(folder: Path, sample: Sample, common: Mapping[str, Any]) -> Sound:
    title, subtitle = in_words(sample.labels, sample.name)
    sound = Sound(
        plain(sample.name), title, subtitle, _card_facts(sample, common), fault=sample.fault and plain(sample.fault)
    )
    return show(folder, sound, sample.wav)


def _lead(samples: list[Sample], run: Path | None, shards: Path | None) -> str:
    codec = next((sample.codec for sample in samples if sample.codec), None)
    if codec is None:
        return "Sound files without the tokens they came from."
    rate = f"{codec.tokens_per_second} tokens for each second of sound"
    return (
        f"A Transformer learned to write notes as {codec.name} tokens, one after the other, {rate}. "
        "These are notes it wrote by itself."
    )


def _header_facts(samples: list[Sample], common: Mapping[str, Any], run: Path | None, shards: Path | None) -> Facts:
    facts = [(name, plain(path)) for name, path in (("run", run), ("shard set", shards)) if path is not None]
    codec = next((sample.codec for sample in samples if sample.codec), None)
    if codec is not None:
        facts.append(("codec", plain(f"{codec.name}, {codec.bandwidth:g} kbps")))
    for key, words in HEADER.items():
        if key in common and common[key] != NEUTRAL.get(key):
            facts.append((words, plain(f"{common[key]:,}" if isinstance(common[key], int) else common[key])))
    return tuple(facts)


def _card_facts(sample: Sample, common: Mapping[str, Any]) -> Facts:
    """What tells this sample from the others, and how to make it again."""
    sampled = sample.sampled
    facts = []
    if "seed" in sampled:
        number = f", sample {plain(sampled['index'])}" if "index" in sampled else ""
        facts.append(("seed", plain(sampled["seed"]) + number))
    if isinstance(likelihood := sampled.get("log_likelihood"), int | float):
        facts.append(("log-likelihood", f"{likelihood:.2f} a token".replace("-", MINUS)))
    facts += [(words, plain(sampled[key])) for key, words in HEADER.items() if key in sampled and key not in common]
    known = {"pitch", "velocity", "instrument_str", "note_str"}
    facts += [(plain(key).replace("_", " "), plain(value)) for key, value in sample.labels.items() if key not in known]
    return tuple(facts)


def _real(folder: Path, shards: Path | None, count: int, weights: Path | None, device: str) -> RealNotes:
    if shards is None:
        return RealNotes(
            "There are none to compare with: the token files do not say which shard set the run was trained on."
        )
    return real_notes(folder, shards, count, weights, device)


def _commands(folder: Path, run: Path | None, shards: Path | None) -> list[tuple[str, str]]:
    """(what for, command) that a reader can paste."""
    at = {
        name: shlex.quote(os.fspath(path))
        for name, path in (("folder", folder), ("run", run), ("shards", shards))
        if path
    }
    if run is None:
        return [("Samples of a run, decoded, with a page like this:", "make samples RUN=demo N=16")]
    decode = (
        f"python -m pipeline decode {at['folder']}/tokens --out {at['folder']}\npython -m pipeline page {at['folder']}"
    )
    sample = f"python -m trainer sample --run {at['run']} --out {at['folder']}/tokens"
    more = f"{sample} --count 16 --seed 1"
    scale = f"{sample} --label pitch=40:76:4 --label velocity=100"
    commands = [
        ("More notes of this run, drawn by another seed:", f"{more}\n{decode}"),
        ("Notes you ask for, here a scale (only for runs that were trained with labels):", f"{scale}\n{decode}"),
    ]
    if shards is not None:
        train = f"python -m trainer train --shards {at['shards']} --run runs/longer --preset small --set steps=4000"
        commands.append(
            (
                "The same notes, a longer training; the shard set is used again as it is:",
                f"{train}\nmake samples RUN=longer",
            )
        )
    return [(what, plain_lines(command)) for what, command in commands]


def plain_lines(text: str) -> str:
    """Like `plain`, line by line."""
    return "\n".join(plain(line) for line in text.splitlines())
