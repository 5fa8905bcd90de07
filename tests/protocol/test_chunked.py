"""The chunked coding: decoded exactly, in whatever pieces it comes; llhttp as the second opinion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ladybug.protocol import errors
from ladybug.protocol.chunked import BROKEN, CHUNK, END, MORE, ChunkedDecoder
from ladybug.protocol.errors import Refusal
from ladybug.protocol.limits import Limits
from tests.corpus.feeding import FEEDINGS, Feeding, byte_by_byte, cuts


@dataclass
class Decoded:
    """What became of the bytes: the content, whether and where it ended, or why not."""

    content: bytes = b""
    end: int = -1  # the position in the whole behind the last CRLF
    refusal: Refusal | None = None


def decode(pieces: list[bytes], limits: Limits | None = None) -> Decoded:
    """Use the decoder as the connection does: what is left goes before what comes next, at position 0."""
    decoder = ChunkedDecoder(limits or Limits())
    decoded = Decoded()
    data, dropped = b"", 0
    for piece in pieces:
        data = data[decoder.position :] + piece
        dropped += decoder.position
        decoder.position = 0
        while True:
            answer = decoder.decode(data)
            if answer == CHUNK:
                decoded.content += decoder.content
            elif answer == MORE:
                break
            elif answer == END:
                decoded.end = dropped + decoder.position
                return decoded
            else:
                assert answer == BROKEN
                decoded.refusal = decoder.refusal
                assert decoded.refusal is not None
                return decoded
    return decoded


class Reference:
    """llhttp's idea of the same bytes."""

    def __init__(self, data: bytes) -> None:
        self.content = b""
        self.complete = False
        self.error: Exception | None = None
        parser: Any = httptools.HttpRequestParser(self)
        parser.feed_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.error = error

    def on_body(self, piece: bytes) -> None:
        self.content += piece

    def on_message_complete(self) -> None:
        self.complete = True


