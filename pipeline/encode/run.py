"""Encode a folder, or one rank's part of it, into a shard set: plan, skip the tasks that are done, run the others.

A shard is a pure function of its task, and a task is done when its record is beside its tar, so a run that was killed
at any moment goes on where it stopped and ends with the same bytes. The rank that finds all tasks done writes the
manifest. Imports torch only if there is something to encode; the codec itself is loaded by the workers.
"""

import hashlib
import importlib.metadata
import json
import platform
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from pipeline.audio import has_ffmpeg
from pipeline.encode.batch_result import BatchResult
from pipeline.encode.codec_process import AudioEncoder
from pipeline.encode.digests import AudioDigests
from pipeline.encode.plan import Plan, Task, fingerprint, hash_inputs
from pipeline.encode.ranks import Rank, lock_set, stop_on_signals
from pipeline.encode.reader import Reader
from pipeline.encode.settings import RULES, EncodingOptions, Settings, default_batch, default_workers
from pipeline.encode.state import (
    check_earlier_set,
    match_records,
    metadata_for,
    plan_for,
    read_set_state,
    settings_for,
    unused_labels,
)
from pipeline.encode.workers import BatchEncoder, encode_batches
from pipeline.notes.folder import AudioFolder, scan_folder
from pipeline.notes.metadata import Metadata, read_metadata
from pipeline.progress import Progress
from shards.console import counted, quote
from shards.errors import UserError
from shards.files import atomic_write
from shards.manifest import REJECTED, Ledger, Manifest, Shard, write_manifest
from shards.note import Note
from shards.record import Rejection, ShardRecord, count_notes, read_rejections, write_shard_record
from shards.storage import path_text
from shards.writer import write_shard

VERSIONS = ("encodec", "numpy", "soundfile", "soxr", "torch")  # packages that codes depend on
COMPARED = 16  # notes that are encoded again in float32, after a run in another precision
REJECTED_SHOWN = 5  # rejected files that are printed


@dataclass(frozen=True)
class EncodeRequest:
    """The folder to encode, the set to make of it, and the processes to use."""

    audio: Path
    out: Path
    options: EncodingOptions
    workers: int | None = None  # None: as many as the devices can use
    extend: bool = False
    check_audio: bool = False  # hash all files again, also those whose digest is in the cache
    max_rejected: float = 1.0  # share of the files
    labels: tuple[Path, ...] = ()  # metadata files
    rank: Rank = field(default_factory=Rank)
    codecs: tuple[str, ...] | None = None  # devices of codecs in processes apart from the readers; None: all GPUs


@dataclass
class DataWait:
    """Time in which codecs that have processes of their own waited for audio."""

    waited: float = 0.0  # seconds
    elapsed: float = 0.0

    def add(self, result: BatchResult) -> None:
        self.waited += result.waited
        self.elapsed += result.elapsed

    @property
    def share(self) -> float | None:
        """Share of the time; None while there is none, as where each worker reads and encodes."""
        return self.waited / self.elapsed if self.elapsed else None


