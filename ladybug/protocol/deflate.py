"""permessage-deflate (RFC 7692): what is agreed in the handshake, and the two halves of a connection that follow from it.

Memory decides here. A connection that compresses keeps a window and zlib's tables for each direction for as long as it
lives, so windows of 4 KiB are asked for wherever the client allows, nothing is made before its first message, and nothing
is kept between messages where there is no context takeover.
"""

import re
import zlib
from typing import Any, Final, final

from mypy_extensions import i64, mypyc_attr

PERMESSAGE_DEFLATE: Final = b"permessage-deflate"
WINDOW_BITS: Final = 12  # the window we like, as a power of two
MAX_WINDOW_BITS: Final = 15
MEMORY_LEVEL: Final = 5  # zlib's; with a window of 12 bits a compressor takes 32 KiB instead of 256

# RFC 7692 section 7.2.1: these four octets end every message; a sender leaves them out, a receiver puts them back.
TAIL: Final = b"\x00\x00\xff\xff"
# Section 7.2.3.6: an empty message is this octet.
EMPTY: Final = b"\x00"
MOST_ENDS: Final = 32  # final blocks in a message: each costs a decompressor, and nobody has a use for more than one

# RFC 6455 section 9.1, with the rules of RFC 2616 for its ABNF: white space between any two words, empty list elements,
# quoted strings. "When using the quoted-string syntax variant, the value after quoted-string unescaping MUST conform to
# the 'token' ABNF": so no comma or semicolon ever stands between quotes.
TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
PARAMETER: Final = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+)"
    rb"(?:[ \t]*=[ \t]*(?:([!#$%&'*+\-.^_`|~0-9A-Za-z]+)|\"((?:\\?[!#$%&'*+\-.^_`|~0-9A-Za-z])+)\"))?"
)

# Section 7.1.2: "a decimal integer value without leading zeroes between 8 to 15, inclusive"
BITS: Final = {b"%d" % bits: bits for bits in range(8, MAX_WINDOW_BITS + 1)}

Parameter = tuple[bytes, bytes | None]  # the value unquoted; None where there is none
Offer = tuple[bytes, list[Parameter]]


@mypyc_attr(native_class=True)
@final
class Agreement:
    """What was negotiated (RFC 7692 section 7.1).

    Attributes:
        server_no_context_takeover: we begin each message with an empty window.
        client_no_context_takeover: the client does.
        server_max_window_bits, client_max_window_bits: 8 to 15, as a power of two in bytes.
        field: the value of Sec-WebSocket-Extensions that says so.
    """

    def __init__(
        self,
        server_no_context_takeover: bool,
        client_no_context_takeover: bool,
        server_max_window_bits: int,
        client_max_window_bits: int,
        field: bytes,
    ) -> None:
        self.server_no_context_takeover: Final = server_no_context_takeover
        self.client_no_context_takeover: Final = client_no_context_takeover
        self.server_max_window_bits: Final = server_max_window_bits
        self.client_max_window_bits: Final = client_max_window_bits
        self.field: Final = field


def agree(offers: bytes) -> Agreement | None:
    """Accept the first offer of permessage-deflate that can be accepted; None if there is none.

    Args:
        offers: the values of all Sec-WebSocket-Extensions fields of the request, joined by commas.
    """
    for name, parameters in read_offers(offers) or []:
        if name == PERMESSAGE_DEFLATE:
            agreement = _accept(parameters)
            if agreement is not None:
                return agreement
    return None


def read_offers(field: bytes) -> list[Offer] | None:
    """The extension-list of RFC 6455 section 9.1, in its order; None when it does not match the grammar."""
    offers: list[Offer] = []
    for element in field.split(b","):
        words = [word.strip(b" \t") for word in element.split(b";")]
        if words == [b""]:
            continue
        if TOKEN.fullmatch(words[0]) is None:
            return None
        parameters: list[Parameter] = []
        for word in words[1:]:
            match: Any = PARAMETER.fullmatch(word)
            if match is None:
                return None
            quoted: bytes | None = match[3]
            parameters.append((match[1], match[2] if quoted is None else quoted.replace(b"\\", b"")))
        offers.append((words[0], parameters))
    return offers


