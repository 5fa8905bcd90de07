"""Children: ours are reaped, with what became of them; nobody else's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from ladybug.children import LOST_RETURNCODE, Child, ended, ended_unnamed, wait_for
from ladybug.link import MasterLink
from ladybug.scoreboard import Record, Scoreboard
from ladybug.stacks import Stacks
from tests.integration.support import eventually


def program(code: str) -> int:
    """The pid of a new process."""
    return os.posix_spawn(sys.executable, [sys.executable, "-c", code], {})


def all_ended(*pids: int) -> dict[int, int]:
    """What became of them, once all have ended."""
    found: dict[int, int] = {}

    def all_found() -> bool:
        found.update(ended(lambda: [pid for pid in pids if pid not in found]))
        return len(found) == len(pids)

    eventually(all_found, "the end of all")
    return found


def test_the_end_of_each_is_told_as_exit_code_or_signal() -> None:
    fine, failed, killed = program(""), program("raise SystemExit(3)"), program("__import__('signal').pause()")
    os.kill(killed, signal.SIGKILL)
    assert all_ended(fine, failed, killed) == {fine: 0, failed: 3, killed: -signal.SIGKILL}


def test_one_that_still_runs_is_not_waited_for() -> None:
    pid = program("__import__('signal').pause()")
    assert list(ended(lambda: [pid])) == []
    os.kill(pid, signal.SIGKILL)
    all_ended(pid)


def test_children_of_the_program_that_called_are_left_to_it() -> None:
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"]) as theirs:
        ours = program("")
        assert all_ended(ours) == {ours: 0}
        assert theirs.wait() == 7


def test_one_that_somebody_else_has_collected_is_lost() -> None:
    pid = program("")
    assert wait_for(pid, 0) == (pid, 0)
    assert list(ended(lambda: [pid])) == [(pid, LOST_RETURNCODE)]


AS_INIT = """
import os, sys
from ladybug.children import ended

read, write = os.pipe()
if (ours := os.fork()) == 0:
    if os.fork() == 0:
        os.close(read)
        sys.stdin.read()  # until our parent has gone, and somebody says so
        os._exit(5)
    os._exit(3)
os.close(write)
found = {}
while ours not in found:
    found.update(ended(lambda: [ours]))
print("ready", flush=True)
os.read(read, 1)  # the orphan has gone
while True:
    try:
        os.kill(-1, 0)  # somebody but us
    except ProcessLookupError:
        break
    found.update(ended(lambda: [ours]))
print(found == {ours: 3})
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root makes a process 1")
def test_process_1_reaps_orphans_too_and_does_not_tell_of_them() -> None:
    command = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-c", AS_INIT]
    try:
        init = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    except FileNotFoundError:
        pytest.skip("no unshare(1)")
    with init:
        assert init.stdin is not None and init.stdout is not None
        assert init.stdout.readline() == "ready\n"
        init.stdin.close()
        assert init.stdout.read() == "True\n"


def signed(*pids: int) -> list[Record]:
    """The records of workers with these process ids; 0 has not signed yet."""
    scoreboard = Scoreboard()
    records = [scoreboard.claim(0, 1, 0.0) for _ in pids]
    for record, pid in zip(records, pids, strict=True):
        record.sign(pid)
    return records


def test_workers_that_nobody_has_named_are_reaped_by_what_they_have_signed() -> None:
    gone, alive, known = program(""), program("__import__('signal').pause()"), program("")
    os.waitid(os.P_PID, known, os.WEXITED | os.WNOWAIT)
    found: list[Record] = []
    records = signed(gone, alive, 0, known, os.getpid(), -1)

    def is_found() -> bool:
        found.extend(ended_unnamed([record for record in records if record not in found], [known]))
        return len(found) == 1

    eventually(is_found, "the end of the first")
    assert found == records[:1]
    assert wait_for(gone) is None
    assert wait_for(known) == (known, 0)
    os.kill(alive, signal.SIGKILL)
    wait_for(alive, 0)
    # Whoever has reaped it.
    assert list(ended_unnamed(records[1:], [known])) == [records[1]]


@pytest.fixture
def child() -> Iterator[Child]:
    link, link_of_worker = os.pipe()
    lifeline_of_worker, lifeline = os.pipe()
    pid = program("__import__('signal').pause()")
    made = Child(pid, MasterLink(link), lifeline, Scoreboard(1).claim(0, 1, 0.0), Stacks())
    yield made
    if made.is_alive:
        os.kill(pid, signal.SIGKILL)
        wait_for(pid, 0)
    made.close()
    os.close(link_of_worker)
    os.close(lifeline_of_worker)


def test_a_child_gets_signals(child: Child) -> None:
    child.kill(signal.SIGTERM)
    assert all_ended(child.pid) == {child.pid: -signal.SIGTERM}
    child.is_alive = False


def test_a_number_that_is_no_longer_ours_gets_none(child: Child) -> None:
    child.is_alive = False
    child.kill(signal.SIGKILL)
    assert wait_for(child.pid) == (0, 0)
    child.is_alive = True


def test_one_that_somebody_else_has_collected_gets_none(child: Child) -> None:
    os.kill(child.pid, signal.SIGKILL)
    wait_for(child.pid, 0)
    child.kill(signal.SIGTERM)
    child.is_alive = False
