"""The alarm, in processes that it ends."""

from __future__ import annotations

import os
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


FULL = """
import os
def fill():
    end = os.open("/proc/self/fd/2", os.O_WRONLY | os.O_NONBLOCK)
    try:
        while True:
            os.write(end, b".")
    except BlockingIOError:
        os.close(end)
"""


needs_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="pipes can be opened once more, and descriptors counted"
)


@needs_linux
@pytest.mark.parametrize("order", ["fill(); end_within(0.1)", "end_within(0.5); fill()"], ids=["before", "after"])
def test_stacks_that_nobody_reads_do_not_keep_it_alive(order: str) -> None:
    """The pipe is full before the alarm is set, or after."""
    reader, writer = os.pipe()
    process = subprocess.Popen([sys.executable, "-c", HANGS.format(FULL + order)], stderr=writer)
    try:
        # Before it would have ended by itself.
        assert process.wait(15) == -signal.SIGALRM
    finally:
        process.kill()
        process.wait()
        os.close(reader)
        os.close(writer)


@needs_linux
@pytest.mark.parametrize("file", ["2", "-1", "os.memfd_create('stacks')"])
def test_nothing_stays_open_of_one_that_is_called_off(file: str) -> None:
    files = "len(os.listdir('/proc/self/fd'))"
    code = f"import os; file = {file}; n = {files}; end_within(9, file); call_off(); sys.exit({files} - n)"
    assert ended(code) == (0, "")
