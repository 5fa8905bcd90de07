"""The Python API: a server inside a loop that somebody else owns, and `ladybug.run`; each in a program of its own."""

from __future__ import annotations

import ast
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.apps import embedding as programs
from tests.integration.support import Client, Program

SCRIPT = Path(__file__).parent / "apps" / "embedding.py"
STARTUP_FAILURE = 3

# Each program checks itself; this is what it must come to.
RESULTS: dict[str, object] = {
    "serve_and_shut_down": True,
    "started_can_be_waited_for": "waited",
    "no_signal_handlers_are_taken": True,
    "shutdown_may_be_asked_for_again_and_again": 1,
    "shutdown_before_it_started": True,
    "shutdown_waits_for_requests": b"hello",
    "escalate_cuts_requests_short": "lifespan.shutdown.complete",
    "the_counters_count": 4,
    "two_servers_share_a_loop": 4,
    "one_server_after_the_other": 3,
    "a_server_on_given_sockets": "served",
    "every_address_of_a_name_is_bound": True,
    "failures_are_raised": 4,
    "wrong_settings_are_raised": 6,
    "a_cancelled_serve_cleans_up": "lifespan.shutdown.complete",
    "an_application_may_stop_its_server": "lifespan.shutdown.complete",
    "a_subclass_may_be_served": "told",
    "nothing_is_left_in_the_loop": "nothing",
    "in_a_thread": b"hello",
    "a_daemon_thread_runs": b"hello",
    "a_thread_runs_to_its_end": b"hello",
    "importing_costs_nothing": "[]",
}


@contextmanager
def program(name: str) -> Iterator[Program]:
    env = {
        "TEST_LOOP": os.environ.get("LADYBUG_TEST_LOOP", ""),
        "TEST_POLLER": os.environ.get("LADYBUG_TEST_POLLER", ""),
    }
    running = Program([sys.executable, str(SCRIPT), name], env=env)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.kill()


def result(running: Program) -> object:
    value: object = ast.literal_eval(running.output.wait_for("RESULT (.*)")[1])
    return value


@pytest.mark.parametrize("name", RESULTS)
def test_a_program_that_embeds_the_server(name: str) -> None:
    with program(name) as running:
        assert running.wait() == 0, running.output.text()
        assert result(running) == RESULTS[name]
        running.check_log()


def test_every_program_is_tried() -> None:
    defined = {
        name
        for name, value in vars(programs).items()
        if getattr(value, "__module__", None) == programs.__name__ and getattr(value, "__code__", None)
    }
    helpers = {"app", "failing", "config", "request", "port_of", "until", "refused", "main"}
    assert {name for name in defined if not name.startswith("run_")} - helpers == set(RESULTS)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("name", "expected"), [("run_here", "lifespan.shutdown.complete"), ("run_by_name", "returned")]
)
def test_run_serves_until_a_signal_and_returns(name: str, expected: str, number: signal.Signals) -> None:
    with program(name) as running:
        port = int(running.output.wait_for(r"\bon http://127\.0\.0\.1:(\d+)")[1])
        with Client(("127.0.0.1", port)) as client:
            assert client.request("/hello").body == b"hello"
        running.signal(number)
        assert running.wait() == 0, running.output.text()
        assert result(running) == expected
        running.check_log()


def test_run_ends_the_program_when_it_cannot_start() -> None:
    with program("run_and_fail") as running:
        assert running.wait() == STARTUP_FAILURE
        assert "the database is not there" in running.output.text()
