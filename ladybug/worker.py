"""One serving process: its loop, its signals, and, in a worker, its ties to the master.

Two kinds of process serve. A worker is forked by the master (`run_worker`); with workers=0, or an application object, the
process the user started serves by itself (`run_standalone`). Both live the same life:

    take the signals -> make the loop -> Server.serve, which imports the application -> leave

Signals, for a worker (alone, INT is like TERM):

    TERM    drain. Alone, a second one is like QUIT; to a worker, user and master may both say it and mean the same
    QUIT    drain, but cut short what still runs
    USR1    open the log files anew
    USR2    a stop is near: serve on, but close each connection after one response
    URG     write the stacks of all threads (see stacks.py), whatever they are doing
    IO      the master is gone (see link.py): drain
    ALRM    write the stacks, and die: armed with every stop (alarm.py)
    INT     nothing: Ctrl+C in a terminal reaches the whole process group, and the master tells us what to do
    HUP, TTIN, TTOU     nothing, for the same reason: they are meant for the master

Rules:
- While the application is imported, TERM raises BootInterrupted wherever Python is: an import that takes 20 s does not
  hold up a stop. Nowhere else: what is half made by then (an event loop) could neither be used nor closed.
- A worker that has begun to leave is gone in bounded time, whatever hangs: a blocked loop, a thread that does not end, an
  exit handler. The kernel sees to it with the alarm, which needs nobody to run. (Alone, that ends with `run_standalone`.)
- Programs the application starts have the default signals. exec(2) resets what has a handler, so INT has one, even if it
  does nothing; what is ignored would stay ignored. Processes forked without exec are reset by hand.
"""

import asyncio
import atexit
import contextlib
import gc
import logging
import os
import random
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from setproctitle import setproctitle

from ladybug.about import announce
from ladybug.alarm import call_off, end_within
from ladybug.deadlines import next_due
from ladybug.env_file import reload_env_file
from ladybug.exceptions import STARTUP_FAILURE, ConfigError, StartupError
from ladybug.forking import flush
from ladybug.link import (
    ALARM_MARGIN,
    LIFESPAN_SHUTDOWN,
    OUR_SIGNALS,
    Kind,
    WorkerLink,
    has_ended,
    longest_stop,
    signal_at_end,
    title,
)
from ladybug.listeners import close_listeners, describe, open_listeners, remove_path, turn_away
from ladybug.log import configure_logging, reopen_log_files
from ladybug.loops import loop_factory
from ladybug.privileges import drop_privileges
from ladybug.rescue import Channel, Receiver
from ladybug.scoreboard import Record, State
from ladybug.server import Server
from ladybug.stacks import Stacks
from ladybug.systemd import Notifier

if TYPE_CHECKING:
    from ladybug.config import Config
    from ladybug.importer import ASGI3App

logger = logging.getLogger("ladybug.error")

# Seconds between two heartbeats. The supervisor misses them after twice that.
BEAT = 0.5
# Seconds between two looks at a worker's memory; and how often in a row it must be more than --limit-worker-rss. Memory has
# spikes.
WEIGHING = 1.0
RSS_PATIENCE = 5
# Container objects made and not yet freed before the collector looks at the young ones; and Python's own, 3.11 and later.
GC_THRESHOLD = 20_000
GC_DEFAULTS = (700, 2_000)


class BootInterrupted(KeyboardInterrupt):
    """A stop that came while the application was imported. Like what Python itself raises for a signal, so that no
    application catches it by accident."""


def run_standalone(config: "Config") -> int:
    """Serve in this process until INT or TERM; the exit code. Raises StartupError.

    Leaves the signals of the program that called as they were.
    """
    listeners = open_listeners(config, 1)
    try:
        drop_privileges(config)
        with _signals_restored():
            _Standalone(config, listeners[0], Notifier.from_environment()).run()
        logger.info("Stopped")
    finally:
        close_listeners(listeners)
        remove_path(config)
    return 0


class Ties(NamedTuple):
    """What joins a worker to its master, and to its slot."""

    slot: int
    link: WorkerLink
    lifeline: int
    record: Record
    stacks: Stacks
    channel: Channel


