"""Upgrade: a new master, of whatever Ladybug and Python are installed by now, takes the listening sockets over.

    predecessor                                         successor
    Successor(...): fork, exec of the command line  ->  Inheritance.take: adopts the sockets
                                                        starts its workers, on the same queues
    is_ready: hears it                              <-  says ready
    drains, leaves                                      goes on

The sockets are inherited as descriptors; a variable names them, and the pipe on which the successor says that it is ready.
The pipe ends without a word if there will be no successor: then nothing has happened.

Between the two stands a keeper: a fork of the predecessor that waits for the successor, and ends as it does. When the
successor is ready the keeper goes, and process 1 adopts the successor. systemd cares: of a main process that was not its own
child when it heard of it (MAINPID), it does not await the end of a stop, but kills what there is.

Both have the same queues meanwhile, so no connection depends on who is quicker. Rule: a successor that is not ready leaves
nothing behind on sockets that are not its own yet: no filter, no removed path.
"""

# ruff: noqa: PTH109, PTH116

import contextlib
import errno
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from setproctitle import setproctitle

from ladybug.exceptions import StartupError
from ladybug.link import has_ended, signal_at_end

if TYPE_CHECKING:
    from ladybug.config import Config

VARIABLE = "LADYBUG_INHERITANCE"
_HAS_PIDFD = hasattr(os, "pidfd_open")
# Of a successor that could not even be executed.
EXEC_FAILED = 127


def directory_now() -> str:
    """Where this process was started, in the words of who started it: what a deployment calls "current" is a link."""
    words = os.environ.get("PWD", "")
    try:
        if os.path.samestat(os.stat(words), os.stat(".")):
            return words
    except OSError:
        pass
    return os.getcwd()


