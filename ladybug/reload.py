"""--reload: serve with one worker, and start it anew when a file changes. For development.

Three processes: this one owns the listener and decides; the watcher looks at the files and says which have changed; the
worker serves, as it would under a master. A restart is

    change -> TERM the worker -> it is gone -> fork another

The listener stays open all the time, so a browser that asks in between waits for the new code, and is never refused. The
old worker goes first: two of them could get into each other's way, and an answer by old code would only confuse.

Rules:
- Nobody waits long for the old worker: QUIT follows TERM after GRACE, KILL follows QUIT after PATIENCE.
- A worker that cannot start has said why, once. The next one is started when something changes, and not before.
- What serves is loaded here, before the forks (asyncio, the compiled rooms, not the application): a restart costs a fork
  and the application's own import. Memory is no concern in development.
- The watcher is a process of its own because watchfiles runs threads, and a process that forks should have none.
- INT reaches everybody from the terminal; only this process heeds it. The workers stay in the terminal's foreground, so
  that a debugger can read from it.
- QUIT is a stop as INT and TERM are. USR1 opens the log files of this process and of the worker anew. There is one worker and
  nothing to upgrade, so TTIN, TTOU and USR2 do nothing.
"""

import logging
import os
import select
import signal
import sys
import time
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from setproctitle import setproctitle

from ladybug.about import announce
from ladybug.exceptions import STARTUP_FAILURE, StartupError
from ladybug.link import OUR_SIGNALS, BadLink, Kind, MasterLink, WorkerLink, signal_at_end, title
from ladybug.listeners import close_listeners, describe, open_listeners, remove_path, turn_away
from ladybug.log import reopen_log_files
from ladybug.privileges import drop_privileges, unreadable
from ladybug.rescue import Channel
from ladybug.scoreboard import Record, Scoreboard
from ladybug.signal_queue import SignalQueue
from ladybug.stacks import Stacks
from ladybug.supervisor import describe_exit

if TYPE_CHECKING:
    from ladybug.config import Config

logger = logging.getLogger("ladybug.error")

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)
DEAF_TO = (signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR2)
# Seconds from TERM to QUIT, for what runs to finish, and from there to KILL, for lifespan shutdown.
GRACE = 0.5
PATIENCE = 5.0
# Milliseconds without another change after which those that came are reported, if --reload-delay is not over before.
STEP = 50
# As uvicorn's.
INCLUDED = ("*.py",)
EXCLUDED = (".*", ".py[cod]", ".sw.*", "~*")
# How many names are told.
MOST_NAMES = 3


def run_reloader(config: "Config") -> int:
    """Serve until INT, TERM or QUIT; the exit code: 0, or 1 if the last worker had to be killed. Raises StartupError.

    Leaves the signals of the program that called as they were.
    """
    if find_spec("watchfiles") is None:
        raise StartupError(
            'The reload needs watchfiles: pip install watchfiles, or pip install "ladybug-asgi[standard]".'
        )
    watched = Watched(config)
    return Reloader(config, watched).run()


class Watched:
    """Which files matter: where to look, and `matches` for what is found there."""

    def __init__(self, config: "Config") -> None:
        given = [*config.reload_dirs, *(pattern for pattern in config.reload_includes if Path(pattern).is_dir())]
        missing = [name for name in config.reload_dirs if not Path(name).is_dir()]
        if missing:
            raise StartupError(f"There is no directory {missing[0]} to watch (--reload-dir).")
        wanted = given or ["", config.app_dir or ""]
        self.directories = _outermost(Path(name).resolve() for name in wanted)
        if Path("/") in self.directories:
            raise StartupError("Watching all files of the machine would take too long: say which with --reload-dir.")
        self._included = _patterns(INCLUDED, config.reload_includes, without=config.reload_excludes)
        self._excluded = _patterns(EXCLUDED, config.reload_excludes, without=config.reload_includes)
        self._named = [pattern for pattern in config.reload_includes if not set(pattern) & set("*?[")]
        self._left_out = [Path(pattern).resolve() for pattern in config.reload_excludes if Path(pattern).is_dir()]

    def matches(self, name: str) -> bool:
        """True if a change of the file `name` is a reason to restart.

        A pattern to exclude is one for directories too, as far as they are below what is watched: what lies in .git or
        .venv does not matter.
        """
        path = PurePath(name)
        # Who asks for ".env" by its name wants it, although hidden files are left out.
        if any(path.match(pattern) for pattern in self._named):
            return True
        if not any(path.match(pattern) for pattern in self._included):
            return False
        if any(path.is_relative_to(directory) for directory in self._left_out):
            return False
        inside = [path, *(parent for parent in path.parents if any(_is_below(parent, top) for top in self.directories))]
        return not any(part.match(pattern) for part in inside for pattern in self._excluded)


