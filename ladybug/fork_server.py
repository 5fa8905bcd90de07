"""The fork server: a process that has imported the application, and of which workers are forked (--preload).

    master                                              fork server
    ForkServer(...)                             fork ->  drops privileges, imports the application, freezes the heap
    link: READY, or FAILED with its text            <-
    fork: an order, with descriptors (SCM_RIGHTS)   ->  forks, twice
                                                            worker: as if the master had forked it
    the worker's process id                         <-  waits for the one between

What the import has built, workers share until they write to it. The master still imports nothing, so that another fork server
finds the code that is there by then.

A worker has to be the master's child, whose end it can wait for. So between fork server and worker there is a process that
ends at once, and the kernel gives its child to the next ancestor that asks for orphans (prctl(2), PR_SET_CHILD_SUBREAPER). The
master asks for them only during the order: those of the application are process 1's, as always.

Rules:
- A fork server is needed by nobody who runs: whoever was forked of it outlives it. It dies with its master (`link.py`).
- It holds nothing of the fleet's: no listener, and of each worker only what came with the order, for as long as the forks take.
- It serves nobody and has nothing to finish, so it is killed. What the import has registered to run at exit, workers run.
- Signals that reach all processes (Ctrl+C, pkill) do nothing to it. It opens its log files anew with everybody else (USR1).
- No asyncio in the master: what only the fork server needs is imported after the fork.
"""

import atexit
import contextlib
import ctypes
import errno
import gc
import logging
import os
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from setproctitle import setproctitle

from ladybug.descriptors import receive_descriptors
from ladybug.exceptions import STARTUP_FAILURE
from ladybug.forking import flush, open_pipe
from ladybug.link import OUR_SIGNALS, Kind, MasterLink, WorkerLink, has_ended, signal_at_end, title
from ladybug.log import reopen_log_files
from ladybug.preload import Unanswered
from ladybug.privileges import drop_privileges, unreadable
from ladybug.rescue import Channel
from ladybug.scoreboard import Scoreboard
from ladybug.signal_queue import SignalQueue
from ladybug.stacks import Stacks

if TYPE_CHECKING:
    from ladybug.config import Config
    from ladybug.importer import ASGI3App
    from ladybug.places import Place

logger = logging.getLogger("ladybug.error")

# Seconds in which an order is done; the master is deaf meanwhile. Two forks take milliseconds, some more if the application is
# large; a fork server that was stopped (SIGSTOP) takes for ever.
PATIENCE = 2.0
# linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37
# Slot, number of the record on the scoreboard, number of listeners. The descriptors are the listeners', the channel's two,
# link, lifeline, and the one for stacks, if there is one.
_ORDER = struct.Struct("=iii")
# Process id of the worker; or 0, and why there is none (errno).
_ANSWER = struct.Struct("=ii")
_MOST_DESCRIPTORS = 253  # SCM_MAX_FD


class ForkServer:
    """One fork server, as its master holds it. Raises OSError if there is no process to be had.

    let_go      called in the child first of all: closes what is the master's
    """

    def __init__(self, config: "Config", scoreboard: Scoreboard, let_go: Callable[[], None]) -> None:
        with contextlib.ExitStack() as on_failure:
            self.stacks = Stacks()
            on_failure.callback(self.stacks.close)
            link, link_of_child = open_pipe(on_failure)
            lifeline_of_child, self._lifeline = open_pipe(on_failure)
            self._orders, orders_of_child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            on_failure.callback(self._orders.close)
            on_failure.callback(orders_of_child.close)
            flush()
            # A signal in the first moments of the child waits for the child's own handlers.
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, OUR_SIGNALS)
            on_failure.callback(signal.pthread_sigmask, signal.SIG_SETMASK, blocked)
            self.pid = os.fork()
            on_failure.pop_all()
        self.link = MasterLink(link)
        self.born = time.monotonic()
        self.is_alive = True  # until it is reaped: then its number may be somebody else's
        if self.pid == 0:
            self.close()
            ends = _Ends(WorkerLink(link_of_child), lifeline_of_child, orders_of_child, self.stacks)
            _live(config, scoreboard, let_go, ends)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        os.close(link_of_child)
        os.close(lifeline_of_child)
        orders_of_child.close()
        self._orders.settimeout(PATIENCE)

    @property
    def name(self) -> str:
        return f"The fork server (pid {self.pid})"

    def fork(
        self, slot: int, record: int, place: "Place", link: int, lifeline: int, stacks: Stacks, known: Collection[int]
    ) -> int:
        """Have a worker forked: its process id. What is given is the worker's, and stays open here.

        known       children that are somebody else already

        Raises Unanswered if the fork server does not do it, and OSError if it cannot.
        """
        listeners = [listener.fileno() for listener in place.listeners]
        fds = [*listeners, *place.channel.fds, link, lifeline, *([stacks.fd] if stacks.fd >= 0 else [])]
        with _adopting_orphans():
            try:
                socket.send_fds(self._orders, [_ORDER.pack(slot, record, len(listeners))], fds)
                answer = self._orders.recv(_ANSWER.size)
            except OSError as error:
                raise Unanswered(f"the fork server (pid {self.pid}) does not answer") from error
            if len(answer) < _ANSWER.size:
                raise Unanswered(f"the fork server (pid {self.pid}) is gone")
        pid, number = _ANSWER.unpack(answer)
        if not pid:
            raise OSError(number, os.strerror(number))
        # The fork server may have fewer rights than we have, and is not to say whom we signal.
        if pid in known or not _is_child(pid):
            raise Unanswered(f"the fork server (pid {self.pid}) tells of process {pid}, which is no new child of ours")
        return int(pid)

    def kill(self, number: signal.Signals) -> None:
        if self.is_alive:
            os.kill(self.pid, number)

    def close(self) -> None:
        """Close the master's ends. A fork server that still lives dies of it."""
        self.link.close()
        os.close(self._lifeline)
        self._orders.close()

    def forget(self) -> None:
        """In another process that the master has forked."""
        self.close()
        self.stacks.close()


