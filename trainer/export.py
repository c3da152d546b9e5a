"""Export: the weights of one checkpoint as a folder for the Hugging Face Hub, and back.

`model.safetensors` has the weights that are sampled and nothing of the optimizer, `config.json` is the run file, and
`README.md` the model card.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from shards.console import counted, quote
from shards.errors import writing
from shards.files import atomic_write
from shards.hub import fetch_repository
from shards.metrics import read_valid_losses
from shards.sample_info import set_name
from shards.scores import Scores, format_value, read_scores
from trainer.checkpoint import EXPORTED, LAST, Checkpoint, write_weights
from trainer.errors import ConfigError
from trainer.model import NoteModel
from trainer.run import EXPORTED_RUN, RunInfo, read_run
from trainer.weights import load_model

CARD = "README.md"
MOST_VALUES = 40  # of a label that the card lists


@dataclass(frozen=True)
class Outcome:
    """A finished export."""

    out: Path
    step: int
    parameters: int

    def lines(self) -> list[str]:
        name = quote(self.out.absolute().name)
        return [
            f"{self.out}: {self.parameters:,} weights of step {self.step}, {EXPORTED_RUN} and the model card {CARD}.",
            f"Next: python -m trainer sample --run {quote(self.out)} --out samples/{name}/tokens",
        ]


def export(
    run: Path, out: Path, checkpoint: str = LAST, samples: Path | None = None, license_id: str | None = None
) -> Outcome:
    """Write the folder `out`, or anew if it is an exported run.

    checkpoint: for `find_checkpoint`. samples: a folder whose scores stand in the card. license_id: the Hub's name of
    a licence, such as cc-by-4.0.

    Raises:
        UserError: no run or checkpoint, a folder with other files, samples without scores, or it cannot be written.
    """
    info = read_run(run)
    try:
        scores = None if samples is None else read_scores(samples)
    except FileNotFoundError as error:
        command = f"python -m pipeline score {quote(samples or '')}"
        raise ConfigError(f"--scores {samples}: has no scores.json; `{command}` writes it") from error
    with writing(out):
        if out.is_dir() and any(out.iterdir()) and not (out / EXPORTED_RUN).is_file():
            raise ConfigError(f"--out {out}: has other files; name a new folder")
        model, step = load_model(run, info, checkpoint, torch.device("cpu"))
        out.mkdir(parents=True, exist_ok=True)
        (out / EXPORTED_RUN).unlink(missing_ok=True)  # until all is there, it is no run
    card = _card(out.absolute().name, info, model, step, read_valid_losses(run).get(step), scores, license_id)
    with atomic_write(out / CARD) as file:
        file.write(("\n".join(card) + "\n").encode())
    write_weights(out, Checkpoint(step, model.state_dict(), {}))
    sets = tuple(replace(each, shards=_hide_folder(each.shards)) for each in info.sets)
    replace(info, shards=_hide_folder(info.shards), sets=sets, start=None).write_export(out)
    return Outcome(out, step, model.parameters_count)


def from_pretrained(name: str, device: str = "cpu") -> tuple[NoteModel, RunInfo]:
    """The model of an exported run, a folder or a repository of the Hub such as USER/NAME, and its run file.

    Raises:
        UserError: no such folder or repository, or a damaged one.
    """
    folder = Path(name)
    if not folder.is_dir():
        folder = fetch_repository(name, (EXPORTED_RUN, EXPORTED))
    info = read_run(folder)
    model, _ = load_model(folder, info, LAST, torch.device(device))
    return model, info


def _hide_folder(shards: str) -> str:
    """The path of a set as strangers may see it; relative, or a URL, it is as useful to them."""
    return set_name(shards) if Path(shards).is_absolute() else shards


def _card(
    name: str,
    info: RunInfo,
    model: NoteModel,
    step: int,
    loss: float | None,
    scores: Scores | None,
    license_id: str | None,
) -> Iterator[str]:
    """The lines of the model card; its front matter is what the Hub searches by."""
    codec, config = info.codec, info.config.model
    yield "---"
    yield "library_name: note-tokens"
    if license_id:
        yield f"license: {json.dumps(license_id)}"
    yield "tags: [audio, music, encodec]"
    yield "---"
    yield f"# {name}"
    yield ""
    yield (
        f"An autoregressive Transformer of {model.parameters_count:,} weights (width {config.width}, depth "
        f"{config.depth}, {config.heads} heads) that writes notes as codes of {codec.name}, after "
        f"{counted(step, 'step')}."
    )
    if loss is not None:
        yield f"Valid loss: {loss:.3f} nats a token."
    if not license_id:
        yield "No licence is stated."
    yield ""
    yield "```"
    yield f"python -m trainer sample --run {quote(name)} --out samples/{quote(name)}/tokens --count 16"
    yield f"python -m pipeline listen samples/{quote(name)}"
    yield "```"
    yield ""
    yield "## Data"
    yield ""
    for each in info.all_sets:
        yield f"- shard set {set_name(each.shards)}, sha256 of its notes {each.notes_sha256}"
    yield f"- {counted(sum(count for _, count in info.combinations), 'train note')} in an epoch"
    yield f"- window: {info.window / codec.tokens_per_second:g} s"
    for label, values in info.vocabulary.labels:
        texts = [str(value) for value in values]
        shown = ", ".join(texts) if len(texts) <= MOST_VALUES else f"{len(texts)} from {texts[0]} to {texts[-1]}"
        yield f"- label {label}: {shown}"
    yield ""
    yield "## Codec"
    yield ""
    yield (
        f"{codec.name}: {codec.sample_rate} Hz, {codec.frame_rate:g} frames/s, {codec.codebooks} codebooks of "
        f"{codec.codebook_size} codes; sha256 of its weights {codec.weights_sha256}"
    )
    if scores is not None:
        yield ""
        yield "## Figures"
        yield ""
        yield "| | of | figure | notes |"
        yield "| --- | --- | --- | --- |"
        for score in scores.scores:
            for figure in score.figures:
                value = figure.why if figure.value is None else format_value(score.kind, figure.value)
                yield f"| {score.title} | {figure.of} | {value} | {figure.count} |"
