"""The best of many samples, as token files of their own, by the terms that choose an instrument's candidates.

Knows no real notes, so a sample octaves off its key is out of tune, of whatever instrument it is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.decode.source import load_codec_for
from pipeline.instrument.candidates import measure_candidates, read_candidates
from pipeline.instrument.choose import good_candidates, own_costs
from pipeline.progress import Progress
from shards.console import counted, quote
from shards.errors import UserError
from shards.note import write_token_file
from shards.sample_info import TOKENS


@dataclass(frozen=True)
class BestOutcome:
    """The samples that were chosen, best first."""

    folder: Path
    out: Path
    keys: tuple[str, ...]
    samples: int  # to choose from
    good: int  # of the chosen ones in tune, audible, and about as loud as others of their velocity

    def lines(self) -> Iterator[str]:
        """Report to print; the last line says the next command."""
        out, folder = quote(self.out), quote(self.out.parent)
        yield f"{self.out}: the best {len(self.keys)} of {counted(self.samples, 'sample')}, {self.good} of them good."
        command = f"listen {folder}" if self.out.name == TOKENS else f"decode {out} --out {out}"
        yield f"Next: python -m pipeline {command}"


def choose_best(
    folder: Path, out: Path, count: int, weights: Path | None, device: str, progress: Progress
) -> BestOutcome:
    """Write the best `count` samples of `folder` into `out`: of each key and velocity the best before the second best.

    Raises:
        UserError: no token files with pitch and velocity, fewer than `count`, or an `out` that holds token files.
    """
    files = read_candidates(folder)
    if len(files.files) < count:
        raise UserError(f"{folder}: has {counted(len(files.files), 'sample')}, fewer than --count {count}; sample more")
    if any(out.glob("*.npy")):
        raise UserError(f"{out}: holds token files already; give another --out")
    codec = load_codec_for(files.codec, folder, weights, device)
    candidates = measure_candidates(files, codec, progress)
    good = {candidate.key for some in good_candidates(candidates).values() for candidate in some}
    ranked = []
    for pair, costs in own_costs(candidates, None).items():
        some = sorted(zip(costs, candidates[pair], strict=True), key=lambda item: (item[1].key not in good, item[0]))
        ranked += [(each.key not in good, rank, cost, each.key) for rank, (cost, each) in enumerate(some)]
    keys = tuple(key for *_, key in sorted(ranked)[:count])
    for key in keys:
        file = files.files[key]
        write_token_file(out, file.note, file.codec, file.sampled)
    return BestOutcome(folder, out, keys, len(files.files), len(good & set(keys)))