class _Ends(NamedTuple):
    """What joins the fork server to its master."""

    link: WorkerLink
    lifeline: int
    orders: socket.socket
    stacks: Stacks

    def close(self) -> None:
        self.link.close()
        os.close(self.lifeline)
        self.orders.close()
        self.stacks.close()


# -- the master's


@contextlib.contextmanager
def _adopting_orphans() -> Iterator[None]:
    """Orphans among the descendants become our children, and not process 1's; afterwards it is as it was before."""
    before = ctypes.c_int()
    _prctl(_PR_GET_CHILD_SUBREAPER, ctypes.addressof(before))
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        _prctl(_PR_SET_CHILD_SUBREAPER, before.value)


def _is_child(pid: int) -> bool:
    """Whether the process is a child of ours that has not been reaped, and here it is not."""
    if pid <= 0:
        return False
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _prctl(option: int, argument: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, ctypes.c_ulong(argument), 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


# -- the fork server's


def _live(config: "Config", scoreboard: Scoreboard, let_go: Callable[[], None], ends: _Ends) -> NoReturn:
    """The life of the child, which never returns into the master's code."""
    try:
        reopen = _take_signals(ends, let_go)
        setproctitle(title(config, "fork server"))
        # What was registered before the fork is the master's to run. What the import registers, each worker runs.
        atexit._clear()
        atexit.register(logging.shutdown)
        drop_privileges(config)
        from ladybug.worker import why_not
    except BaseException as error:
        ends.link.send(Kind.FAILED, f"The fork server cannot be loaded: {error!r}{unreadable(config, error)}")
        os._exit(STARTUP_FAILURE)
    try:
        app = load(config)
    except BaseException as error:
        flush()
        ends.link.send(Kind.FAILED, why_not(error))
        os._exit(STARTUP_FAILURE)
    try:
        _Loop(config, scoreboard, ends, app, reopen).run()
    except BaseException:
        logger.exception("The fork server ends")
    finally:
        os._exit(1)


def _take_signals(ends: _Ends, let_go: Callable[[], None]) -> list[int]:
    """Let nothing disturb the import; returns a list in which USR1 is noted. The master's end is the end, whatever runs."""
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)

    let_go()
    for number in OUR_SIGNALS:
        # Not ignored: a program that the import starts would go on ignoring them.
        signal.signal(number, note if number == signal.SIGUSR1 else _do_nothing)
        signal.siginterrupt(number, False)
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    ends.stacks.register()
    signal_at_end(ends.lifeline)
    if has_ended(ends.lifeline):
        os._exit(0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, OUR_SIGNALS)
    return noted


def _do_nothing(number: int, frame: FrameType | None) -> None:
    pass


def load(config: "Config") -> "ASGI3App":
    """Everything that workers have in common: the application, and what serves it. Raises StartupError and ConfigError."""
    from ladybug.importer import load_app
    from ladybug.loops import loop_factory
    from ladybug.worker import read_files_anew

    read_files_anew(config)

    loop_factory(config)  # for the modules that it brings
    app = load_app(config)
    _warn_of_threads(config)
    # Out of sight of the collector its pages stay shared.
    gc.collect()
    gc.freeze()
    return app