class Inheritance:
    """The successor's side.

    fds         descriptors of the listeners, `[slot][bind]`
    is_given    they were somebody else's from the beginning: --fd, or systemd's
    ready       where to say so
    """

    def __init__(self, fds: list[list[int]], is_given: bool, ready: int) -> None:
        self.fds = fds
        self.is_given = is_given
        self._ready = ready

    @classmethod
    def take(cls) -> "Inheritance | None":
        """What a predecessor has left to this process; None if there is none. Raises StartupError if it makes no sense."""
        text = os.environ.pop(VARIABLE, "")
        if not text:
            return None
        try:
            given = json.loads(text)
            if given["pid"] != os.getpid():  # of a server that has started this one as a program
                return None
            inheritance = cls(given["listeners"], given["is_given"], given["ready"])
            for fd in (inheritance._ready, *(fd for slot in inheritance.fds for fd in slot)):
                os.set_inheritable(fd, False)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise StartupError(f"{VARIABLE} is not what a predecessor leaves: {error!r}.") from error
        return inheritance

    def adopt(self, config: "Config") -> list[list[socket.socket]]:
        """The listeners. Slots that shared one share the same object. Raises StartupError."""
        if self.is_given:
            config.fd = [*config.fd, *self.fds[0]]
        try:
            adopted = {fd: socket.socket(fileno=fd) for fd in {fd for slot in self.fds for fd in slot}}
        except OSError as error:
            raise StartupError(f"The sockets of the predecessor cannot be taken over: {error.strerror}.") from error
        return [[adopted[fd] for fd in slot] for slot in self.fds]

    def say_ready(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has died: all the better that we are here
            os.write(self._ready, b"!")
        os.close(self._ready)

    def forget(self) -> None:
        """In a forked worker."""
        os.close(self._ready)


class Start(NamedTuple):
    """How this process was started."""

    directory: str
    command: tuple[str, ...]

    @classmethod
    def of_this_process(cls) -> "Start":
        return cls(directory_now(), tuple(sys.orig_argv))

    def enter_directory(self) -> None:
        """In a child that is to import the application: go where that directory is now, if it is a link to another."""
        with contextlib.suppress(OSError):
            os.chdir(self.directory)


class Successor:
    """The predecessor's side: one attempt. Raises OSError if there is no process to be had.

    listeners       `[slot][bind]`, slots in the order in which the kernel counts them
    is_given        as in Inheritance
    environment     for the successor, without the inheritance
    title           of the keeper, for ps
    """

    def __init__(
        self,
        start: Start,
        listeners: list[list[socket.socket]],
        is_given: bool,
        environment: Mapping[str, str],
        title: str,
    ) -> None:
        with contextlib.ExitStack() as on_failure, contextlib.ExitStack() as soon, contextlib.ExitStack() as theirs:
            self.fd, ready = _pipe(on_failure, theirs)
            lifeline, self._lifeline = _pipe(theirs, on_failure)
            told, tell = _pipe(soon, theirs)
            os.set_blocking(self.fd, False)
            # The wakeup fd is shared until the child has let go of it.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            try:
                self.pid = os.fork()  # the keeper, to be waited for
                if self.pid == 0:
                    signal.set_wakeup_fd(-1)
                    setproctitle(title)
                    _keep(tell, lifeline, mask, lambda: _become(start, listeners, is_given, ready, environment))
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            theirs.close()
            number = os.read(told, 32)
            if not number:
                os.waitpid(self.pid, 0)
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            self.main_pid = int(number)
            self._process = _open_process(self.main_pid)
            on_failure.pop_all()

    def is_ready(self) -> bool:
        """True if it has said so; asked when `fd` is readable."""
        try:
            return bool(os.read(self.fd, 1))
        except BlockingIOError:
            return False

    def kill(self, number: signal.Signals) -> None:
        """Send it a signal, if it still runs."""
        with contextlib.suppress(OSError):
            if self._process >= 0:
                signal.pidfd_send_signal(self._process, number)
            elif not _HAS_PIDFD:  # its keeper, which reaps it, has most likely not
                os.kill(self.main_pid, number)

    def let_go(self) -> None:
        """It is ready: from now on it is nobody's child but process 1's."""
        # Unless the keeper has ended, and the program that called `ladybug.run` has reaped it.
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def close(self) -> None:
        os.close(self.fd)
        os.close(self._lifeline)
        if self._process >= 0:
            os.close(self._process)


def _open_process(pid: int) -> int:
    """A descriptor of it, for signals: its number may be somebody else's once it has ended. -1 if it has, or there is no such
    thing here."""
    try:
        return os.pidfd_open(pid) if _HAS_PIDFD else -1
    except OSError:
        return -1


def _pipe(reader: contextlib.ExitStack, writer: contextlib.ExitStack) -> tuple[int, int]:
    """A pipe, each end put where it is closed."""
    ends = os.pipe()
    reader.callback(os.close, ends[0])
    writer.callback(os.close, ends[1])
    return ends


def _keep(tell: int, lifeline: int, mask: set[int], become: Callable[[], NoReturn]) -> NoReturn:
    """In the keeper: start the successor, and end as it does, or with the predecessor.

    Handlers of the predecessor do nothing here, so no signal that is meant for everybody ends it before.
    """
    try:
        pid = os.fork()
        if pid == 0:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            become()
        os.write(tell, b"%d" % pid)
        # Above all the lifelines of workers, which have to end with their master.
        os.closerange(3, lifeline)
        os.closerange(lifeline + 1, os.sysconf("SC_OPEN_MAX"))
        signal_at_end(lifeline)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if not has_ended(lifeline):
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if code >= 0:
                os._exit(code)
            signal.signal(-code, signal.SIG_DFL)
            os.kill(os.getpid(), -code)
    finally:
        os._exit(EXEC_FAILED)


def _become(
    start: Start, listeners: list[list[socket.socket]], is_given: bool, ready: int, environment: Mapping[str, str]
) -> NoReturn:
    """In the child. exec(2) gives every signal that has a handler its default effect."""
    try:
        fds = [[listener.fileno() for listener in slot] for slot in listeners]
        for fd in (ready, *(fd for slot in fds for fd in slot)):
            os.set_inheritable(fd, True)
        left = {"pid": os.getpid(), "listeners": fds, "is_given": is_given, "ready": ready}
        os.chdir(start.directory)
        os.execvpe(start.command[0], start.command, {**environment, VARIABLE: json.dumps(left)})
    except BaseException as error:
        os.write(2, f"Cannot execute {' '.join(start.command)}: {error}\n".encode())
    finally:
        os._exit(EXEC_FAILED)
