"""Header fields: their alphabet, and what the ones that frame a message mean (RFC 9110 section 5, RFC 9112 sections 3, 6, 9).

RequestHead is what a parser hands on: one object per worker, rewritten by each head. Two parsers fill it and must agree
byte for byte: the scanner (compiled, plain heads) and httptools under the strict layer (everything else, see head.py).
"""

import ipaddress
import re
from typing import Any, Final, final

from mypy_extensions import i64, mypyc_attr

from ladybug.protocol import errors
from ladybug.protocol.errors import Refusal

Field = tuple[bytes, bytes]

# RFC 9110 section 5.6.2: token = 1*tchar
TCHAR: Final = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# Lower-cases a field name and maps every byte that may not stand in one to NUL: one C call validates and converts.
LOWER_TOKEN: Final = bytes((ord(chr(byte).lower()) if byte in TCHAR else 0) for byte in range(256))

# RFC 9110 section 7.2: Host = uri-host [ ":" port ]; RFC 3986 section 3.2.2: IP-literal / IPv4address / reg-name.
# An empty host is legal (RFC 9112 section 3.2: "If the authority component is missing or undefined ... send a Host header
# field with an empty field-value"); userinfo is not part of Host.
HOST: Final = re.compile(
    rb"(?:\[(?:([0-9A-Fa-f:.]+)|v[0-9A-Fa-f]+\.[A-Za-z0-9\-._~!$&'()*+,;=:]+)\]"
    rb"|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})*)(?::([0-9]{0,5}))?"
)
# field-line = field-name ":" OWS field-value OWS (RFC 9112 section 5), without what no value may hold
FIELD_LINE: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t -~\x80-\xff]*")

MAX_LENGTH_DIGITS: Final = 18  # the longest decimal that always fits 63 bits

NO_BODY: Final[i64] = 0
CHUNKED: Final[i64] = -1


@mypyc_attr(native_class=True)
@final
class RequestHead:
    """The request line and header section of one request, and what they say about the message.

    Attributes:
        method, raw_path, query: of the request line; raw_path has no query and, for absolute-form, no authority.
        encoded: raw_path holds percent-encoded octets.
        http11: HTTP/1.1 rather than 1.0.
        headers: field lines in order, names lower-cased, values without surrounding white space.
        persistent: the client allows further requests on this connection (RFC 9112 section 9.3).
        body: CHUNKED, or the length of the content in bytes (0: there is none).
        expect_continue: the client waits for 100 (RFC 9110 section 10.1.1).
        forwarded: an X-Forwarded-For or X-Forwarded-Proto field is present.
        upgrade: an Upgrade field is present.
    """

    def __init__(self) -> None:
        self.method = ""
        self.raw_path = b""
        self.query = b""
        self.encoded = False
        self.http11 = False
        self.headers: list[Field] = []
        self.persistent = False
        self.body: i64 = NO_BODY
        self.expect_continue = False
        self.forwarded = False
        self.upgrade = False


def host_is_valid(value: bytes) -> bool:
    """Whether `value` may stand in a Host field; see HOST."""
    match: Any = HOST.fullmatch(value)
    if match is None:
        return False
    port: bytes | None = match[2]
    if port and int(port) > 65535:
        return False
    literal: bytes | None = match[1]
    return literal is None or is_ipv6(literal.decode("ascii"))


def is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def interpret_fields(head: RequestHead) -> Refusal | None:
    """Derive from head.headers what frames the message and the connection; None when the request may pass.

    Expects head.http11 and head.headers; sets persistent, body, expect_continue, forwarded and upgrade. On a repeated
    Host or a framing that two recipients could read differently it refuses: what is ambiguous is how requests are
    smuggled (RFC 9112 section 11.2).
    """
    hosts = 0
    length: i64 = -1
    codings: list[bytes] = []
    options: list[bytes] = []
    head.expect_continue = False
    head.forwarded = False
    head.upgrade = False
    for name, value in head.headers:
        if name == b"host":
            hosts += 1
            if not host_is_valid(value):
                return errors.BAD_HOST
        elif name == b"content-length":
            # RFC 9112 section 6.3 lets a list of identical values pass; we take none (it only ever helps an attacker).
            if length >= 0:
                return errors.REPEATED_CONTENT_LENGTH
            # bytes.isdigit() is ASCII only; Content-Length = 1*DIGIT has no sign, no space, no underscore.
            if not value.isdigit() or len(value) > MAX_LENGTH_DIGITS:
                return errors.BAD_CONTENT_LENGTH
            length = int(value)
        elif name == b"transfer-encoding":
            codings += [coding.strip(b" \t").lower() for coding in value.split(b",")]
        elif name == b"connection":
            options += [option.strip(b" \t").lower() for option in value.split(b",")]
        elif name == b"expect":
            # RFC 9110 section 10.1.1: "A server that receives a 100-continue expectation in an HTTP/1.0 request MUST
            # ignore that expectation."
            head.expect_continue = head.http11 and value.lower() == b"100-continue"
        elif name in (b"x-forwarded-for", b"x-forwarded-proto"):
            head.forwarded = True
        elif name == b"upgrade":
            head.upgrade = True
    if hosts > 1:
        return errors.REPEATED_HOST
    if hosts == 0 and head.http11:
        return errors.MISSING_HOST
    # RFC 9112 section 9.3, in its order: close wins; 1.1 persists; 1.0 persists when asked.
    head.persistent = b"close" not in options and (head.http11 or b"keep-alive" in options)
    if codings:
        return _interpret_codings(head, codings, length)
    head.body = length if length >= 0 else NO_BODY
    return None


def _interpret_codings(head: RequestHead, codings: list[bytes], length: i64) -> Refusal | None:
    # RFC 9112 section 6.1: a server "MAY reject a request that contains both Content-Length and Transfer-Encoding"
    if length >= 0:
        return errors.LENGTH_WITH_CODING
    # Same section: "A server or client that receives an HTTP/1.0 message containing a Transfer-Encoding header field
    # MUST treat the message as if the framing is faulty".
    if not head.http11:
        return errors.BAD_TRANSFER_CODING
    # Section 6.3: "If ... the chunked transfer coding is not the final encoding, ... the server MUST respond with 400";
    # section 7.1: "A sender MUST NOT apply chunked more than once".
    if codings[-1] != b"chunked" or codings.count(b"chunked") > 1:
        return errors.BAD_TRANSFER_CODING
    if len(codings) > 1:
        return errors.UNKNOWN_TRANSFER_CODING
    head.body = CHUNKED
    return None
