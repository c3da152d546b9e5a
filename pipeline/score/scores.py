"""The scores of a folder, if they are of its samples."""

from dataclasses import replace

from pipeline.score.frechet import MIN_NOTES
from pipeline.score.samples import SampleFolder
from shards import scores as shards_scores
from shards.console import quote
from shards.errors import ShardError
from shards.scores import FILE, Figure, Score, Scores

FRECHET = "frechet"  # key of its score


def read_scores(samples: SampleFolder) -> Scores | None:
    """Read `scores.json`; None if there is no file.

    Raises:
        ShardError: damaged, or about other samples than those in the folder.
    """
    try:
        scores = shards_scores.read_scores(samples.path)
    except FileNotFoundError:
        return None
    if scores.fingerprint != samples.fingerprint():
        raise ShardError(
            f"{samples.path / FILE}: is about other samples than those in the folder; "
            f"run `python -m pipeline score {quote(samples.path)}` again"
        )
    return replace(scores, scores=tuple(map(_without_small_distances, scores.scores)))


def _without_small_distances(score: Score) -> Score:
    """Drop Fréchet distances of too few notes, which earlier versions of this program have written."""
    figures = (
        Figure(figure.of, None, figure.count, why=f"needs {MIN_NOTES} notes")
        if score.key == FRECHET and figure.value is not None and figure.count < MIN_NOTES
        else figure
        for figure in score.figures
    )
    return replace(score, figures=tuple(figures))
