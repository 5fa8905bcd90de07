"""What goes with a fork."""

from __future__ import annotations

import contextlib
import io
import os
import sys

import pytest

from ladybug.forking import flush, open_pipe


def test_a_pipe_is_closed_with_the_rest() -> None:
    with contextlib.ExitStack() as stack:
        read_fd, write_fd = open_pipe(stack)
        os.write(write_fd, b"x")
        assert os.read(read_fd, 1) == b"x"
    for fd in (read_fd, write_fd):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_streams_that_cannot_be_flushed_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    closed, buffered = io.StringIO(), io.TextIOWrapper(io.BytesIO())
    closed.close()
    buffered.write("said")
    monkeypatch.setattr(sys, "stdout", closed)
    monkeypatch.setattr(sys, "stderr", buffered)
    flush()
    assert buffered.buffer.getvalue() == b"said"
    monkeypatch.setattr(sys, "stdout", None)
    flush()
