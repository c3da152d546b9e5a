"""Run of mutated files through commands: each command in a forked process of its own, with limits on time and memory.

The parent has imported everything and run every stage once, in one thread, so a command starts in milliseconds.
`python -m tests.mutations.run --help` runs some by hand.
"""

import faulthandler
import gc
import importlib
import io
import os
import pkgutil
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click

from tests.mutations.formats import FORMATS, Command, Format

COUNT = 2_000  # inputs of a format
MEMORY = 256 << 20  # bytes beyond those that the command takes for the whole file, and the file's size
CPU_SECONDS = 20
SECONDS = 120
JOBS = 2  # processes at a time
CRASH = 70  # exit code of an exception that no command may let through
LINKED = 500_000  # bytes; larger files of the folder are linked, not copied
OUTCOMES = ("accepted", "rejected", "crash")
FRAME = re.compile(r'File "(.+)", line (\d+)')


@dataclass(frozen=True)
class Result:
    """The outcome of one input."""

    index: int
    command: Command
    outcome: str
    fact: str = ""  # the last line of a crash, and the last line of the program in its traceback
    output: str = ""


@dataclass(frozen=True)
class Report:
    """All outcomes of a format."""

    format: str
    results: list[Result]

    @property
    def crashes(self) -> list[Result]:
        return [result for result in self.results if result.outcome == "crash"]

    def lines(self) -> Iterator[str]:
        outcomes = Counter(result.outcome for result in self.results)
        counts = ", ".join(f"{outcomes[outcome]} {outcome}" for outcome in OUTCOMES)
        yield f"{self.format}: {len(self.results)} inputs, {counts}"
        kinds: dict[tuple[str, str], list[int]] = {}
        for crash in self.crashes:
            kinds.setdefault((" ".join(crash.command[:2]), crash.fact), []).append(crash.index)
        for (words, fact), indices in sorted(kinds.items(), key=lambda item: -len(item[1])):
            yield f"  {len(indices)} x {words}: {fact} (inputs {', '.join(map(str, indices[:5]))})"


def call(command: Command) -> None:
    """Run a command of one of the programs in this process. Raises RuntimeError if it fails."""
    try:
        call_program(command)
    except SystemExit as error:
        if error.code:
            raise RuntimeError(f"{' '.join(command)}: exit code {error.code}") from error


def mutate(format: Format, data: bytes, index: int) -> bytes:
    """Return the input of this number; it depends on nothing else."""
    rng = random.Random(zlib.crc32(format.name.encode()) + index)
    return format.mutators[index % len(format.mutators)](data, rng)


