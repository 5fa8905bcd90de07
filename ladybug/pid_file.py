"""The pid file: where a server that is running can be found, and how a second one is kept from starting.

    pid_file = PidFile(path)
    pid_file.claim()        at the start: StartupError if a running Ladybug has it, a stale one is replaced
    pid_file.take_over()    a successor's, while its predecessor still runs: from now on the file names this process
    pid_file.release()      at the end: removed, if it is still ours
    pid_file.forget()       in a forked child, which may have fewer rights than the file asks for

Whether the server it names is running is not guessed from the number, which may be somebody else's after a reboot, or
another's in another container. The owner holds a lock on the file (fcntl(2), advisory record locking) as long as it
lives, however it ends.

Rules:
- The file is complete whenever it is there: written under another name, locked, then moved into place.
- Record locks belong to the process: forked workers do not have them, and nobody in the owner may open and close the
  file otherwise, because that would drop the lock.

The master imports this room: paths are os's, because pathlib and what comes with it is 0.6 MiB.
"""

# ruff: noqa: PTH100, PTH108, PTH116

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable

from ladybug.exceptions import StartupError

# Read by everybody, as init scripts and monitors expect; less with a umask.
_MODE = 0o644
# Longer than any process id: what does not fit is no pid file.
_MOST_BYTES = 32


class PidFile:
    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self._fd: int | None = None  # open, and locked, while the file is ours

    def claim(self) -> None:
        """Make it name this process. Raises StartupError if it belongs to a running server, or cannot be written."""
        try:
            while not self._try_to_claim():
                pass
        except OSError as error:
            raise self._refusal(error) from error

    def take_over(self) -> None:
        """Make it name this process, whoever has it: the predecessor, who knows. Raises StartupError."""
        try:
            self._place(os.replace)
        except OSError as error:
            raise self._refusal(error) from error

    def release(self) -> None:
        """Remove it, unless a successor has taken it over or somebody has put another one in its place."""
        if self._fd is None:
            return
        with contextlib.suppress(OSError):
            if _is_same_file(self._fd, self.path):
                os.unlink(self.path)
        os.close(self._fd)
        self._fd = None

    def forget(self) -> None:
        """In a forked child: it is its parent's, and so is the lock."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _try_to_claim(self) -> bool:
        """False if another server has changed the file between two of our steps."""
        try:
            old = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            try:
                self._place(os.link)
            except FileExistsError:
                return False
            return True
        try:
            self._check_stale(old)
            # Who moved another file into place before we had the lock is found out now; after it nobody can, because
            # whoever comes meets this lock, or ours on the new file.
            if not _is_same_file(old, self.path):
                return False
            self._place(os.replace)
        finally:
            os.close(old)
        return True

    def _check_stale(self, fd: int) -> None:
        """Lock a file that is there already. Raises StartupError if its owner runs, or if it is no pid file."""
        text = os.pread(fd, _MOST_BYTES, 0).strip()
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            owner = f" (pid {text.decode()})" if text.isdigit() else ""
            raise StartupError(
                f"{self.path} belongs to a Ladybug that is running{owner}: stop it, or choose another --pid-file."
            ) from None
        if text and not text.isdigit():
            raise StartupError(f"{self.path} exists and is not a pid file: remove it, or choose another --pid-file.")

    def _place(self, move: Callable[[str, str], None]) -> None:
        """Write and lock a new file, and let `move` give it its name."""
        draft = f"{self.path}.{os.getpid()}"
        # Of a server that died at this point: in containers, process ids repeat.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
        fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        try:
            os.write(fd, b"%d\n" % os.getpid())
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            move(draft, self.path)
        except BaseException:
            os.close(fd)
            raise
        finally:
            # After link(2) there are two names, after rename(2) none is left to remove.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(draft)
        self._fd = fd

    def _refusal(self, error: OSError) -> StartupError:
        return StartupError(f"The pid file {self.path} cannot be written: {error.strerror}. Choose another --pid-file.")


def _is_same_file(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False
