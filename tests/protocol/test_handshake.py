"""The opening handshake: which requests ask for it, what makes it good, and the answer to each mistake."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.http11 import Response
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from ladybug.protocol import errors
from ladybug.protocol.deflate import agree
from ladybug.protocol.errors import Refusal
from ladybug.protocol.fields import Field, RequestHead
from ladybug.protocol.handshake import Handshake, accept_token, read_handshake, wants_websocket
from ladybug.protocol.head import parse_head
from ladybug.protocol.limits import Limits

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="  # of RFC 6455 section 1.3
FIELDS: dict[bytes, list[bytes]] = {
    b"Host": [b"server.example.com"],
    b"Upgrade": [b"websocket"],
    b"Connection": [b"Upgrade"],
    b"Sec-WebSocket-Key": [KEY],
    b"Origin": [b"http://example.com"],
    b"Sec-WebSocket-Protocol": [b"chat, superchat"],
    b"Sec-WebSocket-Version": [b"13"],
}


def request(line: bytes = b"GET /chat HTTP/1.1", **changed: list[bytes]) -> RequestHead:
    """A handshake with some fields changed, names with "_" for "-", through the parser of all requests."""
    fields = dict(FIELDS)
    names = {name.lower().replace(b"-", b"_"): name for name in FIELDS}
    for key, values in changed.items():
        name = key.lower().encode()
        fields[names.get(name, key.replace("_", "-").encode())] = values
    lines = [name + b": " + value for name, values in fields.items() for value in values]
    head = RequestHead()
    assert parse_head(head, b"\r\n".join([line, *lines]) + b"\r\n\r\n", Limits()) is None
    return head


def good(head: RequestHead) -> Handshake:
    assert wants_websocket(head)
    handshake = read_handshake(head)
    assert isinstance(handshake, Handshake)
    return handshake


def refusal(head: RequestHead) -> Refusal:
    assert wants_websocket(head)
    refused = read_handshake(head)
    assert isinstance(refused, Refusal)
    return refused


def test_the_handshake_of_the_rfc() -> None:
    handshake = good(request())
    assert handshake.key == KEY
    assert handshake.subprotocols == ["chat", "superchat"]
    assert handshake.extensions == b""
    assert accept_token(handshake.key) == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([b"websocket"], True),
        ([b"WebSocket"], True),
        ([b"h2c, websocket"], True),
        ([b"h2c", b"WEBSOCKET ,"], True),
        ([b"foo/2,\twebsocket , bar"], True),
        ([], False),
        ([b""], False),
        ([b"h2c"], False),
        ([b"websocket/13"], False),
        ([b"websockets"], False),
        ([b"web socket"], False),
        ([b'"websocket"'], False),
    ],
)
def test_who_wants_a_websocket(fields: list[bytes], expected: bool) -> None:
    assert wants_websocket(request(Upgrade=fields)) is expected


def test_http_1_0_has_no_upgrade() -> None:
    assert not wants_websocket(request(b"GET /chat HTTP/1.0"))


@pytest.mark.parametrize(
    "connection",
    [[b"upgrade"], [b"UPGRADE"], [b"keep-alive, Upgrade"], [b"keep-alive", b"x,upgrade,"], [b"close, upgrade"]],
)
def test_connections_that_name_upgrade(connection: list[bytes]) -> None:
    good(request(Connection=connection))


@pytest.mark.parametrize("connection", [[], [b""], [b"keep-alive"], [b"upgrades"], [b"close"], [b"up grade"]])
def test_connections_that_do_not(connection: list[bytes]) -> None:
    assert refusal(request(Connection=connection)) is errors.BAD_HANDSHAKE_CONNECTION


@pytest.mark.parametrize("method", [b"POST", b"HEAD", b"OPTIONS", b"get"])
def test_the_method_is_get(method: bytes) -> None:
    head = request()
    head.method = method.decode()
    assert refusal(head) is errors.BAD_HANDSHAKE_METHOD


def test_there_is_no_content() -> None:
    assert refusal(request(Content_Length=[b"5"])) is errors.BAD_HANDSHAKE_CONTENT
    assert refusal(request(Transfer_Encoding=[b"chunked"])) is errors.BAD_HANDSHAKE_CONTENT


def test_no_content_may_be_declared() -> None:
    good(request(Content_Length=[b"0"]))


@pytest.mark.parametrize(
    "versions", [[], [b""], [b"8"], [b"12"], [b"14"], [b"013"], [b"13, 8"], [b"13", b"13"], [b"x"]]
)
def test_the_version_is_13(versions: list[bytes]) -> None:
    refused = refusal(request(Sec_WebSocket_Version=versions))
    assert refused is errors.UNSUPPORTED_WEBSOCKET_VERSION
    assert refused.status == 426
    assert dict(refused.fields) == {
        b"upgrade": b"websocket",
        b"connection": b"upgrade",
        b"sec-websocket-version": b"13",
    }


@pytest.mark.parametrize(
    "keys",
    [
        *(
            [],
            [b""],
            [KEY, KEY],
            [KEY + b", " + KEY],
            [KEY[:-1]],
            [KEY + b"="],
            [KEY[:-2]],
            [b"!" + KEY[1:]],
            [b"\xe9" + KEY[1:]],
        ),
        *(
            [base64.b64encode(bytes(15))],
            [base64.b64encode(bytes(17))],
            [base64.urlsafe_b64encode(b"\xff" * 16)],
            [b"a b" * 8],
        ),
    ],
)
def test_bad_keys(keys: list[bytes]) -> None:
    assert refusal(request(Sec_WebSocket_Key=keys)) is errors.BAD_WEBSOCKET_KEY


@settings(deadline=None)
@given(st.binary(min_size=16, max_size=16))
def test_every_key_of_16_bytes_is_good(nonce: bytes) -> None:
    key = base64.b64encode(nonce)
    assert good(request(Sec_WebSocket_Key=[key])).key == key


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([], []),
        ([b""], []),
        ([b"Chat"], ["Chat"]),
        ([b"a,b", b"c"], ["a", "b", "c"]),
        ([b" , a ,, b\t"], ["a", "b"]),
        ([b"v1.json~+x"], ["v1.json~+x"]),
    ],
)
def test_subprotocols(fields: list[bytes], expected: list[str]) -> None:
    assert good(request(Sec_WebSocket_Protocol=fields)).subprotocols == expected


@pytest.mark.parametrize("field", [b"a b", b"a/b", b'"a"', b"a;b", b"\xe9", b"a, b c", b"(a)"])
def test_bad_subprotocols(field: bytes) -> None:
    assert refusal(request(Sec_WebSocket_Protocol=[field])) is errors.BAD_WEBSOCKET_PROTOCOL


def test_extensions_are_joined() -> None:
    handshake = good(request(Sec_WebSocket_Extensions=[b"a; b=c", b"permessage-deflate"]))
    assert handshake.extensions == b"a; b=c, permessage-deflate"
    assert agree(handshake.extensions) is not None


@pytest.mark.parametrize("field", [b"a;", b"a b", b'a;b="c d"', b"permessage-deflate; server_max_window_bits="])
def test_bad_extensions(field: bytes) -> None:
    assert refusal(request(Sec_WebSocket_Extensions=[b"fine", field])) is errors.BAD_WEBSOCKET_EXTENSIONS


def test_every_refusal_has_its_reason() -> None:
    refusals = [refused for refused in vars(errors).values() if isinstance(refused, Refusal)]
    handshakes = [refused for refused in refusals if "WebSocket" in refused.reason or "upgrade" in refused.reason]
    assert len({refused.reason for refused in refusals}) == len(refusals)
    assert [refused.status for refused in handshakes].count(426) == 1
    assert {refused.status for refused in handshakes} == {400, 426}
    assert all(refused.fields == () for refused in refusals if refused.status != 426)


@pytest.mark.parametrize("subprotocols", [None, [Subprotocol("chat"), Subprotocol("other")]])
def test_another_client_is_answered(subprotocols: list[Subprotocol] | None) -> None:
    client = ClientProtocol(
        parse_uri("ws://localhost/path?x"), subprotocols=subprotocols, extensions=[ClientPerMessageDeflateFactory()]
    )
    asked = client.connect()
    client.send_request(asked)
    head = RequestHead()
    assert parse_head(head, b"".join(client.data_to_send()), Limits()) is None
    handshake = good(head)
    assert handshake.subprotocols == (subprotocols or [])
    agreement = agree(handshake.extensions)
    assert agreement is not None
    fields = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Accept": accept_token(handshake.key).decode(),
        "Sec-WebSocket-Extensions": agreement.field.decode(),
    }
    client.process_response(Response(101, "Switching Protocols", Headers(fields)))
    assert len(client.extensions) == 1


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([name.lower() for name in FIELDS] + [b"sec-websocket-extensions"]), st.binary(max_size=30)
        )
    )
)
def test_nothing_raises(fields: list[Field]) -> None:
    head = RequestHead()
    head.method, head.http11, head.upgrade = "GET", True, True
    head.headers = fields
    wants_websocket(head)
    read_handshake(head)
