"""The outlet, on pipes and terminals whose reader is there, is slow, or has stalled."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import select
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import pytest

from ladybug import outlet
from ladybug.outlet import Outlet, has_room, open_unblocked

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="pipes can be opened once more")
LOST = "WARNING: Records of this log that were lost, because nobody read it: "


class Pipe:
    """A pipe, the text stream at its end, and an outlet to that."""

    def __init__(self, ends: tuple[int, int]) -> None:
        self.reader, self.writer = ends
        self.stream = os.fdopen(self.writer, "w", encoding="utf-8", errors="backslashreplace")
        self.outlet = Outlet(self.stream)
        self.outlet.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))

    def log(self, text: str) -> None:
        self.outlet.handle(logging.LogRecord("ladybug.error", logging.INFO, "", 0, "%s", (text,), None))

    def fill(self) -> None:
        """Not by O_NONBLOCK: whether the outlet leaves that alone is part of the tests."""
        while has_room(self.writer, 0):
            os.write(self.writer, b"." * select.PIPE_BUF)

    def read(self) -> str:
        """What is there, without what `fill` wrote."""
        data = b""
        while select.select([self.reader], [], [], 0)[0] and (piece := os.read(self.reader, 1 << 16)):
            data += piece
        return data.decode().lstrip(".")

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.reader)
        with contextlib.suppress(OSError):
            self.stream.close()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe(os.pipe())
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlet, "PATIENCE", 0.02)


def socket_pair() -> tuple[int, int]:
    """What systemd gives a service for its journal."""
    reader, writer = socket.socketpair()
    return reader.detach(), writer.detach()


@pytest.mark.parametrize("ends", [os.pipe, socket_pair])
def test_what_is_lost_is_counted_and_told_when_the_reader_comes_back(ends: Callable[[], tuple[int, int]]) -> None:
    with contextlib.closing(Pipe(ends())) as pipe:
        pipe.log("before")
        assert pipe.read() == "INFO: before\n"
        pipe.fill()
        for number in range(3):
            pipe.log(f"lost {number}")
        assert pipe.read() == ""
        pipe.log("after")
        pipe.log("and later")
        assert pipe.read() == f"{LOST}3\nINFO: after\nINFO: and later\n"


def test_only_the_first_that_is_lost_is_waited_for(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe.fill()
    pipe.log("lost")
    monkeypatch.setattr(outlet, "PATIENCE", 3600)
    pipe.log("lost at once")
    assert pipe.read() == ""
    pipe.log("after")
    assert pipe.read() == f"{LOST}2\nINFO: after\n"


def read_slowly(pipe: Pipe, until: str) -> Callable[[], str]:
    """Read in a thread, in small pieces; the function waits for its end and returns what was read."""
    found = bytearray()

    def read() -> None:
        while not found.endswith(until.encode()):
            found.extend(os.read(pipe.reader, 1000))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()

    def result() -> str:
        thread.join(30)
        return found.decode().lstrip(".")

    return result


def test_a_record_longer_than_any_pipe_comes_out_whole_when_somebody_reads(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outlet, "PATIENCE", 30)
    traceback = "\n".join(f"  File {number:x}, in ä" for number in range(20_000))
    pipe.fill()
    result = read_slowly(pipe, "\nINFO: end\n")
    pipe.log(traceback)
    pipe.log("end")
    assert result() == f"INFO: {traceback}\nINFO: end\n"


def test_a_record_that_was_begun_only_is_lost_and_the_next_line_is_one_of_its_own(pipe: Pipe) -> None:
    pipe.log("x" * (1 << 20))
    pipe.log("lost")
    torn = pipe.read()
    assert torn.startswith("INFO: xxx")
    assert not torn.endswith("\n")
    pipe.log("after")
    assert pipe.read() == f"\n{LOST}2\nINFO: after\n"


@needs_linux
def test_another_writer_that_is_quicker_is_not_waited_for(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """poll(2) has promised room, and there is none by the time of the write."""
    pipe.fill()
    answers = iter([True, True, False])
    monkeypatch.setattr(outlet, "has_room", lambda fd, seconds: next(answers))
    pipe.log("lost")
    assert pipe.read() == ""
    assert next(answers, None) is None


@needs_linux
def test_others_who_share_the_stream_go_on_blocking_and_nothing_stays_open(pipe: Pipe) -> None:
    files = sum(1 for _ in Path("/proc/self/fd").iterdir())
    pipe.fill()
    pipe.log("lost")
    assert os.get_blocking(pipe.writer)
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == files


def test_where_a_pipe_cannot_be_opened_once_more_poll_has_to_do(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlet, "open_unblocked", lambda fd: None)
    pipe.fill()
    pipe.log("lost")
    assert pipe.read() == ""
    pipe.log("x" * (1 << 20))
    assert pipe.read().startswith(f"{LOST}1\nINFO: xxx")


def test_what_the_program_has_printed_comes_first(pipe: Pipe) -> None:
    pipe.stream.write("printed, ")
    pipe.log("logged")
    assert pipe.read() == "printed, INFO: logged\n"


def test_a_process_that_was_forked_does_not_tell_of_what_another_has_lost(pipe: Pipe) -> None:
    pipe.fill()
    pipe.log("lost")
    assert pipe.read() == ""
    if (pid := os.fork()) == 0:
        pipe.log("the child's")
        os._exit(0)
    os.waitpid(pid, 0)
    pipe.log("the parent's")
    assert pipe.read() == f"INFO: the child's\n{LOST}1\nINFO: the parent's\n"


def test_a_reader_that_is_gone_is_an_error_as_with_any_handler(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[type[BaseException] | None] = []
    monkeypatch.setattr(pipe.outlet, "handleError", lambda record: errors.append(sys.exc_info()[0]))
    os.close(pipe.reader)
    pipe.log("unheard")
    assert errors == [BrokenPipeError]


def test_a_terminal_that_was_stopped_holds_nobody_up() -> None:
    with contextlib.closing(Pipe(os.openpty())) as terminal:
        terminal.log("shown")
        assert os.read(terminal.reader, 100) == b"INFO: shown\r\n"
        for _ in range(50):
            terminal.log("x" * 10_000)
        assert terminal.outlet._lost


class Tee(io.TextIOWrapper):
    """A stream of the program's own: it does more than write to its file."""

    seen = ""

    def write(self, text: str) -> int:
        self.seen += text
        return super().write(text)


def test_other_streams_are_written_to_as_ever(tmp_path: Path) -> None:
    def logged(stream: TextIO) -> None:
        handler = Outlet(stream)
        handler.handle(logging.LogRecord("ladybug.error", logging.INFO, "", 0, "hello", (), None))

    memory = io.StringIO()
    logged(memory)
    assert memory.getvalue() == "hello\n"
    with (tmp_path / "log").open("w") as file:
        file.write("printed, ")
        logged(file)
        assert (tmp_path / "log").read_text() == "printed, hello\n"
        assert open_unblocked(file.fileno()) is None, "its offset would be another"
    reader, writer = os.pipe()
    with os.fdopen(reader), Tee(os.fdopen(writer, "wb", buffering=0)) as tee:
        logged(tee)
        assert tee.seen == "hello\n"
