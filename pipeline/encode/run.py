"""Encode a folder, or one rank's part of it, into a shard set: plan, skip what is done, run the rest, close the ledger.

A shard is a pure function of its task, and a task is done when its record stands beside its tar, so a run that was
killed at any moment goes on where it stopped and ends with the same bytes. Whichever rank finds all tasks done closes
the ledger. What a worker does is in `encode`, how workers live is in `pool`, what starts ranks is in `engines`.
"""

import importlib.metadata
import json
import platform
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from pipeline.encode.encoder import Batch, make_encoder
from pipeline.encode.lock import held
from pipeline.encode.options import Choice, default_workers
from pipeline.encode.plan import Plan, Task, fingerprint
from pipeline.encode.ranks import Rank
from pipeline.encode.settings import Settings
from pipeline.encode.state import look, plan_for, settings_for
from pipeline.encode.workers import Result, encode_batches
from pipeline.notes.folder import AudioFolder, scan_folder
from pipeline.progress import Progress
from shards.errors import UserError
from shards.files import atomic_write
from shards.manifest import REJECTED, Ledger, Manifest, Shard, write_manifest
from shards.note import Note
from shards.record import Rejection, ShardRecord, write_shard_record
from shards.writer import write_shard

VERSIONS = ("encodec", "numpy", "soundfile", "soxr", "torch")  # packages that codes depend on


class StoppedError(UserError):
    """The run was asked to stop, and has."""

    exit_code = 130  # what a shell gives a command that Ctrl-C ended

    def __init__(self) -> None:
        super().__init__("stopped; finished shards are kept, and the same command goes on from there")


@dataclass(frozen=True)
class Request:
    """What to encode, where to, and with how many hands."""

    audio: Path
    out: Path
    choose: Callable[[], Choice]  # asked once the audio is found: the codec may be a download
    workers: int | None = None  # None: as many as the device can use
    extend: bool = False
    rank: Rank = field(default_factory=Rank)


@dataclass(frozen=True)
class Outcome:
    manifest: Manifest | None  # None while tasks of other ranks are not done
    rejected: tuple[Rejection, ...]  # of the whole set; none while there is no manifest
    ignored: Counter[str]  # files of other kinds: ending -> how many
    tasks_run: int  # 0 if there was nothing left to do
    tasks_left: int = 0  # for other ranks


def encode_folder(request: Request, progress: Progress) -> Outcome:
    """Make, go on with, extend or just return the shard set `request.out`; as a rank among several, its part of it.

    Raises:
        UserError: no audio, another set under this name, nothing that can be encoded, no room.
        StoppedError: Ctrl-C or SIGTERM came; the same command goes on from here.
    """
    folder = scan_folder(request.audio)
    choice = request.choose()
    with _stopping(), held(request.out, shared=not request.rank.is_alone):
        return _encode(request, folder, choice, progress)


def _encode(request: Request, folder: AudioFolder, choice: Choice, progress: Progress) -> Outcome:
    out, rank = request.out, request.rank
    present = look(out)
    settings = settings_for(present, choice.settings)
    plan = plan_for(present, folder, settings, request.extend)
    mark = fingerprint(settings, plan.inputs_sha256)
    ours = rank.tasks(plan.tasks)
    undone = {task.shard_name for task in plan.tasks if not present.is_done(task, settings)}
    if not undone and present.manifest is not None and present.manifest.fingerprint == mark:
        records = [present.records[task.shard_name] for task in plan.tasks]
        return Outcome(present.manifest, _rejected(plan, records), folder.ignored, tasks_run=0)

    todo = [task for task in ours if task.shard_name in undone]
    rank.clear(out, ours)
    total = sum(len(task.notes) for task in ours)
    progress.start(total, total - sum(len(task.notes) for task in todo))
    encoder = partial(make_encoder, replace(choice, settings=settings), folder.root)
    batches = (Batch(notes) for task in todo for notes in task.batches(settings.batch))
    workers = request.workers or default_workers(choice.device)
    with closing(encode_batches(encoder, batches, workers)) as results:
        for task in todo:
            _run_task(out, task, settings, results, progress, rank.writer)
    present = look(out)  # once more, for what other ranks have done meanwhile
    left = sum(not present.is_done(task, settings) for task in plan.tasks)
    if left:
        return Outcome(None, (), folder.ignored, len(todo), left)
    records = [present.records[task.shard_name] for task in plan.tasks]
    return _finish(request, folder, replace(choice, settings=settings), plan, mark, records, len(todo))