def read_files_anew(config: "Config") -> None:
    """Before an application is imported. The master keeps what it has read when it started; the others go by what the files
    say now. Raises ConfigError."""
    if config.env_file is not None:
        reload_env_file(config.env_file, config.names_from_env_file)
    if isinstance(config.log_config, str):
        configure_logging(config)


def run_worker(config: "Config", listeners: list[socket.socket], ties: Ties, app: "ASGI3App | None" = None) -> int:
    """Serve as a worker, in a process forked for it with OUR_SIGNALS blocked; the code for `leave`.

    app     the application, if the fork server (fork_server.py) has imported it; what goes before an import has been done
            there, and what the import has registered to run at exit is this worker's

    Whatever prevents the start goes to the master as one text; nothing of it is logged here.
    """
    if app is None:
        # What was registered before the fork is the master's to run, once. CPython's multiprocessing does the same.
        atexit._clear()
        atexit.register(logging.shutdown)
    worker = _Worker(config, listeners, ties, app)
    try:
        if app is None:
            read_files_anew(config)
        worker.run()
    except BaseException as error:
        if not worker.is_ready:
            ties.link.send(Kind.FAILED, why_not(error))
            return STARTUP_FAILURE
        logger.critical("%s ends, because its event loop did: %r", worker.role.capitalize(), error, exc_info=error)
        return 1
    return 0


def leave(code: int) -> NoReturn:
    """End this process as the interpreter would (Py_FinalizeEx): wait for threads, run exit handlers, flush, exit.

    A worker cannot return instead: below it on the stack are frames of the master and of the program that called
    `ladybug.run`, whose `finally` and `with` are not for a second process to run.
    """
    try:
        threading._shutdown()  # type: ignore[attr-defined]  # what the interpreter calls; waits for what is not a daemon
        atexit._run_exitfuncs()
        flush()
    finally:
        os._exit(code)


