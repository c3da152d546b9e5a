"""Score folders of samples: read, measure, write `scores.json`, report the folders side by side.

Knows nothing of the page, and nothing of how figures are measured.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

from pipeline.score.measure import measure
from pipeline.score.references import ShardSet, open_shard_set
from pipeline.score.samples import read_samples
from shards.console import counted, quote
from shards.scores import Figure, Kind, Scores, format_value, write_scores

GAP = 3  # spaces between columns


@dataclass(frozen=True)
class Report:
    """Scores of several folders: folder -> scores."""

    folders: Mapping[str, Scores]
    left_out: tuple[str, ...] = ()  # lines that name samples of earlier calls of `sample`

    def lines(self) -> Iterator[str]:
        """Report for the command line: each score with its floors, a column for each folder."""
        yield from self.left_out
        table = [["", *self.folders]] if len(self.folders) > 1 else []
        for scores in zip(*(scores.scores for scores in self.folders.values()), strict=True):  # of each folder
            columns = [{figure.of: _cell(score.kind, figure) for figure in score.figures} for score in scores]
            table.append([scores[0].title])
            table += [[f"  {of}", *(cells.get(of, "") for cells in columns)] for of in dict.fromkeys(chain(*columns))]
        widths = [max(map(len, column)) + GAP for column in zip_longest(*table, fillvalue="")]
        for row in table:
            yield "".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)).rstrip()
        yield f"Next: python -m pipeline page {quote(next(iter(self.folders)))}"


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
    scores, left_out = {}, []
    shard_sets: dict[tuple[Path, ...], ShardSet] = {}  # each is opened once, and its references are decoded once
    for folder in folders:
        samples = read_samples(folder)
        left_out += [samples.left_out] if samples.left_out else []
        paths = (shards,) if shards else samples.shards_folders()
        if paths not in shard_sets:
            shard_sets[paths] = open_shard_set(paths, weights, device)
        scores[str(folder)] = measure(samples, shard_sets[paths], notes, on_stage)
        write_scores(folder, scores[str(folder)])
    return Report(scores, tuple(left_out))


def _cell(kind: Kind, figure: Figure) -> str:
    if figure.value is None:
        return figure.why
    interval = ""
    if figure.low is not None and figure.high is not None:
        interval = f", {format_value(kind, figure.low)} to {format_value(kind, figure.high)}"
    return f"{format_value(kind, figure.value)}  ({counted(figure.count, 'note')}{interval})"
