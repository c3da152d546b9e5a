"""Ranks on a cluster: datatrove's executors start `encode_folder` once a rank, on Slurm or on Ray.

Knows how ranks are started and where their logs go. `run` knows what a rank does, and completes a set when a rank is
lost or started twice; datatrove's own files about completed ranks are not used, because records say what is done.
"""

import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from datatrove.executor import RayPipelineExecutor, SlurmPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from pipeline.encode.ranks import Rank
from pipeline.encode.run import EncodeOutcome, EncodeRequest, encode_folder
from pipeline.notes.folder import check_folder
from pipeline.progress import NoteBar, Progress
from shards.console import counted
from shards.errors import UserError
from shards.storage import is_remote


class EncodeRank(PipelineStep):  # type: ignore[misc]
    """One rank's part of a request."""

    name = "notes"
    type = "Encode"

    def __init__(self, request: EncodeRequest) -> None:
        super().__init__()
        self.request = request

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        with NoteBar("encode") as bar:
            encode_folder(replace(self.request, rank=Rank(rank, world_size)), bar)
        yield from data or ()


class _SlurmArray(SlurmPipelineExecutor):  # type: ignore[misc]
    """An array job of ranks, and nothing else."""

    def get_sbatch_args(self, max_array: int = 1) -> dict[str, Any]:
        return {key: value for key, value in super().get_sbatch_args(max_array).items() if value is not None}

    def launch_merge_stats(self) -> None:
        """datatrove would add a job for its statistics, which waits for ever if a rank fails."""


@dataclass(frozen=True)
class SlurmJob:
    """Ranks that were submitted to Slurm."""

    out: Path
    ranks: int
    number: str
    logs: Path

    def lines(self) -> list[str]:
        """Report to print; it says the next command."""
        return [
            f"Submitted {counted(self.ranks, 'rank')} as Slurm job {self.number}; their logs are in {self.logs}. The "
            f"rank that ends last finishes {self.out}; if one is lost, the same command completes it. Next: squeue "
            f"--job {self.number}"
        ]


def submit_to_slurm(request: EncodeRequest, ranks: int, sbatch: Mapping[str, str]) -> SlurmJob:
    """Submit an array job of so many ranks, with `request.workers` processes each.

    `sbatch`: options of sbatch, such as partition or time; others are the cluster's defaults.

    Raises:
        UserError: no folder of audio, a path that Slurm's script cannot name, or sbatch is not installed or refuses.
    """
    request = _portable(request)
    logs = _new_log_folder(request.out)
    if shlex.quote(str(logs)) != str(logs):  # datatrove's script does not quote it
        raise UserError(f"{logs}: the logs of a Slurm job need a path without spaces and signs; give another --out")
    executor = _SlurmArray(
        [EncodeRank(request)],
        tasks=ranks,
        time=None,
        partition=None,
        qos=None,
        job_name=f"encode-{request.out.name}",
        sbatch_args={"mem-per-cpu": None, **sbatch},
        srun_args={"cpus-per-task": request.workers},  # srun does not take it from the job, since Slurm 22.05
        env_command=f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH",
        logging_dir=str(logs),
        skip_completed=False,
        **_resources(request),
    )
    try:
        executor.run()
    except FileNotFoundError as error:
        raise UserError("sbatch: not found on this machine; submit from a login node of a Slurm cluster") from error
    except subprocess.CalledProcessError as error:
        raise UserError(f"sbatch: refused the job, for the reason above; its script is in {logs}") from error
    return SlurmJob(request.out, ranks, str(executor.job_id), logs)


def encode_on_ray(request: EncodeRequest, ranks: int, progress: Progress) -> EncodeOutcome:
    """Run so many ranks on the Ray cluster that RAY_ADDRESS names, or on one of this machine alone; wait for them.

    Raises:
        UserError: no folder of audio, no cluster, or ranks that did not end well; finished shards are kept.
    """
    import ray

    portable = _portable(request)
    logs = _new_log_folder(portable.out)
    try:
        ray.init()
    except ConnectionError as error:
        raise UserError(f"Ray: no cluster ({error}); start one, or unset RAY_ADDRESS to use this machine") from error
    except OSError as error:  # its disk, or the path of its sockets
        raise UserError(f"Ray: does not start ({error}); name a short folder with room in RAY_TMPDIR") from error
    try:
        executor = RayPipelineExecutor(
            [EncodeRank(portable)], tasks=ranks, logging_dir=str(logs), skip_completed=False, **_resources(portable)
        )
        executor.run()
    finally:
        ray.shutdown()
    lost = executor.get_incomplete_ranks(skip_completed=True)
    if lost:
        raise UserError(
            f"{portable.out}: {len(lost)} of {counted(ranks, 'rank')} did not end well (see {logs}); finished "
            "shards are kept, and the same command goes on from there"
        )
    return replace(encode_folder(request, progress), finished_by=f"{counted(ranks, 'rank')} on Ray")


def _portable(request: EncodeRequest) -> EncodeRequest:
    """The request as it is understood on other machines and from other folders."""
    check_folder(request.audio)
    weights = request.options.weights
    return replace(
        request,
        audio=request.audio.absolute(),
        out=request.out.absolute(),
        options=replace(request.options, weights=weights and weights.absolute()),
        labels=tuple(file.absolute() for file in request.labels),
        workers=request.workers or 1,
    )


def _resources(request: EncodeRequest) -> dict[str, int | None]:
    """Resources of each rank."""
    return {"cpus_per_task": request.workers, "gpus_per_task": int(request.options.device.startswith("cuda"))}


def _new_log_folder(out: Path) -> Path:
    """A new folder beside the set, or in the working directory if the set is under a URL: our logs and datatrove's."""
    folder = Path.cwd() / out.name if is_remote(out) else out
    return folder.with_name(f"{folder.name}.logs") / datetime.now().strftime("%Y%m%d-%H%M%S")
