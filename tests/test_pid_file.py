"""The pid file with real processes: who owns it, who is refused, and what is left behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ladybug.exceptions import StartupError
from ladybug.pid_file import PidFile
from tests.integration.support import DEADLINE, ROOT

SERVER = """
import os, signal, sys
from ladybug.exceptions import StartupError
from ladybug.pid_file import PidFile
pid_file = PidFile(sys.argv[1])
for line in sys.stdin:
    try:
        getattr(pid_file, line.strip())()
    except StartupError as error:
        print(error, flush=True)
    else:
        print("done", flush=True)
"""


class Other:
    """Another process that does with the file what it is told."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, "-c", SERVER, str(path)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self.pid = self.process.pid

    def tell(self, verb: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(verb + "\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def does(self, verb: str) -> str:
        self.tell(verb)
        return self.answer()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=DEADLINE)


@contextlib.contextmanager
def others(path: Path, number: int) -> Iterator[list[Other]]:
    processes = [Other(path) for _ in range(number)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "server.pid"


@pytest.fixture
def owner(path: Path) -> Iterator[Other]:
    """A server that has the file."""
    with others(path, 1) as (other,):
        assert other.does("claim") == "done"
        yield other


def test_it_names_the_process_and_is_removed_at_the_end(path: Path) -> None:
    pid_file = PidFile(str(path))
    pid_file.claim()
    assert path.read_text() == f"{os.getpid()}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    pid_file.release()
    assert list(path.parent.iterdir()) == []
    pid_file.release()  # there is nothing left to do


def test_a_running_owner_is_left_alone(path: Path, owner: Other) -> None:
    expected = f"{path} belongs to a Ladybug that is running (pid {owner.pid}): stop it, or choose another --pid-file."
    for _ in range(2):  # having looked takes nothing away
        with pytest.raises(StartupError, match=f"^{re.escape(expected)}$"):
            PidFile(str(path)).claim()
    assert path.read_text() == f"{owner.pid}\n"
    assert list(path.parent.iterdir()) == [path]


def test_what_a_killed_owner_left_is_replaced(path: Path, owner: Other) -> None:
    owner.kill()
    assert path.read_text() == f"{owner.pid}\n"
    pid_file = PidFile(str(path))
    pid_file.claim()
    assert path.read_text() == f"{os.getpid()}\n"
    pid_file.release()
    assert not path.exists()


@pytest.mark.parametrize("text", ["1\n", f"{os.getppid()}\n", f"{os.getpid()}", "", "99999999999\n"])
def test_a_number_that_is_somebody_elses_by_now_does_not_count(path: Path, text: str) -> None:
    path.write_text(text)
    pid_file = PidFile(str(path))
    pid_file.claim()
    assert path.read_text() == f"{os.getpid()}\n"
    pid_file.release()


def test_a_file_that_is_no_pid_file_is_not_overwritten(path: Path) -> None:
    path.write_text("the work of a year\n")
    with pytest.raises(StartupError, match=r"exists and is not a pid file: remove it, or choose another --pid-file\.$"):
        PidFile(str(path)).claim()
    assert path.read_text() == "the work of a year\n"


def test_a_directory_that_is_not_there_is_named(path: Path) -> None:
    with pytest.raises(
        StartupError, match=r"^The pid file .*/no/x\.pid cannot be written: No such file or directory\."
    ):
        PidFile(str(path.parent / "no" / "x.pid")).claim()


def test_it_lies_in_the_directory_where_the_server_was_started(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    pid_file = PidFile("server.pid")
    pid_file.claim()
    monkeypatch.chdir("/")
    pid_file.release()
    assert not path.exists()


def test_a_worker_that_outlives_its_master_does_not_keep_the_next_one_out(path: Path) -> None:
    """A forked child has the descriptor. It must not have the lock."""
    reader, writer = os.pipe()
    master = os.fork()
    if master == 0:
        try:
            PidFile(str(path)).claim()
            worker = os.fork()
            if worker == 0:
                os.write(writer, b"%d" % os.getpid())
            signal.pause()
        finally:
            os._exit(1)
    os.close(writer)
    worker = int(os.read(reader, 20))
    os.close(reader)
    try:
        with pytest.raises(StartupError, match=rf"\(pid {master}\)"):
            PidFile(str(path)).claim()
        os.kill(master, signal.SIGKILL)
        os.waitpid(master, 0)
        pid_file = PidFile(str(path))
        pid_file.claim()
        pid_file.release()
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_child_that_forgets_it_cannot_write_it_and_leaves_it_to_its_parent(path: Path) -> None:
    pid_file = PidFile(str(path))
    pid_file.claim()
    worker = os.fork()
    if worker == 0:
        try:
            pid_file.forget()
            held = [os.fstat(fd) for fd in range(256) if is_open(fd)]
            is_held = any(os.path.samestat(path.stat(), file) for file in held)
            pid_file.release()  # that is not for the child
            os._exit(10 if is_held else 0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == 0
    with others(path, 1) as (other,):
        assert f"(pid {os.getpid()})" in other.does("claim")
    pid_file.release()
    assert not path.exists()


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_a_successor_takes_it_over_from_a_predecessor_that_still_runs(path: Path, owner: Other) -> None:
    with others(path, 2) as (successor, third):
        assert successor.does("take_over") == "done"
        assert path.read_text() == f"{successor.pid}\n"
        assert owner.does("release") == "done"
        assert path.read_text() == f"{successor.pid}\n"
        assert f"(pid {successor.pid})" in third.does("claim")
        assert successor.does("release") == "done"
        assert not path.exists()


def test_what_somebody_else_has_put_in_its_place_stays(path: Path) -> None:
    pid_file = PidFile(str(path))
    pid_file.claim()
    path.unlink()
    path.write_text("1\n")
    pid_file.release()
    assert path.read_text() == "1\n"


@pytest.mark.parametrize("left_behind", [False, True])
def test_of_many_that_start_at_once_one_gets_it(path: Path, left_behind: bool) -> None:
    if left_behind:
        path.write_text("1\n")
    with others(path, 8) as racers:
        for racer in racers:
            assert racer.does("release") == "done"  # it runs
        for racer in racers:
            racer.tell("claim")
        answers = [racer.answer() for racer in racers]
        assert sorted(answer == "done" for answer in answers) == [False] * 7 + [True]
        winner = racers[answers.index("done")]
        assert path.read_text() == f"{winner.pid}\n"
        assert all("that is running" in answer for answer in answers if answer != "done")
        assert winner.does("release") == "done"
    assert list(path.parent.iterdir()) == []