@dataclass(frozen=True)
class EncodeOutcome:
    """The set, or the part of it that is done."""

    request: EncodeRequest
    manifest: Manifest | None  # None while tasks of other ranks are not done
    rejected: tuple[Rejection, ...]  # of the whole set; none while there is no manifest
    notices: tuple[str, ...]  # of files that are left out, splits, labels, rules of an earlier version
    tasks_run: int  # 0 if there was nothing left to do
    tasks_left: int = 0  # for other ranks
    speed: float = 0.0  # seconds of sound encoded in a second
    data_wait: float | None = None  # share of the time in which the codecs of GPUs waited for audio
    finished_by: str = ""  # such as "4 ranks on Ray"
    equal_codes: tuple[float, ...] = ()  # share of codes that are float32's, by codebook; for another precision

    def lines(self) -> Iterator[str]:
        """Report to print; the last line says the next command.

        Raises:
            UserError: after the report, if more files were rejected than the request allows.
        """
        request, manifest = self.request, self.manifest
        out, rank = request.out, request.rank
        if manifest is None:
            yield (
                f"{out}: rank {rank.index} of {rank.count} has done its part, "
                f"{counted(self.tasks_run, 'shard')} in this run. "
                f"Other ranks have {self.tasks_left} to do; the last one finishes the set."
            )
            return
        ledger = manifest.ledger
        yield from self.notices
        if self.rejected:
            inputs = counted(ledger.inputs, "file")
            yield f"Rejected {ledger.rejected:,} of {inputs} ({_format_reasons(self.rejected)}):"
            yield from (f"  {line}" for line in rejection_lines(self.rejected, f" in {out / REJECTED}"))
        how = f" at {self.speed:.0f}x real time" if self.tasks_run else ", finished before: nothing to do"
        how += "" if self.data_wait is None else f", data wait {self.data_wait:.1%}"
        how = f", finished by {self.finished_by}" if self.finished_by else how
        if ledger.silent and ledger.segments:
            yield f"Left out {ledger.silent:,} of {counted(ledger.segments, 'segment')} as silent."
        files = "" if ledger.segments is None else f"{counted(ledger.encoded, 'file')}, "
        yield f"{out}: {files}{counted(ledger.notes, 'note')} in {counted(len(list(manifest.shards)), 'shard')}{how}."
        if self.equal_codes:
            shares = format_shares(self.equal_codes)
            yield f"{request.options.precision}: codes equal to float32's, by codebook: {shares}"
        if ledger.rejected > request.max_rejected * ledger.inputs:
            raise UserError(
                f"{out}: {ledger.rejected / ledger.inputs:.1%} of the files were rejected, more than "
                f"{request.max_rejected:.1%}; the set is finished and usable: mend the files and encode into a new "
                "name, or allow it with --max-rejected"
            )
        run = Path("runs", out.absolute().name)
        yield f"Next: python -m trainer train --shards {quote(out)} --run {quote(run)} --preset small"


def encode_folder(request: EncodeRequest, progress: Progress) -> EncodeOutcome:
    """Make, go on with, extend or just return the shard set `request.out`; as a rank among several, its part of it.

    Raises:
        UserError: no audio, another set under this name, nothing that can be encoded, no room.
        StoppedError: Ctrl-C or SIGTERM.
    """
    requested = read_metadata(request.labels)
    folder = scan_folder(request.audio, ffmpeg=True)
    settings = replace(request.options.settings(), ffmpeg=folder.needs_ffmpeg and has_ffmpeg())
    with stop_on_signals(), lock_set(request.out, shared=not request.rank.is_alone):
        digests = AudioDigests(folder, request.out, request.check_audio)
        try:
            outcome = _encode(request, folder, requested, settings, digests, progress)
        finally:
            digests.save(request.rank.writer)
    if settings.precision != "float32" and outcome.manifest is not None and outcome.tasks_run:
        from pipeline.encode.reencode import mean_shares, reencode

        options = request.options
        compared = reencode(request.out, COMPARED, None, options.weights, options.device, precision="float32")
        outcome = replace(outcome, equal_codes=mean_shares(each.shares for each in compared))
    return outcome


def _encode(
    request: EncodeRequest,
    folder: AudioFolder,
    requested: Metadata | None,
    settings: Settings,
    digests: AudioDigests,
    progress: Progress,
) -> EncodeOutcome:
    out, rank, options = request.out, request.rank, request.options
    state = read_set_state(out, has_counts=False)
    settings = settings_for(state, settings, has_batch=options.batch is not None)
    folder = folder if settings.ffmpeg else folder.without_ffmpeg()
    folder = replace(folder, inputs=digests.find_faults(folder.inputs))
    metadata = metadata_for(state, folder, requested)
    if state.manifest is not None and settings.rules != RULES:
        check_earlier_set(state, folder, metadata, digests)
        notice = f"{out}: made under rules {settings.rules} of reading audio; a set of a new name gets rules {RULES}."
        notices = (*folder.notices(), notice, *unused_labels(out, folder, metadata))
        return EncodeOutcome(request, state.manifest, read_rejections(out), notices, tasks_run=0)
    plan, done = plan_for(state, folder, metadata, settings, request.extend, digests, rank)
    notices = (*folder.notices(), *plan.lines(), *unused_labels(out, folder, metadata))
    undone = state.undone(plan, done)
    if not undone and state.manifest is not None:
        records = [done[task.shard_name] for task in plan.tasks]
        if state.manifest.fingerprint == fingerprint(settings, _hash_inputs(plan, records, digests)):
            return EncodeOutcome(request, state.manifest, _rejected(plan, records), notices, tasks_run=0)

    if settings.ffmpeg and not has_ffmpeg():
        raise UserError(f"{out}: has notes that only FFmpeg reads; pip install '.[audio]' and run again")
    devices = options.find_devices()
    if state.manifest is None and not state.records:
        settings = replace(settings, batch=options.batch or default_batch(settings, devices[0]))
    own = rank.tasks(plan.tasks)
    todo = [task for task in own if task.shard_name in undone]
    rank.remove_parts(out, own)
    digests.save(rank.writer)
    total = sum(len(task.notes) for task in own)
    progress.start(total, total - sum(len(task.notes) for task in todo), plan.unit + "s")
    started = time.monotonic()
    data_wait = DataWait()
    with closing(_start_encoding(request, settings, devices, folder.root, todo)) as results:
        for task in todo:
            done[task.shard_name] = _run_task(out, task, settings, results, digests, progress, data_wait, rank.writer)
    tokens = sum(done[task.shard_name].shard.tokens for task in todo)
    speed = tokens / settings.codec.tokens_per_second / max(time.monotonic() - started, 1e-9)

    state = read_set_state(out, known=done, has_counts=False)  # other ranks may have done more meanwhile
    done = match_records(plan, state, settings, digests, rank, done)
    if left := len(state.undone(plan, done)):
        return EncodeOutcome(request, None, (), notices, len(todo), left, speed)
    records = [done[task.shard_name] for task in plan.tasks]
    rejected = _rejected(plan, records)
    kind = devices[0].partition(":")[0]
    manifest = _finish(request, folder, settings, kind, plan, _hash_inputs(plan, records, digests), records, rejected)
    return EncodeOutcome(request, manifest, rejected, notices, len(todo), speed=speed, data_wait=data_wait.share)


