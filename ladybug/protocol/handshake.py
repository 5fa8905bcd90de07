"""The server's side of the opening handshake (RFC 6455 section 4.2): a request that would become a WebSocket.

Whether the application accepts it is not decided here; only whether it is a handshake, and a good one. Origin is the
application's to check (section 10.2), extensions are deflate.py's.
"""

import re
from base64 import b64encode
from importlib import import_module
from typing import Any, Final, final

from mypy_extensions import mypyc_attr

from ladybug.protocol import errors
from ladybug.protocol.deflate import read_offers
from ladybug.protocol.errors import Refusal
from ladybug.protocol.fields import NO_BODY, RequestHead


def find_sha1() -> Any:
    """CPython's own, where it was built with it, as random.py takes sha512; hashlib begins with OpenSSL, half a MiB."""
    try:
        return import_module("_sha1").sha1
    except ImportError:
        return import_module("hashlib").sha1


SHA1: Final[Any] = find_sha1()
# Section 4.2.1 item 5: "a base64-encoded value that, when decoded, is 16 bytes in length"
KEY: Final = re.compile(rb"[A-Za-z0-9+/]{22}==")
# Section 1.3
GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
SUBPROTOCOL: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


@mypyc_attr(native_class=True)
@final
class Handshake:
    """What a good handshake says.

    Attributes:
        key: the value of Sec-WebSocket-Key.
        subprotocols: what the client would speak, the one it likes best first (section 1.9).
        extensions: the values of all Sec-WebSocket-Extensions fields, joined by commas, of good grammar; see deflate.agree().
    """

    def __init__(self, key: bytes, subprotocols: list[str], extensions: bytes) -> None:
        self.key: Final = key
        self.subprotocols: Final = subprotocols
        self.extensions: Final = extensions


def wants_websocket(head: RequestHead) -> bool:
    """Whether the request asks for a WebSocket: an Upgrade field names it, in whatever case, alone or among others.

    Never in HTTP/1.0: "A server MUST ignore an Upgrade header field that is received in an HTTP/1.0 request" (RFC 9110
    section 7.8). What is no handshake is an ordinary request.
    """
    return head.upgrade and head.http11 and b"websocket" in _lowered(_elements(head, b"upgrade"))


def read_handshake(head: RequestHead) -> Handshake | Refusal:
    """Check a request that wants_websocket() against section 4.2.1; Host has been checked with all others' (fields.py)."""
    if head.method != "GET":
        return errors.BAD_HANDSHAKE_METHOD
    if head.body != NO_BODY:
        return errors.BAD_HANDSHAKE_CONTENT
    if b"upgrade" not in _lowered(_elements(head, b"connection")):
        return errors.BAD_HANDSHAKE_CONNECTION
    if _values(head, b"sec-websocket-version") != [b"13"]:
        return errors.UNSUPPORTED_WEBSOCKET_VERSION
    keys = _values(head, b"sec-websocket-key")
    if len(keys) != 1 or KEY.fullmatch(keys[0]) is None:
        return errors.BAD_WEBSOCKET_KEY
    subprotocols: list[str] = []
    for name in _elements(head, b"sec-websocket-protocol"):
        if SUBPROTOCOL.fullmatch(name) is None:
            return errors.BAD_WEBSOCKET_PROTOCOL
        subprotocols.append(name.decode("ascii"))
    extensions = b", ".join(_values(head, b"sec-websocket-extensions"))
    # Section 9.1: who receives a value that does not match the grammar "MUST immediately _Fail the WebSocket Connection_".
    if read_offers(extensions) is None:
        return errors.BAD_WEBSOCKET_EXTENSIONS
    return Handshake(keys[0], subprotocols, extensions)


def accept_token(key: bytes) -> bytes:
    """The value of Sec-WebSocket-Accept that answers `key` (section 4.2.2 item 5.4)."""
    return b64encode(SHA1(key + GUID, usedforsecurity=False).digest())


def _values(head: RequestHead, wanted: bytes) -> list[bytes]:
    """The values of all fields of that name, in order."""
    return [value for name, value in head.headers if name == wanted]


def _elements(head: RequestHead, wanted: bytes) -> list[bytes]:
    """The elements of a field that is a list, in order, without empty ones (RFC 9110 section 5.6.1)."""
    elements = [element.strip(b" \t") for value in _values(head, wanted) for element in value.split(b",")]
    return [element for element in elements if element]


def _lowered(elements: list[bytes]) -> list[bytes]:
    return [element.lower() for element in elements]
