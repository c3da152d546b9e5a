"""Fine-tuning: a run begins with the weights of another one, on other notes and with other labels.

Label values are matched by name and value, so that before the first step the logits of a note with labels that both
runs know are those of the other run. Knows nothing of training.
"""

from pathlib import Path

import torch
from torch import Tensor

from shards.note import Codec
from shards.storage import path_text
from trainer.checkpoint import BEST, LAST
from trainer.config import Config
from trainer.errors import TrainError
from trainer.model import NoteModel
from trainer.run import RunInfo, Start, read_run
from trainer.vocabulary import NONE, Vocabulary
from trainer.weights import load_model

EMBEDDINGS = "net.token_emb.emb.weight"  # (id, width), which labels change
FIRST_HEAD = "heads.0.weight"  # (code, width), and after the codes the end, which lengths of notes change
SHAPE = ("width", "depth", "heads", "head_width", "position", "shared_vocabulary")  # settings that weights depend on


def read_start(text: str, config: Config, codec: Codec) -> Start:
    """Find the run and the checkpoint of `RUN[:STEP]`, `RUN:best` or `RUN:last`.

    Raises:
        TrainError: no such run or checkpoint, or weights that do not fit these settings or this codec.
    """
    run, checkpoint = parse_start(text)
    info = read_run(run)
    for name, ours, theirs in codec.differences(info.codec):
        raise TrainError(f"--start {text}: its codec has {name} {theirs}, that of the shard set {ours}")
    model, other = vars(config.model), vars(info.config.model)
    if changes := [f"{name}={_text(other[name])}" for name in SHAPE if model[name] != other[name]]:
        options = " ".join(f"--set {change}" for change in changes)
        raise TrainError(f"--start {text}: its weights are those of another model; make yours alike: {options}")
    _, step = load_model(run, info, checkpoint, torch.device("cpu"))
    return Start(path_text(run), step, info.vocabulary)


def parse_start(text: str) -> tuple[Path, str]:
    """`RUN[:STEP]` -> the run's folder and the name of its checkpoint."""
    run, colon, checkpoint = text.rpartition(":")
    if colon and (checkpoint in (BEST, LAST) or checkpoint.isdecimal()):
        return Path(run), checkpoint
    return Path(text), LAST


def check_same_start(run: Path, info: RunInfo, text: str) -> None:
    """Refuse to go on with a run that began with other weights than `--start` names.

    Raises:
        TrainError: as above.
    """
    folder, checkpoint = parse_start(text)
    start = info.start
    is_same = start is not None and start.run == path_text(folder)
    if start is None or not is_same or (checkpoint.isdecimal() and int(checkpoint) != start.step):
        began = f"step {start.step} of {start.run}" if start else "random weights"
        raise TrainError(f"{run}: began with {began}, not with {text}; leave out --start, or use another --run")


def load_start(model: NoteModel, start: Start) -> None:
    """Give `model` the weights of the run that it starts from.

    Raises:
        TrainError: the run or its checkpoint is no longer there.
    """
    run = Path(start.run)
    info = read_run(run)
    if info.vocabulary != start.vocabulary:
        raise TrainError(f"{run}: is another run than the one that this training began with; start a new --run")
    source, _ = load_model(run, info, start.step, torch.device("cpu"))
    tensors = source.state_dict()
    tensors[EMBEDDINGS] = fit_embeddings(tensors[EMBEDDINGS], start.vocabulary, model.vocabulary, model.group)
    head = model.state_dict()[FIRST_HEAD]
    codes = tensors[FIRST_HEAD][: len(head)]
    tensors[FIRST_HEAD] = torch.cat([codes, head[len(codes) :]])  # an end that is new begins at random
    model.load_state_dict(tensors)


def fit_embeddings(rows: Tensor, old: Vocabulary, new: Vocabulary, group: int) -> Tensor:
    """The embeddings of a model with other labels: (old id, width) -> (new id, width).

    A value that the old model did not know begins as its label's "none", and a new label at zero. The "none" of a
    label that is gone goes into the codes of the first codebook, of which each position has one, and into the start
    token, of which the first position has `group`.
    """
    table = rows.new_zeros(new.size, rows.shape[1])
    table[: new.first_label] = rows[: new.first_label]
    names = [name for name, _ in old.labels]
    shared = [name for name, _ in new.labels if name in names and old.is_length(name) == new.is_length(name)]
    for index, (name, values) in enumerate(new.labels):
        if name in shared:
            for labels in ({name: value} for value in (NONE, *values)):
                table[new.label_ids(labels)[index]] = rows[old.label_ids(labels)[names.index(name)]]
    if old.length_ids and new.length_ids:
        frames = torch.arange(-new.window_frames, new.window_frames + 1)  # that are left
        known = frames.clamp(-old.window_frames, old.window_frames) + old.window_frames
        table[new.length_ids.start : new.length_ids.stop] = rows[old.length_ids.start : old.length_ids.stop][known]
    codes = old.codebook_size if group > 1 else old.start  # with a position a token each has a code of any codebook
    for name, none in zip(names, old.uncond_ids(), strict=True):
        if name not in shared:
            table[:codes] += rows[none]
            table[new.start] += rows[none] / group
    return table


def describe_start(start: Start, vocabulary: Vocabulary) -> str:
    """A line that says which labels a run has from the one that it starts from, and which begin anew."""
    old, new = dict(start.vocabulary.labels), dict(vocabulary.labels)
    parts = []
    for name, values in new.items():
        known = [value for value in values if start.vocabulary.trained_value({name: value}, name) in old.get(name, ())]
        parts.append(f"{name} is new" if name not in old else f"{name} has {len(known)} of {len(values)} values")
    parts += [f"{name} is gone" for name in old if name not in new]
    return f"Starts from step {start.step} of {start.run}. " + (f"Labels: {', '.join(parts)}." if parts else "")


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
