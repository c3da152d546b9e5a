"""Processes of this machine, read from /proc while they start and end."""

from pathlib import Path


def children_of(process: int) -> list[int]:
    """Children of all threads of `process`, oldest first; those of a thread that ends meanwhile are left out."""
    files = Path(f"/proc/{process}/task").glob("*/children")
    return sorted(int(child) for file in files for child in _read(file).split())


def command_line(process: int) -> str:
    """Arguments of `process`, divided by spaces; empty when it has ended."""
    return _read(Path(f"/proc/{process}/cmdline")).replace("\0", " ")


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""  # the process or the thread has ended