def _warn_of_threads(config: "Config") -> None:
    """fork(2) copies one thread only."""
    names = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    count = len(names)
    with contextlib.suppress(OSError):  # no /proc
        count = len(os.listdir("/proc/self/task")) - 1  # noqa: PTH208 - as in the master, where pathlib costs memory
    if count:
        more = f", and {count - len(names)} of native libraries" if count > len(names) else ""
        logger.log(
            # Libraries that have threads of their own mostly know of fork.
            logging.WARNING if names else logging.INFO,
            "Importing %s has started %d %s (%s%s). They do not exist in workers (--preload): what needs them has to be"
            " started in the lifespan",
            config.app,
            count,
            "thread" if count == 1 else "threads",
            ", ".join(names) or "none of Python's",
            more,
        )


class _Loop:
    """Does orders, until the master ends."""

    def __init__(
        self, config: "Config", scoreboard: Scoreboard, ends: _Ends, app: "ASGI3App", noted: list[int]
    ) -> None:
        self._config = config
        self._scoreboard = scoreboard
        self._ends = ends
        self._app = app
        self._signals = SignalQueue(*(number for number in OUR_SIGNALS if number != signal.SIGIO))
        self._signals.take()
        if noted:
            reopen_log_files()

    def run(self) -> None:
        self._ends.link.send(Kind.READY)
        poll = select.poll()
        for fd in (self._signals.fd, self._ends.orders.fileno(), self._ends.lifeline):
            poll.register(fd, select.POLLIN)
        while not has_ended(self._ends.lifeline):
            ready = [fd for fd, _ in poll.poll()]
            if signal.SIGUSR1 in self._signals.read():
                reopen_log_files()
            if self._ends.orders.fileno() in ready:
                order, fds = receive_descriptors(self._ends.orders, _ORDER.size, _MOST_DESCRIPTORS)
                if not order:
                    return
                self._ends.orders.send(_ANSWER.pack(*self._do(order, fds)))

    def _do(self, order: bytes, fds: list[int]) -> tuple[int, int]:
        """Process id and error."""
        slot, record, listeners = _ORDER.unpack(order)
        try:
            if len(fds) < listeners + 4:
                return 0, errno.EMFILE
            return _fork_twice(lambda: self._become_worker(slot, record, listeners, fds))
        except OSError as error:
            return 0, error.errno or errno.EAGAIN
        finally:
            for fd in fds:
                os.close(fd)

    def _become_worker(self, slot: int, record: int, listeners: int, fds: Sequence[int]) -> NoReturn:
        """In the worker: as the master's own child, with the application at hand."""
        binds, channel, (link, lifeline, *stacks) = fds[:listeners], fds[listeners:][:2], fds[listeners + 2 :]
        worker_link = WorkerLink(link)
        try:
            mine = self._scoreboard.record(record)
            mine.sign(os.getpid())
            self._signals.forget()
            self._ends.stacks.unregister()
            self._ends.close()
            from ladybug.worker import Ties, leave, run_worker

            sockets = [socket.socket(fileno=fd) for fd in binds]
            for listener in sockets:
                listener.setblocking(False)
            ties = Ties(slot, worker_link, lifeline, mine, Stacks(stacks[0] if stacks else -1), Channel(channel))
            leave(run_worker(self._config, sockets, ties, self._app))
        except BaseException as error:
            worker_link.send(Kind.FAILED, f"A worker cannot be loaded: {error!r}")
        finally:
            os._exit(STARTUP_FAILURE)


def _fork_twice(become: Callable[[], NoReturn]) -> tuple[int, int]:
    """Fork a child of a child that ends: process id and 0, or 0 and the error. Raises OSError."""
    flush()
    with contextlib.ExitStack() as at_end:
        told, tell = open_pipe(at_end)
        # The worker begins when this ends, here and in the one between: who asks for its parent is not to hear of that one.
        begin, hold = open_pipe(at_end)

        def start() -> NoReturn:
            for fd in (told, tell, hold):
                os.close(fd)
            os.read(begin, 1)
            os.close(begin)
            become()

        # As in the master: see there.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, OUR_SIGNALS)
        at_end.callback(signal.pthread_sigmask, signal.SIG_SETMASK, blocked)
        between = os.fork()
        if between == 0:
            _be_between(tell, start)
        # When it has ended, its child has been given away. What was imported may collect children before us (SIGCHLD).
        with contextlib.suppress(ChildProcessError):
            os.waitpid(between, 0)
        os.set_blocking(told, False)
        try:
            pid, number = _ANSWER.unpack(os.read(told, _ANSWER.size))
        except BlockingIOError:
            return 0, errno.EAGAIN
        return pid, number


def _be_between(tell: int, start: Callable[[], NoReturn]) -> NoReturn:
    try:
        pid = os.fork()
        if pid == 0:
            start()
        os.write(tell, _ANSWER.pack(pid, 0))
    except OSError as error:
        os.write(tell, _ANSWER.pack(0, error.errno or errno.EAGAIN))
    finally:
        os._exit(0)
