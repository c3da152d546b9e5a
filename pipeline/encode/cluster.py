"""Ranks on a cluster: datatrove's executors start `encode_folder` once a rank, on Slurm or on Ray.

Knows how ranks are started and where their logs go. What a rank does, and what makes the set whole when one is lost or
started twice, is in `run`; datatrove's own marks of what is done are not looked at, because records are the truth.
"""

import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from datatrove.executor import RayPipelineExecutor, SlurmPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from pipeline.encode.options import choose
from pipeline.encode.ranks import Rank
from pipeline.encode.run import Request, encode_folder
from pipeline.progress import NoteBar
from shards.errors import UserError
from shards.storage import is_remote, parse_path


@dataclass(frozen=True)
class Job:
    """What each rank is to do: plain values, because it travels to other machines."""

    audio: str
    out: str
    options: Mapping[str, Any]  # of `choose`
    workers: int
    extend: bool

    @property
    def name(self) -> str:
        return Path(self.out).name

    @property
    def resources(self) -> dict[str, int]:
        """Of each rank."""
        on_gpu = str(self.options["device"]).startswith("cuda")
        return {"cpus_per_task": self.workers, "gpus_per_task": int(on_gpu)}


class EncodeRank(PipelineStep):  # type: ignore[misc]
    """One rank's part of a job."""

    name = "notes"
    type = "Encode"

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job = job

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        job = self.job
        choose_here = partial(choose, **job.options)
        request = Request(
            parse_path(job.audio), parse_path(job.out), choose_here, job.workers, job.extend, Rank(rank, world_size)
        )
        with NoteBar("encode") as bar:
            encode_folder(request, bar)
        yield from data or ()


class _SlurmArray(SlurmPipelineExecutor):  # type: ignore[misc]
    """An array job of ranks, and nothing else."""

    def get_sbatch_args(self, max_array: int = 1) -> dict[str, Any]:
        return {key: value for key, value in super().get_sbatch_args(max_array).items() if value is not None}

    def launch_merge_stats(self) -> None:
        """datatrove would add a job for its statistics, which waits for ever if a rank fails."""


def submit_to_slurm(job: Job, ranks: int, sbatch: Mapping[str, str]) -> tuple[str, Path]:
    """Submit an array job of so many ranks; returns its id, and the folder of its logs.

    `sbatch`: options of sbatch, such as partition or time; what is not said is the cluster's default.

    Raises:
        UserError: sbatch is not here, or refuses.
    """
    logs = _logs(job)
    executor = _SlurmArray(
        [EncodeRank(job)],
        tasks=ranks,
        time=None,
        partition=None,
        qos=None,
        job_name=f"encode-{job.name}",
        sbatch_args={"mem-per-cpu": None, **sbatch},
        srun_args={"cpus-per-task": job.workers},  # srun does not take it from the job, since Slurm 22.05
        env_command=f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH",
        logging_dir=str(logs),
        skip_completed=False,
        **job.resources,
    )
    try:
        executor.run()
    except FileNotFoundError as error:
        raise UserError("sbatch: not found on this machine; submit from a login node of a Slurm cluster") from error
    except subprocess.CalledProcessError as error:
        raise UserError(f"sbatch: refused the job, for the reason above; its script is in {logs}") from error
    return str(executor.job_id), logs


def run_on_ray(job: Job, ranks: int) -> None:
    """Run so many ranks on the Ray cluster that RAY_ADDRESS names, or on one of this machine alone; wait for them.

    Raises:
        UserError: no cluster, or ranks that did not end well; finished shards are kept.
    """
    import ray

    logs = _logs(job)
    try:
        ray.init()
    except ConnectionError as error:
        raise UserError(f"Ray: no cluster ({error}); start one, or unset RAY_ADDRESS to use this machine") from error
    try:
        executor = RayPipelineExecutor(
            [EncodeRank(job)], tasks=ranks, logging_dir=str(logs), skip_completed=False, **job.resources
        )
        executor.run()
    finally:
        ray.shutdown()
    lost = executor.get_incomplete_ranks(skip_completed=True)
    if lost:
        raise UserError(
            f"{job.out}: {len(lost)} of {ranks} ranks did not end well (see {logs}); finished shards are kept, and the "
            "same command goes on from there"
        )


def _logs(job: Job) -> Path:
    """A new folder beside the set, or here if that lies under a URL: the logs, and datatrove's own files."""
    beside = Path.cwd() / job.name if is_remote(parse_path(job.out)) else Path(job.out)
    return beside.with_name(f"{beside.name}.logs") / datetime.now().strftime("%Y%m%d-%H%M%S")
