"""Why a request is refused: each refusal carries its answer.

The parsers never raise for what a peer sends; they keep a Refusal and report the event ERROR (exceptions cost a
microsecond in compiled code, and a refusal is not exceptional on the Internet). The text tells the client little; it
names the rule and no more.
"""

from typing import Final, final

from mypy_extensions import mypyc_attr


@mypyc_attr(native_class=True)
@final
class Refusal:
    """A request that must not reach the application: the status to answer with, and the rule it broke.

    Attributes:
        fields: what the answer must say beside that, as field names and values.
    """

    def __init__(self, status: int, reason: str, fields: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        self.status: Final = status
        self.reason: Final = reason
        self.fields: Final = fields

    def __repr__(self) -> str:
        return f"Refusal({self.status}, {self.reason!r})"


# RFC 9112 section 3: "a recipient SHOULD respond with either a 400 (Bad Request) error or a 301 with the target encoded"
BAD_REQUEST_LINE: Final = Refusal(400, "Invalid request line")
BAD_TARGET: Final = Refusal(400, "Invalid request target")
BAD_LINE_END: Final = Refusal(400, "Bare CR or LF")
BAD_FIELD: Final = Refusal(400, "Invalid header field")
# RFC 9112 section 3.2: "A server MUST respond with a 400 to any HTTP/1.1 request message that lacks a Host header field
# and to any request message that contains more than one Host header field line or one with an invalid field value."
MISSING_HOST: Final = Refusal(400, "Missing Host header")
REPEATED_HOST: Final = Refusal(400, "Repeated Host header")
BAD_HOST: Final = Refusal(400, "Invalid Host header")
# RFC 9112 section 6.3
BAD_CONTENT_LENGTH: Final = Refusal(400, "Invalid Content-Length header")
REPEATED_CONTENT_LENGTH: Final = Refusal(400, "Repeated Content-Length header")
LENGTH_WITH_CODING: Final = Refusal(400, "Content-Length with Transfer-Encoding")
BAD_TRANSFER_CODING: Final = Refusal(400, "Transfer-Encoding must be chunked, once, on HTTP/1.1")
# RFC 9112 section 6.1: "a transfer coding it does not understand SHOULD respond with 501 (Not Implemented)"
UNKNOWN_TRANSFER_CODING: Final = Refusal(501, "Unknown transfer coding")
BAD_CHUNK: Final = Refusal(400, "Invalid chunk")
BAD_TRAILER: Final = Refusal(400, "Invalid trailer section")
LONG_CHUNK_LINE: Final = Refusal(400, "Chunk extensions too long")
# RFC 9110 section 9.1
UNKNOWN_METHOD: Final = Refusal(501, "Method not implemented")
# RFC 9110 section 15.6.6
UNSUPPORTED_VERSION: Final = Refusal(505, "HTTP version not supported")
# RFC 9110 sections 15.5.14 and 15.5.15, RFC 6585 section 5
CONTENT_TOO_LARGE: Final = Refusal(413, "Content too large")
TARGET_TOO_LONG: Final = Refusal(414, "URI too long")
FIELDS_TOO_LARGE: Final = Refusal(431, "Request header fields too large")
# RFC 9110 section 15.5.9
REQUEST_TIMEOUT: Final = Refusal(408, "Request timeout")
SERVICE_UNAVAILABLE: Final = Refusal(503, "Service Unavailable")

# RFC 6455 section 4.2.1: what a handshake must be, else "the server MUST stop processing the client's handshake and return
# an HTTP response with an appropriate error code (such as 400 Bad Request)"
BAD_HANDSHAKE_METHOD: Final = Refusal(400, "A WebSocket handshake must be a GET request")
BAD_HANDSHAKE_CONTENT: Final = Refusal(400, "A WebSocket handshake has no content")
BAD_HANDSHAKE_CONNECTION: Final = Refusal(400, "Connection does not name upgrade")
BAD_WEBSOCKET_KEY: Final = Refusal(400, "Missing, repeated or invalid Sec-WebSocket-Key header")
BAD_WEBSOCKET_PROTOCOL: Final = Refusal(400, "Invalid Sec-WebSocket-Protocol header")
BAD_WEBSOCKET_EXTENSIONS: Final = Refusal(400, "Invalid Sec-WebSocket-Extensions header")
# Section 4.2.2: "an appropriate HTTP error code (such as 426 Upgrade Required) and a |Sec-WebSocket-Version| header field
# indicating the version(s) the server is capable of understanding"; RFC 9110 section 15.5.22: with 426 "the server MUST
# send an Upgrade header field"; section 7.8: "A sender of Upgrade MUST also send an 'Upgrade' connection option"
UNSUPPORTED_WEBSOCKET_VERSION: Final = Refusal(
    426,
    "WebSocket version not supported",
    ((b"upgrade", b"websocket"), (b"connection", b"upgrade"), (b"sec-websocket-version", b"13")),
)
