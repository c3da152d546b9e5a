"""Score folders of samples: read, measure, write `scores.json`, report.

Knows nothing of the page, and nothing of how figures are measured.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.score.measure import measure
from pipeline.score.references import ShardSet, open_shard_set
from pipeline.score.report import Report
from pipeline.score.samples import read_samples
from pipeline.score.scores import write_scores


def score_folders(
    folders: Sequence[Path],
    shards: Path | None = None,
    notes: int = 40,
    weights: Path | None = None,
    device: str = "auto",
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Report:
    """Measure the samples in `folders` and `notes` unseen real notes of their shard set; write `scores.json` in each.

    shards: the set's folder, if it is not the path in the token files. on_stage: called with the name of each stage.

    Raises:
        UserError: no samples that can be read, no shard set, or a set of another codec.
    """
    scores = {}
    shard_sets: dict[Path, ShardSet] = {}  # each is opened once, and its references are decoded once
    for folder in folders:
        samples = read_samples(folder)
        path = shards or samples.shards_folder()
        if path not in shard_sets:
            shard_sets[path] = open_shard_set(path, weights, device)
        scores[str(folder)] = measure(samples, shard_sets[path], notes, on_stage)
        write_scores(folder, scores[str(folder)])
    return Report(scores)
