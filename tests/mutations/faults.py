"""A command with one fault of every kind that the mutation run must find: `python -m tests.mutations.faults`."""

import json
import os
import signal
import sys
from pathlib import Path

import click

from shards.errors import UserError
from tests.mutations import run
from tests.mutations.formats import Format

FACTS = {  # content of the file -> the outcome, and what its fact says
    "whole": ("accepted", ""),
    "damaged": ("rejected", "Error: damaged"),
    "nested": ("crash", "RecursionError"),
    "large": ("crash", "MemoryError"),
    "endless": ("crash", "SIG"),
    "sleeping": ("crash", "SIGALRM"),
    "killed": ("crash", "SIGSEGV"),
    "silent": ("crash", "exit code 1 without one line of an error"),
    "twice": ("crash", "exit code 2 without one line of an error"),
    "code": ("crash", "code in the file was run"),
}


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
def read(file: Path) -> None:
    """Read a file as its content says."""
    match file.read_text():
        case "damaged":
            raise UserError("damaged")
        case "nested":
            json.loads("[" * 100_000)
        case "large":
            bytearray(run.MEMORY + (1 << 28))
        case "endless":
            while True:
                pass
        case "sleeping":
            signal.pause()
        case "killed":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "silent":
            sys.exit(1)
        case "twice":
            click.echo("Error: one", err=True)
            raise UserError("two")
        case "code":
            Path("code-was-run").touch()


def main() -> None:
    run.CPU_SECONDS, run.SECONDS = 1, 2
    contents = list(FACTS)
    format = Format(
        "faults", "file", tuple(lambda data, rng, text=text: text.encode() for text in contents), (("fault", "read"),),
        build=lambda: Path("file").write_text("whole") and None,
    )  # fmt: skip
    run.call_program = lambda command: read.main(["file"])
    report = {}
    for result in run.run_in_folder(format, range(len(contents))):
        report[contents[result.index]] = [result.outcome, result.fact]
    click.echo(json.dumps(report))


if __name__ == "__main__":
    main()
