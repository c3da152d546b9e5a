"""The sounds of a run's evaluations, with spectrograms, in TensorBoard and at Weights & Biases, beside its numbers.

Each step is sent once: a file in the run's folder lists those that were. Decodes nothing.
"""

import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from pipeline.page.learning import Evaluation
from pipeline.page.players import picture_of
from shards.console import counted
from shards.errors import UserError, first_line
from shards.events import BOARD, EventWriter
from shards.files import write_json
from shards.parse import read_object
from shards.weights_and_biases import open_wandb, wandb_project

SENT = "boards.json"  # in the run's folder: name of a board -> steps that it has
SOUNDS = "samples"  # folder in TensorBoard's: its reader of a folder leaves a file for good when there is a newer one
PICTURE = " spectrogram"  # behind the name of a sound
STEP_AXIS = "samples/step"  # of the sounds at Weights & Biases, where the training's own step only ever rises


def send_sounds(run: Path, evaluations: Sequence[Evaluation]) -> tuple[str, ...]:
    """Send the sounds of new steps to TensorBoard, and to Weights & Biases if the run was trained with it.

    Returns a line for each of the two that has got some, or could not get them.
    """
    boards: dict[str, Callable[[Path, Sequence[Evaluation]], None]] = {"TensorBoard": _to_tensorboard}
    if project := wandb_project(run):
        boards["Weights & Biases"] = partial(_to_wandb, project)
    sent = _read_sent(run / SENT)
    lines = []
    for name, send in boards.items():
        new = [evaluation for evaluation in evaluations if evaluation.step not in sent.get(name, ())]
        if not new:
            continue
        try:
            send(run, new)
            sent[name] = sorted({*sent.get(name, ()), *(evaluation.step for evaluation in new)})
            write_json(run / SENT, sent)
            lines.append(f"{name}: the sounds of {counted(len(new), 'evaluation')} of {run} were added.")
        except UserError as error:
            lines.append(f"{name}: the sounds of {run} were not added: {error.message}")
    return tuple(lines)


def _to_tensorboard(run: Path, evaluations: Sequence[Evaluation]) -> None:
    import soundfile

    with EventWriter(run / BOARD / SOUNDS) as writer:
        for evaluation in evaluations:
            for name, wav in _named(evaluation):
                data = wav.read_bytes()
                info = soundfile.info(io.BytesIO(data))  # of a path that is not UTF-8 it would be an error
                writer.add_audio(name, data, info.samplerate, info.frames, evaluation.step)
                writer.add_image(name + PICTURE, picture_of(wav).read_bytes(), evaluation.step)


def _to_wandb(project: str, run: Path, evaluations: Sequence[Evaluation]) -> None:
    page = open_wandb(run, project, settings={"silent": True, "console": "off"})
    try:
        import wandb

        page.define_metric("samples/*", step_metric=STEP_AXIS)
        for evaluation in evaluations:
            named = _named(evaluation)
            sounds = {name: wandb.Audio(str(wav)) for name, wav in named}
            pictures = {name + PICTURE: wandb.Image(str(picture_of(wav))) for name, wav in named}
            page.log({STEP_AXIS: evaluation.step, **sounds, **pictures})
        page.finish()
    except Exception as error:  # wandb has many kinds
        raise UserError(f"{first_line(error)}; write the page again when it can be reached") from error


def _named(evaluation: Evaluation) -> list[tuple[str, Path]]:
    """(name, WAV) of the sounds; a sound has the same name at each step."""
    players = enumerate(zip(evaluation.players, evaluation.wavs, strict=True))
    return [(f"samples/{index} {player.title}", wav) for index, (player, wav) in players]


def _read_sent(path: Path) -> dict[str, list[int]]:
    """The steps that were sent; none if the file is damaged, which costs no more than sending them again."""
    try:
        return msgspec.convert(read_object(path, "delete it"), dict[str, list[int]])
    except (OSError, UserError, msgspec.ValidationError):
        return {}
