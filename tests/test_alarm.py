"""The alarm, in processes that it ends."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

HANGS = """
import signal, sys, threading
from ladybug.alarm import call_off, end_within
{}
def hangs():
    threading.Event().wait(20)
hangs()
"""


def ended(code: str) -> tuple[int, str]:
    """How a process that runs this, and then hangs, has ended, and what it has written."""
    done = subprocess.run([sys.executable, "-c", HANGS.format(code)], stderr=subprocess.PIPE, text=True, timeout=60)
    return done.returncode, done.stderr


def test_a_process_that_hangs_is_ended_and_says_where_it_was() -> None:
    code, told = ended("end_within(0.1)")
    assert code == -signal.SIGALRM
    assert "in hangs" in told


@pytest.mark.parametrize("calls", ["end_within(0.1); end_within(3600)", "end_within(3600); end_within(0.1)"])
def test_the_earliest_end_is_the_one(calls: str) -> None:
    assert ended(calls)[0] == -signal.SIGALRM


def test_the_application_has_no_say_in_it() -> None:
    assert ended("signal.signal(signal.SIGALRM, signal.SIG_IGN); end_within(0.1)")[0] == -signal.SIGALRM


def test_one_that_is_called_off_does_nothing() -> None:
    code, told = ended("end_within(0.1); call_off(); threading.Event().wait(0.5); sys.exit(3)")
    assert (code, told) == (3, "")