def _patterns(ours: Iterable[str], given: list[str], *, without: list[str]) -> list[str]:
    """Those we have, unless the user wants the opposite of one, and those that were given."""
    return [*(pattern for pattern in ours if pattern not in without), *given]


def _outermost(directories: Iterable[Path]) -> list[Path]:
    """Each directory once, and none that lies in another one."""
    found = list(dict.fromkeys(directories))
    return [directory for directory in found if not any(_is_below(directory, other) for other in found)]


def _is_below(path: PurePath, top: PurePath) -> bool:
    return path != top and path.is_relative_to(top)


class Reloader:
    """The process that stays."""

    def __init__(self, config: "Config", watched: Watched) -> None:
        self._config = config
        self._watched = watched
        self._listeners = open_listeners(config, 1)
        self._scoreboard = Scoreboard()
        self._signals = SignalQueue(*STOP_SIGNALS, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD, *DEAF_TO)
        self._watcher: _Process | None = None
        self._changes = -1  # a pipe: names of files, one in a line
        self._worker: _Worker | None = None
        self._generation = 0  # of workers; the first is started when the watcher looks
        self._stops = 0  # how often the user has asked for the end
        self._told: signal.Signals | None = None  # the last order to the worker
        self._next_order_at: float | None = None
        self._exit_code = 0

    def run(self) -> int:
        setproctitle(title(self._config, "reloader"))
        import ladybug.worker  # noqa: F401 - see the rules

        self._signals.take()
        try:
            self._start_watcher()
            announce(self._config, [describe(listener) for listener in self._listeners[0]])
            logger.info("Watching for changes in %s", ", ".join(map(str, self._watched.directories)))
            while self._worker is not None or not self._stops:
                self._wait()
                self._hear_signals()
                self._hear_watcher()
                self._hear_worker()
                self._reap()
                self._press()
            logger.info("Stopped")
        finally:
            self._signals.give_back()
            close_listeners(self._listeners)
            remove_path(self._config)
            if self._watcher is not None:
                self._watcher.end()
        return self._exit_code

    # -- the steps

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._signals.fd, select.POLLIN)
        if self._changes >= 0:
            poll.register(self._changes, select.POLLIN)
        if self._worker is not None and not self._worker.link.at_end:
            poll.register(self._worker.link.fd, select.POLLIN)
        at = self._next_order_at
        poll.poll(None if at is None else max(0, int((at - time.monotonic()) * 1000) + 1))

    def _hear_signals(self) -> None:
        for number in self._signals.read():
            if number in STOP_SIGNALS:
                self._stop()
            elif number == signal.SIGHUP:
                self._restart("Asked to restart")
            elif number == signal.SIGUSR1:
                reopen_log_files()
                if self._worker is not None:
                    self._worker.process.kill(signal.SIGUSR1)

    def _stop(self) -> None:
        self._stops += 1
        if self._stops == 1:
            turn_away(self._config, self._listeners)
            close_listeners(self._listeners)
            logger.info("Stopping")
            self._tell(signal.SIGTERM)
        elif self._stops == 2:
            logger.warning("Cutting short what still runs. Stop again to kill it")
            self._tell(signal.SIGQUIT)
        else:
            logger.warning("Stopping at once: killing the worker")
            self._tell(signal.SIGKILL)

    def _hear_watcher(self) -> None:
        if self._changes < 0:
            return
        try:
            text = os.read(self._changes, 65536)
        except BlockingIOError:
            return
        if text:
            names = [name for name in os.fsdecode(text).splitlines() if name]
            if not self._generation:
                # It looks by now: no change after this is missed.
                self._start_worker()
            elif names:
                self._restart(_what_has_changed(names))
        else:
            os.close(self._changes)
            self._changes = -1
            if not self._stops:
                logger.error("The watcher of files has ended: changes are not seen any more")
                if not self._generation:
                    self._start_worker()

    def _restart(self, why: str) -> None:
        if self._stops:
            return
        logger.info("%s: restarting", why)
        if self._worker is None:
            self._start_worker()
        elif self._told is None:
            self._tell(signal.SIGTERM)

    def _hear_worker(self) -> None:
        if self._worker is None:
            return
        try:
            messages = self._worker.link.receive()
        except BadLink as error:
            logger.error("The worker is killed: %s", error)
            self._worker.process.kill(signal.SIGKILL)
            return
        for message in messages:
            if message.kind is Kind.FAILED and self._told is None:
                logger.error("%s", message.text)
            elif message.kind is Kind.READY and self._generation > 1:
                logger.info("Serving again")
            elif message.kind is Kind.RETIRING:
                self._restart("The worker retires")

    def _reap(self) -> None:
        """The worker has gone: start the next one, or wait for what makes it worth while."""
        worker, was_told = self._worker, self._told
        if worker is None or (returncode := worker.process.returncode()) is None:
            return
        self._hear_worker()
        stacks = worker.stacks.read()
        worker.close()
        self._scoreboard.release(worker.record)
        self._worker = self._told = self._next_order_at = None
        if was_told is signal.SIGKILL:
            self._exit_code = 1 if self._stops else 0
        if self._stops:
            return
        if was_told is not None:
            self._start_worker()
        elif returncode == STARTUP_FAILURE:
            logger.info("Waiting for a change")
        else:
            where = f", and was here:\n{stacks}\n" if stacks else ". "
            logger.error("The worker %s%sWaiting for a change", describe_exit(returncode), where)

    def _press(self) -> None:
        """The worker was told to go and has not gone: say it again, and louder."""
        if self._next_order_at is not None and self._next_order_at <= time.monotonic():
            if self._told is signal.SIGTERM:
                self._tell(signal.SIGQUIT)
            else:
                logger.warning("The worker has not stopped within %g s: killing it", GRACE + PATIENCE)
                self._tell(signal.SIGKILL)

    def _tell(self, order: signal.Signals) -> None:
        if self._worker is not None:
            self._worker.process.kill(order)
            self._told = order
            wait = {signal.SIGTERM: GRACE, signal.SIGQUIT: PATIENCE}.get(order)
            self._next_order_at = None if wait is None else time.monotonic() + wait

    # -- processes

    def _start_worker(self) -> None:
        self._generation += 1
        # Nobody reads it; it is what a worker writes its heartbeat to.
        record = self._scoreboard.claim(0, self._generation, time.monotonic())
        stacks = Stacks()
        link, link_of_worker = os.pipe()
        process = _Process()
        if process.pid == 0:
            os.close(link)
            self._become_worker(WorkerLink(link_of_worker), process.lifeline, record, stacks)
        os.close(link_of_worker)
        self._worker = _Worker(process, MasterLink(link), record, stacks)

    def _become_worker(self, link: WorkerLink, lifeline: int, record: Record, stacks: Stacks) -> NoReturn:
        try:
            record.sign(os.getpid())
            self._signals.forget()
            os.close(self._changes)
            if self._watcher is not None:
                self._watcher.close()
            drop_privileges(self._config)
            from ladybug.worker import Ties, leave, run_worker

            ties = Ties(0, link, lifeline, record, stacks, Channel())
            leave(run_worker(self._config, self._listeners[0], ties))
        except BaseException as error:
            link.send(Kind.FAILED, f"The worker cannot be loaded: {error!r}{unreadable(self._config, error)}")
        finally:
            os._exit(STARTUP_FAILURE)

    def _start_watcher(self) -> None:
        self._changes, changes_of_watcher = os.pipe()
        os.set_blocking(self._changes, False)
        child = _Process()
        if child.pid == 0:
            os.close(self._changes)
            self._become_watcher(changes_of_watcher, child.lifeline)
        os.close(changes_of_watcher)
        self._watcher = child

    def _become_watcher(self, changes: int, lifeline: int) -> NoReturn:
        """Tell of changes until the reloader ends: then the kernel sends SIGIO, which has its default effect here."""
        try:
            self._signals.forget()
            close_listeners(self._listeners)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal_at_end(lifeline)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, OUR_SIGNALS)
            setproctitle(title(self._config, "watcher"))
            watch(self._watched, self._config.reload_delay, changes)
        except BaseException as error:
            logger.error("Files cannot be watched: %r", error)
        finally:
            os._exit(1)


