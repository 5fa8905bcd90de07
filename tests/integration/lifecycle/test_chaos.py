"""Everything at once, in no order: operations and accidents while clients use the fleet.

Only a request that was running in a process killed by force may fail. Twenty seconds; LADYBUG_TEST_CHAOS is for how many
instead, LADYBUG_TEST_CHAOS_SEED for a run that is to be seen again.
"""

from __future__ import annotations

import os
import random
import re
import sys
import time
from collections.abc import Callable
from signal import SIGHUP, SIGKILL, SIGQUIT, SIGTERM, SIGTTIN, SIGTTOU, SIGUSR1

import pytest

from tests.integration.fleet import Control, Load, children_of, workers_of
from tests.integration.support import Server, eventually, request_bytes, serve, variant_options

APP = "tests.integration.apps.processes:app"

# Seconds between the death of a process and the last client that notices.
AFTERMATH = 5.0

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

    def go_on_for(self, seconds: float) -> None:
        operations: list[Callable[[], None]] = [
            *(self.reload, self.reload, self.reload_twice, self.deploy_something_broken),
            *(self.one_more, self.one_less, self.reopen_logs, self.kill, self.kill, self.replace_by_hand),
            *(self.hold_a_loop, self.block_a_loop),
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
            self.forced.append(time.monotonic())
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
        pattern = r"\(--timeout-worker-healthcheck\)|is aborted"
        before = len(re.findall(pattern, self.server.output.text()))
        with self.server.connect() as client:
            client.send(request_bytes("/pause?30"))
            end = time.monotonic() + 12.0
            while time.monotonic() < end and len(re.findall(pattern, self.server.output.text())) == before:
                time.sleep(0.1)
            self.forced.append(time.monotonic())


def test_only_who_was_in_a_killed_process_notices(control: Control) -> None:
    seconds = float(os.environ.get("LADYBUG_TEST_CHAOS", "20"))
    seed = int(os.environ.get("LADYBUG_TEST_CHAOS_SEED", time.time_ns() % 1_000_000))
    options = (
        *("--limit-max-requests", "2000", "--limit-max-requests-jitter", "500"),
        *("--limit-worker-lifetime", "6", "--limit-worker-lifetime-jitter", "6"),
        *("--timeout-worker-healthcheck", "6", "--timeout-graceful-shutdown", "10"),
    )
    with serve(APP, *options, workers=2, env={"CONTROL": str(control.directory)}) as server:
        for marker in ("no database", "Error"):
            server.permit_error(marker)
        chaos = Chaos(server, control, seed)
        story = f"LADYBUG_TEST_CHAOS={seconds:g} LADYBUG_TEST_CHAOS_SEED={seed}"
        with Load(server, closing=3, keeping=3, streaming=2, uploading=2) as load:
            chaos.go_on_for(seconds)
            # And then order: whoever is left over goes, and all is as if nothing had been.
            before = server.output.text().count("INFO:     Reloaded")
            server.signal(SIGHUP)
            eventually(lambda: server.output.text().count("INFO:     Reloaded") > before, f"a reload ({story})", 40)
            load.wait_for_answers(100)
        eventually(
            lambda: len(children_of(server.pid)) == len(workers_of(server)) > 0,
            f"nobody else to be there ({story})",
            40,
        )
        unexplained = [
            failure
            for failure, at in zip(load.failures, load.failed_at, strict=True)
            if not any(0.0 <= at - forced <= AFTERMATH for forced in chaos.forced)
        ]
        assert unexplained == [], (story, chaos.done, unexplained)
        assert len(load.failures) <= load.clients * len(chaos.forced), (story, load.failures)
        print(f"{story}: {len(load.answers)} answers, {len(load.failures)} failures, {len(chaos.forced)} killed")  # noqa: T201
        server.signal(SIGQUIT)
        assert server.wait() in (0, 1)