def _run_task(
    out: Path,
    task: Task,
    settings: Settings,
    results: Iterator[tuple[Batch, Result]],
    progress: Progress,
    writer: str,
) -> None:
    """Collect the task's notes, write its tar, then the record that declares it done."""
    notes: list[Note] = []
    rejected: list[Rejection] = []
    for _ in task.batches(settings.batch):
        _, result = next(results)
        heard = [note for note in result if isinstance(note, Note)]
        notes += heard
        rejected += [rejection for rejection in result if isinstance(rejection, Rejection)]
        progress.step(len(result), sum(len(note.tokens) for note in heard) / settings.codec.tokens_per_second)
    shard = write_shard(out / task.shard_name, notes, writer)
    write_shard_record(
        out,
        ShardRecord(
            shard=shard,
            rejected=tuple(rejected),
            labels=tuple(sorted({label for note in notes for label in note.labels})),
            inputs={note.input.display_path: note.input.digest for note in task.notes},
            settings=settings.to_json(),
            task_sha256=task.digest(settings),
        ),
        writer,
    )


def _finish(
    request: Request,
    folder: AudioFolder,
    choice: Choice,
    plan: Plan,
    mark: str,
    records: Sequence[ShardRecord],
    tasks_run: int,
) -> Outcome:
    """Close the ledger and write the manifest, last of all. Ranks that end together may do so twice: the same bytes."""
    out = request.out
    rejected = _rejected(plan, records)
    encoded = sum(record.shard.notes for record in records)
    assert plan.inputs == encoded + len(rejected), (
        f"{plan.inputs} inputs = {encoded} encoded + {len(rejected)} rejected"
    )
    with atomic_write(out / REJECTED, request.rank.writer) as file:
        for rejection in rejected:
            file.write(json.dumps(vars(rejection), ensure_ascii=False).encode() + b"\n")
    if not encoded:
        for record in records:
            (out / record.shard.record_name).unlink(missing_ok=True)
            (out / record.shard.name).unlink(missing_ok=True)
        reasons = ", ".join(f"{count} {reason}" for reason, count in count_reasons(rejected).items())
        raise UserError(
            f"{request.audio}: none of its {plan.inputs} files can be encoded ({reasons}); see {out / REJECTED}"
        )
    splits: dict[str, list[Shard]] = {}
    for task, record in zip(plan.tasks, records, strict=True):
        splits.setdefault(task.split, []).append(record.shard)
    made_with = choice.settings.to_json()
    manifest = Manifest(
        codec=choice.settings.codec,
        audio={**made_with["audio"], "source": str(folder.root)},
        plan={**made_with["plan"], "inputs_sha256": plan.inputs_sha256},
        fingerprint=mark,
        splits={split: tuple(shards) for split, shards in splits.items()},
        labels=tuple(sorted({label for record in records for label in record.labels})),
        ledger=Ledger(plan.inputs, encoded, len(rejected)),
        versions={**versions(), "device": choice.device},
    )
    write_manifest(out, manifest, request.rank.writer)
    return Outcome(manifest, rejected, folder.ignored, tasks_run)


def _rejected(plan: Plan, records: Iterable[ShardRecord]) -> tuple[Rejection, ...]:
    """Everything rejected, before and by the tasks, sorted by file."""
    rejected = [*plan.rejected, *(rejection for record in records for rejection in record.rejected)]
    return tuple(sorted(rejected, key=lambda rejection: rejection.file))


def count_reasons(rejected: Iterable[Rejection]) -> dict[str, int]:
    """reason -> how many, most frequent first."""
    return dict(Counter(rejection.reason for rejection in rejected).most_common())


def versions() -> dict[str, str]:
    """Versions of what made the codes."""
    import soundfile

    installed = {name: importlib.metadata.version(name) for name in VERSIONS}
    return {"python": platform.python_version(), "libsndfile": soundfile.__libsndfile_version__, **installed}


@contextmanager
def _stopping() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the block cleanly, whichever came."""

    def interrupt(number: int, frame: object) -> None:
        raise StoppedError

    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
