"""Filling in what was not recorded: samples of a model against the nearest recorded key at another speed.

Of one train instrument only every sixth key at one velocity is kept, and a model is trained without the rest. Then the
same notes are played twice by a real sampler (sfizz): from the instrument of `pipeline instrument --complete`, and from
the kept recordings alone, which the sampler stretches to the keys and velocities between. Both are compared with the
recordings that were hidden; so are these themselves through the codec, and the same notes of another instrument, which
is how far off the wrong timbre is.

    python -m tests.benchmarks.complete_instrument data/demo-notes --out runs/complete --minutes 3
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import pysfizz
import soundfile
import torch

from pipeline.audio import fit, load
from pipeline.codec.distance import mel_distance
from pipeline.codec.loaded import load_codec
from pipeline.codec.spec import SAMPLE_RATE
from pipeline.instrument.choose import CLOSE, Pair
from pipeline.instrument.regions import key_range
from pipeline.notes.nsynth import MIDI_MAX, NSYNTH_SECONDS, parse_name
from pipeline.score.pitch import cents, fundamental, hertz_of, loudness

EVERY = 6  # keys
HELD = 3.0  # seconds, as NSynth's notes; compared as long
ONSET = 0.01  # of the peak
MOST = 16  # candidates of a pair


@dataclass(frozen=True)
class Difference:
    """One note as played, beside the hidden recording."""

    mel: float  # distance of log-mel spectra, at equal levels
    cents: float  # off the key, without a sign; NaN: no pitch was found
    level: float  # dB, but for the gain that the kept notes have, with its sign


@click.command()
@click.argument("audio", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder of all that is made; its stages are kept."
)
@click.option("--instrument", help="The one whose notes are hidden.  [default: the first train instrument by name]")
@click.option("--minutes", default=30.0, show_default=True, help="Of training, if OUT has no run yet.")
@click.option("--codec", default="encodec_mini", show_default=True)
def main(audio: Path, out: Path, instrument: str | None, minutes: float, codec: str) -> None:
    """Hide notes of an instrument in AUDIO, fill them in with samples and by stretching, and compare both with them."""
    recordings = {path: labels for path in sorted(audio.rglob("*")) if (labels := parse_name(path.stem))}
    train = {path: labels for path, labels in recordings.items() if path.parent.name.endswith("-train")}
    instrument = instrument or min(labels["instrument_str"] for labels in train.values())
    notes = {
        (labels["pitch"], labels["velocity"]): path
        for path, labels in train.items()
        if labels["instrument_str"] == instrument
    }
    kept = kept_pairs(notes)
    hidden = {pair: path for pair, path in notes.items() if pair not in kept}
    click.echo(f"{instrument}: {len(kept)} recordings are kept, {len(hidden)} hidden")
    if not (out / "run").is_dir():
        train_without({*hidden.values()}, recordings, audio, out, minutes, codec)
    if not (out / "instrument/instrument.json").is_file():
        make_instrument(instrument, out)
    names = sorted({labels["instrument_str"] for labels in train.values()})
    other = names[(names.index(instrument) + 1) % len(names)]
    others = {
        (labels["pitch"], labels["velocity"]): load(path, SAMPLE_RATE, NSYNTH_SECONDS)
        for path, labels in train.items()
        if labels["instrument_str"] == other
    }
    stretched = write_stretched({pair: notes[pair] for pair in kept}, out / "stretched")
    originals = {pair: load(path, SAMPLE_RATE, NSYNTH_SECONDS) for pair, path in notes.items()}
    ways = {
        "samples of the model": sampler(out / "instrument/instrument.sfz"),
        "stretched recordings": sampler(stretched),
        "hidden notes through the codec": round_trips(originals, codec),
        other: others.__getitem__,
    }
    nearest = {pair: min(abs(pair[0] - key) for key, _ in kept) for pair in sorted(hidden.keys() & others.keys())}
    differences: dict[str, dict[Pair, Difference]] = {}
    for name, play in ways.items():
        gain = float(np.median([level_difference(play(pair), originals[pair]) for pair in kept & others.keys()]))
        differences[name] = {pair: compare(play(pair), originals[pair], pair[0], gain) for pair in nearest}
    click.echo(f"{'':<36}{'log-mel':>9}{'cents':>9}{'<= 10':>9}{'level':>9}")
    for keys_away in (None, *sorted(set(nearest.values()))):
        pairs = [pair for pair in nearest if keys_away in (None, nearest[pair])]
        click.echo("all" if keys_away is None else f"{keys_away} keys from a recorded one ({len(pairs)} notes)")
        for name, of_pair in differences.items():
            click.echo(f"  {name:<34}{summary([of_pair[pair] for pair in pairs])}")


def kept_pairs(notes: Mapping[Pair, Path]) -> set[Pair]:
    """Every sixth key from the lowest, at the middle velocity."""
    velocities = sorted({velocity for _, velocity in notes})
    middle = velocities[len(velocities) // 2]
    keys = sorted(key for key, velocity in notes if velocity == middle)
    return {(key, middle) for key in keys if (key - keys[0]) % EVERY == 0}


def train_without(
    hidden: set[Path], recordings: Mapping[Path, object], audio: Path, out: Path, minutes: float, codec: str
) -> None:
    """Encode all recordings but the hidden ones, and train a run on them."""
    folder = out / "audio"
    for path in recordings.keys() - hidden:
        link = folder / path.relative_to(audio)
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(path.resolve())
    call("pipeline", "encode", folder, "--out", out / "shards", "--codec", codec)
    call("trainer", "train", "--shards", out / "shards", "--run", out / "run", "--set", f"minutes={minutes}")


def make_instrument(name: str, out: Path) -> None:
    """Draw candidates until every key has a good one, or has had enough; keep the real notes."""
    sample = ("trainer", "sample", "--run", out / "run", "--out", out / "candidates")
    wanted = out / "instrument/wanted.json"
    folders = (out / "candidates", "--out", out / "instrument")
    choose = ("pipeline", "instrument", *folders, "--most", MOST, "--complete", f"{out / 'shards'}:{name}")
    call(*sample, "--candidates", 4, "--label", f"instrument_str={name}")
    call(*choose)
    while wanted.is_file():
        call(*sample, "--wanted", wanted)
        call(*choose)


def call(program: str, *words: object) -> None:
    """Run a command of one of the programs; show what it prints."""
    subprocess.run([sys.executable, "-m", program, *map(str, words)], check=True, env=os.environ | {"COLUMNS": "100"})


def write_stretched(recordings: Mapping[Pair, Path], folder: Path) -> Path:
    """Write an SFZ file that plays each recording on the keys nearest to its own, at every velocity."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    keys = sorted(key for key, _ in recordings)
    lines = ["<global> loop_mode=no_loop ampeg_attack=0.002 ampeg_release=0.25"]
    for (key, _), path in sorted(recordings.items()):
        low, high = key_range(keys, key, 0, MIDI_MAX)
        soundfile.write(folder / f"{key}.flac", load(path, SAMPLE_RATE, NSYNTH_SECONDS), SAMPLE_RATE)
        lines.append(f"<region> sample={key}.flac lokey={low} hikey={high} pitch_keycenter={key}")
    path = folder / "stretched.sfz"
    path.write_text("\n".join(lines) + "\n")
    return path


