"""The queue of signals: each arrives, in a pipe, and what was before comes back."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

from ladybug.signal_queue import SignalQueue
from tests.pair import DEADLINE


def test_signals_arrive_as_numbers() -> None:
    before = signal.getsignal(signal.SIGUSR2)
    queue = SignalQueue(signal.SIGUSR2, signal.SIGHUP)
    queue.take()
    try:
        assert queue.read() == b""
        os.kill(os.getpid(), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGHUP)
        assert select.select([queue.fd], [], [], DEADLINE)[0]
        assert sorted(queue.read()) == sorted([signal.SIGUSR2, signal.SIGHUP])
    finally:
        queue.give_back()
    assert signal.getsignal(signal.SIGUSR2) == before


def test_a_forked_child_has_no_part_in_it() -> None:
    program = """
import os, signal
from ladybug.signal_queue import SignalQueue
queue = SignalQueue(signal.SIGUSR1)
queue.take()
pid = os.fork()
if pid == 0:
    queue.forget()
    os.kill(os.getpid(), signal.SIGUSR1)  # the handler is still there, and does nothing
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
assert queue.read() == b""
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
