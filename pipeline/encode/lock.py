"""File lock on a shard set: exclusive for a run, shared by ranks.

It only warns a person who starts a second run by mistake: `shards.files` is what keeps files whole. So a file system
without locks, as some clusters share, is used without one.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shards.errors import UserError
from shards.storage import is_http, is_remote

NO_LOCKS = (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


@contextmanager
def lock_set(out: Path, shared: bool) -> Iterator[None]:
    """Lock the set's folder for the block. An exclusive lock removes a folder that is still empty afterwards.

    Object stores have neither locks nor folders: nothing is done there.

    Raises:
        UserError: another run has locked it, or the folder cannot be made.
    """
    if is_remote(out):
        if is_http(out):
            raise UserError(f"{out}: a web server is only read from; give a folder, or an s3:// or gs:// URL, as --out")
        yield
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        handle = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise UserError(f"{out}: cannot be made a folder ({error.strerror}); give another --out") from error
    try:
        try:
            # released by the kernel, however this process ends
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{out}: another run is encoding into it; wait for it, or stop it") from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield
    finally:
        os.close(handle)
        if not shared:
            with suppress(OSError):
                out.rmdir()
