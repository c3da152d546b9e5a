"""Errors that are the user's to mend: one line with the file, the fact and the cure.

click prints them as `Error: ...` and exits with 2, so no command needs a handler of its own.
"""

import click


class UserError(click.ClickException):
    """What a person did, or a file holds, that the program cannot go on with. The message is the whole explanation."""

    exit_code = 2


class ShardError(UserError):
    """A shard set or a token file that is missing, unfinished, damaged or not what it says it is."""