def _start_encoding(
    request: EncodeRequest, settings: Settings, devices: tuple[str, ...], root: Path, tasks: Sequence[Task]
) -> Generator[BatchResult, None, None]:
    """Results of all batches of the tasks, from workers; on GPUs from readers and a codec for each device."""
    batches = (batch for task in tasks for batch in task.batches(settings.files_a_batch))
    workers, weights = request.workers or default_workers(devices), request.options.weights
    codecs = request.codecs if request.codecs is not None else () if devices == ("cpu",) else devices
    if not codecs:
        return encode_batches(partial(make_encoder, settings, weights, devices[0], root), batches, workers)
    make_codecs = [partial(make_codec, settings, weights, device) for device in codecs]
    return encode_batches(partial(Reader, settings, root), batches, workers, make_codecs=make_codecs)


def make_encoder(settings: Settings, weights: Path | None, device: str, root: Path) -> BatchEncoder:
    """Load the encoder, in a worker."""
    from pipeline.encode.encoder import load_encoder  # imports torch

    return load_encoder(settings, weights, device, root)


def make_codec(settings: Settings, weights: Path | None, device: str) -> AudioEncoder:
    """Load the codec, in a process of its own."""
    from pipeline.encode.encoder import load_audio_encoder  # imports torch

    return load_audio_encoder(settings, weights, device)


def _run_task(
    out: Path,
    task: Task,
    settings: Settings,
    results: Iterator[BatchResult],
    digests: AudioDigests,
    progress: Progress,
    data_wait: DataWait,
    writer: str,
) -> ShardRecord:
    """Collect the task's notes, write its tar, then the record that declares it done."""
    notes: list[Note] = []
    rejected: list[Rejection] = []
    silent = 0
    for batch in task.batches(settings.files_a_batch):
        result = next(results)
        encoded = [note for note in result.notes if isinstance(note, Note)]
        notes += encoded
        rejected += [rejection for rejection in result.notes if isinstance(rejection, Rejection)]
        for index, digest in result.digests.items():
            digests.add(batch.notes[index].file, digest)
        silent += result.silent
        seconds = sum(len(note.tokens) for note in encoded) / settings.codec.tokens_per_second
        data_wait.add(result)
        progress.step(len(batch.notes), seconds, None if settings.segment is None else len(encoded), data_wait.share)
    digests.hash_files(task.files)  # under a URL: those that no worker has read, because they crash it
    file_digests = digests.of(task.files, {})
    no_tar = Shard(task.shard_name, notes=0, tokens=0, bytes=0, sha256=hashlib.sha256().hexdigest())
    shard = (
        write_shard(out / task.shard_name, notes, writer) if notes else no_tar
    )  # stock tools stumble over empty ones
    record = ShardRecord(
        shard=shard,
        rejected=tuple(rejected),
        labels=tuple(sorted({label for note in notes for label in note.labels})),
        inputs={file.display_path: digest for file, digest in zip(task.files, file_digests, strict=True)},
        settings=settings.to_json(),
        task_sha256=task.digest(settings, file_digests),
        **count_notes(notes, settings.codec),
        silent=silent,
        labels_sha256=task.labels_sha256,
        row_labels=task.row_labels,
    )
    write_shard_record(out, record, writer)
    return replace(record, label_counts=None)  # the largest part of it, which only a trainer needs


