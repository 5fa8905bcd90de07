"""The receiving core of WebSocket: the same events however the bytes are cut, and an error as soon as it is certain."""

from __future__ import annotations

import itertools
import random
import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.protocol import OPEN
from websockets.uri import parse_uri

from ladybug.protocol.deflate import agree
from ladybug.protocol.websocket import BINARY, CLOSE, ERROR, NEED_DATA, PING, PONG, TEXT, WebSocket
from tests.corpus.feeding import Feeding, byte_by_byte, cuts, feedings
from tests.protocol.frames import MAX_SIZE, Event, Player, close, first_bad, frame, play, some_frames, text

ALL = [Event(TEXT, "Hello")]
GOOD: dict[str, tuple[bytes, list[Event]]] = {
    # RFC 6455 section 5.7
    "the text of the RFC": (bytes([0x81, 0x85, 0x37, 0xFA, 0x21, 0x3D, 0x7F, 0x9F, 0x4D, 0x51, 0x58]), ALL),
    "fragments": (text("Hel", fin=False) + frame(0, b"lo"), ALL),
    "a fragment for each octet": (
        frame(1, b"H", fin=False) + b"".join(frame(0, bytes([octet]), fin=False) for octet in b"ell") + frame(0, b"o"),
        ALL,
    ),
    "empty fragments": (
        frame(1, fin=False) + frame(0, fin=False) + frame(0, b"Hello", fin=False) + frame(0, fin=False) + frame(0),
        ALL,
    ),
    "an empty text": (frame(1), [Event(TEXT, "")]),
    "an empty content": (frame(2), [Event(BINARY, b"")]),
    "an empty text in fragments": (frame(1, fin=False) + frame(0, fin=False) + frame(0), [Event(TEXT, "")]),
    "binary": (frame(2, bytes(range(256))), [Event(BINARY, bytes(range(256)))]),
    "binary that is no text": (frame(2, b"\xff", fin=False) + frame(0, b"\xc3"), [Event(BINARY, b"\xff\xc3")]),
    "other masks": (
        frame(1, b"Hello", mask=bytes(4)) + frame(2, b"\xff" * 9, mask=b"\xff\xff\xff\xff"),
        [*ALL, Event(BINARY, b"\xff" * 9)],
    ),
    "pings": (frame(9) + frame(9, b"x" * 125), [Event(PING, b""), Event(PING, b"x" * 125)]),
    "pongs": (frame(10) + frame(10, b"\xff\x00"), [Event(PONG, b""), Event(PONG, b"\xff\x00")]),
    "control frames between fragments": (
        text("Hel", fin=False) + frame(9, b"1") + frame(0, b"l", fin=False) + frame(10, b"2") + frame(0, b"o"),
        [Event(PING, b"1"), Event(PONG, b"2"), *ALL],
    ),
    "a character in pieces": (
        frame(1, b"\xf0\x9d", fin=False) + frame(9) + frame(0, b"\x84", fin=False) + frame(0, b"\x9e"),
        [Event(PING, b""), Event(TEXT, "𝄞")],
    ),
    "the ends of UTF-8": (frame(1, "\0\x7f\x80\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff".encode()),
                          [Event(TEXT, "\0\x7f\x80\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff")]),
    "an empty close": (frame(8), [Event(CLOSE, (1005, ""))]),
    "a close": (close(1000), [Event(CLOSE, (1000, ""))]),
    "a close with a reason": (close(4999, "tschüß".encode()), [Event(CLOSE, (4999, "tschüß"))]),
    "the longest close": (close(1001, b"x" * 123), [Event(CLOSE, (1001, "x" * 123))]),
    "a close inside a message": (text("Hel", fin=False) + close(1001), [Event(CLOSE, (1001, ""))]),
    "nothing after a close": (close(1000) + text("Hello") + frame(8, b"x") + b"\xff" * 20, [Event(CLOSE, (1000, ""))]),
    **{
        f"a message of {size} bytes": (frame(2, b"x" * size), [Event(BINARY, b"x" * size)])
        for size in (1, 7, 8, 125, 126, 127, 1000, 65535, 65536)
    },
    "messages one after the other": (text("Hello") * 30 + frame(2, b"x") * 2, ALL * 30 + [Event(BINARY, b"x")] * 2),
    "a message as large as may be": (
        frame(1, b"x" * 40000, fin=False) + frame(0, b"y" * (MAX_SIZE - 40000)),
        [Event(TEXT, "x" * 40000 + "y" * (MAX_SIZE - 40000))],
    ),
}  # fmt: skip


def given_feedings(cases: dict[str, tuple[bytes, list[Event]]]) -> list[object]:
    return [
        pytest.param(raw, events, feeding, id=f"{name}-{feeding.__name__}")
        for name, (raw, events) in cases.items()
        for feeding in feedings(raw)
    ]


