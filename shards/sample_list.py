"""List of the token files that the last call of `sample` wrote into a folder, `samples.list.json` beside them.

The trainer writes it; whoever reads samples leaves the files of earlier calls out. Knows nothing of what a token file
holds.
"""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from shards.console import counted
from shards.errors import ShardError
from shards.files import write_json
from shards.parse import read_object, to_dataclass

LIST = "samples.list.json"  # a key has no dot, so no token file has this name
NAMED = 3  # token files that a line names


@dataclass(frozen=True)
class SampleList:
    """The token files of one call."""

    count: Annotated[int, msgspec.Meta(ge=0)]  # that it was to write
    keys: tuple[str, ...]  # that it has written; fewer than `count`: it was interrupted

    def write(self, folder: Path) -> None:
        write_json(folder / LIST, asdict(self))


def read_sample_list(folder: Path) -> SampleList | None:
    """Undo `SampleList.write`; None if there is no list.

    Raises:
        ShardError: damaged.
    """
    path = folder / LIST
    if not path.is_file():
        return None
    cure = "sample again, or delete it to take all token files of the folder"
    return to_dataclass(SampleList, read_object(path, cure), f"{path}:", cure)


def select_last_call(folder: Path, keys: Collection[str]) -> tuple[list[str], str]:
    """Select the samples of the last call among all `keys` in `folder`, sorted; all of them if there is no list.

    Returns them with a line that names those that are left out or missing; it is empty if there are none.

    Raises:
        ShardError: a damaged list, or none of its files is there.
    """
    listed = read_sample_list(folder)
    if listed is None:
        return sorted(keys), ""
    selected = sorted({*keys} & {*listed.keys})
    facts = []
    if others := sorted({*keys} - {*selected}):
        facts.append(f"left out: {counted(len(others), 'sample')} of other calls ({_names(others)})")
    if missing := sorted({*listed.keys} - {*selected}):
        facts.append(f"missing: {counted(len(missing), 'file')} of the last call ({_names(missing)})")
    if len(listed.keys) < listed.count:
        facts.append(f"the last call was interrupted after {len(listed.keys)} of {counted(listed.count, 'sample')}")
    line = f"{folder}: {'; '.join(facts)}. Sample again, or delete {LIST} to take all" if facts else ""
    if keys and not selected:
        raise ShardError(line)
    return selected, line


def _names(keys: list[str]) -> str:
    return ", ".join(keys[:NAMED]) + (" ..." if len(keys) > NAMED else "")
