"""Scores as text: a table of the figures, folders side by side.

Knows nothing of how figures are measured and stored.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pipeline.score.scores import Figure, Scores

FORMATS = {"share": "{:.0%}", "correlation": "{:.2f}", "distance": "{:.3g}"}  # kind of a score -> its figures
GAP = 3  # spaces between columns


@dataclass(frozen=True)
class Report:
    """Scores of several folders: folder -> scores."""

    folders: Mapping[str, Scores]

    def lines(self) -> Iterator[str]:
        """Report for the command line: each score with its floors."""
        rows: dict[str, dict[str, dict[str, str]]] = {}  # title -> subject of the figure -> folder -> text
        for folder, scores in self.folders.items():
            for score in scores.scores:
                for figure in score.figures:
                    cells = rows.setdefault(score.title, {}).setdefault(figure.of, {})
                    cells[folder] = _cell(score.kind, figure)
        table = [("", list(self.folders))] if len(self.folders) > 1 else []
        for title, subjects in rows.items():
            table.append((title, []))
            table += [(f"  {of}", [cells.get(folder, "") for folder in self.folders]) for of, cells in subjects.items()]
        widths = [max(map(len, column)) + GAP for column in zip(*(cells for _, cells in table if cells), strict=True)]
        first_width = max(len(first) for first, _ in table) + GAP
        for first, row in table:
            padded = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False))
            yield f"{first:<{first_width}}{''.join(padded)}".rstrip()
        yield f"Next: python -m pipeline page {next(iter(self.folders))}"


def format_value(kind: str, value: float) -> str:
    """Format a figure of a score of this kind."""
    return FORMATS[kind].format(value).replace("%", " %")


def _cell(kind: str, figure: Figure) -> str:
    if figure.value is None:
        return figure.why
    interval = ""
    if figure.low is not None and figure.high is not None:
        interval = f", {format_value(kind, figure.low)} to {format_value(kind, figure.high)}"
    return f"{format_value(kind, figure.value)}  ({figure.count} notes{interval})"