@pytest.mark.parametrize(("raw", "events", "feeding"), given_feedings(GOOD))
def test_good_frames(raw: bytes, events: list[Event], feeding: Feeding) -> None:
    assert play(feeding(raw)) == events


# What is wrong with each is certain at its last byte, and must be said there; before it nothing is.
BAD: dict[str, tuple[bytes, int]] = {
    "no mask": (frame(1, b"Hello", mask=None)[:2], 1002),
    "no mask, a ping": (frame(9, mask=None)[:2], 1002),
    "no mask after a good message": (text("Hello") + frame(1, mask=None)[:2], 1002),
    **{f"reserved bits {rsv:02x}": (frame(1, rsv=rsv)[:2], 1002) for rsv in (0x10, 0x20, 0x40, 0x50, 0x60, 0x70)},
    "reserved bits of a ping": (frame(9, rsv=0x10)[:2], 1002),
    "reserved bits of a continuation": (text("Hel", fin=False) + frame(0, rsv=0x20)[:2], 1002),
    **{f"opcode {opcode}": (frame(opcode)[:2], 1002) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "a continuation of nothing": (frame(0)[:2], 1002),
    "a continuation after a message": (text("Hel", fin=False) + frame(0, b"lo") + frame(0)[:2], 1002),
    "a continuation after a ping": (frame(9) + frame(0, fin=False)[:2], 1002),
    "a text inside a text": (text("Hel", fin=False) + text("lo")[:2], 1002),
    "a binary inside a text": (text("Hel", fin=False) + frame(2, b"lo", fin=False)[:2], 1002),
    "a text inside an empty binary": (frame(2, fin=False) + text("lo")[:2], 1002),
    **{f"control frame {opcode} in fragments": (frame(opcode, fin=False)[:2], 1002) for opcode in (8, 9, 10)},
    **{f"control frame {opcode} of 126 bytes": (frame(opcode, bytes(126))[:2], 1002) for opcode in (8, 9, 10)},
    "control frame of 64 KiB": (frame(9, bytes(65536))[:2], 1002),
    "a length of 125 in 16 bits": (frame(2, bytes(125), width=2)[:4], 1002),
    "a length of 0 in 16 bits": (frame(2, width=2)[:4], 1002),
    "a length of 5 in 64 bits": (frame(2, bytes(5), width=8)[:10], 1002),
    "a length of 65535 in 64 bits": (frame(2, bytes(65535), width=8)[:10], 1002),
    "a length of 64 bits": (frame(2, size=1 << 63, width=8)[:10], 1002),
    "the longest length": (frame(2, size=(1 << 64) - 1, width=8)[:10], 1002),
    "half a close code": (frame(8, b"\x03"), 1002),
    **{
        f"close code {code}": (close(code), 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    },
    "a close reason that is no text": (close(1000, b"a\xffb"), 1007),
    "a close reason that ends too early": (close(1000, b"\xe2\x82"), 1007),
    "too many bytes": (frame(2, size=MAX_SIZE + 1)[:10], 1009),
    "far too many bytes": (frame(1, size=(1 << 63) - 1)[:10], 1009),
    "too many bytes in two frames": (frame(2, bytes(60000), fin=False) + frame(0, bytes(5537))[:4], 1009),
    "one byte too many": (frame(1, b"x" * MAX_SIZE, fin=False) + frame(0, b"x")[:2], 1009),
    "an octet that never stands in UTF-8": (text("Hello\0")[:-1] + bytes([0xFF ^ 0xFA]), 1007),
}  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "code", "feeding"),
    [
        pytest.param(raw, code, feeding, id=f"{name}-{feeding.__name__}")
        for name, (raw, code) in BAD.items()
        for feeding in feedings(raw)
    ],
)
def test_bad_frames(raw: bytes, code: int, feeding: Feeding) -> None:
    assert play(feeding(raw))[-1] == Event(ERROR, code)
    assert play([*feeding(raw), text("Hello"), frame(8)])[-1] == Event(ERROR, code), "nothing after an error counts"


@pytest.mark.parametrize("raw", [pytest.param(raw, id=name) for name, (raw, _) in BAD.items()])
def test_nothing_is_refused_before_it_is_certain(raw: bytes) -> None:
    assert all(event.kind != ERROR for event in play([raw[:-1]]))


@pytest.mark.parametrize("raw", [pytest.param(raw, id=name) for name, (raw, _) in GOOD.items() if len(raw) < 1000])
def test_every_beginning_of_good_frames_waits_for_more(raw: bytes) -> None:
    for size in range(len(raw)):
        player = Player()
        assert all(event.kind != ERROR for event in player.feed_all([raw[:size]]))


