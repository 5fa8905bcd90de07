"""Everything at once, in no order: operations, and in another run accidents as well, while clients use the fleet.

Operations fail nobody. Of accidents only the clients may notice anything whose connections were in a process that died.
Seven seconds each; LADYBUG_TEST_CHAOS is for how many instead, LADYBUG_TEST_CHAOS_SEED for a run that is to be seen again.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from signal import SIGHUP, SIGKILL, SIGQUIT, SIGSTOP, SIGTERM, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2
from typing import Any, Self

import psutil
import pytest

from tests.integration.fleet import Control, Failure, Load, children_of, fork_servers_of, is_gone, title_of, workers_of
from tests.integration.support import Server, eventually, request_bytes, variant_options

APP = "tests.integration.apps.processes:app"

SECONDS = float(os.environ.get("LADYBUG_TEST_CHAOS", "23"))
# How much of that where processes are killed and blocked: who was in one of them is worked out afterwards.
SHARE = 0.3
# Seconds between the death of a process and the last client that notices: the kernel tells it at once.
AFTERMATH = 2.0
# Seconds between what the master does and our reading of its log.
DELAY = 0.3
BLOCKED = re.compile(r"\(pid (\d+)\) has not run its event loop for \d+ s:")
# The log about a process that has died, or is about to, and not by itself. Two that hold a loop may meet in one worker; a
# loop may be blocked in a worker that drains.
FORCED = re.compile(
    r"Worker \d+ \(pid (\d+)\) (?:was killed by signal \d+"
    r"|has not run its event loop for \d+ s \(--timeout-worker-healthcheck\)|has not stopped in time: killing it)"
)

pytestmark = [
    pytest.mark.skipif(bool(variant_options()), reason="once is enough"),
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere connections in a queue may be lost"),
    pytest.mark.timeout(SECONDS + 110),
]


class Lineage(Server):
    """A server whose master is replaced by others: the pid file knows which of them is in charge."""

    def __init__(self, *options: str, control: Control) -> None:
        self.pid_file = control.directory / "pid"
        environment = {"CONTROL": str(control.directory)}
        super().__init__(APP, *options, "--pid-file", str(self.pid_file), workers=2, env=environment)

    @property
    def pid(self) -> int:
        return int(self.pid_file.read_text())

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has just been replaced
            os.kill(self.pid, number)

    def members(self) -> set[int]:
        """Every process there is of all masters."""
        found = set()
        for pid in psutil.pids():
            with contextlib.suppress(ProcessLookupError, psutil.Error):
                if os.getpgid(pid) == self.process.pid and not is_gone(pid):
                    found.add(pid)
        return found


def connections_of(pid: int) -> list[Any]:
    """The addresses of the clients that a process has accepted."""
    with contextlib.suppress(psutil.Error):
        return [tuple(held.raddr) for held in psutil.Process(pid).net_connections("tcp4") if held.raddr]
    return []


class Chaos:
    """One run: what may happen, what did, and whom it excuses."""

    def __init__(self, server: Lineage, control: Control, seed: int) -> None:
        self.server = server
        self.control = control
        self.random = random.Random(seed)
        self.done: list[str] = []
        # Connections that were in processes that died, and when.
        self.cut: dict[Any, float] = {}
        # When the log told of the death of one whose connections we have not seen.
        self.forced: list[float] = []
        self._held: dict[int, list[Any]] = {}  # by one whose loop is blocked: as long as it is, the same
        self._known: set[int] = set()  # to have died, and who was in them
        self._is_over = threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self.operations: list[Callable[[], None]] = [
            *(self.reload, self.reload, self.reload_twice, self.deploy_something_broken, self.upgrade, self.upgrade),
            *(self.one_more, self.one_less, self.reopen_logs, self.replace_by_hand),
        ]
        self.accidents: list[Callable[[], None]] = [
            *(self.kill, self.kill, self.hold_a_loop, self.block_a_loop, self.kill_a_fork_server)
        ]

    def __enter__(self) -> Self:
        self._watcher.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._is_over.set()
        self._watcher.join()

    def _watch(self) -> None:
        blocked = forced = 0
        is_over = False
        while not is_over:
            is_over = self._is_over.wait(0.05)  # and then once more
            text = self.server.output.text()
            for pid in map(int, BLOCKED.findall(text)[blocked:]):
                blocked += 1
                self._held[pid] = connections_of(pid)
            for pid in map(int, FORCED.findall(text)[forced:]):
                forced += 1
                if pid in self._held:
                    self.cut |= dict.fromkeys(self._held.pop(pid), time.monotonic())
                elif pid not in self._known:
                    self.forced.append(time.monotonic())
                self._known.add(pid)  # it may be told of again

    def excuses(self, failure: Failure) -> bool:
        """Whether the client's connection was in a process that died, and died with it."""
        if failure.address in self.cut:
            return failure.at <= self.cut.pop(failure.address) + AFTERMATH
        return failure.address is not None and any(-DELAY <= failure.at - forced <= AFTERMATH for forced in self.forced)

    def go_on_for(self, seconds: float, what: list[Callable[[], None]]) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            one = self.random.choice(what)
            self.done.append(one.__name__)
            one()
            time.sleep(self.random.uniform(0.0, 0.8))

    def a_worker(self) -> int | None:
        found = sorted(workers_of(self.server).items())
        return self.random.choice(found)[1] if found else None

    # -- operations

    def reload(self) -> None:
        self.server.signal(SIGHUP)

    def reload_twice(self) -> None:
        self.server.signal(SIGHUP)
        time.sleep(self.random.uniform(0.0, 1.0))
        self.server.signal(SIGHUP)

    def upgrade(self) -> None:
        self.server.signal(SIGUSR2)

    def deploy_something_broken(self) -> None:
        self.control.boot(self.random.choice(["raise", "refuse", "vanish"]))
        self.server.signal(self.random.choice([SIGHUP, SIGUSR2]))
        time.sleep(self.random.uniform(0.5, 2.0))
        self.control.boot("")

    def one_more(self) -> None:
        if len(workers_of(self.server)) < 4:
            self.server.signal(SIGTTIN)

    def one_less(self) -> None:
        self.server.signal(SIGTTOU)

    def reopen_logs(self) -> None:
        self.server.signal(SIGUSR1)

    def replace_by_hand(self) -> None:
        if (pid := self.a_worker()) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, SIGTERM)

    # -- accidents

    def kill(self) -> None:
        """Stop it first: so it can be seen what it has."""
        if (pid := self.a_worker()) is not None:
            with contextlib.suppress(ProcessLookupError, psutil.Error):
                os.kill(pid, SIGSTOP)
                self._known.add(pid)
                eventually(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED, "it to stop")
                self.cut |= dict.fromkeys(connections_of(pid), time.monotonic())
                os.kill(pid, SIGKILL)

    def kill_a_fork_server(self) -> None:
        """If there is one."""
        for pid in fork_servers_of(self.server)[:1]:
            with contextlib.suppress(ProcessLookupError):  # it may be leaving
                os.kill(pid, SIGKILL)

    def hold_a_loop(self) -> None:
        """Longer than it takes to be noticed, shorter than it takes to be killed."""
        with self.server.connect() as client:
            client.send(request_bytes("/pause?4.5"))
            time.sleep(0.1)

    def block_a_loop(self) -> None:
        """Until it is killed for it."""
        with self.server.connect() as client:
            client.send(request_bytes("/pause?30"))
            time.sleep(0.3)
            for pid in children_of(self.server.pid):
                held = connections_of(pid)
                if client.socket.getsockname() in held:
                    self._held[pid] = held


