"""The section in which a run is heard to learn: the notes that its training sampled at each evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.audio import save
from pipeline.codec.model import EnCodec
from pipeline.decode.run import decode_notes
from pipeline.page.players import MEDIA, Player, add_media, plain, title_and_subtitle
from shards.errors import ShardError
from shards.metrics import read_metrics
from shards.note import TokenFile, read_token_file
from shards.sample_info import PREVIEWS

FOLDER = "learning"  # of their sounds, in the page's
MOST_ROWS = 8  # evaluations that are shown


@dataclass(frozen=True)
class Evaluation:
    """The notes of one evaluation."""

    title: str
    subtitle: str
    players: tuple[Player, ...]


def evaluations(folder: Path, run: Path, codec: EnCodec) -> list[Evaluation]:
    """Decode the notes of a run's evaluations into `folder`: all, or `MOST_ROWS` from the first to the last.

    Notes that are damaged or of another codec are left out.
    """
    steps = sorted(path for path in (run / PREVIEWS).glob("step-*") if path.is_dir())
    losses = _losses(run)
    rows = []
    for path in _spread(steps):
        files = [file for file in map(_read, sorted(path.glob("*.npy"))) if file and file.codec == codec.spec]
        if files:
            step = path.name.removeprefix("step-").lstrip("0") or "0"
            loss = f"valid loss {losses[step]:.3f} a token" if step in losses else ""
            rows.append(Evaluation(plain(f"Step {step}"), loss, tuple(_players(folder, path.name, files, codec))))
    return rows


def _players(folder: Path, step: str, files: Sequence[TokenFile], codec: EnCodec) -> list[Player]:
    rate = codec.spec.sample_rate
    players = []
    for note, waveform in decode_notes([file.note for file in files], codec):
        wav = folder / MEDIA / FOLDER / f"{step}-{note.key}.wav"
        save(wav, waveform, rate)
        player = Player(plain(f"{step}, {note.key}"), *title_and_subtitle(note.labels, note.key))
        players.append(add_media(player, folder, wav, waveform, rate))
    return players


def _read(path: Path) -> TokenFile | None:
    try:
        return read_token_file(path)
    except (ShardError, OSError):
        return None


def _losses(run: Path) -> dict[str, float]:
    try:
        return {str(line.step): line.values["loss"] for line in read_metrics(run).of("valid") if "loss" in line.values}
    except OSError:
        return {}


def _spread(steps: Sequence[Path]) -> list[Path]:
    count = min(len(steps), MOST_ROWS)
    return [steps[index * (len(steps) - 1) // max(1, count - 1)] for index in range(count)]
