"""Token files -> WAVs, scores and the page, in one process.

The codec is loaded once, each file is read once, and a real note is decoded once for scores and page. The result is
that of the commands `decode`, `score` and `page`, one after the other.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.decode.run import Decoded
from pipeline.decode.source import load_codec_for
from pipeline.page.page import PageOutcome, write_page
from pipeline.progress import Progress
from pipeline.score.measure import measure
from pipeline.score.references import open_shard_set
from pipeline.score.run import Report
from pipeline.score.samples import NoShardSetError, decode_samples, read_samples
from shards.sample_info import TOKENS
from shards.scores import write_scores


@dataclass(frozen=True)
class ListenOutcome:
    """The results of the three steps."""

    decoded: Decoded
    report: Report | None  # None: the shard set is not there
    page: PageOutcome

    @property
    def faults(self) -> tuple[str, ...]:
        return self.page.faults

    def lines(self) -> Iterator[str]:
        """Report for the command line; only the page's last line says what to do next."""
        for step in (self.decoded, self.report):
            *lines, _next = step.lines() if step else ("No new scores: the shard set is not there.", "")
            yield from lines
        yield from self.page.lines()


def listen(
    folder: Path,
    progress: Progress,
    run: Path | None = None,
    shards: Path | None = None,
    notes: int = 40,
    real: int = 4,
    beside: Path | None = None,
    weights: Path | None = None,
    device: str = "auto",
    on_stage: Callable[[str], None] = lambda stage: None,
) -> ListenOutcome:
    """Decode `folder`/tokens into `folder`, write scores.json and index.html there.

    run, shards: their paths now, if not those in the token files. notes, real: number of real notes that are measured,
    and that are on the page. beside: a second folder of samples to compare with. on_stage: called with the name of each
    stage. Without the shard set, the page has no scores and no real notes.

    Raises:
        UserError: no token files, a damaged one, or a set that is damaged or of another codec.
    """
    samples = read_samples(folder)
    on_stage("decoding")
    codec = load_codec_for(samples.token_source().codec, folder / TOKENS, weights, device)
    decoded = decode_samples(samples, codec, progress)
    shard_set = report = None
    try:
        shard_set = open_shard_set(shards or samples.shards_folders(), weights, device, codec)
        scores = measure(samples, shard_set, notes, on_stage)
        write_scores(folder, scores)
        report = Report({str(folder): scores})
    except NoShardSetError:
        pass  # the page says what is missing
    on_stage("writing the page")
    page = write_page(folder, run, shards, real, beside, weights, device, samples, shard_set, codec)
    return ListenOutcome(decoded, report, page)
