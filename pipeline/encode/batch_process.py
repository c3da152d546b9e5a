"""A process that gets batches: its errors name a file of the batch. Knows nothing of what is sent and received."""

import signal

from pipeline.encode.plan import Batch
from pipeline.encode.process import Failure, Process, exit_text
from shards.errors import UserError

KEPT = "finished shards are kept"
AGAIN = f"run again, {KEPT}"


class BatchProcess(Process):
    """A process that encodes batches, or does a part of it."""

    preload = ("pipeline.encode.encoder",)

    def failure_error(self, failure: Failure, batch: Batch) -> Exception:
        """Error: the process has sent this failure while it had the batch."""
        if failure.is_bug:
            return RuntimeError(failure.text + self.stderr_text())
        if failure.is_ours:
            return UserError(failure.text)
        return UserError(f"a worker failed while it encoded {_first(batch)}: {failure.text}{self.cause()}; {AGAIN}")

    def end_error(self, code: int, batch: Batch) -> UserError:
        """Error: the process has ended by this exit code while no file was open, or was killed by the system."""
        if code == -signal.SIGKILL:
            return UserError(
                f"a worker was killed ({exit_text(code)}), most likely because memory ran out; run again with fewer "
                f"--workers, {KEPT}"
            )
        return UserError(f"a worker died ({exit_text(code)}) while it encoded {_first(batch)}{self.cause()}; {AGAIN}")


def _first(batch: Batch) -> str:
    """The first file of a batch, as users know it."""
    return batch.notes[0].file.display_path
