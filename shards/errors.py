"""Errors that the user can cure: one line with the file, the fact and the cure.

click prints them as `Error: ...` and exits with 2, so no command needs a handler of its own.
"""

import click


class UserError(click.ClickException):
    """A mistake or a damaged file that the program cannot go on with. The message is the whole explanation."""

    exit_code = 2


class ShardError(UserError):
    """A shard set or a token file that is missing, unfinished, damaged, or not of the format it claims."""