BODIES = {
    "nothing": (b"0\r\n\r\n", b""),
    "one chunk": (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    "two chunks": (b"1\r\nh\r\n4\r\nello\r\n0\r\n\r\n", b"hello"),
    "hexadecimal": (b"a\r\n0123456789\r\nB\r\n0123456789a\r\n0\r\n\r\n", b"01234567890123456789a"),
    "zeros before the size": (b"0000000000005\r\nhello\r\n00\r\n\r\n", b"hello"),
    "fifteen digits": (b"000000000000001\r\nx\r\n0\r\n\r\n", b"x"),
    "extensions": (b'5;a\r\nhello\r\n1 ; b = "c;d"\r\n!\r\n0;e=f\r\n\r\n', b"hello!"),
    "several extensions": (b'1;a;b=c\t;\td="";e="\\"\xe9"\r\nx\r\n0\r\n\r\n', b"x"),
    "content like framing": (b"7\r\n0\r\n\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n\r\n"),
    "trailers": (b"1\r\nx\r\n0\r\nA: b\r\nC:\r\n\r\n", b"x"),
    "trailers with obs-text": (b"1\r\nx\r\n0\r\nA: \xe9\tz\r\n\r\n", b"x"),
}


@pytest.mark.parametrize("feeding", FEEDINGS, ids=lambda feeding: feeding.__name__)
@pytest.mark.parametrize(("raw", "content"), BODIES.values(), ids=BODIES)
def test_bodies(raw: bytes, content: bytes, feeding: Feeding) -> None:
    assert decode(feeding(raw)) == Decoded(content, len(raw))
    assert decode(feeding(raw + b"GET / HTTP/1.1\r\n")) == Decoded(content, len(raw)), "what follows is not the body's"


BROKEN_BODIES = {
    "no size": (b"\r\n", errors.BAD_CHUNK),
    "a size of sixteen digits": (b"0000000000000001\r\nx\r\n", errors.BAD_CHUNK),
    "white space before the size": (b" 1\r\n", errors.BAD_CHUNK),
    "white space after the size": (b"1 \r\n", errors.BAD_CHUNK),
    "an underscore": (b"1_0\r\n", errors.BAD_CHUNK),
    "a sign": (b"+1\r\n", errors.BAD_CHUNK),
    "a prefix": (b"0x1\r\n", errors.BAD_CHUNK),
    "no size, an extension": (b";a\r\n", errors.BAD_CHUNK),
    "a control in an extension": (b"1;a\x01\r\n", errors.BAD_CHUNK),
    "a CR in an extension": (b"1;a\rb\r\n", errors.BAD_CHUNK),
    "an extension without name": (b"1;\r\n", errors.BAD_CHUNK),
    "an extension without name, but with value": (b"1;=a\r\n", errors.BAD_CHUNK),
    "an extension without its value": (b"1;a=\r\n", errors.BAD_CHUNK),
    "an extension of two words": (b"1;a b\r\n", errors.BAD_CHUNK),
    "two semicolons": (b"1;;a\r\n", errors.BAD_CHUNK),
    "a quotation that does not end": (b'1;a="b\r\n', errors.BAD_CHUNK),
    "a quotation that ends in its escape": (b'1;a="b\\"\r\n', errors.BAD_CHUNK),
    "white space after an extension": (b"1;a \r\n", errors.BAD_CHUNK),
    "an LF alone": (b"1\nx", errors.BAD_LINE_END),
    "too much content": (b"1\r\nxx", errors.BAD_CHUNK),
    "an LF alone after content": (b"1\r\nx\n", errors.BAD_CHUNK),
    "a CR alone after content": (b"1\r\nx\rx", errors.BAD_CHUNK),
    "a trailer without colon": (b"0\r\na\r\n", errors.BAD_TRAILER),
    "a trailer without name": (b"0\r\n:a\r\n", errors.BAD_TRAILER),
    "a folded trailer": (b"0\r\na: b\r\n c\r\n", errors.BAD_TRAILER),
    "a space before a trailer's colon": (b"0\r\na : b\r\n", errors.BAD_TRAILER),
    "a CR in a trailer": (b"0\r\na: b\rc\r\n", errors.BAD_TRAILER),
    "a NUL in a trailer": (b"0\r\na: \x00\r\n", errors.BAD_TRAILER),
    "an LF alone after a trailer": (b"0\r\na: b\n", errors.BAD_LINE_END),
    "an LF alone at the end": (b"0\r\n\n", errors.BAD_LINE_END),
}


@pytest.mark.parametrize("feeding", FEEDINGS, ids=lambda feeding: feeding.__name__)
@pytest.mark.parametrize(("raw", "refusal"), BROKEN_BODIES.values(), ids=BROKEN_BODIES)
def test_broken_bodies(raw: bytes, refusal: Refusal, feeding: Feeding) -> None:
    assert decode(feeding(raw)).refusal is refusal


@pytest.mark.parametrize("raw", [raw for raw, _ in BODIES.values()], ids=BODIES)
def test_every_beginning_of_a_body_waits_for_more(raw: bytes) -> None:
    for size in range(len(raw)):
        decoded = decode([raw[:size]])
        assert (decoded.refusal, decoded.end) == (None, -1)


def test_after_the_end_it_stays_ended() -> None:
    decoder = ChunkedDecoder(Limits())
    data = b"0\r\n\r\n1\r\nx\r\n"
    assert decoder.decode(data) == END
    assert decoder.decode(data) == END
    assert decoder.position == 5


tokens = st.sampled_from(
    [
        *(
            b"0",
            b"1",
            b"5",
            b"a",
            b"F",
            b"10",
            b"00",
            b"123456789012345",
            b"1234567890123456",
            b"\r\n",
            b"\r",
            b"\n",
            b";",
        ),
        *(
            b";a=b",
            b'; a="b"',
            b" ",
            b"\t",
            b"hello",
            b"x",
            b"0\r\n",
            b"\r\n\r\n",
            b"1\r\nx\r\n",
            b"a: b",
            b":",
            b"\x00",
        ),
        *(b"\xff", b"g", b"-1", b"0\r\n\r\n", b"5\r\nhello\r\n"),
    ]
)
soups = st.lists(tokens, max_size=14).map(b"".join)


@st.composite
def encoded(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A chunked body as a careful sender writes it, and its content."""
    raw, content = b"", b""
    for piece in draw(st.lists(st.binary(min_size=1, max_size=40), max_size=5)):
        size = draw(st.sampled_from([b"%x", b"%X", b"0%x"])) % len(piece)
        extension = draw(st.sampled_from([b"", b"", b";a", b";a=b", b';a="b c"']))
        raw += size + extension + b"\r\n" + piece + b"\r\n"
        content += piece
    trailers = draw(st.sampled_from([b"", b"", b"a: b\r\n", b"a:\r\nb: c d\r\n"]))
    return raw + b"0\r\n" + trailers + b"\r\n", content


@settings(deadline=None, max_examples=300)
@given(encoded(), st.data())
def test_what_is_encoded_is_decoded(body: tuple[bytes, bytes], data: st.DataObject) -> None:
    raw, content = body
    assert decode(data.draw(cuts(raw))) == Decoded(content, len(raw))
    reference = Reference(raw)
    assert (reference.content, reference.complete, reference.error) == (content, True, None)


@settings(deadline=None, max_examples=1000)
@given(soups)
def test_where_both_accept_llhttp_decodes_the_same(raw: bytes) -> None:
    decoded = decode([raw])
    if decoded.end < 0:
        return
    reference = Reference(raw[: decoded.end])
    # llhttp is stricter about extensions and trailers; it must never be of another opinion about content.
    if reference.error is None:
        assert (reference.content, reference.complete) == (decoded.content, True)


@settings(deadline=None, max_examples=300)
@given(soups, st.data())
def test_cuts_do_not_matter(raw: bytes, data: st.DataObject) -> None:
    expected = decode([raw])
    assert decode(data.draw(cuts(raw)) if raw else []) == expected
    assert decode(byte_by_byte(raw)) == expected


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=100))
def test_nothing_raises(raw: bytes) -> None:
    decode([raw])
    decode([b"5\r\nhello\r\n" + raw])
    decode([b"0\r\n" + raw])