class _Serving:
    """The life that both kinds of process share; `prepare`, `ready` and `draining` are what a kind adds."""

    role = "server"
    # Where the alarm writes the stacks; None: to stderr.
    stacks_fd: int | None = None
    # Seconds from the first stop signal to the stop; a worker's master waits for it.
    delay = 0.0
    # Signals that stop, and signals that the process takes and does nothing about.
    stop_signals: tuple[signal.Signals, ...] = (signal.SIGTERM, signal.SIGINT)
    deaf_to: tuple[signal.Signals, ...] = (signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU)

    def __init__(self, config: "Config", listeners: list[socket.socket], app: "ASGI3App | None" = None) -> None:
        self.config = config
        self.listeners = listeners
        self._app = app
        self.server: Server | None = None  # from when it can be shut down
        self.is_ready = False
        self.is_stopping = False
        self.is_over = False
        self._is_loading = False  # the application is being imported
        self._interrupted = False  # a stop came before there was a server to stop
        self._noted: list[int] = []  # other signals that came as early
        self._masks = threading.local()  # of signals, while a thread forks

    def run(self) -> None:
        """Serve until told to stop. Raises StartupError, and whatever else ends the event loop."""
        setproctitle(title(self.config, self.role))
        self._take_signals()
        try:
            with asyncio.Runner(loop_factory=loop_factory(self.config)) as runner:
                try:
                    runner.run(self._main())
                finally:
                    # What remains is short, or hangs: the application's threads, and its exit handlers.
                    end_within(ALARM_MARGIN, self.stacks_fd)
        except BootInterrupted:
            pass
        finally:
            self.is_over = True

    async def _main(self) -> None:
        loop = asyncio.get_running_loop()
        server = Server(self.config, app=self._app)
        server.on_started = lambda: self._settle_in(server)
        server.on_retire = lambda: self.retire("has served its number of requests")
        self.prepare(server, loop)
        if not self._load(server):
            return
        self._take_over(server, loop)
        try:
            await server.serve(self.listeners)
        finally:
            self._let_go(loop)

    def _load(self, server: Server) -> bool:
        """Import the application; False when a stop did not wait for that, and there is nothing to serve."""
        try:
            self._is_loading = True
            if self._interrupted:
                return False
            server.load()
        except BootInterrupted:
            return False
        finally:
            self._is_loading = False
        return True

    def _settle_in(self, server: Server) -> None:
        # What is loaded by now stays: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        # A batch of requests is a few thousand objects at a time, all freed by reference count: no reason to look for cycles
        # in each. Worth 5 % with 1,000 connections. What the application chose for itself stays.
        if gc.get_threshold()[0] in GC_DEFAULTS:
            gc.set_threshold(GC_THRESHOLD, *gc.get_threshold()[1:])
        self.ready(server)

    # -- what a kind adds

    def prepare(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        """The server is made, the application not imported yet."""

    def ready(self, server: Server) -> None:
        """The server accepts connections, from the loop's next turn on: whatever the first request does, this was said."""
        self.is_ready = True

    def draining(self) -> None:
        """A graceful stop begins."""
        setproctitle(title(self.config, self.role, "draining"))

    def retire(self, why: str) -> None:
        """This process has done its part. Alone, it ends; a worker goes on until its successor is ready."""
        logger.info("The server %s: stopping", why)
        self.begin_stop()

    # -- stopping, in the loop

    def begin_stop(self) -> None:
        """Drain, whoever asks first: there may be several."""
        if not self.is_stopping and self.server is not None:
            self.is_stopping = True
            self.draining()
            self.server.shutdown()

    def on_stop(self) -> None:
        if self.is_stopping:
            self.on_quit()
        else:
            self.begin_stop()

    def on_quit(self) -> None:
        self.begin_stop()
        if self.server is not None:
            self.server.escalate()

    def on_leave(self) -> None:
        if not self.is_stopping and self.server is not None:
            setproctitle(title(self.config, self.role, "leaving"))
            self.server.leave()

    # -- signals

    def _take_signals(self) -> None:
        for number in (*self.stop_signals, signal.SIGQUIT):
            signal.signal(number, self._on_signal)
        for number in self._requests:
            signal.signal(number, self._note)
        for number in self.deaf_to:
            signal.signal(number, _do_nothing)
            signal.siginterrupt(number, False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, OUR_SIGNALS)
        os.register_at_fork(before=self._before_fork, after_in_parent=self._after_fork, after_in_child=self._in_fork)

    @property
    def _callbacks(self) -> Mapping[signal.Signals, Callable[[], None]]:
        return {**dict.fromkeys(self.stop_signals, self.on_stop), signal.SIGQUIT: self.on_quit, **self._requests}

    @property
    def _requests(self) -> Mapping[signal.Signals, Callable[[], None]]:
        """Signals that stop nobody."""
        return {signal.SIGUSR1: reopen_log_files, signal.SIGUSR2: self.on_leave}

    def _take_over(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        """From now on there is a server to shut down: let the loop see the signals too.

        The loop's callback and our handler both run: the loop is woken through the wakeup fd, which every handler
        written in Python feeds.
        """
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, self._callbacks)
        for number, callback in self._callbacks.items():
            loop.add_signal_handler(number, callback)
            signal.signal(number, self._note if number in self._requests else self._on_signal)
        self.server = server
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for noted in self._noted:
            self._requests[signal.Signals(noted)]()
        if self._interrupted:
            self.begin_stop()

    def _let_go(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on the signals do nothing: the stop they ask for is as good as over.

        Blocked meanwhile, because the loop puts the default in their place, by which a signal kills.
        """
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, self._callbacks)
        for number in self._callbacks:
            loop.remove_signal_handler(number)
            signal.signal(number, _do_nothing)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def _note(self, number: int, frame: FrameType | None) -> None:
        """USR1 or USR2: the loop sees to it, when there is one."""
        if self.server is None:
            self._noted.append(number)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """TERM, QUIT or IO, at once: between two steps of whatever Python code runs, also in a blocked loop."""
        longest = LIFESPAN_SHUTDOWN if number == signal.SIGQUIT else self.delay + longest_stop(self.config)
        end_within(longest + ALARM_MARGIN, self.stacks_fd)
        if self.server is None:
            self._interrupted = True
            self._interrupt_import(signal.SIGVTALRM, frame)

    def _interrupt_import(self, number: int, frame: FrameType | None) -> None:
        """Raise BootInterrupted where Python is; but not inside the import system's own weak reference callbacks, where an
        exception is printed and lost. Then once more, a millisecond later; by a thread, because one of the kernel's timers is
        the alarm's, and the others stand still while an import waits."""
        if not self._is_loading:
            return
        if frame is not None and frame.f_globals.get("__name__") == "importlib._bootstrap":
            signal.signal(signal.SIGVTALRM, self._interrupt_import)
            threading.Timer(0.001, signal.pthread_kill, (threading.get_ident(), signal.SIGVTALRM)).start()
        else:
            raise BootInterrupted

    # A process that the application forks without exec (multiprocessing) has none of our signals and listeners. The wakeup
    # fd above all: it is shared, and a TERM sent to that process would drain this one. So such a signal has to wait until
    # the fork has let go of it.

    def _before_fork(self) -> None:
        self._masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, OUR_SIGNALS)

    def _after_fork(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.before)

    def _in_fork(self) -> None:
        if not self.is_over:
            call_off()
            signal.set_wakeup_fd(-1)
            for number in OUR_SIGNALS:
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            for listener in self.listeners:
                listener.close()
            if self.server is not None:
                self.server.forget()
        self._after_fork()


class _Standalone(_Serving):
    """The process that the user started, and that owns its listeners."""

    def __init__(self, config: "Config", listeners: list[socket.socket], notifier: Notifier) -> None:
        super().__init__(config, listeners)
        self.delay = config.shutdown_delay
        self._notifier = notifier
        self._is_leaving = False
        self._is_cut_short = False

    def on_stop(self) -> None:
        if self._is_leaving or not self.delay:
            super().on_stop()
        elif self.server is not None:
            self._is_leaving = True
            logger.info(
                "Stopping in %g s; until then connections are taken and closed. Stop again to begin now", self.delay
            )
            self.on_leave()
            self._notifier.stopping(self.delay + longest_stop(self.config) + ALARM_MARGIN)
            asyncio.get_running_loop().call_later(self.delay, self.begin_stop)

    def on_quit(self) -> None:
        if not self._is_cut_short:
            self._is_cut_short = True
            logger.warning("Stopping at once: cutting short what still runs")
        super().on_quit()

    def prepare(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self._notifier.starting(time.monotonic())
        self._tell_systemd(loop)

    def ready(self, server: Server) -> None:
        super().ready(server)
        addresses = [describe(listener) for listener in self.listeners]
        announce(self.config, addresses)
        self._notifier.ready(f"Serving on {', '.join(addresses)}")

    def draining(self) -> None:
        super().draining()
        logger.info(
            "Stopping; what runs has %g s to finish. Stop again to cut it short", self.config.timeout_graceful_shutdown
        )
        self._notifier.stopping(longest_stop(self.config) + ALARM_MARGIN)
        turn_away(self.config, [self.listeners])

    def _tell_systemd(self, loop: asyncio.AbstractEventLoop) -> None:
        """From the loop: a blocked one does not feed the watchdog."""
        if self._notifier.address:
            self._notifier.tick(time.monotonic(), lambda: True)
            loop.call_later(min(BEAT, self._notifier.watchdog / 2 or BEAT), self._tell_systemd, loop)

    @property
    def _requests(self) -> Mapping[signal.Signals, Callable[[], None]]:
        return {signal.SIGUSR1: reopen_log_files, signal.SIGUSR2: lambda: None}


class _Worker(_Serving):
    """A process that a master forked."""

    stop_signals = (signal.SIGTERM,)
    deaf_to = (signal.SIGINT, *_Serving.deaf_to)

    def __init__(
        self, config: "Config", listeners: list[socket.socket], ties: Ties, app: "ASGI3App | None" = None
    ) -> None:
        super().__init__(config, listeners, app)
        self.role = f"worker {ties.slot + 1}"
        self._link = ties.link
        self._lifeline = ties.lifeline
        self._record = ties.record
        self._stacks = ties.stacks
        self.stacks_fd = ties.stacks.fd
        self._channel = ties.channel
        self._receiver: Receiver | None = None
        self._is_retiring = False
        self._beat_at = 0.0
        self._too_fat = 0  # how often in a row
        self._was_slim = False

    def _take_signals(self) -> None:
        signal.signal(signal.SIGIO, self._on_signal)
        self._stacks.register()
        super()._take_signals()
        signal_at_end(self._lifeline)
        if has_ended(self._lifeline):
            raise BootInterrupted

    def prepare(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self._receiver = Receiver(self._channel, loop, server.adopt)
        server.on_closing = self._receiver.stop
        server.on_closed = lambda: self._link.send(Kind.CLOSED)
        loop.add_reader(self._lifeline, self._orphaned, loop)

    def ready(self, server: Server) -> None:
        super().ready(server)
        loop = asyncio.get_running_loop()
        self._record.set_state(State.SERVING)
        self._beat(server, loop)
        if self.config.limit_worker_rss is not None:
            self._weigh(self.config.limit_worker_rss, loop)
        self._link.send(Kind.READY)
        if self._receiver is not None:
            self._receiver.begin()
        if self.config.limit_worker_lifetime:
            lifetime = self.config.limit_worker_lifetime
            lifetime += random.uniform(0, self.config.limit_worker_lifetime_jitter)
            loop.call_later(lifetime, self.retire, f"has served for --limit-worker-lifetime ({lifetime:.0f} s)")

    def draining(self) -> None:
        super().draining()
        self._record.set_state(State.DRAINING)

    def retire(self, why: str) -> None:
        """Ask for a successor, once. What is in parentheses is for the log only."""
        if self.server is not None and not self._is_retiring and not self.is_stopping:
            self._is_retiring = True
            self._link.send(Kind.RETIRING, why)

    def on_stop(self) -> None:
        # A second TERM changes nothing: whoever signals all processes of a group sends one, the master another. It is the
        # master that takes a stop further, by QUIT.
        self.begin_stop()

    def _orphaned(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.remove_reader(self._lifeline)
        logger.warning("The master of %s is gone: stopping", self.role)
        self.begin_stop()

    def _beat(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self._record.beat(time.monotonic(), server.connections, server.in_flight, server.requests)
        self._beat_at = next_due(self._beat_at, loop.time(), BEAT)
        loop.call_at(self._beat_at, self._beat, server, loop)

    def _weigh(self, limit: int, loop: asyncio.AbstractEventLoop) -> None:
        from psutil import Process

        size = Process().memory_info().rss
        self._too_fat = self._too_fat + 1 if size > limit else 0
        self._was_slim |= size <= limit
        if self._too_fat == RSS_PATIENCE:
            since = "" if self._was_slim else ", from the beginning: no worker of this application will hold less"
            self.retire(f"holds more memory than --limit-worker-rss ({size >> 20} MiB{since})")
        loop.call_later(WEIGHING, self._weigh, limit, loop)

    def _in_fork(self) -> None:
        self._stacks.unregister()
        self._channel.close()
        super()._in_fork()


@contextlib.contextmanager
def _signals_restored() -> Iterator[None]:
    """Give the signals back as they were, and call the alarm off."""
    numbers = (*OUR_SIGNALS, signal.SIGALRM)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        call_off()
        for number, handler in before.items():
            signal.signal(number, handler)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    pass


def why_not(error: BaseException) -> str:
    """Why a worker, or what it is forked from, cannot start, for the user."""
    if isinstance(error, (StartupError, ConfigError)):
        return str(error)
    if isinstance(error, SystemExit):
        return f"The application ended its process while it was starting: {error!r}"
    return "The server cannot start:\n\n" + "".join(traceback.format_exception(error)).rstrip()
