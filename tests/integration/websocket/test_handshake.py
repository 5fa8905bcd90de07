"""The opening handshake (RFC 6455 section 4): whole, in pieces, with more behind it, wrong in every way, and none at all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.support import Client, Server, fresh_key, request_bytes, serve
from tests.integration.websocket.peer import APPS, KEY, TEXT, Frame, Peer, connect, frame, handshake_bytes

APP = f"{APPS}.scenarios:app"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve(APP, "--no-access-log") as running:
        yield running


@pytest.fixture
def peer(server: Server) -> Iterator[Peer]:
    with connect(server) as connection:
        yield connection


def began(server: Server) -> int:
    value: int = server.request("/began").value()
    return value


# -- what is right


def test_the_answer_is_the_one_of_the_rfc(peer: Peer) -> None:
    """RFC 6455 section 1.3 gives this key and what must be said to it."""
    peer.open("/echo")
    assert peer.handshake.get(b"sec-websocket-accept") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert peer.handshake.all(b"sec-websocket-protocol") == []
    assert peer.handshake.all(b"sec-websocket-extensions") == []
    peer.finish()


@pytest.mark.parametrize(
    "fields",
    [
        ("Upgrade: WebSocket", "Connection: upgrade"),
        ("Upgrade: WEBSOCKET", "Connection: keep-alive, Upgrade"),
        ("Upgrade: websocket", "Connection: keep-alive", "Connection: Upgrade"),
        ("upgrade:websocket", "connection:,Upgrade ,"),
    ],
    ids=["case", "firefox", "two lines", "no spaces"],
)
def test_other_ways_to_say_the_same(peer: Peer, fields: tuple[str, ...]) -> None:
    peer.open("/echo", upgrade=None, connection=None, headers=fields)
    peer.send_text("hi")
    assert peer.read_message() == "hi"
    peer.finish()


def test_a_subprotocol_is_chosen_by_the_application(server: Server) -> None:
    with connect(server) as peer:
        peer.open("/pick", headers=["Sec-WebSocket-Protocol: chat, superchat"])
        assert peer.handshake.all(b"sec-websocket-protocol") == [b"superchat"]
        peer.expect_closed_by_server(1000)
    with connect(server) as peer:
        peer.open("/echo", headers=["Sec-WebSocket-Protocol: chat, superchat"])
        assert peer.handshake.all(b"sec-websocket-protocol") == []
        peer.finish()


@pytest.mark.parametrize("given", ["list", "iterator"])
def test_the_applications_headers_are_in_the_answer(peer: Peer, given: str) -> None:
    peer.open(f"/accept_with_headers?{fresh_key()}&{given}")
    assert peer.handshake.all(b"x-one") == [b"1"]
    assert peer.handshake.all(b"set-cookie") == [b"a=1", b"b=2"]
    peer.expect_closed_by_server(1000)


def test_headers_of_the_command_line_are_in_the_answer() -> None:
    with serve(APP, "--header", "X-Mine: 1") as server, connect(server) as peer:
        peer.open("/echo")
        assert peer.handshake.all(b"x-mine") == [b"1"]
        peer.finish()


# -- pieces, and what comes with it


def test_a_handshake_byte_by_byte(peer: Peer) -> None:
    for byte in handshake_bytes("/echo"):
        peer.send(bytes([byte]))
    peer.accepted()
    peer.send_text("hi")
    assert peer.read_message() == "hi"
    peer.finish()


@pytest.mark.parametrize("cut", range(12))
def test_frames_sent_together_with_the_handshake_are_not_lost(peer: Peer, cut: int) -> None:
    """However much of them came in the same piece."""
    frames = frame(TEXT, b"one") + frame(TEXT, b"two")
    handshake = handshake_bytes("/echo")
    peer.send(handshake + frames[:cut])
    peer.accepted()
    peer.send(frames[cut:])
    assert [peer.read_message(), peer.read_message()] == ["one", "two"]
    peer.finish()


def test_many_frames_sent_together_with_the_handshake_are_not_lost(peer: Peer) -> None:
    count = 2000
    peer.send(handshake_bytes("/echo") + b"".join(frame(TEXT, b"%d" % number) for number in range(count)))
    peer.accepted()
    for number in range(count):
        assert peer.read_message() == str(number)
    peer.finish()


def test_frames_sent_before_the_application_accepts_wait_for_it(server: Server) -> None:
    """And keep their order, whatever the poller tells first: once is not enough to see that."""
    for _ in range(30):
        key = fresh_key()
        with connect(server) as peer:
            peer.send(handshake_bytes(f"/not_yet?{key}") + frame(TEXT, b"one"))
            assert server.read_note(key) == "called"
            peer.send(frame(TEXT, b"two"))
            server.post_note(f"{key}-go")
            peer.send(frame(TEXT, b"three"))
            peer.accepted()
            assert [peer.read_message() for _ in range(3)] == ["one", "two", "three"]
            peer.finish()


def test_nothing_is_answered_before_the_application_accepts(server: Server, peer: Peer) -> None:
    key = fresh_key()
    peer.send(handshake_bytes(f"/not_yet?{key}") + frame(TEXT, b"one"))
    assert server.read_note(key) == "called"
    assert not peer.readable(0.2)
    server.post_note(f"{key}-go")
    assert peer.accepted().read_message() == "one"
    peer.finish()


def test_a_handshake_may_follow_ordinary_requests_on_its_connection(peer: Peer) -> None:
    for _ in range(3):
        assert peer.request("/hello").body == b"hello"
    peer.open("/echo")
    peer.send_text("hi")
    assert peer.read_message() == "hi"
    peer.finish()


def test_a_handshake_pipelined_behind_a_request_waits_its_turn(peer: Peer) -> None:
    peer.send(request_bytes("/hello") + handshake_bytes("/echo") + frame(TEXT, b"hi"))
    assert peer.read_response().body == b"hello"
    assert peer.accepted().read_message() == "hi"
    peer.finish()


def test_a_request_pipelined_behind_the_handshake_is_no_frame(server: Server, peer: Peer) -> None:
    """What follows an accepted handshake is frames, and this is none: unmasked, for one."""
    key = fresh_key()
    peer.send(handshake_bytes(f"/messages?{key}") + request_bytes("/hello"))
    peer.accepted()
    peer.expect_close(1002, None)
    peer.send_close(1002)
    peer.expect_end(reset_allowed=True)
    seen = server.read_note(key)
    assert [message["type"] for message in seen[:2]] == ["websocket.connect", "websocket.disconnect"]


def test_the_application_hears_nothing_before_it_is_complete(server: Server) -> None:
    before = began(server)
    with connect(server) as peer:
        peer.send(handshake_bytes("/counted")[:-1])
        assert not peer.readable(0.2)
        assert began(server) == before
        peer.send(b"\n")
        peer.accepted().finish()
    assert began(server) == before + 1


# -- what is wrong


REFUSED = {
    "no key": {"key": None},
    "empty key": {"key": ""},
    "key too short": {"key": "c2hvcnQ="},
    "key too long": {"key": KEY[:-2] + "AAAAAA=="},
    "key not base64": {"key": "!" * 22 + "=="},
    "two keys": {"headers": [f"Sec-WebSocket-Key: {KEY}"]},
    "no host": {"host": None},
    "with a body": {"body": b"hello"},
    "chunked": {"headers": ["Transfer-Encoding: chunked"]},
}


@pytest.mark.parametrize("how", REFUSED.values(), ids=REFUSED)
def test_a_wrong_handshake_is_400_with_a_reason(server: Server, peer: Peer, how: dict[str, str | None]) -> None:
    before = began(server)
    peer.send(handshake_bytes("/counted", **how))  # type: ignore[arg-type]
    response = peer.read_response()
    assert response.status == 400
    assert response.body, "no reason given"
    assert response.closes
    peer.expect_end(reset_allowed=True)
    assert began(server) == before


@pytest.mark.parametrize("version", ["8", "0", "14", "130", "thirteen", ""])
def test_another_version_is_426_and_says_which_there_is(server: Server, peer: Peer, version: str) -> None:
    before = began(server)
    peer.send(handshake_bytes("/counted", ws_version=version))
    response = peer.read_response()
    # RFC 6455 section 4.4; RFC 9110 section 15.5.22: "The server MUST send an Upgrade header field in a 426 response"
    assert response.status == 426
    assert response.all(b"sec-websocket-version") == [b"13"]
    assert response.all(b"upgrade") == [b"websocket"]
    # Section 7.8: "A sender of Upgrade MUST also send an 'Upgrade' connection option"
    assert response.all(b"connection") == [b"upgrade", b"close"]
    assert response.body
    assert began(server) == before


def test_no_version_is_refused(server: Server, peer: Peer) -> None:
    before = began(server)
    peer.send(handshake_bytes("/counted", ws_version=None))
    assert peer.read_response().status in (400, 426)
    assert began(server) == before


@pytest.mark.parametrize("method", ["POST", "PUT", "OPTIONS"])
def test_another_method_opens_no_websocket(server: Server, peer: Peer, method: str) -> None:
    before = began(server)
    peer.send(handshake_bytes("/counted", method=method))
    # A server may ignore Upgrade (RFC 9110 section 7.8) or refuse what can be meant for nothing else.
    response = peer.read_response()
    assert (response.status, response.body) == (200, b"http") or response.status in (400, 405)
    assert began(server) == before


def test_http10_opens_no_websocket(server: Server, peer: Peer) -> None:
    """RFC 9110 section 7.8: "A server MUST ignore an Upgrade header field that is received in an HTTP/1.0 request"."""
    before = began(server)
    peer.send(handshake_bytes("/counted", version="1.0"))
    response = peer.read_response()
    assert (response.status, response.body) == (200, b"http") or response.status == 400
    assert began(server) == before


@pytest.mark.parametrize("connection", [None, "keep-alive", "Upgraded"])
def test_without_the_connection_option_there_is_no_upgrade(server: Server, peer: Peer, connection: str | None) -> None:
    before = began(server)
    peer.send(handshake_bytes("/counted", connection=connection))
    response = peer.read_response()
    assert (response.status, response.body) == (200, b"http") or response.status == 400
    assert began(server) == before


@pytest.mark.parametrize("upgrade", ["h2c", "websockets", "TLS/1.0", "web socket"])
def test_an_upgrade_to_something_else_is_an_ordinary_request(server: Server, peer: Peer, upgrade: str) -> None:
    before = began(server)
    peer.send(handshake_bytes("/counted", upgrade=upgrade))
    assert peer.read_response().body == b"http"
    # And the connection goes on speaking HTTP.
    assert peer.request("/hello").body == b"hello"
    assert began(server) == before


def test_an_upgrade_to_something_else_keeps_its_body(peer: Peer) -> None:
    peer.send(handshake_bytes("/counted", method="POST", upgrade="h2c", body=b"some content") + request_bytes("/hello"))
    assert [peer.read_response().body, peer.read_response().body] == [b"http", b"hello"]


# -- no handshake wanted


def test_with_ws_none_a_handshake_is_an_ordinary_request() -> None:
    with serve(APP, "--ws", "none") as server, connect(server) as peer:
        peer.send(handshake_bytes("/counted"))
        response = peer.read_response()
        assert (response.status, response.body) == (200, b"http")
        assert peer.request("/scope").value()["type"] == "http"
        assert peer.request("/began").value() == 0


# -- answers that are none


def test_close_instead_of_accept_is_403(server: Server, peer: Peer) -> None:
    key = fresh_key()
    peer.send(handshake_bytes(f"/refuse?{key}"))
    response = peer.read_response()
    assert response.status == 403
    assert response.all(b"upgrade") == []
    after, failed = server.read_note(key)
    assert (after["type"], after["code"]) == ("websocket.disconnect", 1006)
    assert failed is not None, "accepting what was refused raises nothing"


def test_returning_without_an_answer_is_500(server: Server, peer: Peer) -> None:
    peer.send(handshake_bytes("/return_early"))
    assert peer.read_response().status == 500
    server.output.wait_for(r"(?i)returned without")


def test_raising_without_an_answer_is_500(server: Server, peer: Peer) -> None:
    peer.send(handshake_bytes("/raise_early"))
    assert peer.read_response().status == 500
    server.expect_error("failed before accepting")


def test_a_denial_is_a_response_of_its_own(server: Server, peer: Peer) -> None:
    key = fresh_key()
    peer.send(handshake_bytes(f"/deny?{key}"))
    response = peer.read_response()
    assert (response.status, response.body) == (401, b"not you")
    assert (response.get(b"www-authenticate"), response.get(b"x-two")) == (b"Basic", b"2")
    assert response.all(b"upgrade") == []
    assert server.read_note(key)["type"] == "websocket.disconnect"


def test_a_denial_may_have_a_length(peer: Peer) -> None:
    peer.send(handshake_bytes("/deny_with_length"))
    response = peer.read_response()
    assert (response.status, response.body, response.get(b"content-length")) == (200, b"200", b"3")


@pytest.mark.parametrize("status", [204, 302, 404, 503])
def test_a_denial_may_be_empty(peer: Peer, status: int) -> None:
    peer.send(handshake_bytes(f"/deny_without_content?{fresh_key()}&{status}"))
    response = peer.read_response()
    assert (response.status, response.body) == (status, b"")


def test_a_denial_may_be_long(server: Server, peer: Peer) -> None:
    peer.send(handshake_bytes("/deny_at_length"))
    assert len(peer.read_response().body) == 32 << 20


def test_a_denial_that_never_ends_does_not_look_complete(server: Server, peer: Peer) -> None:
    peer.send(handshake_bytes("/deny_and_forget"))
    assert peer.read_head().status == 401
    assert not peer.read_to_end().endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("path", ["/refuse", "/deny", "/raise_early", "/return_early"])
def test_frames_behind_a_refused_handshake_are_no_requests(server: Server, path: str) -> None:
    """What follows a handshake the client believed in must never be read as HTTP."""
    with connect(server) as peer:
        smuggled = request_bytes("/counted")
        peer.send(handshake_bytes(f"{path}?{fresh_key()}") + frame(TEXT, smuggled, mask=b"\0\0\0\0") + smuggled)
        assert peer.read_response().status in (401, 403, 500)
        assert b"http" not in peer.read_to_end()[-4:]
    server.permit_error("failed before accepting")


def test_a_client_that_leaves_before_it_is_accepted(server: Server) -> None:
    key = fresh_key()
    with connect(server) as peer:
        peer.send(handshake_bytes(f"/not_yet?{key}"))
        assert server.read_note(key) == "called"
        peer.reset()
    server.post_note(f"{key}-go")
    # The next one is served as if nothing had been.
    with connect(server) as peer:
        peer.open("/echo").finish()


def test_a_masked_frame_of_zeros_is_a_frame(peer: Peer) -> None:
    """The mask may be anything, zeros too."""
    peer.open("/echo")
    peer.send_frame(TEXT, b"hi", mask=b"\0\0\0\0")
    assert peer.read_frame() == Frame(TEXT, b"hi")
    peer.finish()


def test_ordinary_clients_notice_nothing(server: Server) -> None:
    with Client(("127.0.0.1", server.port)) as client:
        for _ in range(3):
            assert client.request("/hello").body == b"hello"