@contextlib.contextmanager
def lineage(control: Control, origin: tuple[str, ...]) -> Iterator[Lineage]:
    options = (
        *("--limit-max-requests", "2000", "--limit-max-requests-jitter", "500"),
        *("--limit-worker-lifetime", "6", "--limit-worker-lifetime-jitter", "6"),
        *("--timeout-worker-healthcheck", "6", "--timeout-graceful-shutdown", "6"),
        "--no-access-log",
    )
    server = Lineage(*options, *origin, control=control)
    try:
        server.wait_until_listening()
        for marker in ("no database", "Error"):
            server.permit_error(marker)
        yield server
        server.signal(SIGQUIT)
        server.output.wait_until_closed()
        server.check_log()
    except BaseException:
        print(server.output.text(), *map(title_of, server.members()), sep="\n")  # noqa: T201
        raise
    finally:
        server.kill()


def order_again(server: Lineage, load: Load, origin: tuple[str, ...], story: str) -> None:
    """Whoever is left over goes, and all is as if nothing had been."""

    def is_one() -> bool:
        """Whether there is one master."""
        return server.members() == {server.pid, *children_of(server.pid)}

    def is_in_order() -> bool:
        workers = workers_of(server)
        return is_one() and len(children_of(server.pid)) - len(origin) == len(workers) > 0

    # An upgrade that is under way would take a reload along.
    eventually(is_one, f"the end of upgrades ({story})", 40)
    before = server.output.text().count("INFO:     Reloaded")
    server.signal(SIGHUP)
    eventually(lambda: server.output.text().count("INFO:     Reloaded") > before, f"a reload ({story})", 40)
    load.wait_for_answers(100)
    eventually(is_in_order, f"nobody else to be there ({story})", 40)


@pytest.mark.parametrize("origin", [(), ("--preload",)], ids=["forked by the master", "forked by a fork server"])
@pytest.mark.parametrize("accidents", [False, True], ids=["operations", "accidents"])
def test_only_who_was_in_a_killed_process_notices(control: Control, origin: tuple[str, ...], accidents: bool) -> None:
    seed = int(os.environ.get("LADYBUG_TEST_CHAOS_SEED", time.time_ns() % 1_000_000))
    story = f"LADYBUG_TEST_CHAOS={SECONDS:g} LADYBUG_TEST_CHAOS_SEED={seed}"
    with lineage(control, origin) as server:
        chaos = Chaos(server, control, seed)
        load = Load(server, closing=3, keeping=3, streaming=2, uploading=2, echoing=2)
        # Who is in a blocked worker waits until it is killed for it, which takes a drain's time if it was about to leave.
        load.patience = 60.0
        with chaos, load:
            chaos.go_on_for(SECONDS * (SHARE if accidents else 1), chaos.operations + chaos.accidents * accidents)
            order_again(server, load, origin, story)
        print(f"{story}: {len(load.answers)} answers, {len(load.failures)} failures,", end=" ")  # noqa: T201
        print(f"{len(chaos.cut)} connections cut, {len(chaos.forced)} killed unseen; {chaos.done}")  # noqa: T201
        if not accidents:
            assert chaos.cut == {} and chaos.forced == [], (story, chaos.done, server.output.text())
        assert len(load.failures) <= len(chaos.cut) + load.clients * len(chaos.forced), (story, load.failures)
        unexplained = [failure for failure in load.failures if not chaos.excuses(failure)]
        assert unexplained == [], (story, chaos.done, unexplained)
