"""Descriptors that pass from one process to another."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from ladybug import descriptors
from ladybug.descriptors import receive_descriptors

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    for end in ends:
        end.setblocking(False)
    yield ends
    for end in ends:
        end.close()


@pytest.mark.parametrize("flag", [descriptors._CLOSE_ON_EXEC, 0], ids=["as here", "without the flag"])
def test_a_message_arrives_with_its_descriptors_which_programs_do_not_inherit(
    pair: Pair, flag: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descriptors, "_CLOSE_ON_EXEC", flag)
    read_fd, write_fd = os.pipe()
    socket.send_fds(pair[0], [b"order"], [read_fd, write_fd])
    message, received = receive_descriptors(pair[1], 100, 5)
    assert message == b"order"
    assert not any(os.get_inheritable(fd) for fd in received)
    os.write(received[1], b"x")
    assert os.read(read_fd, 1) == b"x"
    for fd in (read_fd, write_fd, *received):
        os.close(fd)


def test_a_message_may_come_alone_or_not_at_all(pair: Pair) -> None:
    pair[0].send(b"order")
    assert receive_descriptors(pair[1], 100, 5) == (b"order", [])
    with pytest.raises(BlockingIOError):
        receive_descriptors(pair[1], 100, 5)
