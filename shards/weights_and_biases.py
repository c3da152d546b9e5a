"""A run's page at Weights & Biases: its id and its project are in the run's folder, so that both programs add to it."""

import secrets
from pathlib import Path
from typing import Any

from shards.errors import ShardError, UserError, first_line
from shards.files import atomic_write
from shards.storage import read_bytes

ID_FILE = "wandb-id.txt"  # the id, and below it the project's name
LARGEST = 1 << 12  # bytes of it


def open_wandb(run: Path, project: str, **options: Any) -> Any:
    """Open the page of a run, the same one each time. `options`: of `wandb.init`.

    Raises:
        UserError: the package wandb is not installed, takes no such path, has no account or no network; or the run's
            folder cannot be written.
    """
    try:
        import wandb
    except ImportError as error:
        raise UserError("the package wandb is not installed; pip install wandb") from error
    try:
        str(run).encode()
    except UnicodeError as error:
        raise UserError("it takes no path that is not UTF-8; rename the folder") from error
    path = run / ID_FILE
    lines = _lines(path)
    run_id = next(iter(lines), "") or secrets.token_hex(8)
    if lines != [run_id, project]:
        with atomic_write(path) as file:
            file.write(f"{run_id}\n{project}\n".encode())
    try:
        return wandb.init(project=project, name=run.name, id=run_id, resume="allow", dir=str(run), **options)
    except Exception as error:  # no account, no network, another process that has the run: each has its own kind
        raise UserError(
            f"{first_line(error).rstrip('.')}; WANDB_MODE=offline needs no account and no network"
        ) from error


def wandb_project(run: Path) -> str | None:
    """The project whose page the run was trained with; None: it has no page."""
    _, *project = _lines(run / ID_FILE) or [""]
    return project[0] if project else None


def _lines(path: Path) -> list[str]:
    """The first two lines of the file; none if it cannot be read."""
    try:
        return read_bytes(path, LARGEST).decode(errors="replace").split("\n")[:2]
    except (OSError, ShardError):
        return []
