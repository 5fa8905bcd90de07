"""The master: opens the listeners, forks the workers, waits, and does what the supervisor decides. It decides nothing itself.

It holds the listening sockets as long as their slot lives. A worker inherits those of its slot and no others; what waits in
a slot's queue when its worker dies is served by the next one, or by the workers of other slots, if there are.

It sleeps in poll(2) until something happens: a signal (through the wakeup fd, so none is lost between two instructions), a
message from a worker, a deadline. With nothing to do it wakes up once or twice a second, to see if all hearts beat.

Rules:
- Nothing here imports asyncio, the application or the compiled rooms. What only a worker needs is imported in the worker,
  after the fork (`_become_worker`).
- A forked child never returns into this code: see `worker.leave`.
- With --preload workers are forked by another child (fork_server.py), on order; apart from that they are as any other.
"""

import contextlib
import gc
import logging
import os
import select
import signal
import time
from typing import TYPE_CHECKING, NoReturn

from setproctitle import setproctitle

from ladybug.about import announce
from ladybug.actions import (
    Action,
    Announce,
    AskStacks,
    CloseSlot,
    DropStacks,
    Exit,
    HandOver,
    LoadAnew,
    Log,
    LogStacks,
    OpenSlot,
    Reloaded,
    Reloading,
    ReopenLogs,
    Route,
    Signal,
    Spawn,
    StartSuccessor,
    StopListening,
    Stopping,
    StopSuccessor,
)
from ladybug.children import LOST_RETURNCODE, Child, ended, ended_unnamed, wait_for
from ladybug.commands import Commands
from ladybug.control import ControlServer, open_control
from ladybug.exceptions import STARTUP_FAILURE, StartupError
from ladybug.forking import flush, open_pipe
from ladybug.link import (
    KILL_MARGIN,
    LIFESPAN_SHUTDOWN,
    OUR_SIGNALS,
    BadLink,
    Kind,
    MasterLink,
    WorkerLink,
    longest_stop,
    title,
)
from ladybug.listeners import describe, let_go_of_given, open_listeners, remove_path
from ladybug.log import reopen_log_files
from ladybug.pid_file import PidFile
from ladybug.places import Places
from ladybug.preload import NotLoaded, Preload, Unanswered
from ladybug.privileges import drop_privileges, give_log_files, identity_of, unreadable
from ladybug.scoreboard import Record, Scoreboard, State
from ladybug.signal_queue import SignalQueue
from ladybug.slots import TOLD, Fleet, Report
from ladybug.stacks import STACKS_SIGNAL, Stacks
from ladybug.supervisor import MOST_WORKERS, Supervisor, Timeouts, describe_exit
from ladybug.systemd import Notifier
from ladybug.upgrade import Inheritance, Start, Successor

if TYPE_CHECKING:
    from ladybug.config import Config
    from ladybug.fork_server import ForkServer

logger = logging.getLogger("ladybug.error")

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
SIGNALS = (
    *STOP_SIGNALS,
    *(signal.SIGQUIT, signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD),
)
_REPORTS = {
    Kind.READY: Report.READY,
    Kind.FAILED: Report.FAILED,
    Kind.RETIRING: Report.RETIRING,
    Kind.CLOSED: Report.CLOSED,
}


def run_master(config: "Config", pid_file: PidFile | None = None, inheritance: Inheritance | None = None) -> int:
    """Serve with config.workers processes until INT or TERM; the exit code.

    pid_file        the successor of another master takes it over when it serves
    inheritance     what that one has left

    0 after a clean stop, 1 if workers died in it or had to be killed, 3 if a worker could not start (logged). Raises
    StartupError if the listeners cannot be opened. Leaves the signals of the program that called as they were.
    """
    return Master(config, pid_file, inheritance).run()