def sampler(sfz: Path) -> Callable[[Pair], np.ndarray]:
    synth = pysfizz.Synth(sample_rate=SAMPLE_RATE)
    synth.load_sfz_file(str(sfz))

    def play(pair: Pair) -> np.ndarray:
        synth.render_note(*pair, HELD, NSYNTH_SECONDS)  # the engine reads a file in the background, once it is played
        return np.asarray(synth.render_note(*pair, HELD, NSYNTH_SECONDS), np.float32)[0]

    return play


def round_trips(originals: Mapping[Pair, np.ndarray], name: str) -> Callable[[Pair], np.ndarray]:
    codec = load_codec(name)

    def play(pair: Pair) -> np.ndarray:
        with torch.inference_mode():
            return codec.decode(codec.encode(torch.from_numpy(originals[pair][None])))[0].numpy()

    return play


def compare(played: np.ndarray, original: np.ndarray, key: int, gain: float) -> Difference:
    hertz = fundamental(from_onset(played), SAMPLE_RATE)
    level = level_difference(played, original)
    equal = played * 10 ** (-level / 20)
    mel = mel_distance(*(torch.from_numpy(from_onset(sound)[None].astype(np.float32)) for sound in (equal, original)))
    return Difference(float(mel), np.nan if hertz is None else abs(cents(hertz, hertz_of(key))), level - gain)


def level_difference(played: np.ndarray, original: np.ndarray) -> float:
    return loudness(from_onset(played), SAMPLE_RATE) - loudness(from_onset(original), SAMPLE_RATE)


def from_onset(sound: np.ndarray) -> np.ndarray:
    """The seconds in which the key is held, from the attack."""
    level = np.abs(sound)
    return fit(sound[int(np.argmax(level >= ONSET * level.max())) :], round(HELD * SAMPLE_RATE))


def summary(differences: list[Difference]) -> str:
    """The mean log-mel distance, the median of the cents, the share within 10 cents, the median error of the level."""
    off = np.array([difference.cents for difference in differences])
    figures = (
        f"{np.mean([difference.mel for difference in differences]):9.3f}",
        f"{np.nanmedian(off):9.1f}",
        f"{np.mean(off <= CLOSE):9.0%}",
        f"{np.median([abs(difference.level) for difference in differences]):6.1f} dB",
    )
    return "".join(figures)


if __name__ == "__main__":
    main()