class _Worker(NamedTuple):
    """The worker as we hold it."""

    process: "_Process"
    link: MasterLink
    record: Record
    stacks: Stacks

    def close(self) -> None:
        self.process.close()
        self.link.close()
        self.stacks.close()


class _Process:
    """A forked process, and the pipe that ends with its parent. In the child `pid` is 0."""

    def __init__(self) -> None:
        theirs, ours = os.pipe()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        # A signal in the first moments waits for the child's own handlers.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, OUR_SIGNALS)
        self.pid = os.fork()
        self._is_alive = True  # until it is reaped: then its number may be somebody else's
        self.lifeline, other = (theirs, ours) if self.pid == 0 else (ours, theirs)
        os.close(other)
        if self.pid:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def returncode(self) -> int | None:
        """How it ended; None while it runs."""
        ended, status = os.waitpid(self.pid, os.WNOHANG)
        self._is_alive = not ended
        return os.waitstatus_to_exitcode(status) if ended else None

    def kill(self, number: signal.Signals) -> None:
        if self._is_alive:
            os.kill(self.pid, number)

    def close(self) -> None:
        os.close(self.lifeline)

    def end(self) -> None:
        """Kill it, if need be, and wait for its end."""
        self.close()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def watch(watched: Watched, delay: float, changes: int) -> None:
    """Write the names of files that have changed into the pipe `changes`, one in a line, for ever.

    An empty line comes first, as soon as files are looked at.
    """
    from watchfiles import watch as batches

    for batch in batches(
        *watched.directories,
        watch_filter=lambda _, name: watched.matches(name),
        step=STEP,
        debounce=max(STEP, round(delay * 1000)),
        stop_event=_Begun(changes),
        ignore_permission_denied=True,
    ):
        os.write(changes, os.fsencode("".join(f"{name}\n" for name in sorted({name for _, name in batch})[:100])))


class _Begun:
    """Asked by watchfiles every STEP whether to stop; the first time says that it looks by now."""

    def __init__(self, changes: int) -> None:
        self._changes = changes
        self._is_said = False

    def is_set(self) -> bool:
        if not self._is_said:
            self._is_said = True
            os.write(self._changes, b"\n")
        return False


def _what_has_changed(names: list[str]) -> str:
    """ "main.py and views.py have changed": for people, relative to where they are."""
    here = Path.cwd()
    shown = [str(path.relative_to(here) if (path := Path(name)).is_relative_to(here) else path) for name in names]
    more = len(shown) - MOST_NAMES
    told = ", ".join(shown[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
    return f"{told} {'has' if len(shown) == 1 else 'have'} changed"