class Master:
    """The shell around a `Supervisor`."""

    def __init__(self, config: "Config", pid_file: PidFile | None, inheritance: Inheritance | None) -> None:
        self._config = config
        self._pid_file = pid_file
        self._inheritance = inheritance  # until we serve
        self._start = Start.of_this_process()
        listeners = open_listeners(config, config.workers) if inheritance is None else inheritance.adopt(config)
        self._addresses = [describe(listener) for listener in listeners[0]]
        self._places = Places(config, listeners, inherited=inheritance is not None)
        self._has_handed_over = False
        self._successor: Successor | None = None
        self._control: ControlServer | None = None
        # A slot has two workers at most.
        self._scoreboard = Scoreboard(2 * max(len(listeners), MOST_WORKERS))
        self._preload = Preload(self._start_fork_server, config.timeout_worker_boot)
        self._waiting: list[Spawn] = []  # for a fork server that boots
        self._notifier = Notifier.from_environment()
        self._supervisor = Supervisor(
            len(listeners),
            Timeouts(
                graceful=config.timeout_graceful_shutdown,
                term=longest_stop(config) + KILL_MARGIN,
                quit=LIFESPAN_SHUTDOWN + KILL_MARGIN,
                boot=config.timeout_worker_boot,
                healthcheck=config.timeout_worker_healthcheck,
                delay=config.shutdown_delay,
            ),
        )
        self._signals = SignalQueue(*SIGNALS)
        self._children: dict[int, Child] = {}  # by pid
        self._unnamed: list[Record] = []  # of workers that a fork server has perhaps forked and not told of
        commands = Commands(config, self._addresses, self._supervisor, self._places, self._children, self._perform)
        self._commands = commands.by_name()
        self._served_before = 0  # requests, by workers that have gone
        self._exit_code: int | None = None

    def run(self) -> int:
        setproctitle(title(self._config, "master"))
        # What exists by now stays for ever. Out of sight of the collector, its pages stay shared with the workers.
        gc.collect()
        gc.freeze()
        self._signals.take()
        self._notifier.starting(time.monotonic())
        try:
            if self._inheritance is None:
                self._control = open_control(self._config.control_socket, self._commands)
            self._perform(self._supervisor.start(time.monotonic()))
            while self._exit_code is None:
                self._wait()
                self._feel_pulses()
                self._hear_signals()
                self._hear_workers()
                self._reap()
                self._hear_fork_servers()
                self._hear_successor()
                self._rescue()
                self._obey()
                now = time.monotonic()
                self._notifier.tick(now, self._is_healthy)
                self._notifier.status(now, self._figures)
        finally:
            self._signals.give_back()
            self._preload.stop()
            for pid in self._preload.pids():
                wait_for(pid, 0)
            self._preload.forget()
            self._places.close()
            if self._control is not None:
                self._control.close()
            if not self._has_handed_over and self._inheritance is None:
                remove_path(self._config)
        return self._exit_code

    # -- the steps

    def _wait(self) -> None:
        """Sleep until a signal, a message or the next deadline."""
        poll = select.poll()
        poll.register(self._signals.fd, select.POLLIN)
        for child in self._children.values():
            if not child.link.at_end:
                poll.register(child.link.fd, select.POLLIN)
        now = time.monotonic()
        for fd in self._places.interests(now):
            poll.register(fd, select.POLLIN)
        for fd in self._preload.interests():
            poll.register(fd, select.POLLIN)
        deadlines = [self._supervisor.next_deadline(), self._notifier.next_deadline(), self._places.next_deadline(now)]
        deadlines.append(self._preload.next_deadline())
        if self._successor is not None:
            poll.register(self._successor.fd, select.POLLIN)
        if self._control is not None:
            for fd, events in self._control.interests():
                poll.register(fd, events)
            deadlines.append(self._control.next_deadline())
        deadline = min((at for at in deadlines if at is not None), default=None)
        # Rounded up: a millisecond early would be a wake-up for nothing, and then another.
        poll.poll(None if deadline is None else max(0, int((deadline - time.monotonic()) * 1000) + 1))

    def _feel_pulses(self) -> None:
        beats = {pid: child.record.read().heartbeat for pid, child in self._children.items()}
        self._perform(self._supervisor.tick(time.monotonic(), beats))

    def _hear_signals(self) -> None:
        supervisor = self._supervisor
        is_stop_heard = False
        for number in self._signals.read():
            now = time.monotonic()
            match number:
                case signal.SIGINT | signal.SIGTERM:
                    # Two at the same moment are one: timeout(1) and others signal a process, and then its group.
                    if not is_stop_heard:
                        self._perform(supervisor.stop_requested(now))
                    is_stop_heard = True
                case signal.SIGQUIT:
                    self._perform(supervisor.quit_requested(now))
                case signal.SIGHUP:
                    self._perform(supervisor.reload_requested(now))
                case signal.SIGTTIN:
                    self._perform(supervisor.scale_requested(supervisor.size + 1, now))
                case signal.SIGTTOU:
                    self._perform(supervisor.scale_requested(supervisor.size - 1, now))
                case signal.SIGUSR1:
                    self._perform(supervisor.reopen_requested(now))
                case signal.SIGUSR2:
                    self._perform(supervisor.upgrade_requested(now))

    def _hear_workers(self) -> None:
        for child in list(self._children.values()):
            self._hear(child)

    def _hear(self, child: Child) -> None:
        try:
            messages = child.link.receive()
        except BadLink as error:
            logger.error("The worker with pid %d is killed: %s", child.pid, error)
            child.kill(signal.SIGKILL)
            return
        for message in messages:
            self._perform(self._supervisor.reported(child.pid, _REPORTS[message.kind], message.text, time.monotonic()))

    def _reap(self) -> None:
        """Collect the processes that have ended, each after its last words."""
        for pid, returncode in ended(lambda: [*self._children, *self._preload.pids()]):
            if pid not in self._children:
                self._preload.exited(pid, returncode, time.monotonic())
                continue
            child = self._children[pid]
            child.is_alive = False
            self._hear(child)
            row = child.record.read()
            self._served_before += row.requests
            stacks = child.stacks.read()
            self._scoreboard.release(child.record)
            child.close()
            del self._children[pid]
            self._perform(self._supervisor.exited(pid, returncode, time.monotonic(), row.in_flight, stacks))
        for record in list(ended_unnamed(self._unnamed, self._known())):
            self._unnamed.remove(record)
            self._scoreboard.release(record)

    def _known(self) -> list[int]:
        """Our children, as far as we know them."""
        known = [*self._children, *self._preload.pids()]
        if self._successor is not None:
            known.append(self._successor.pid)
        return known

    def _hear_fork_servers(self) -> None:
        """And do what has waited for one, or cannot be done."""
        now = time.monotonic()
        self._preload.hear(now)
        self._preload.tick(now)
        waiting, self._waiting = self._waiting, []
        for spawn in waiting:
            # One that fails may be what stops the fleet.
            if self._supervisor.fleet in TOLD:
                self._perform(self._supervisor.spawn_failed(spawn.slot, "the fleet stops", now))
            else:
                self._spawn(spawn)
        if self._supervisor.fleet in TOLD:
            self._preload.stop()

    def _hear_successor(self) -> None:
        successor = self._successor
        if successor is None:
            return
        if successor.is_ready():
            successor.let_go()
            # systemd listens to its main process only: a reload that was under way is over, and we are the one to say so.
            self._notifier.ready(self._serving())
            self._notifier.main_pid(successor.main_pid)
            self._successor = None
            successor.close()
            self._perform(self._supervisor.successor_ready(time.monotonic()))
        elif (end := wait_for(successor.pid)) is None or end[0] != 0:
            self._successor = None
            successor.kill(signal.SIGKILL)  # if it was only its keeper that ended
            successor.close()
            # What it has done to the sockets, on its way.
            self._places.route_again()
            why = f"the new one {describe_exit(LOST_RETURNCODE if end is None else end[1])}"
            self._perform(self._supervisor.successor_failed(why, time.monotonic()))

    def _rescue(self) -> None:
        now = time.monotonic()
        for slot in self._places.rescue(now):
            self._perform(self._supervisor.closed(slot, now))

    def _obey(self) -> None:
        """Whatever `ladybug ctl` wants."""
        if self._control is not None:
            self._control.serve(time.monotonic())

    def _is_healthy(self) -> bool:
        """Whether systemd's watchdog is fed: not while every worker that serves has a blocked loop.

        When none serves at all, the supervisor is about to start one: a new master could do no more.
        """
        latest = time.monotonic() - self._notifier.watchdog
        rows = [child.record.read() for child in self._children.values()]
        beats = [row.heartbeat for row in rows if row.state is State.SERVING]
        return not beats or max(beats) > latest

    def _figures(self) -> str:
        """What `systemctl status` says. The figures are the workers' own, of their last heartbeats."""
        rows = [child.record.read() for child in self._children.values()]
        return (
            f"{self._serving()}; workers: {self._supervisor.size}, connections: {sum(row.connections for row in rows)},"
            f" requests in flight: {sum(row.in_flight for row in rows)},"
            f" served: {self._served_before + sum(row.requests for row in rows)}"
        )

    def _serving(self) -> str:
        return f"Serving on {', '.join(self._addresses)}"

    # -- the acts

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Spawn():
                    self._spawn(action)
                case LoadAnew():
                    if self._config.preload:
                        self._preload.renew(time.monotonic())
                case Signal(pid, number):
                    self._children[pid].kill(number)
                case AskStacks(pid):
                    self._children[pid].kill(STACKS_SIGNAL)
                case DropStacks(pid):
                    self._children[pid].stacks.read()
                case LogStacks(pid, level, text):
                    stacks = self._children[pid].stacks.read() or "(It writes no stacks: is it stopped (SIGSTOP)?)"
                    logger.log(level, "%s:\n%s", text, stacks)
                case OpenSlot(slot):
                    self._open_place(slot)
                case CloseSlot(slot):
                    self._places.close_when_empty(slot)
                case Route(slots):
                    self._places.route(slots)
                case StartSuccessor():
                    self._start_successor()
                case StopSuccessor():
                    if self._successor is not None:
                        self._successor.kill(signal.SIGTERM)
                case HandOver():
                    self._has_handed_over = True
                    self._places.close()
                case ReopenLogs():
                    self._preload.reopen_logs()
                    reopen_log_files()
                    if (identity := identity_of(self._config)) is not None:
                        give_log_files(identity)
                case Stopping():
                    self._notifier.stopping(self._config.shutdown_delay + longest_stop(self._config) + KILL_MARGIN)
                case StopListening():
                    # Of a successor that serves not yet they are not its own.
                    if self._inheritance is None:
                        self._places.turn_away()
                    self._places.close()
                case Announce():
                    self._config.workers = self._supervisor.size  # scaled meanwhile, or by our predecessor
                    announce(self._config, self._addresses)
                    self._notifier.ready(self._serving())
                    self._succeed()
                case Reloading():
                    self._notifier.reloading(time.monotonic())
                case Reloaded(is_complete):
                    self._preload.reloaded(is_complete=is_complete)
                    self._notifier.ready(self._serving())
                case Log(level, text):
                    logger.log(level, "%s", text)
                case Exit(code):
                    self._exit_code = code

    def _open_place(self, slot: int) -> None:
        now = time.monotonic()
        try:
            self._places.open(slot)
        except OSError as error:
            actions = self._supervisor.open_failed(slot, str(error), now)
        else:
            actions = self._supervisor.opened(slot, now)
        self._perform(actions)

    def _start_successor(self) -> None:
        if os.getpid() == 1:
            why = "as process 1 of a container there can be no other; replace the container"
        else:
            # What came from the file, the new one reads there itself.
            names = self._config.names_from_env_file
            environment = {name: value for name, value in os.environ.items() if name not in names}
            try:
                environment.update(self._notifier.environment())
                is_given = bool(self._config.fd)
                name = title(self._config, "keeper of a new master")
                self._successor = Successor(self._start, self._places.in_order(), is_given, environment, name)
                return
            except OSError as error:
                why = str(error)
        self._perform(self._supervisor.successor_failed(why, time.monotonic()))

    def _succeed(self) -> None:
        """We serve: what our predecessor had is ours."""
        inheritance, self._inheritance = self._inheritance, None
        if inheritance is not None:
            if self._pid_file is not None:
                self._pid_file.take_over()
            inheritance.say_ready()
            try:
                self._control = open_control(self._config.control_socket, self._commands, replace=True)
            except StartupError as error:
                # Our predecessor is leaving: whoever is served is worth more than who commands.
                logger.error("ladybug ctl will not find this server: %s", error)

    def _spawn(self, spawn: Spawn) -> None:
        """Answer it; with --preload, and no fork server yet, later."""
        slot, now = spawn.slot, time.monotonic()
        source = None
        try:
            if self._config.preload and (source := self._preload.source(now)) is None:
                self._waiting.append(spawn)
                return
            child = self._start_worker(spawn, source)
        except NotLoaded as error:
            # A fleet that boots says no more than a worker that cannot start would.
            told = error.is_message and self._supervisor.fleet is Fleet.BOOTING
            what, why = (error.why, "") if told else (error.what, error.why)
            actions = self._supervisor.spawn_failed(slot, why, now, what)
        except OSError as error:
            actions = self._supervisor.spawn_failed(slot, str(error), now)
        else:
            self._children[child.pid] = child
            actions = self._supervisor.spawned(slot, child.pid, now)
        self._perform(actions)

    def _start_worker(self, spawn: Spawn, source: "ForkServer | None") -> Child:
        """Raises OSError, and has then made nothing."""
        record = self._scoreboard.claim(spawn.slot, spawn.generation, time.monotonic())
        flush()
        # A signal in the first moments of the child waits for the child's own handlers, instead of waking the master.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, OUR_SIGNALS)
        try:
            return self._fork(spawn.slot, record, source)
        except Unanswered:
            # Somebody may have been forked who writes to the record: it is not used again before that one has gone.
            self._unnamed.append(record)
            if source is not None:
                self._preload.lost(source)
            raise
        except OSError:
            self._scoreboard.release(record)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def _fork(self, slot: int, record: Record, source: "ForkServer | None") -> Child:
        """Make the two pipes and the process at their other ends. Raises OSError, and has then made nothing."""
        with contextlib.ExitStack() as on_failure:
            stacks = Stacks()
            on_failure.callback(stacks.close)
            link, link_of_worker = open_pipe(on_failure)
            lifeline_of_worker, lifeline = open_pipe(on_failure)
            if source is None:
                pid = os.fork()
            else:
                place = self._places.get(slot)
                assert place is not None, "a slot that waits for its worker is not closed"
                pid = source.fork(slot, record.number, place, link_of_worker, lifeline_of_worker, stacks, self._known())
            on_failure.pop_all()
        child = Child(pid, MasterLink(link), lifeline, record, stacks)
        if pid == 0:
            child.close_pipes()
            self._become_worker(slot, WorkerLink(link_of_worker), lifeline_of_worker, record, stacks)
        os.close(link_of_worker)
        os.close(lifeline_of_worker)
        return child

    def _become_worker(self, slot: int, link: WorkerLink, lifeline: int, record: Record, stacks: Stacks) -> NoReturn:
        """In the child: let go of what is the master's, keep what is the slot's, and never come back."""
        try:
            record.sign(os.getpid())
            self._let_go()
            self._start.enter_directory()
            place = self._places.keep_only(slot)
            drop_privileges(self._config)
            from ladybug.worker import Ties, leave, run_worker

            ties = Ties(slot, link, lifeline, record, stacks, place.channel)
            leave(run_worker(self._config, place.listeners, ties))
        except BaseException as error:
            link.send(Kind.FAILED, f"A worker cannot be loaded: {error!r}{unreadable(self._config, error)}")
        finally:
            os._exit(STARTUP_FAILURE)

    def _let_go(self) -> None:
        """In a child: all of this is the master's."""
        self._signals.forget()
        let_go_of_given(self._config, self._places.in_order())
        if self._pid_file is not None:
            self._pid_file.forget()
        for sibling in self._children.values():
            sibling.close()
        self._preload.forget()
        if self._successor is not None:
            self._successor.close()
        if self._inheritance is not None:
            self._inheritance.forget()
        if self._control is not None:
            self._control.forget()

    def _start_fork_server(self) -> "ForkServer":
        # ctypes comes with it.
        from ladybug.fork_server import ForkServer

        def let_go() -> None:
            self._let_go()
            self._start.enter_directory()
            self._places.close()

        return ForkServer(self._config, self._scoreboard, let_go)
