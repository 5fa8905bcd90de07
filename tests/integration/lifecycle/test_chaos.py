"""Everything at once, in no order: operations and accidents while clients use the fleet.

Only a request that was running in a process killed by force may fail. Twenty seconds; LADYBUG_TEST_CHAOS is for how many
instead, LADYBUG_TEST_CHAOS_SEED for a run that is to be seen again.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import sys
import threading
import time
from collections.abc import Callable
from signal import SIGHUP, SIGKILL, SIGQUIT, SIGTERM, SIGTTIN, SIGTTOU, SIGUSR1
from typing import Self

import pytest

from tests.integration.fleet import Control, Load, children_of, fork_servers_of, workers_of
from tests.integration.support import Server, eventually, request_bytes, serve, variant_options

APP = "tests.integration.apps.processes:app"

# Seconds between the death of a process and the last client that notices; and between the first and the log.
AFTERMATH, BEFORE = 5.0, 1.0
# The log about processes that did not go by themselves. Two that hold a loop may meet in one worker; a loop may be blocked
# in a worker that drains.
FORCED = re.compile(r"\(--timeout-worker-healthcheck\)|killing it|Worker \d+ \(pid \d+\) was killed by signal")

pytestmark = [
    pytest.mark.skipif(bool(variant_options()), reason="once is enough"),
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere connections in a queue may be lost"),
]


class Chaos:
    """One run: what may happen, and what was done by force."""

    def __init__(self, server: Server, control: Control, seed: int) -> None:
        self.server = server
        self.control = control
        self.random = random.Random(seed)
        self.forced: list[float] = []  # when a process was killed
        self.done: list[str] = []
        self._is_over = threading.Event()
        self._watcher = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._watcher.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._is_over.set()
        self._watcher.join()

    def _watch(self) -> None:
        told = 0
        while not self._is_over.wait(0.05):
            before, told = told, len(FORCED.findall(self.server.output.text()))
            self.forced += [time.monotonic()] * (told - before)

    def explains(self, at: float) -> bool:
        """Whether a client that lost its connection then may have been in a process that was killed."""
        return any(-BEFORE <= at - forced <= AFTERMATH for forced in self.forced)

    def go_on_for(self, seconds: float) -> None:
        operations: list[Callable[[], None]] = [
            *(self.reload, self.reload, self.reload_twice, self.deploy_something_broken),
            *(self.one_more, self.one_less, self.reopen_logs, self.kill, self.kill, self.replace_by_hand),
            *(self.hold_a_loop, self.block_a_loop, self.kill_a_fork_server),
        ]
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            operation = self.random.choice(operations)
            self.done.append(operation.__name__)
            operation()
            time.sleep(self.random.uniform(0.0, 0.8))

    def a_worker(self) -> int | None:
        found = sorted(workers_of(self.server).items())
        return self.random.choice(found)[1] if found else None

    def reload(self) -> None:
        self.server.signal(SIGHUP)

    def reload_twice(self) -> None:
        self.server.signal(SIGHUP)
        time.sleep(self.random.uniform(0.0, 1.0))
        self.server.signal(SIGHUP)

    def deploy_something_broken(self) -> None:
        self.control.boot(self.random.choice(["raise", "refuse", "vanish"]))
        self.server.signal(SIGHUP)
        time.sleep(self.random.uniform(0.5, 2.0))
        self.control.boot("")

    def one_more(self) -> None:
        if len(workers_of(self.server)) < 4:
            self.server.signal(SIGTTIN)

    def one_less(self) -> None:
        self.server.signal(SIGTTOU)

    def reopen_logs(self) -> None:
        self.server.signal(SIGUSR1)

    def kill(self) -> None:
        if (pid := self.a_worker()) is not None:
            os.kill(pid, SIGKILL)

    def kill_a_fork_server(self) -> None:
        """If there is one."""
        for pid in fork_servers_of(self.server)[:1]:
            with contextlib.suppress(ProcessLookupError):  # it may be leaving
                os.kill(pid, SIGKILL)

    def replace_by_hand(self) -> None:
        if (pid := self.a_worker()) is not None:
            os.kill(pid, SIGTERM)

    def hold_a_loop(self) -> None:
        """Longer than it takes to be noticed, shorter than it takes to be killed."""
        with self.server.connect() as client:
            client.send(request_bytes("/pause?4.5"))
            time.sleep(0.1)

    def block_a_loop(self) -> None:
        """Until it is killed for it."""
        before = len(self.forced)
        with self.server.connect() as client:
            client.send(request_bytes("/pause?30"))
            end = time.monotonic() + 12.0
            while time.monotonic() < end and len(self.forced) == before:
                time.sleep(0.1)


@pytest.mark.parametrize("origin", [(), ("--preload",)], ids=["forked by the master", "forked by a fork server"])
def test_only_who_was_in_a_killed_process_notices(control: Control, origin: tuple[str, ...]) -> None:
    seconds = float(os.environ.get("LADYBUG_TEST_CHAOS", "20"))
    seed = int(os.environ.get("LADYBUG_TEST_CHAOS_SEED", time.time_ns() % 1_000_000))
    options = (
        *("--limit-max-requests", "2000", "--limit-max-requests-jitter", "500"),
        *("--limit-worker-lifetime", "6", "--limit-worker-lifetime-jitter", "6"),
        *("--timeout-worker-healthcheck", "6", "--timeout-graceful-shutdown", "10"),
        "--no-access-log",
    )
    with serve(APP, *options, *origin, workers=2, env={"CONTROL": str(control.directory)}) as server:
        for marker in ("no database", "Error"):
            server.permit_error(marker)
        chaos = Chaos(server, control, seed)
        story = f"LADYBUG_TEST_CHAOS={seconds:g} LADYBUG_TEST_CHAOS_SEED={seed}"
        load = Load(server, closing=3, keeping=3, streaming=2, uploading=2)
        # Who is in a blocked worker waits until it is killed for it, which takes a drain's time if it was about to leave.
        load.patience = 60.0
        with chaos, load:
            chaos.go_on_for(seconds)
            # And then order: whoever is left over goes, and all is as if nothing had been.
            before = server.output.text().count("INFO:     Reloaded")
            server.signal(SIGHUP)
            eventually(lambda: server.output.text().count("INFO:     Reloaded") > before, f"a reload ({story})", 40)
            load.wait_for_answers(100)
        eventually(
            lambda: len(children_of(server.pid)) - len(origin) == len(workers_of(server)) > 0,
            f"nobody else to be there ({story})",
            40,
        )
        unexplained = [
            failure for failure, at in zip(load.failures, load.failed_at, strict=True) if not chaos.explains(at)
        ]
        assert unexplained == [], (story, chaos.done, unexplained)
        assert len(load.failures) <= load.clients * len(chaos.forced), (story, load.failures)
        print(f"{story}: {len(load.answers)} answers, {len(load.failures)} failures, {len(chaos.forced)} killed")  # noqa: T201
        server.signal(SIGQUIT)
        assert server.wait() in (0, 1)