def command_of(format: Format, index: int) -> Command:
    """The command that reads the input of this number: commands take turns with each mutator."""
    return format.commands[index // len(format.mutators) % len(format.commands)]


def run_format(format: Format, indices: Sequence[int], folder: Path) -> Iterator[Result]:
    """Run the inputs of these numbers in copies of a folder that is made in `folder`."""
    base = folder / "base"
    base.mkdir()
    os.chdir(base)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        format.build()
    assert len([*Path("/proc/self/task").iterdir()]) == 1, "a process of several threads must not be forked"
    data = Path(format.file).read_bytes()
    whole = {command: _measure(format, command, folder) for command in format.commands}
    gc.collect()
    gc.freeze()  # the collector of a forked process would copy every page
    waiting = list(reversed(indices))
    running: dict[int, tuple[int, Path]] = {}
    while waiting or running:
        if waiting and len(running) < JOBS:
            index = waiting.pop()
            copy = folder / f"input-{index}"
            _copy_folder(base, copy)
            content = mutate(format, data, index)
            (copy / format.file).unlink()
            (copy / format.file).write_bytes(content)
            command = command_of(format, index)
            limit = whole[command] + MEMORY + max(len(content), len(data))
            running[_fork(format, command, copy, limit)] = index, copy
        else:
            process, status, _ = os.wait4(-1, 0)
            index, copy = running.pop(process)
            yield _judge(index, command_of(format, index), os.waitstatus_to_exitcode(status), copy)
            shutil.rmtree(copy)


def _measure(format: Format, command: Command, folder: Path) -> int:
    """Run a command on the whole file: the largest address space that it had, in bytes."""
    copy = folder / "whole"
    _copy_folder(folder / "base", copy)
    process = _fork(format, command, copy, None)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    result = _judge(-1, command, code, copy)
    assert result.outcome == "accepted", f"{format.name}: {' '.join(command)}: {result.fact} {result.output}"
    peak = int((copy / "peak").read_text())
    shutil.rmtree(copy)
    return peak


def _fork(format: Format, command: Command, copy: Path, limit: int | None) -> int:
    """Start a command in `copy`, with its output in files there; return the number of the process."""
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        return process
    code = CRASH
    try:
        os.chdir(copy)
        os.setpgid(0, 0)
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        faulthandler.enable(file=2)
        for signal_number in (signal.SIGXCPU, signal.SIGALRM):
            faulthandler.register(signal_number, file=2, chain=True)
        signal.alarm(SECONDS)
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
        format.finish()
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        try:
            call_program(command)
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else bool(error.code)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        if limit is None:
            status = Path("/proc/self/status").read_text()
            peak = re.search(r"VmPeak:\s*(\d+)", status)
            Path("peak").write_text(str(int(peak[1]) << 10 if peak else 0))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def call_program(command: Command) -> None:
    program, *words = command
    main = importlib.import_module(f"{program}.__main__").main
    main(words, prog_name=f"python -m {program}")


def _judge(index: int, command: Command, code: int, copy: Path) -> Result:
    """Say what became of an input: an exit code of 0; one line of an error, or lines of faults; or a crash."""
    output = (copy / "stderr").read_text(errors="backslashreplace") if (copy / "stderr").exists() else ""
    lines = [line for text in output.splitlines() if (line := text.rpartition("\r")[2].strip())]
    is_verify = command[1] == "verify" and code == 1 and lines and re.search(r"\d+ faults? found\.$", lines[-1])
    errors = [line for line in lines if line.startswith("Error: ")]
    if (copy / "code-was-run").exists():
        return Result(index, command, "crash", "code in the file was run", output)
    if "Traceback (most recent call last)" in output or code < 0 or code == CRASH:
        return Result(index, command, "crash", _fact(code, output), output)
    if code == 0:
        return Result(index, command, "accepted")
    if is_verify or (len(errors) == 1 and lines[-1] == errors[0]):
        return Result(index, command, "rejected", lines[-1])
    return Result(index, command, "crash", f"exit code {code} without one line of an error", output)


def _fact(code: int, output: str) -> str:
    """The kind of a crash: how it ended, and the last line of our own code in the traceback."""
    lines = [line for line in output.splitlines() if line.strip()]
    frames = FRAME.findall(output)
    root = str(Path(__file__).parents[2])
    if code < 0:
        frames.reverse()  # faulthandler's newest come first
    ours = [f"{name.removeprefix(root + '/')}:{number}" for name, number in frames
            if name.startswith(root) and "/.venv/" not in name and "/tests/mutations" not in name]  # fmt: skip
    end = signal.Signals(-code).name if code < 0 else re.sub(r"\d{3,}|\[[\d, ]+\]", "N", lines[-1].strip()[:150])
    names = {"SIGXCPU": f"SIGXCPU (more than {CPU_SECONDS} s of a processor)", "SIGALRM": f"SIGALRM ({SECONDS} s)"}
    return f"{names.get(end, end)} at {ours[-1] if ours else '?'}"


def _copy_folder(source: Path, target: Path) -> None:
    def link_or_copy(path: str, copy: str) -> None:
        if Path(path).stat().st_size > LINKED:
            os.link(path, copy)
        else:
            shutil.copy2(path, copy)

    shutil.copytree(source, target, copy_function=link_or_copy)


def prepare_process() -> None:
    """Make this process fit to be forked: one thread, no worker processes, no devices but the processor."""
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "NUMBA_NUM_THREADS": "1"}
    import torch
    from tqdm import tqdm

    import pipeline.codec.training.trainer
    import pipeline.encode.run
    from pipeline.codec.distance import mel_distance
    from tests.support.notes import encode_in_this_process

    for program in ("pipeline", "shards", "trainer"):
        for module in pkgutil.walk_packages([str(Path(__file__).parents[2] / program)], f"{program}."):
            importlib.import_module(module.name)
    torch.set_num_threads(1)
    tqdm.monitor_interval = 0
    pipeline.encode.run.encode_batches = encode_in_this_process
    recipe = partial(pipeline.codec.training.trainer.Recipe, crops=1, frames=8, fit_frames=100)
    pipeline.codec.training.trainer.Recipe = recipe  # type: ignore[misc]
    mel_distance(torch.zeros(1, 4096), torch.zeros(1, 4096))  # its mel bands stay in memory
    faulthandler.enable()


def run_in_folder(format: Format, indices: Sequence[int]) -> list[Result]:
    """Run the inputs of these numbers in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            return list(run_format(format, indices, Path(folder)))
        finally:
            os.chdir("/")


@click.command()
@click.argument("names", nargs=-1, type=click.Choice([*FORMATS]), metavar="FORMAT...")
@click.option("--count", default=COUNT, show_default=True, help="Inputs of each format.")
@click.option("--first", default=0, help="Number of the first input.")
@click.option("--show", is_flag=True, help="Print the output of the first crash.")
def main(names: tuple[str, ...], count: int, first: int, show: bool) -> None:
    """Run inputs of formats, all formats by default; exit with 1 if there is a crash."""
    prepare_process()
    crashes = 0
    for name in names or FORMATS:
        report = Report(name, run_in_folder(FORMATS[name], range(first, first + count)))
        crashes += len(report.crashes)
        for line in report.lines():
            click.echo(line)
        if show and report.crashes:
            click.echo(report.crashes[0].output)
    sys.exit(bool(crashes))


if __name__ == "__main__":
    main()
