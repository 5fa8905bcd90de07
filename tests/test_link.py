"""The two pipes between a worker and its master."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import threading
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladybug.config import Config
from ladybug.link import (
    MAX_TEXT,
    BadLink,
    Kind,
    MasterLink,
    Message,
    WorkerLink,
    has_ended,
    longest_stop,
    signal_at_end,
    title,
)
from tests.pair import DEADLINE


class Ends(NamedTuple):
    worker: WorkerLink
    write_fd: int
    master: MasterLink


@pytest.fixture
def ends() -> Iterator[Ends]:
    read_fd, write_fd = os.pipe()
    ends = Ends(WorkerLink(write_fd), write_fd, MasterLink(read_fd))
    yield ends
    ends.master.close()


def test_messages_arrive_in_order_with_their_texts(ends: Ends) -> None:
    ends.worker.send(Kind.READY)
    ends.worker.send(Kind.RETIRING, "is old — “very” old")
    assert ends.master.receive() == [Message(Kind.READY, ""), Message(Kind.RETIRING, "is old — “very” old")]
    assert not ends.master.at_end


def test_the_end_of_the_link_is_seen_and_may_be_asked_for_again(ends: Ends) -> None:
    ends.worker.send(Kind.READY)
    ends.worker.close()
    assert [ends.master.receive(), ends.master.receive()] == [[Message(Kind.READY, "")], []]
    assert ends.master.at_end


@given(
    st.sampled_from([[], [Kind.READY], [Kind.FAILED], [Kind.READY, Kind.RETIRING, Kind.CLOSED]]),
    st.text(max_size=40),
    st.data(),
)
def test_a_message_is_given_out_when_its_last_byte_is_there(kinds: list[Kind], text: str, data: st.DataObject) -> None:
    said = [(kind, text) for kind in kinds]
    whole_read, whole_write = os.pipe()
    worker = WorkerLink(whole_write)
    for kind, text in said:
        worker.send(kind, text)
    worker.close()
    stream = b""
    while part := os.read(whole_read, 65536):
        stream += part
    os.close(whole_read)

    read_fd, write_fd = os.pipe()
    master = MasterLink(read_fd)
    heard = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        os.write(write_fd, stream[:size])
        stream = stream[size:]
        heard += master.receive()
    os.close(write_fd)
    master.close()
    assert heard == [Message(kind, text) for kind, text in said]


def test_of_a_long_text_the_end_is_kept(ends: Ends) -> None:
    ends.worker.send(Kind.FAILED, "x" * 100_000 + "ValueError: the cause")
    (message,) = ends.master.receive()
    assert len(message.text) == MAX_TEXT
    assert message.text.endswith("xValueError: the cause")


def test_a_text_that_is_no_utf8_arrives_all_the_same(ends: Ends) -> None:
    ends.worker.send(Kind.FAILED, "bad \udcff name")
    assert ends.master.receive() == [Message(Kind.FAILED, "bad ? name")]


@pytest.mark.parametrize(
    "said",
    [
        b"\x00\x00\x00\x00\x00",
        b"\x09\x00\x00\x00\x00",
        struct.pack("=BI", Kind.FAILED, 4 * MAX_TEXT + 1),
        struct.pack("=BI", Kind.RETIRING, 0),
        struct.pack("=BI", Kind.READY, 0) * 2,
        struct.pack("=BI", Kind.FAILED, 0) + struct.pack("=BI", Kind.READY, 0),
        struct.pack("=BI", Kind.READY, 0) + struct.pack("=BI", Kind.FAILED, 0),
        struct.pack("=BI", Kind.READY, 0) + struct.pack("=BI", Kind.RETIRING, 0) * 2,
        struct.pack("=BI", Kind.CLOSED, 0),
        struct.pack("=BI", Kind.READY, 0) + struct.pack("=BI", Kind.CLOSED, 0) * 2,
    ],
)
def test_nonsense_is_the_end_of_a_link(ends: Ends, said: bytes) -> None:
    os.write(ends.write_fd, said)
    with pytest.raises(BadLink, match=r"^it has sent a message that it may not send \(kind \d, \d+ bytes\)$"):
        ends.master.receive()
    assert ends.master.at_end
    os.write(ends.write_fd, said)
    assert ends.master.receive() == []


def test_the_longest_text_is_no_nonsense(ends: Ends) -> None:
    thread = threading.Thread(target=ends.worker.send, args=(Kind.FAILED, "\N{LADY BEETLE}" * MAX_TEXT))
    thread.start()
    messages: list[Message] = []
    while not messages:
        assert select.select([ends.master.fd], [], [], DEADLINE)[0]
        messages = ends.master.receive()
    thread.join()
    assert messages == [Message(Kind.FAILED, "\N{LADY BEETLE}" * MAX_TEXT)]


@pytest.mark.skipif(not hasattr(fcntl, "F_SETPIPE_SZ"), reason="pipes cannot be made larger here")
def test_who_writes_without_end_does_not_keep_the_master(ends: Ends) -> None:
    fcntl.fcntl(ends.write_fd, fcntl.F_SETPIPE_SZ, 1 << 18)
    os.write(ends.write_fd, struct.pack("=BI", Kind.FAILED, 4 * MAX_TEXT) + bytes(100_000))
    assert ends.master.receive() == []
    assert select.select([ends.master.fd], [], [], 0)[0], "the rest waits for its turn"


def test_a_master_that_is_gone_is_no_error_for_the_worker() -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    worker = WorkerLink(write_fd)
    worker.send(Kind.READY)
    worker.close()


def test_the_lifeline_ends_with_a_signal() -> None:
    read_fd, write_fd = os.pipe()
    arrived = []
    before = signal.signal(signal.SIGIO, lambda number, frame: arrived.append(number))
    try:
        signal_at_end(read_fd)
        assert not has_ended(read_fd)
        assert arrived == []
        os.close(write_fd)
        assert has_ended(read_fd)
        assert arrived == [signal.SIGIO]
    finally:
        signal.signal(signal.SIGIO, before)
        os.close(read_fd)


def test_a_lifeline_that_has_ended_before_is_seen() -> None:
    read_fd, write_fd = os.pipe()
    os.close(write_fd)
    assert has_ended(read_fd)
    os.close(read_fd)


def test_no_end_of_the_pipes_is_inherited_by_programs() -> None:
    fds = os.pipe()
    assert [os.get_inheritable(fd) for fd in fds] == [False, False]
    for fd in fds:
        os.close(fd)


def test_poll_sees_a_message(ends: Ends) -> None:
    poll = select.poll()
    poll.register(ends.master.fd, select.POLLIN)
    assert poll.poll(0) == []
    ends.worker.send(Kind.READY)
    assert poll.poll(0) == [(ends.master.fd, select.POLLIN)]


def test_titles_name_role_application_and_what_is_done() -> None:
    async def app(scope: object, receive: object, send: object) -> None: ...

    assert title(Config("shop.main:app"), "master") == "ladybug: master [shop.main:app]"
    assert title(Config("app:app"), "worker 2", "draining") == "ladybug: worker 2 [app:app] draining"
    assert title(Config(app), "server") == "ladybug: server [function]"


def test_a_stop_may_take_the_graceful_timeout_and_lifespan_shutdown() -> None:
    assert longest_stop(Config("app:app", timeout_graceful_shutdown=5)) == 15.0
