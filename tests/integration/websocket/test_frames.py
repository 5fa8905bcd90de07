"""The base framing (RFC 6455 sections 5 to 8): what a server must take, in any pieces, and what it must fail, and how."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.integration.support import Server, fresh_key, serve
from tests.integration.websocket.peer import (
    APPS,
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    Peer,
    close_payload,
    connect,
    frame,
    handshake_bytes,
)

APP = f"{APPS}.scenarios:app"
MAX_SIZE = 100_000


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve(APP, "--no-access-log", "--ws-max-size", str(MAX_SIZE)) as running:
        yield running


@pytest.fixture
def peer(server: Server) -> Iterator[Peer]:
    with connect(server) as connection:
        yield connection


# -- pieces

CONVERSATION = (
    frame(TEXT, b"one")
    + frame(BINARY, b"x" * 200)
    + frame(TEXT, "kä".encode()[:2], fin=False)
    + frame(PING, b"between")
    + frame(CONTINUATION, "kä".encode()[2:])
    + frame(TEXT, b"y" * 70_000)
)


def expect_conversation(peer: Peer) -> None:
    """All of it comes back; a pong may overtake what the application has yet to say."""
    frames = [peer.read_frame() for _ in range(5)]
    pong = Frame(PONG, b"between")
    assert pong in frames
    frames.remove(pong)
    assert frames == [
        Frame(TEXT, b"one"),
        Frame(BINARY, b"x" * 200),
        Frame(TEXT, "kä".encode()),
        Frame(TEXT, b"y" * 70_000),
    ]
    peer.finish()


def test_a_conversation_in_one_piece(peer: Peer) -> None:
    peer.open("/echo").send(CONVERSATION)
    expect_conversation(peer)


def test_a_conversation_byte_by_byte(peer: Peer) -> None:
    peer.open("/echo")
    for byte in CONVERSATION[:400]:
        peer.send(bytes([byte]))
    peer.send(CONVERSATION[400:-15])
    for byte in CONVERSATION[-15:]:
        peer.send(bytes([byte]))
    expect_conversation(peer)


@pytest.mark.parametrize("seed", range(20))
def test_a_conversation_in_random_pieces(peer: Peer, seed: int) -> None:
    dice = random.Random(seed)
    peer.open("/echo")
    at = 0
    while at < len(CONVERSATION):
        size = dice.choice((1, 2, 3, 7, 50, 1000, 30_000))
        peer.send(CONVERSATION[at : at + size])
        at += size
    expect_conversation(peer)


def test_a_message_in_a_thousand_frames(peer: Peer) -> None:
    peer.open("/echo")
    pieces = [frame(TEXT, b"0", fin=False)]
    pieces += [frame(CONTINUATION, b"%d" % (number % 10), fin=False) for number in range(1, 1000)]
    peer.send(b"".join(pieces) + frame(CONTINUATION))
    assert peer.read_message() == "0123456789" * 100
    peer.finish()


# -- control frames


@pytest.mark.parametrize("payload", [b"", b"hi", bytes(range(125))])
def test_a_ping_is_answered_with_its_payload(peer: Peer, payload: bytes) -> None:
    peer.open("/echo")
    peer.send_frame(PING, payload)
    assert peer.read_frame() == Frame(PONG, payload)
    peer.finish()


def test_a_ping_is_answered_while_the_application_does_something_else(server: Server, peer: Peer) -> None:
    key = fresh_key()
    peer.open(f"/deaf?{key}")
    assert server.read_note(key) == "deaf"
    peer.send_frame(PING, b"there?")
    assert peer.read_frame() == Frame(PONG, b"there?")
    server.post_note(f"{key}-go")
    peer.finish()


def test_an_unasked_pong_is_ignored(peer: Peer) -> None:
    peer.open("/echo")
    peer.send_frame(PONG, b"for nothing")
    peer.send_text("hi")
    assert peer.read_message() == "hi"
    peer.finish()


def test_pings_and_pongs_reach_no_application(server: Server, peer: Peer) -> None:
    key = fresh_key()
    peer.open(f"/messages?{key}")
    peer.send(frame(PING, b"a") + frame(PONG, b"b"))
    assert peer.read_frame() == Frame(PONG, b"a")
    peer.finish()
    kinds = [message["type"] for message in server.read_note(key)]
    assert kinds == ["websocket.connect", "websocket.disconnect"]


# -- violations: what is sent, and the code of the server's close

VIOLATIONS: dict[str, tuple[bytes, int]] = {
    "unmasked": (frame(TEXT, b"hi", mask=None), 1002),
    "unmasked ping": (frame(PING, b"hi", mask=None), 1002),
    "rsv1": (frame(TEXT, b"hi", rsv=4), 1002),
    "rsv2": (frame(TEXT, b"hi", rsv=2), 1002),
    "rsv3": (frame(TEXT, b"hi", rsv=1), 1002),
    "rsv1 on a ping": (frame(PING, b"hi", rsv=4), 1002),
    "opcode 3": (frame(3, b"hi"), 1002),
    "opcode 7": (frame(7, b"hi"), 1002),
    "opcode 11": (frame(0xB, b"hi"), 1002),
    "opcode 15": (frame(0xF, b"hi"), 1002),
    "continuation of nothing": (frame(CONTINUATION, b"hi"), 1002),
    "a message inside another": (frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), 1002),
    "a ping in pieces": (frame(PING, b"a", fin=False) + frame(CONTINUATION, b"b"), 1002),
    "a long ping": (frame(PING, b"x" * 126), 1002),
    "a long close": (frame(CLOSE, close_payload(1000, "x" * 124)), 1002),
    "a length of 16 bits that needs 7": (frame(TEXT, b"hi", width=16), 1002),
    "a length of 64 bits that needs 16": (frame(TEXT, b"x" * 200, width=64), 1002),
    "a length with its highest bit": (frame(TEXT, b"", width=64, length=1 << 63), 1002),
    "a close of one byte": (frame(CLOSE, b"\x03"), 1002),
    "close code 0": (frame(CLOSE, close_payload(0)), 1002),
    "close code 999": (frame(CLOSE, close_payload(999)), 1002),
    "close code 1004": (frame(CLOSE, close_payload(1004)), 1002),
    "close code 1005": (frame(CLOSE, close_payload(1005)), 1002),
    "close code 1006": (frame(CLOSE, close_payload(1006)), 1002),
    "close code 1015": (frame(CLOSE, close_payload(1015)), 1002),
    "close code 2999": (frame(CLOSE, close_payload(2999)), 1002),
    "close code 5000": (frame(CLOSE, close_payload(5000)), 1002),
    "close code 65535": (frame(CLOSE, close_payload(65535)), 1002),
    "close reason is no UTF-8": (frame(CLOSE, close_payload(1000) + b"\xff"), 1007),
    "text is no UTF-8": (frame(TEXT, b"a\xff"), 1007),
    "text is an encoded surrogate": (frame(TEXT, b"\xed\xa0\x80"), 1007),
    "text ends inside a character": (frame(TEXT, "ä".encode()[:1]), 1007),
    "text is no UTF-8, in pieces": (frame(TEXT, b"\xc3", fin=False) + frame(CONTINUATION, b"("), 1007),
    "too large": (frame(BINARY, b"x" * (MAX_SIZE + 1)), 1009),
    "too large in pieces": (
        frame(BINARY, b"x" * MAX_SIZE, fin=False) + frame(CONTINUATION, b"x"),
        1009,
    ),
    "a length of an exabyte": (frame(BINARY, b"", width=64, length=1 << 60), 1009),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_violation_fails_the_connection(server: Server, peer: Peer, name: str) -> None:
    data, code = VIOLATIONS[name]
    key = fresh_key()
    peer.open(f"/messages?{key}")
    peer.send_text("before")
    peer.feed([data])
    peer.expect_close(code, None)
    peer.feed([frame(CLOSE, close_payload(code))])
    # What we sent and it did not read may make an end a reset; the close frame was there before.
    peer.expect_end(reset_allowed=True)
    seen = server.read_note(key)
    received = [message for message in seen if message["type"] == "websocket.receive"]
    assert [message["text"] for message in received] == ["before"]
    # RFC 6455 section 7.1.5 would make it 1006, uvicorn gives the code that failed the connection.
    assert seen[-1]["type"] == "websocket.disconnect"
    assert seen[-1]["code"] in (code, 1006)


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_violation_byte_by_byte_is_the_same(peer: Peer, name: str) -> None:
    data, code = VIOLATIONS[name]
    peer.open("/echo")
    peer.feed([data[at : at + 1] for at in range(min(len(data), 300))] + [data[300:]])
    peer.expect_close(code, None)


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_violation_with_the_handshake_is_the_same(peer: Peer, name: str) -> None:
    data, code = VIOLATIONS[name]
    peer.feed([handshake_bytes("/echo") + data])
    peer.accepted()
    peer.expect_close(code, None)


def test_what_follows_a_violation_is_ignored(server: Server, peer: Peer) -> None:
    key = fresh_key()
    peer.open(f"/messages?{key}")
    peer.feed([frame(3, b"bad") + frame(TEXT, b"after") * 1000])
    peer.expect_close(1002, None)
    assert [message["type"] for message in server.read_note(key)].count("websocket.receive") == 0


def test_too_large_is_refused_before_it_is_sent(peer: Peer) -> None:
    peer.open("/echo")
    peer.send(frame(BINARY, b"x", length=MAX_SIZE + 1, width=64))
    peer.expect_close(1009, None)


def test_who_is_refused_while_still_sending_gets_to_read_why(peer: Peer) -> None:
    """The rest was on its way. A reset for it would hide the close frame from most clients: they see their send() fail."""
    peer.open("/echo")
    peer.send(frame(BINARY, b"x", length=1 << 24, width=64))
    assert peer.readable(5)
    for _ in range(16):
        peer.send(b"x" * 65536)
    peer.expect_close(1009, None)
    peer.send_close(1009)
    peer.expect_end()


def test_a_message_of_exactly_the_limit_passes(peer: Peer) -> None:
    peer.open("/echo")
    peer.send_bytes(b"x" * MAX_SIZE)
    assert peer.read_message() == b"x" * MAX_SIZE
    half = b"x" * (MAX_SIZE // 2)
    peer.send(frame(BINARY, half, fin=False) + frame(PING, b"p") + frame(CONTINUATION, half))
    assert peer.read_frame() == Frame(PONG, b"p")
    assert peer.read_message() == b"x" * MAX_SIZE
    peer.finish()


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999])
def test_every_code_a_client_may_send_is_echoed(server: Server, code: int) -> None:
    with connect(server) as peer:
        peer.open("/echo").finish(code)


def test_data_behind_a_close_is_ignored(server: Server, peer: Peer) -> None:
    """RFC 6455 section 5.5.1: "The application MUST NOT send any more data frames after sending a Close frame.\""""
    key = fresh_key()
    peer.open(f"/messages?{key}")
    peer.feed([frame(CLOSE, close_payload(1000)) + frame(TEXT, b"after") + frame(PING, b"p")])
    peer.expect_close(1000)
    peer.expect_end(reset_allowed=True)
    assert [message["type"] for message in server.read_note(key)].count("websocket.receive") == 0


