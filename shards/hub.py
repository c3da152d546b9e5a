"""Files of a model's repository at the Hugging Face Hub, on this machine."""

from collections.abc import Sequence
from pathlib import Path

from shards.errors import UserError, first_line


def fetch_repository(name: str, files: Sequence[str]) -> Path:
    """Download these files of a repository, USER/NAME, once; return their folder.

    Raises:
        UserError: it cannot be fetched; the line says that `name` is no folder either, which the caller has looked for.
    """
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, allow_patterns=[*files]))
    except ImportError as error:
        raise UserError(f"{name}: is no folder; for the Hub: pip install huggingface_hub") from error
    except Exception as error:  # no network, no such repository, no name of one: each has its own kind
        raise UserError(f"{name}: is no folder, and cannot be fetched from the Hub ({first_line(error)})") from error
