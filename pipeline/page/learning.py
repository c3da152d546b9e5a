"""The section in which a run is heard to learn: the notes that its training sampled at each evaluation."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.audio import save
from pipeline.codec.loaded import LoadedCodec
from pipeline.decode.run import decode_notes
from pipeline.page.players import MEDIA, Player, add_media, plain, title_and_subtitle
from shards.errors import UserError
from shards.metrics import read_valid_losses
from shards.note import TokenFile, read_token_file
from shards.sample_info import PREVIEWS

FOLDER = "learning"  # of their sounds, in the page's
MOST_ROWS = 8  # evaluations that are shown
STEP = re.compile(r"step-(\d{1,18})")  # name of an evaluation's folder


@dataclass(frozen=True)
class Evaluation:
    """The notes of one evaluation."""

    step: int
    title: str
    subtitle: str
    players: tuple[Player, ...]
    wavs: tuple[Path, ...]  # of the players


@dataclass(frozen=True)
class Learning:
    """The evaluations that are shown, and the notes that could not be."""

    evaluations: tuple[Evaluation, ...] = ()
    faults: tuple[str, ...] = ()  # damaged token files, or of another codec; one line each


def decode_evaluations(folder: Path, run: Path, codec: LoadedCodec) -> Learning:
    """Decode the notes of a run's evaluations into `folder`: all, or `MOST_ROWS` from the first to the last."""
    steps = {path: int(match[1]) for path in (run / PREVIEWS).glob("step-*") if (match := STEP.fullmatch(path.name))}
    losses = read_valid_losses(run)
    rows, faults = [], []
    for path in _spread(sorted(steps, key=lambda path: steps[path])):
        files = []
        for npy in sorted(path.glob("*.npy")):
            try:
                files.append(_read(npy, codec))
            except UserError as error:
                faults.append(error.message)
        if files:
            step = steps[path]
            loss = f"valid loss {losses[step]:.3f} a token" if step in losses else ""
            players, wavs = _players(folder, path.name, files, codec)
            rows.append(Evaluation(step, f"Step {step}", loss, players, wavs))
    return Learning(tuple(rows), tuple(faults))


def _players(
    folder: Path, step: str, files: Sequence[TokenFile], codec: LoadedCodec
) -> tuple[tuple[Player, ...], tuple[Path, ...]]:
    rate = codec.spec.sample_rate
    players, wavs = [], []
    for note, waveform in decode_notes([file.note for file in files], codec):
        wav = folder / MEDIA / FOLDER / f"{step}-{note.key}.wav"
        save(wav, waveform, rate)
        player = Player(plain(f"{step}, {note.key}"), *title_and_subtitle(note.labels, note.key))
        players.append(add_media(player, folder, wav, waveform, rate))
        wavs.append(wav)
    return tuple(players), tuple(wavs)


def _read(npy: Path, codec: LoadedCodec) -> TokenFile:
    try:
        file = read_token_file(npy)
    except OSError as error:
        raise UserError(f"{npy}: cannot be read ({error.strerror})") from error
    if file.codec != codec.spec:
        raise UserError(f"{npy}: is of another codec than the samples; it is left out")
    return file


def _spread(steps: Sequence[Path]) -> list[Path]:
    count = min(len(steps), MOST_ROWS)
    return [steps[index * (len(steps) - 1) // max(1, count - 1)] for index in range(count)]
