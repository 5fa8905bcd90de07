"""The reference parser of request heads: httptools, and a strict layer over what it lets through.

httptools (llhttp) reads the fields; it knows no limits, takes HTTP/0.9 and several spaces in a request line, keeps
white space at the end of values and does not look at Host. All of that is refused or mended here, on a head that is
complete: the caller has found its CRLF CRLF and checked its size.

The compiled form comes here for every head that is not plain; the pure form for all of them.
"""

import re
from typing import Any, Final, final

import httptools
from mypy_extensions import i64, mypyc_attr

from ladybug.protocol import errors
from ladybug.protocol.errors import Refusal
from ladybug.protocol.fields import FIELD_LINE, Field, RequestHead, host_is_valid, interpret_fields
from ladybug.protocol.limits import Limits

# RFC 9112 section 3: request-line = method SP request-target SP HTTP-version. The target's alphabet is visible ASCII:
# wider than RFC 3986 (clients send | and {} unencoded), but no fragment, which "is not part of the request target".
REQUEST_LINE: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([!-\"$-~]+) HTTP/([0-9])\.([0-9])")
# What llhttp knows from elsewhere (RTSP, HTTP/2's preface), and takes for no fault of the method.
OTHER_PROTOCOLS: Final = frozenset(
    {
        *("ANNOUNCE", "DESCRIBE", "FLUSH", "GET_PARAMETER", "PAUSE", "PLAY", "PRI", "RECORD", "REDIRECT", "SETUP"),
        *("SET_PARAMETER", "TEARDOWN"),
    }
)
# OWS at the end of a field line may be tabs (RFC 9110 section 5.6.3), which llhttp does not take everywhere. Not a line of
# nothing else: that is obs-fold.
TRAILING_SPACE: Final = re.compile(rb"(?<=[^\r\n \t])[ \t]+(?=\r\n)")
ABSOLUTE_FORM: Final = re.compile(rb"(?i:https?)://([^/?]*)([^?]*)(?:\?(.*))?", re.DOTALL)


@mypyc_attr(native_class=True)
@final
class FieldCollector:
    """httptools' callbacks: the fields as they are read."""

    def __init__(self) -> None:
        self.fields: list[Field] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value.strip(b" \t")))


def parse_head(head: RequestHead, data: bytes, limits: Limits) -> Refusal | None:
    """Read one complete head (request line to CRLF CRLF, nothing else) into `head`; None when it may pass."""
    end: i64 = data.find(b"\r\n")
    if end > limits.request_line:
        return errors.TARGET_TOO_LONG
    refusal = parse_request_line(head, data[:end])
    if refusal is not None:
        return refusal
    if len(data) - end - 4 > limits.fields_size:
        return errors.FIELDS_TOO_LARGE
    target = head.raw_path
    if head.method in OTHER_PROTOCOLS:
        return errors.UNKNOWN_METHOD
    if b"\t\r\n" in data:
        data = TRAILING_SPACE.sub(b"", data)
    collector = FieldCollector()
    try:
        httptools.HttpRequestParser(collector).feed_data(data)
    except httptools.HttpParserUpgrade:
        pass  # not an error: the body's framing is decided below, whatever Upgrade says
    except httptools.HttpParserInvalidMethodError:
        return errors.UNKNOWN_METHOD
    except httptools.HttpParserError:
        # llhttp stops at the first field it objects to. If it was the framing, our own rules know a better answer.
        lines = data[end + 2 : len(data) - 2].split(b"\r\n")[:-1]
        if not all(FIELD_LINE.fullmatch(line) for line in lines):
            return errors.BAD_FIELD
        head.headers = [(line.partition(b":")[0].lower(), line.partition(b":")[2].strip(b" \t")) for line in lines]
        return interpret_fields(head) or split_target(head, target) or errors.BAD_FIELD
    if len(collector.fields) > limits.fields:
        return errors.FIELDS_TOO_LARGE
    head.headers = collector.fields
    return split_target(head, target) or interpret_fields(head)


def parse_request_line(head: RequestHead, line: bytes) -> Refusal | None:
    """Set method and http11, and raw_path to the whole target; also used on its own while a head is incomplete."""
    match: Any = REQUEST_LINE.fullmatch(line)
    if match is None:
        return errors.BAD_REQUEST_LINE
    major: bytes = match[3]
    minor: bytes = match[4]
    if major != b"1" or minor not in (b"0", b"1"):
        return errors.UNSUPPORTED_VERSION
    method: bytes = match[1]
    # RFC 9110 section 9.3.6: CONNECT asks for a tunnel, which an origin server does not offer.
    if method == b"CONNECT":
        return errors.UNKNOWN_METHOD
    head.method = method.decode("ascii")
    head.http11 = minor == b"1"
    head.raw_path = match[2]
    return None


def split_target(head: RequestHead, target: bytes) -> Refusal | None:
    """Set raw_path, query and encoded from the request target, by its form (RFC 9112 section 3.2)."""
    if target.startswith(b"/"):
        head.raw_path, _, head.query = target.partition(b"?")
    elif target == b"*" and head.method == "OPTIONS":
        head.raw_path, head.query = target, b""
    else:
        match: Any = ABSOLUTE_FORM.fullmatch(target)
        if match is None:
            return errors.BAD_TARGET
        authority: bytes = match[1]
        if not authority or not host_is_valid(authority):
            return errors.BAD_TARGET
        # Section 3.2.2: an origin server "MUST ignore the received Host header field (if any) and instead replace it
        # with the host information of the request-target". Its own rules are still checked: it must be there, once.
        refusal = interpret_fields(head)
        if refusal is not None:
            return refusal
        head.headers = [(name, authority if name == b"host" else value) for name, value in head.headers]
        if not head.http11 and all(name != b"host" for name, _ in head.headers):
            head.headers.insert(0, (b"host", authority))
        path: bytes = match[2]
        query: bytes | None = match[3]
        head.raw_path = path or b"/"
        head.query = query or b""
    head.encoded = b"%" in head.raw_path
    return None