def random_frame(dice: random.Random) -> bytes:
    """Mostly right, now and then not."""
    payload = dice.randbytes(dice.choice((0, 1, 5, 125, 126, 300, 5000)))
    if dice.random() < 0.05:
        return dice.randbytes(dice.randrange(1, 20))
    opcode = dice.choice((TEXT, TEXT, BINARY, BINARY, CONTINUATION, PING, PONG, CLOSE, dice.randrange(16)))
    if opcode == TEXT and dice.random() < 0.9:
        payload = payload.hex().encode()
    if opcode >= CLOSE and dice.random() < 0.9:
        payload = close_payload(1000) if opcode == CLOSE else payload[:125]
    return frame(
        opcode,
        payload,
        fin=dice.random() < 0.8,
        rsv=dice.choice((0,) * 20 + (1, 2, 4)),
        mask=None if dice.random() < 0.02 else dice.randbytes(4),
    )


@pytest.mark.parametrize("extension", [(), ("Sec-WebSocket-Extensions: permessage-deflate",)], ids=["plain", "deflate"])
def test_whatever_comes_the_server_lives_and_keeps_to_the_protocol(server: Server, extension: tuple[str, ...]) -> None:
    """Whoever reads here checks every frame; the log, and what is left behind, are looked at in the end."""
    before = server.resources()
    for seed in range(300):
        dice = random.Random(seed)
        data = b"".join(random_frame(dice) for _ in range(dice.randrange(1, 30)))
        with connect(server) as peer:
            peer.open("/echo", headers=extension)
            at = 0
            while at < len(data):
                size = dice.choice((1, 2, 3, 10, 1000, 100_000))
                peer.feed([data[at : at + size]])
                at += size
            peer.half_close()
            # Nothing, an answer, or a close frame: but whole frames all of it, and then the end.
            try:
                while peer.read_frame().opcode != CLOSE:
                    pass
            except EOFError:
                pass
            else:
                peer.expect_end(reset_allowed=True)
    after = server.resources(settle=before)
    assert after["fds"] <= before["fds"]
    assert after["tasks"] <= before["tasks"]
