"""Runs side by side: the valid loss over the minutes of training, as a picture."""

from pathlib import Path

from shards.files import atomic_write
from shards.metrics import read_metrics
from trainer.errors import TrainError

SIZE = 8.0, 4.5  # inches
SHOWN = "loss_first_125_frames"  # of each note: the part that models of every preset see


def plot_curves(runs: list[Path], out: Path) -> None:
    """Draw the curves of the runs into a PNG or SVG file.

    Raises:
        TrainError: a run that has not been evaluated, or a file that is no picture by its name.
    """
    import matplotlib

    matplotlib.use("agg")  # no display is needed
    from matplotlib import pyplot

    if out.suffix not in (".png", ".svg"):
        raise TrainError(f"{out}: is neither a .png nor an .svg by its name")
    figure, axes = pyplot.subplots(figsize=SIZE, layout="constrained")
    for run in runs:
        points = [(line.values["seconds"] / 60, line.values[SHOWN]) for line in read_metrics(run).of("valid")]
        if not points:
            raise TrainError(f"{run}: has no evaluation to draw; a shard set with a valid split makes them")
        axes.plot(*zip(*points, strict=True), marker=".", label=run.name)
    axes.set(xlabel="minutes of training", ylabel="valid loss, nats a token", title="Each note's first 125 frames")
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_write(out) as file:
        figure.savefig(file, format=out.suffix[1:], dpi=150, metadata={"Date": None} if out.suffix == ".svg" else None)
    pyplot.close(figure)
