"""Stacks: a process that stands still says where."""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from collections.abc import Callable

import pytest

from ladybug.stacks import MOST_BYTES, STACKS_SIGNAL, Stacks
from tests.pair import DEADLINE

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="elsewhere stacks go to stderr")


def forked(what: Callable[[], None]) -> int:
    """A child that does `what`, and says so by ending its end of a pipe first."""
    ready, begun = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(ready)
            what()
            os.close(begun)
            stand_still()
        finally:
            os._exit(0)
    os.close(begun)
    os.read(ready, 1)
    os.close(ready)
    return pid


def stand_still() -> None:
    time.sleep(600)


def end(pid: int) -> int:
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def read_soon(stacks: Stacks) -> str:
    late = time.monotonic() + DEADLINE
    while not (text := stacks.read()):
        assert time.monotonic() < late
        time.sleep(0.01)
    return text


def test_a_process_in_a_system_call_says_where_it_is_each_time_it_is_asked() -> None:
    stacks = Stacks()
    pid = forked(stacks.register)
    assert stacks.read() == ""
    for _ in range(2):
        text = ""
        while "in stand_still" not in text:  # it may be on its way there
            os.kill(pid, STACKS_SIGNAL)
            text = read_soon(stacks)
            assert text.startswith(("Current thread", "Thread")), "nothing is left of the time before"
    end(pid)
    stacks.close()


def test_a_fatal_signal_leaves_stacks_behind() -> None:
    stacks = Stacks()

    def register() -> None:
        faulthandler.disable()  # which is pytest's
        stacks.register()

    pid = forked(register)
    os.kill(pid, signal.SIGABRT)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGABRT
    text = stacks.read()
    assert "Fatal Python error: Aborted" in text
    assert "in forked" in text
    stacks.close()


def test_a_process_that_is_not_asked_yet_ignores_the_question() -> None:
    stacks = Stacks()
    pid = forked(lambda: None)
    os.kill(pid, STACKS_SIGNAL)
    os.kill(pid, 0)
    assert end(pid) == signal.SIGKILL
    assert stacks.read() == ""
    stacks.close()


def test_a_forked_child_of_the_worker_writes_nothing() -> None:
    stacks = Stacks()

    def register_and_unregister() -> None:
        stacks.register()
        stacks.unregister()

    pid = forked(register_and_unregister)
    os.kill(pid, STACKS_SIGNAL)
    assert end(pid) == signal.SIGKILL
    assert stacks.read() == ""
    stacks.close()


def test_the_end_of_much_is_kept_because_the_main_thread_stands_there() -> None:
    stacks = Stacks()
    os.write(stacks.fd, b"x" * (2 * MOST_BYTES) + b"the main thread\n")
    text = stacks.read()
    assert len(text) <= MOST_BYTES
    assert text.endswith("the main thread")
    stacks.close()


def test_what_is_below_a_worker_is_left_out() -> None:
    stacks = Stacks()
    frames = ["app.py", "worker.py", "master.py", "launch.py"]
    names = ["view", "run_worker", "_spawn", "serve"]
    lines = [f'  File "{file}", line 1 in {name}\n' for file, name in zip(frames, names, strict=True)]
    os.write(stacks.fd, "".join(["Thread 1:\n", *lines, "\nThread 2:\n", lines[0]]).encode())
    assert stacks.read() == "".join(["Thread 1:\n", *lines[:2], "\nThread 2:\n", lines[0]]).rstrip()
    stacks.close()
