"""pipeline.encode.cluster on a real Ray and a real Slurm: the bytes of a single run, also after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.notes import files_of, nsynth_folder
from tests.support.slurm_cluster import is_installed, slurm_cluster

OPTIONS = ["--codec", "encodec_mini", "--duration", "0.2", "--notes-per-shard", "2", "--device", "cpu"]
RANKS = 2
PATIENCE = 180  # seconds for a job; this machine may be busy
JOB_VARIABLE = "NOTE_TOKENS_TEST"  # an environment variable that all processes of a job have

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nsynth_folder(tmp_path_factory.mktemp("audio"), train=36, valid=4)


@pytest.fixture(scope="module")
def whole(audio: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files of the set that a run on this machine makes."""
    out = tmp_path_factory.mktemp("whole") / "set"
    ended = encode(audio, out)
    assert ended.returncode == 0, ended.stderr
    return files_of(out)


def encode_command(audio: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "pipeline", "encode", str(audio), "--out", str(out), *OPTIONS, *more]


def encode(audio: Path, out: Path, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        encode_command(audio, out, *more),
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def has_begun(out: Path) -> bool:
    return any(out.glob("*.tar"))


def processes_of(job: str, words: str) -> list[int]:
    """Processes of a job whose command line holds `words`."""
    processes = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{JOB_VARIABLE}={job}".encode() in (process / "environ").read_bytes() and words.encode() in (
                process / "cmdline"
            ).read_bytes().replace(b"\0", b" "):
                processes.append(int(process.name))
        except OSError:
            continue  # it has ended
    return processes


def encoders(job: str) -> list[int]:
    """Processes that hold a codec: children of a fork server."""
    servers = set(processes_of(job, "multiprocessing.forkserver"))
    return [process for process in servers if parent_of(process) in servers]


def parent_of(process: int) -> int | None:
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


# --- Ray --------------------------------------------------------------------------------------------------------------
RAY = ("--engine", "ray", "--of", str(RANKS))


def test_ray_makes_the_set_of_one_run(audio: Path, tmp_path: Path, whole: dict[str, bytes]) -> None:
    ended = encode(audio, tmp_path / "set", *RAY)
    assert ended.returncode == 0, ended.stderr
    assert files_of(tmp_path / "set") == whole
    assert f"{tmp_path / 'set'}: 40 notes in 20 shards" in ended.stdout


def killed_on_ray(audio: Path, out: Path, victims: Callable[[str], list[int]]) -> subprocess.CompletedProcess[str]:
    """Run a job on Ray, and kill some of its processes when the first shard is there."""
    job = out.parent.name
    process = subprocess.Popen(
        encode_command(audio, out, *RAY),
        env={**os.environ, JOB_VARIABLE: job},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: has_begun(out) or process.poll() is not None)
    for victim in victims(job)[:1]:
        os.kill(victim, signal.SIGKILL)
    stdout, stderr = process.communicate(timeout=PATIENCE)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def test_an_encoder_killed_on_ray_is_one_line_and_the_same_command_completes_the_set(
    audio: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    out = tmp_path / "set"
    ended = killed_on_ray(audio, out, encoders)
    assert ended.returncode == 2, ended.stderr
    assert "1 of 2 ranks did not end well" in ended.stderr.splitlines()[-1]
    assert files_of(out).items() < whole.items()
    again = encode(audio, out, *RAY)
    assert again.returncode == 0, again.stderr
    assert files_of(out) == whole


def test_a_ray_worker_that_is_killed_is_started_again_by_ray(
    audio: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    ended = killed_on_ray(audio, tmp_path / "set", lambda job: processes_of(job, "ray::RankWorker"))
    assert ended.returncode == 0, ended.stderr
    assert files_of(tmp_path / "set") == whole


# --- Slurm ------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    if not is_installed():
        pytest.skip("needs sbatch, slurmctld, slurmd and munged, and root to start them")
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


class Job:
    """A job that `--engine slurm` has submitted."""

    def __init__(self, audio: Path, out: Path, slurm: dict[str, str]) -> None:
        self.environment = slurm
        ended = encode(audio, out, "--engine", "slurm", "--of", str(RANKS), "--sbatch", "time=10", **slurm)
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.splitlines()[-1].startswith(f"Submitted {RANKS} ranks as Slurm job ")
        self.number = ended.stdout.split()[-1]

    def states(self) -> dict[str, str]:
        """rank -> how Slurm says it is."""
        output = self.run("squeue", "--states=all", "--noheader", "--array", "--format=%K %T", "--job", self.number)
        return dict(line.split() for line in output.splitlines())

    def wait(self) -> dict[str, str]:
        wait_for(lambda: not {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING"} & set(self.states().values()))
        return self.states()

    def run(self, *command: str) -> str:
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True).stdout


def test_a_path_that_slurms_script_cannot_name_is_refused(audio: Path, tmp_path: Path) -> None:
    ended = encode(audio, tmp_path / "my set", "--engine", "slurm", "--of", "2")
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1 and "a path without spaces" in ended.stderr
    assert list(tmp_path.glob("my set*")) == []


def test_slurm_makes_the_set_of_one_run(
    audio: Path, tmp_path: Path, whole: dict[str, bytes], slurm: dict[str, str]
) -> None:
    assert Job(audio, tmp_path / "set", slurm).wait() == {"0": "COMPLETED", "1": "COMPLETED"}
    assert files_of(tmp_path / "set") == whole


def test_a_slurm_job_that_was_killed_is_completed_by_the_same_command(
    audio: Path, tmp_path: Path, whole: dict[str, bytes], slurm: dict[str, str]
) -> None:
    out = tmp_path / "set"
    job = Job(audio, out, slurm)
    wait_for(lambda: has_begun(out))
    job.run("scancel", "--full", "--signal=KILL", f"{job.number}_0")
    assert job.wait()["0"] in ("CANCELLED", "FAILED")
    left = {name: content for name, content in files_of(out).items() if not name.endswith(".part")}
    assert "manifest.json" not in left and left.items() < whole.items()
    done = sum(name.endswith(".json") for name in left)
    assert 0 < done < 20
    assert Job(audio, out, slurm).wait() == {"0": "COMPLETED", "1": "COMPLETED"}
    assert files_of(out) == whole


def test_what_sbatch_refuses_is_told(audio: Path, tmp_path: Path, slurm: dict[str, str]) -> None:
    ended = encode(audio, tmp_path / "set", "--engine", "slurm", "--of", "2", "--sbatch", "partition=nowhere", **slurm)
    assert ended.returncode == 2
    assert "invalid partition specified: nowhere" in ended.stderr
    assert "sbatch: refused the job" in ended.stderr.splitlines()[-1] and "Traceback" not in ended.stderr
    executor = json.loads(next((tmp_path / "set.logs").rglob("executor.json")).read_text())
    assert executor["tasks"] == 2
