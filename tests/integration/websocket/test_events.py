"""connect, accept, receive, send, close and disconnect (ASGI www specification 2.5), as the application sees them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integration.support import MIB, Server, fresh_key, serve
from tests.integration.websocket.apps.scenarios import ACCEPT, START, WRONG
from tests.integration.websocket.peer import (
    APPS,
    BINARY,
    CLOSE,
    CONTINUATION,
    TEXT,
    Frame,
    Peer,
    close_payload,
    connect,
    frame,
    handshake_bytes,
)

APP = f"{APPS}.scenarios:app"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve(APP, "--no-access-log", "--ws-max-size", str(MIB)) as running:
        yield running


@pytest.fixture
def peer(server: Server) -> Iterator[Peer]:
    with connect(server) as connection:
        yield connection


# -- messages


def test_messages_arrive_as_text_or_bytes(server: Server, peer: Peer) -> None:
    key = fresh_key()
    peer.open(f"/messages?{key}")
    peer.send_text("käse")
    peer.send_bytes(b"\x00\xff")
    peer.send(frame(TEXT, b"in ", fin=False) + frame(CONTINUATION, b"", fin=False) + frame(CONTINUATION, b"pieces"))
    peer.send_text("")
    peer.send_bytes(b"")
    peer.finish(1000)
    seen = server.read_note(key)
    assert seen[0] == {"type": "websocket.connect"}
    received = [
        {name: value for name, value in message.items() if value is not None and name != "type"}
        for message in seen[1:6]
    ]
    assert received == [{"text": "käse"}, {"bytes": b"\x00\xff"}, {"text": "in pieces"}, {"text": ""}, {"bytes": b""}]
    assert {message["type"] for message in seen[1:6]} == {"websocket.receive"}
    assert [(message["type"], message["code"]) for message in seen[6:]] == [("websocket.disconnect", 1000)]


def test_behind_the_end_there_is_always_the_end(server: Server, peer: Peer) -> None:
    """receive() must not hang: nothing would ever wake it."""
    key = fresh_key()
    peer.open(f"/messages?{key}").finish(4000)
    behind = server.read_note(f"{key}-behind")
    assert [(message["type"], message["code"]) for message in behind] == [("websocket.disconnect", 4000)] * 2


def test_what_is_sent_arrives_in_the_same_kind(peer: Peer) -> None:
    peer.open("/echo")
    for message in ("hi", b"hi", "", b"", "käse 🧀", bytes(range(256))):
        peer.send_text(message) if isinstance(message, str) else peer.send_bytes(message)
        assert peer.read_message() == message
    peer.finish()


def test_nones_are_as_good_as_nothing(peer: Peer) -> None:
    peer.open("/accept_with_nones")
    assert [peer.read_message(), peer.read_message()] == ["text", b"bytes"]
    peer.expect_closed_by_server(1000)


def test_empty_messages_are_messages(peer: Peer) -> None:
    peer.open("/empty_messages")
    assert [peer.read_frame(), peer.read_frame()] == [Frame(TEXT, b""), Frame(BINARY, b"")]
    peer.finish()


@pytest.mark.parametrize("sizes", [(0, 1, 125, 126, 127), (65535, 65536, 65537), (MIB, 4 * MIB + 1)])
def test_messages_of_every_length_arrive_whole(peer: Peer, sizes: tuple[int, ...]) -> None:
    peer.open(f"/sizes?{fresh_key()}&{','.join(map(str, sizes))}")
    for size in sizes:
        assert peer.read_message() == b"x" * size
    peer.finish()


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 65537, MIB - 1, MIB])
def test_messages_of_every_length_are_received_whole(peer: Peer, size: int) -> None:
    peer.open("/echo")
    data = (bytes(range(251)) * (size // 251 + 1))[:size]
    peer.send_bytes(data)
    assert peer.read_message() == data
    peer.finish()


def test_connect_comes_first_even_when_nobody_waited_for_it(peer: Peer) -> None:
    peer.open("/accept_unasked")
    assert peer.read_value() == "websocket.connect"
    peer.send_text("hi")
    message = peer.read_value()
    assert (message["type"], message["text"]) == ("websocket.receive", "hi")
    peer.expect_closed_by_server(1000)


@pytest.mark.parametrize("path", ["/timeouts", "/scopes"])
def test_receiving_with_timeouts_loses_nothing(peer: Peer, path: str) -> None:
    peer.open(path)
    for number in range(200):
        peer.send_text(str(number))
        if number % 10 == 0:
            time.sleep(0.003)  # the receive() at hand is given up meanwhile
    for number in range(200):
        assert peer.read_message() == str(number)
    peer.finish()


def test_a_cancelled_receive_leaves_the_next_message_to_the_next(peer: Peer) -> None:
    peer.open("/group")
    time.sleep(0.2)
    peer.send_text("for the second")
    assert peer.read_value() == "for the second"
    peer.expect_closed_by_server(1000)


def test_each_application_stays_in_its_context_and_task(server: Server) -> None:
    keys = [fresh_key() for _ in range(10)]
    peers = [connect(server).open(f"/context?{key}") for key in keys]
    for turn in range(3):
        for peer in peers:
            peer.send_text(str(turn))
        for peer, key in zip(peers, keys, strict=True):
            assert peer.read_value() == [key, True, str(turn)]
    for peer in peers:
        peer.finish()
        peer.close()


def test_asyncio_s_debug_mode_finds_nothing_to_complain_about() -> None:
    with serve(APP, "--loop", "asyncio", env={"PYTHONASYNCIODEBUG": "1"}) as server, connect(server) as peer:
        peer.open("/timeouts")
        for number in range(50):
            peer.send_text(str(number))
            assert peer.read_message() == str(number)
        peer.finish()


def test_one_task_may_read_and_another_write(peer: Peer) -> None:
    peer.open("/two_tasks")
    for number in range(100):
        peer.send_text(str(number))
    for number in range(100):
        assert peer.read_message() == str(number)
    peer.finish()


def test_many_tasks_may_send_at_once(peer: Peer) -> None:
    peer.open("/many_writers")
    counts = [0] * 20
    for _ in range(20 * 50):
        message = peer.read_message()
        assert isinstance(message, str)
        number, count, filling = message.split(":")
        assert int(count) == counts[int(number)], "the messages of one task came out of order"
        assert len(filling) == int(number) * 500
        counts[int(number)] += 1
    peer.expect_closed_by_server(1000)


# -- the end, as the application hears of it


@pytest.mark.parametrize(
    ("code", "reason"),
    [(1000, ""), (1000, "done"), (1001, "going"), (1003, ""), (1011, "ö" * 61), (3000, ""), (4999, "mine")],
)
def test_the_peers_code_and_reason_reach_the_application(server: Server, code: int, reason: str) -> None:
    key = fresh_key()
    with connect(server) as peer:
        peer.open(f"/send_when_gone?{key}")
        peer.send_close(code, reason)
        peer.expect_close(code, None)
        peer.expect_end()
    message, failed, closed = server.read_note(key)
    assert (message["type"], message["code"], message.get("reason") or "") == ("websocket.disconnect", code, reason)
    assert failed is not None and failed["oserror"], failed
    assert closed is None or closed["oserror"], closed


def test_a_close_without_a_code_is_1005(server: Server, peer: Peer) -> None:
    key = fresh_key()
    peer.open(f"/messages?{key}")
    peer.send_close(None)
    peer.expect_close(None)
    peer.expect_end()
    assert server.read_note(key)[-1]["code"] == 1005


@pytest.mark.parametrize("how", ["close", "reset", "half_close"])
def test_a_peer_that_vanishes_is_1006(server: Server, how: str) -> None:
    key = fresh_key()
    with connect(server) as peer:
        peer.open(f"/messages?{key}")
        peer.send_text("last words")
        peer.send(frame(TEXT, b"cut off")[:5])
        getattr(peer, how)()
        seen = server.read_note(key)
        if how == "half_close":
            peer.expect_end(reset_allowed=True)
    received = [message for message in seen if message["type"] == "websocket.receive"]
    if how != "reset":  # what was still on its way may be lost with a reset
        assert [message["text"] for message in received] == ["last words"]
    assert (seen[-1]["type"], seen[-1]["code"]) == ("websocket.disconnect", 1006)


@pytest.mark.parametrize("how", ["close", "reset", "in order"])
def test_an_application_that_only_sends_hears_of_the_end_too(server: Server, how: str) -> None:
    key = fresh_key()
    with connect(server) as peer:
        peer.open(f"/send_until_gone?{key}")
        assert peer.read_message() == "tick"
        if how == "in order":
            peer.send_close(1000)
            while peer.read_frame().opcode != CLOSE:
                pass
        else:
            getattr(peer, how)()
        failed = server.read_note(key)
    assert failed["oserror"], failed


def test_an_oserror_of_send_is_no_error_of_the_application(server: Server, peer: Peer) -> None:
    key = fresh_key()
    peer.open(f"/ignore_gone?{key}").finish()
    assert server.read_note(key) == "leaving"
    assert server.request("/hello").status == 200
    assert "too late" not in server.output.text()  # a traceback would show the line


# -- the end, as the application brings it about


@pytest.mark.parametrize(
    ("argument", "code", "reason"),
    [("", 1000, ""), ("1001", 1001, ""), ("4000%20bye", 4000, "bye"), ("3999%20" + "%C3%B6" * 61, 3999, "ö" * 61)],
)
def test_the_applications_code_and_reason_reach_the_peer(server: Server, argument: str, code: int, reason: str) -> None:
    key = fresh_key()
    with connect(server) as peer:
        peer.open(f"/close_with?{key}&{argument}")
        peer.expect_closed_by_server(code, reason)
    message = server.read_note(key)
    assert (message["type"], message["code"]) == ("websocket.disconnect", code)


def test_a_reason_that_is_too_long_is_cut_between_characters(server: Server, peer: Peer) -> None:
    peer.open(f"/close_with?{fresh_key()}&1000%20{'%C3%B6' * 100}")
    peer.expect_closed_by_server(1000, "ö" * 61)


def test_sending_behind_ones_own_close_raises(server: Server, peer: Peer) -> None:
    key = fresh_key()
    peer.open(f"/send_after_close?{key}")
    peer.expect_closed_by_server(1000)
    assert server.read_note(key) is not None


def test_returning_closes_with_1000(peer: Peer) -> None:
    peer.open("/return_open")
    assert peer.read_message() == "last words"
    peer.expect_closed_by_server(1000)


def test_what_outlives_the_application_cannot_send(server: Server, peer: Peer) -> None:
    key = fresh_key()
    peer.open(f"/leave_a_task?{key}")
    while (got := peer.read_frame()).opcode == TEXT:
        pass
    assert got == Frame(CLOSE, close_payload(1000))
    peer.send_close(1000)
    peer.expect_end()
    assert server.read_note(key) is not None


def test_raising_closes_with_1011(server: Server, peer: Peer) -> None:
    peer.open("/raise_open")
    assert peer.read_message() == "last words"
    peer.expect_closed_by_server(1011, None)
    server.expect_error("failed after accepting")


def test_not_even_an_exit_ends_more_than_its_websocket(server: Server, peer: Peer) -> None:
    with connect(server) as other:
        other.open("/echo")
        peer.open("/exit_open")
        peer.send_text("go")
        peer.expect_closed_by_server(1011, None)
        server.expect_error("failed by leaving")
        other.send_text("still here")
        assert other.read_message() == "still here"


def test_raising_behind_ones_own_close_leaves_that_standing(server: Server, peer: Peer) -> None:
    peer.open("/raise_closed")
    peer.expect_closed_by_server(4001, "mine")
    server.expect_error("failed after closing")


# -- mistakes


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_raises_and_does_no_harm(server: Server, peer: Peer, mistake: str) -> None:
    """It says what is wrong, nothing of it is on the wire, and who then does right is served."""
    key = fresh_key()
    before, _ = WRONG[mistake]
    peer.send(handshake_bytes(f"/wrong?{key}&{mistake.replace(' ', '%20')}"))
    failed = server.read_note(key)
    assert failed is not None, "nothing was raised"
    assert failed["name"] in ("RuntimeError", "TypeError", "ValueError", "KeyError", "UnicodeEncodeError"), failed
    assert len(failed["text"]) > 10, f"says too little: {failed}"
    if START in before:
        response = peer.read_response()
        assert (response.status, response.body) == (403, b"denied")
        assert response.all(b"y") == []
        return
    peer.accepted()
    assert peer.handshake.all(b"x") == peer.handshake.all(b"y") == []
    assert peer.read_message() == "still here"
    peer.expect_closed_by_server(1000)


def test_mistakes_are_of_both_kinds() -> None:
    """The table above would be worth little if it only held one."""
    firsts = [before for before, _ in WRONG.values()]
    assert [] in firsts and [ACCEPT] in firsts and [START] in firsts


# -- many


def test_a_hundred_at_once_are_independent(server: Server) -> None:
    peers = [connect(server).open("/echo") for _ in range(100)]
    try:
        for turn in range(5):
            for number, peer in enumerate(peers):
                peer.send_text(f"{turn} {number}")
            for number, peer in enumerate(peers):
                assert peer.read_message() == f"{turn} {number}"
        for peer in peers:
            peer.finish()
    finally:
        for peer in peers:
            peer.close()


def test_clients_in_threads_do_not_disturb_each_other(server: Server) -> None:
    def talk(number: int) -> int:
        with connect(server) as peer:
            peer.open("/echo")
            for turn in range(50):
                data = bytes([number]) * (turn * 37)
                peer.send_bytes(data)
                assert peer.read_message() == data
            peer.finish()
        return number

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(talk, range(32))) == list(range(32))