BAD_TEXTS = [
    # Autobahn's 6.4, and sequences of Markus Kuhn's UTF-8 decoder stress test
    *("κόσμε".encode() + tail for tail in (b"\xf4\x90\x80\x80", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\xc0\xaf")),
    *(b"\x80", b"\xbf", b"a\x80", b"\xc0\x80", b"\xc1\xbf", b"\xe0\x80\xaf", b"\xe0\x9f\xbf", b"\xf0\x80\x80\xaf"),
    *(b"\xf0\x8f\xbf\xbf", b"\xed\xad\xbf\xed\xbe\x80", b"\xed\xbf\xbf", b"\xf4\x90", b"\xf5", b"\xfe", b"\xff"),
    *(b"\xc3a", b"\xe2a", b"\xe2\x82a", b"\xf0a", b"\xf0\x9da", b"\xf0\x9d\x84a", b"\xe2\xc3\xa9", b"\xc3\xc3\xa9"),
]


@pytest.mark.parametrize("payload", BAD_TEXTS)
@pytest.mark.parametrize("fragmented", [False, True])
def test_a_bad_text_fails_at_its_first_bad_octet(payload: bytes, fragmented: bool) -> None:
    """Also inside a frame that is not complete, and before the fragments that may follow it."""
    bad = first_bad(payload)
    assert bad is not None and bad < len(payload)
    raw = frame(1, payload + b"and more", fin=not fragmented)
    end = len(raw) - len(payload + b"and more") + bad
    assert play([raw[:end]]) == []
    assert play([raw[: end + 1]]) == [Event(ERROR, 1007)]
    assert play(byte_by_byte(raw[: end + 1])) == [Event(ERROR, 1007)]
    frames = [frame(1 if i == 0 else 0, payload[i : i + 1], fin=False) for i in range(len(payload))]
    assert play(frames[:bad]) == []
    assert play(frames[: bad + 1]) == [Event(ERROR, 1007)]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_text_that_ends_inside_a_character(size: int) -> None:
    head = "𝄞".encode()[:size]
    assert play([frame(1, head)]) == [Event(ERROR, 1007)]
    assert play([frame(1, b"a" + head, fin=False), frame(0)]) == [Event(ERROR, 1007)]
    assert play([frame(1, b"a", fin=False), frame(0, head)]) == [Event(ERROR, 1007)]


@settings(deadline=None, max_examples=500)
@given(st.lists(st.sampled_from([b"a", b"\xc3", b"\xa9", b"\xe2\x82", b"\xac", b"\xf0", b"\x9d", b"\x84", b"\xed", b"\xf4",
                                 b"\xa0", b"\x8f", b"\x90", "€".encode(), b"\xff"]), min_size=1, max_size=8).map(b"".join),
       st.data())  # fmt: skip
def test_text_is_judged_as_rfc_3629_does(payload: bytes, data: st.DataObject) -> None:
    """The oracle is written from the grammar, octet by octet."""
    expected = [Event(TEXT, payload.decode())] if first_bad(payload) is None else [Event(ERROR, 1007)]
    raw = frame(1, payload)
    assert play(data.draw(cuts(raw))) == expected
    pieces = data.draw(cuts(payload))
    frames = [frame(0 if i else 1, piece, fin=i == len(pieces) - 1) for i, piece in enumerate(pieces)]
    assert play(frames) == expected


def test_no_limit() -> None:
    content = bytes(1 << 20)
    assert play([frame(2, content, fin=False), frame(0, content)], max_size=0) == [Event(BINARY, content * 2)]
    assert play([frame(2, size=1 << 62)[:14]], max_size=0) == [Event(ERROR, 1009)]


def test_a_limit_of_a_byte() -> None:
    assert play([frame(2, b"x"), frame(1, b"x")], max_size=1) == [Event(BINARY, b"x"), Event(TEXT, "x")]
    assert play([frame(2, b"xx")[:2]], max_size=1) == [Event(ERROR, 1009)]
    assert play([frame(9, b"x" * 125)], max_size=1) == [Event(PING, b"x" * 125)], "the limit is on messages"


def test_held_counts_what_is_kept() -> None:
    core = WebSocket(MAX_SIZE, None)
    raw = frame(2, b"x" * 1000, fin=False) + frame(0, b"y" * 300)

    ends = {
        1: 1,
        5: 5,  # a head
        8: 0,  # nothing of the message yet
        108: 100,
        1008: 1000,
        1013: 1005,
        1016: 1000,
        1100: 1084,
    }
    for start, end in itertools.pairwise([0, *ends]):
        core.receive_data(raw[start:end])
        assert core.next_event() == NEED_DATA
        assert core.held == ends[end]
    core.receive_data(raw[1100:] + b"\x82")
    assert core.next_event() == BINARY
    assert (core.held, core.has_input()) == (1, True)
    assert core.next_event() == NEED_DATA
    assert (core.held, core.has_input()) == (1, True)


def test_what_was_read_is_not_kept_alive_by_an_unfinished_head() -> None:
    """A whole read must not stay in memory for the sake of its last byte."""
    core = WebSocket(MAX_SIZE, None)
    core.receive_data(frame(2, bytes(60000)) + b"\x82")
    assert core.next_event() == BINARY
    assert core.next_event() == NEED_DATA
    assert core.buffer == b"\x82"


@pytest.mark.parametrize("size", [1, 2, 100])
@pytest.mark.parametrize("way", ["fragments", "reads"])
def test_how_a_message_is_cut_costs_no_memory(size: int, way: str) -> None:
    count = 1 << 15
    core = WebSocket(0, None)
    piece = frame(0, bytes(size), fin=False) if way == "fragments" else bytes(size)
    core.receive_data(frame(2, fin=False) if way == "fragments" else frame(2, size=count * size + 1))
    assert core.next_event() == NEED_DATA
    tracemalloc.start()
    try:
        for _ in range(count):
            core.receive_data(piece)
            assert core.next_event() == NEED_DATA
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert core.held == count * size
    assert kept < 2 * count * size + 16384


def test_an_idle_core_holds_nothing() -> None:
    player = Player()
    player.feed_all([text("Hello" * 100), frame(1, b"x" * 5000, fin=False), frame(0, b"y")])
    core = player.core
    assert (core.buffer, core.text, core.content, core.pieces, core.tail) == (b"", "", b"", None, b"")


# Another implementation's client writes; what it wrote must come out.


def client(extensions: list[PerMessageDeflate] | None = None) -> ClientProtocol:
    protocol = ClientProtocol(parse_uri("ws://localhost/"), state=OPEN)
    protocol.extensions = list(extensions or [])
    return protocol


OFFERS = [
    None,
    b"permessage-deflate",
    b"permessage-deflate; client_max_window_bits",
    b"permessage-deflate; client_max_window_bits=9; client_no_context_takeover",
]
messages = st.lists(
    st.tuples(
        st.one_of(st.text(max_size=60), st.binary(max_size=60), st.sampled_from(["x" * 70000, b"\0" * 126])), st.data()
    ),
    max_size=6,
)


@settings(deadline=None, max_examples=200)
@given(messages, st.sampled_from(OFFERS), st.data())
def test_what_another_client_sends(
    sent: list[tuple[str | bytes, st.DataObject]], offer: bytes | None, data: st.DataObject
) -> None:
    agreement = None if offer is None else agree(offer)
    extensions = []
    if agreement is not None:
        fresh, bits = agreement.client_no_context_takeover, agreement.client_max_window_bits
        extensions = [PerMessageDeflate(agreement.server_no_context_takeover, fresh, 15, bits)]
    protocol = client(extensions)
    expected = []
    for message, draw in sent:
        content = message.encode() if isinstance(message, str) else message
        pieces = draw.draw(cuts(content)) if len(content) < 1000 else [content]
        (protocol.send_text if isinstance(message, str) else protocol.send_binary)(
            (pieces or [b""])[0], fin=len(pieces) < 2
        )
        for i, piece in enumerate(pieces[1:], 2):
            if draw.draw(st.booleans()):
                protocol.send_ping(b"now")
                expected.append(Event(PING, b"now"))
            protocol.send_continuation(piece, fin=i == len(pieces))
        expected.append(Event(TEXT, message) if isinstance(message, str) else Event(BINARY, message))
    protocol.send_close(1001, "going")
    expected.append(Event(CLOSE, (1001, "going")))
    raw = b"".join(protocol.data_to_send())
    assert play([raw], 1 << 20, agreement) == expected
    assert play(data.draw(cuts(raw)), 1 << 20, agreement) == expected


@settings(deadline=None, max_examples=500)
@given(st.integers(0, 2**64), st.data())
def test_cuts_do_not_matter(seed: int, data: st.DataObject) -> None:
    raw = b"".join(some_frames(random.Random(seed)))
    expected = play([raw], 150)
    assert play(data.draw(cuts(raw)), 150) == expected
    assert play(byte_by_byte(raw), 150) == expected


@settings(deadline=None, max_examples=500)
@given(st.binary(max_size=100), st.binary(max_size=20))
def test_nothing_raises(raw: bytes, more: bytes) -> None:
    agreement = agree(b"permessage-deflate")
    for start, deflate in itertools.product((b"", text("Hel", fin=False), frame(2, bytes(9))[:-3]), (None, agreement)):
        play([start + raw, more], 50, deflate)
    play([struct.pack("!BB", 0xC1, 0x80 | 20) + raw, more], 50, agreement)