def _finish(
    request: EncodeRequest,
    folder: AudioFolder,
    settings: Settings,
    device_kind: str,
    plan: Plan,
    inputs_sha256: str,
    records: Sequence[ShardRecord],
    rejected: tuple[Rejection, ...],
) -> Manifest:
    """Close the ledger and write the manifest, last of all. Ranks that end together may do so twice: the same bytes."""
    out = request.out
    notes = sum(record.shard.notes for record in records)
    encoded = sum(len(task.notes) - len(record.rejected) for task, record in zip(plan.tasks, records, strict=True))
    assert plan.inputs == encoded + len(rejected), (
        f"{plan.inputs} inputs = {encoded} encoded + {len(rejected)} rejected"
    )
    ledger = Ledger(plan.inputs, encoded, len(rejected))
    if settings.segment is not None:
        silent = sum(record.silent for record in records)
        ledger = replace(ledger, segments=notes + silent, silent=silent)
    assert ledger.notes == notes, f"notes: {notes}, but {ledger}"
    with atomic_write(out / REJECTED, request.rank.writer) as file:
        for rejection in rejected:
            file.write(json.dumps(vars(rejection), ensure_ascii=False).encode() + b"\n")
    if not encoded:
        for record in records:
            (out / record.shard.record_name).unlink(missing_ok=True)
        raise UserError(
            f"{request.audio}: none of its {counted(plan.inputs, 'file')} can be encoded "
            f"({_format_reasons(rejected)}); see {out / REJECTED}"
        )
    splits: dict[str, list[Shard]] = {}
    for task, record in zip(plan.tasks, records, strict=True):
        if record.shard.notes:
            splits.setdefault(task.split, []).append(record.shard)
    blocks = settings.to_json()
    manifest = Manifest(
        codec=settings.codec,
        audio={**blocks["audio"], "source": path_text(folder.root)},
        plan={**blocks["plan"], "inputs_sha256": inputs_sha256},
        fingerprint=fingerprint(settings, inputs_sha256),
        splits={split: tuple(shards) for split, shards in splits.items()},
        labels=tuple(sorted({label for record in records for label in record.labels})),
        ledger=ledger,
        versions={**_versions(), "device": device_kind},
        labels_sha256=plan.labels_sha256,
    )
    write_manifest(out, manifest, request.rank.writer)
    return manifest


def _hash_inputs(plan: Plan, records: Iterable[ShardRecord], digests: AudioDigests) -> str:
    """`hash_inputs`, with the digests of other ranks' files from their records."""
    tasks = zip(plan.tasks, records, strict=True)
    return hash_inputs(plan, [digests.of(task.files, record.inputs) for task, record in tasks])


def _rejected(plan: Plan, records: Iterable[ShardRecord]) -> tuple[Rejection, ...]:
    """All rejected files, by the plan and by the tasks, sorted."""
    rejected = [*plan.rejected, *(rejection for record in records for rejection in record.rejected)]
    return tuple(sorted(rejected, key=lambda rejection: rejection.file))


def _versions() -> dict[str, str]:
    """Versions of the packages that made the codes."""
    import soundfile

    installed = {name: importlib.metadata.version(name) for name in VERSIONS}
    return {"python": platform.python_version(), "libsndfile": soundfile.__libsndfile_version__, **installed}


def _format_reasons(rejected: Iterable[Rejection]) -> str:
    return format_counts(dict(Counter(rejection.reason for rejection in rejected).most_common()))


def rejection_lines(rejected: Sequence[Rejection], rest: str = "") -> Iterator[str]:
    """The first few rejected files, a line each. `rest`: where the others are listed."""
    for rejection in rejected[:REJECTED_SHOWN]:
        yield f"{rejection.file}: {rejection.reason} ({rejection.detail})"
    if len(rejected) > REJECTED_SHOWN:
        yield f"... and {len(rejected) - REJECTED_SHOWN} more{rest}"


def format_counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def format_shares(shares: Sequence[float]) -> str:
    return ", ".join(f"{share:.2%}" for share in shares) or "none"