def _accept(parameters: list[Parameter]) -> Agreement | None:
    """The answer to one offer, or None: section 7.1 says what declines it.

    "The negotiation offer contains an extension parameter not defined for use in an offer", one "with an invalid value",
    "multiple extension parameters with the same name".
    """
    server_fresh = False
    client_fresh = False
    server_bits = 0
    client_bits = 0
    for name, value in parameters:
        if name == b"server_no_context_takeover" and value is None and not server_fresh:
            server_fresh = True
        elif name == b"client_no_context_takeover" and value is None and not client_fresh:
            client_fresh = True
        elif name == b"server_max_window_bits" and value in BITS and server_bits == 0:
            server_bits = BITS[value]
        elif name == b"client_max_window_bits" and (value is None or value in BITS) and client_bits == 0:
            client_bits = MAX_WINDOW_BITS if value is None else BITS[value]
        else:
            return None
    # Section 7.1.2.1: we may bound our own window unasked. Section 7.1.2.2: the client's only if it says that it can.
    server_bits = min(server_bits or MAX_WINDOW_BITS, WINDOW_BITS)
    field = PERMESSAGE_DEFLATE
    if server_fresh:
        field += b"; server_no_context_takeover"
    if client_fresh:
        field += b"; client_no_context_takeover"
    field += b"; server_max_window_bits=%d" % server_bits
    if client_bits:
        client_bits = min(client_bits, WINDOW_BITS)
        field += b"; client_max_window_bits=%d" % client_bits
    return Agreement(server_fresh, client_fresh, server_bits, client_bits or MAX_WINDOW_BITS, field)


@mypyc_attr(native_class=True)
@final
class Inflater:
    """Decompresses what the client of one connection sends; messages in pieces, one after the other."""

    def __init__(self, agreement: Agreement) -> None:
        # An encoder that was allowed 8 bits may be zlib, which takes 9 and looks back no further than 250 bytes.
        self.bits: Final = max(agreement.client_max_window_bits, 9)
        self.fresh: Final = agreement.client_no_context_takeover
        self.inflating: zlib._Decompress | None = None
        self.ends: i64 = 0  # final blocks seen in this message

    def inflate(self, data: bytes, last: bool, most: i64) -> bytes | None:
        """Decompress the next piece of a message; None if it is no deflate data.

        Args:
            last: the message ends here.
            most: bytes that may come out. One more comes when there would be more, and the rest is lost: the message is
                too big, and the connection must end.
        """
        inflating = self.inflating
        if inflating is None:
            inflating = self.inflating = zlib.decompressobj(-self.bits)
        try:
            content = inflating.decompress(data + TAIL if last else data, most + 1)
            if inflating.eof and len(content) <= most:
                content = self._inflate_on(inflating, content, most)
        except zlib.error:
            return None
        if self.ends > MOST_ENDS:
            return None
        if last:
            self.ends = 0
            if self.fresh:
                self.inflating = None
        return content

    def _inflate_on(self, inflating: "zlib._Decompress", content: bytes, most: i64) -> bytes:
        """Section 7.2.3.4: a final block ends a stream for zlib, not for us: a block may follow it, or a message.

        The window is empty then. Encoders that end a stream begin another one; only one that did not could look back
        behind the end, and would be refused.
        """
        while inflating.eof and len(content) <= most:
            self.ends += 1
            if self.ends > MOST_ENDS:
                break
            rest = inflating.unused_data
            inflating = zlib.decompressobj(-self.bits)
            content += inflating.decompress(rest, most + 1 - len(content))
        self.inflating = inflating
        return content


@mypyc_attr(native_class=True)
@final
class Deflater:
    """Compresses what we send on one connection, a whole message at a time."""

    def __init__(self, agreement: Agreement) -> None:
        # zlib has no raw deflate with a window of 8 bits. With 9 it never looks back further than 512 - 262 = 250 bytes
        # (MIN_LOOKAHEAD in its deflate.h), which is a window of 8.
        self.bits: Final = max(agreement.server_max_window_bits, 9)
        self.fresh: Final = agreement.server_no_context_takeover
        self.deflating: zlib._Compress | None = None

    def deflate(self, content: bytes) -> bytes:
        """The payload of a frame that carries `content` and has RSV1 set (section 7.2.1)."""
        if not content:
            return EMPTY
        deflating = self.deflating
        if deflating is None:
            deflating = zlib.compressobj(wbits=-self.bits, memLevel=MEMORY_LEVEL)
            if not self.fresh:
                self.deflating = deflating
        compressed = deflating.compress(content) + deflating.flush(zlib.Z_SYNC_FLUSH)
        return compressed[:-4]
