"""Stacks: where the threads of a worker are, written by itself, whatever it is doing, and read by its master.

A blocked event loop cannot be asked in Python. faulthandler's signal handlers are C: they write into a file while the code
that holds the loop goes on. The file is memory without a name (memfd_create(2)) which master and worker share; it is empty
until there is something to tell. Where there is no such thing, stacks go to stderr.

    stacks = Stacks()       the master's, before the fork
    stacks.register()       the worker's: STACKS_SIGNAL and fatal signals write into it
    stacks.read()           the master's: what was written since the last time
"""

import faulthandler
import os
import re
import signal
import sys

# Has a worker write its stacks. By default it is ignored, so it never comes too early, and nothing else here uses it.
STACKS_SIGNAL = signal.SIGURG
# Stacks end with the main thread's, where the event loop is. So the end is what is kept of more than this.
MOST_BYTES = 32 * 1024
# Below this frame there is only how the master came to fork.
_BELOW = re.compile(r"(  File .* in run_worker\n)(?:  File .*\n)+")


class Stacks:
    """One process's.

    fd      the file of another process's `Stacks`, which this one is to write for; None: a new one
    """

    def __init__(self, fd: int | None = None) -> None:
        if fd is None:
            fd = os.memfd_create("ladybug stacks") if hasattr(os, "memfd_create") else -1
        self.fd = fd  # -1 where there is no such thing
        self._has_enabled = False

    def register(self) -> None:
        """In the worker: from now on write there. What the user has chosen for fatal signals (PYTHONFAULTHANDLER) stays."""
        file = self.fd if self.fd >= 0 else sys.__stderr__
        if file is not None:
            faulthandler.register(STACKS_SIGNAL, file)
            if not faulthandler.is_enabled():
                self._has_enabled = True
                faulthandler.enable(file)

    def unregister(self) -> None:
        """In a process that the worker has forked: the file is not about it."""
        faulthandler.unregister(STACKS_SIGNAL)
        if self._has_enabled:
            faulthandler.disable()

    def read(self) -> str:
        """What was written since the last time; empty if nothing was."""
        if self.fd < 0:
            return ""
        size = os.fstat(self.fd).st_size
        data = os.pread(self.fd, MOST_BYTES, max(0, size - MOST_BYTES))
        # The worker writes at the offset, which is shared like the file.
        os.ftruncate(self.fd, 0)
        os.lseek(self.fd, 0, os.SEEK_SET)
        return _BELOW.sub(r"\1", data.decode("utf-8", "replace")).rstrip()

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
