"""permessage-deflate: offers and answers by RFC 7692 section 7.1, and messages through another implementation and back."""

from __future__ import annotations

import random
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.exceptions import InvalidHeader, NegotiationError
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
)
from websockets.frames import Frame, Opcode
from websockets.headers import build_extension, parse_extension
from websockets.typing import ExtensionName, ExtensionParameter

from ladybug.protocol.deflate import MOST_ENDS, TAIL, Agreement, Deflater, Inflater, agree, read_offers
from ladybug.protocol.websocket import BINARY, ERROR, TEXT
from tests.protocol.frames import Event, frame, play

NAME = b"permessage-deflate"
NO_LIMIT = 1 << 40


def agreed(offers: bytes) -> Agreement:
    agreement = agree(offers)
    assert agreement is not None
    return agreement


def facts(agreement: Agreement) -> tuple[bool, bool, int, int]:
    return (
        agreement.server_no_context_takeover,
        agreement.client_no_context_takeover,
        agreement.server_max_window_bits,
        agreement.client_max_window_bits,
    )


@pytest.mark.parametrize(
    ("offers", "answer", "expected"),
    [
        (NAME, b"; server_max_window_bits=12", (False, False, 12, 15)),
        (
            NAME + b"; client_max_window_bits",
            b"; server_max_window_bits=12; client_max_window_bits=12",
            (False, False, 12, 12),
        ),
        (
            NAME + b"; client_max_window_bits=15; server_max_window_bits=15",
            b"; server_max_window_bits=12; client_max_window_bits=12",
            (False, False, 12, 12),
        ),
        (
            NAME + b"; client_max_window_bits=8; server_max_window_bits=9",
            b"; server_max_window_bits=9; client_max_window_bits=8",
            (False, False, 9, 8),
        ),
        (
            NAME + b"; server_no_context_takeover",
            b"; server_no_context_takeover; server_max_window_bits=12",
            (True, False, 12, 15),
        ),
        (
            NAME + b"; client_no_context_takeover; server_no_context_takeover; client_max_window_bits=10",
            b"; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=12; client_max_window_bits=10",
            (True, True, 12, 10),
        ),
        (NAME + b'; server_max_window_bits="10"', b"; server_max_window_bits=10", (False, False, 10, 15)),
        (NAME + b'; server_max_window_bits="1\\0"', b"; server_max_window_bits=10", (False, False, 10, 15)),
        (
            b" , " + NAME + b"\t ;\tserver_max_window_bits = 10 ,, other",
            b"; server_max_window_bits=10",
            (False, False, 10, 15),
        ),
        (
            b"x-webkit-deflate-frame, other; a=b, " + NAME + b"; server_max_window_bits=11",
            b"; server_max_window_bits=11",
            (False, False, 11, 15),
        ),
        # Section 7.1.3: an offer that is liked better, then one to fall back on
        (
            NAME + b"; server_max_window_bits=7, " + NAME + b"; server_max_window_bits=11, " + NAME,
            b"; server_max_window_bits=11",
            (False, False, 11, 15),
        ),
        (NAME + b"; unknown, " + NAME, b"; server_max_window_bits=12", (False, False, 12, 15)),
    ],
)
def test_offers_that_are_accepted(offers: bytes, answer: bytes, expected: tuple[bool, bool, int, int]) -> None:
    agreement = agreed(offers)
    assert agreement.field == NAME + answer
    assert facts(agreement) == expected


@pytest.mark.parametrize(
    "parameters",
    [
        b"unknown",
        b"server_max_window_bits",
        *(
            b"server_max_window_bits=" + value
            for value in (b"7", b"16", b"08", b"010", b"a", b"-8", b"1", b"100", b'"7"')
        ),
        *(b"client_max_window_bits=" + value for value in (b"7", b"16", b"08", b"x", b"0")),
        b"server_no_context_takeover=1",
        b"client_no_context_takeover=true",
        b"Server_No_Context_Takeover",
        *(
            name + b"; " + name
            for name in (
                b"server_no_context_takeover",
                b"client_no_context_takeover",
                b"server_max_window_bits=10",
                b"client_max_window_bits",
                b"client_max_window_bits=10",
            )
        ),
        b"client_max_window_bits; client_max_window_bits=10",
        b"server_max_window_bits=10; server_max_window_bits=11",
    ],
)
def test_offers_that_are_declined(parameters: bytes) -> None:
    """Section 7.1: one bad parameter declines its offer, and no other."""
    assert agree(NAME + b"; " + parameters) is None
    assert facts(agreed(NAME + b"; " + parameters + b", " + NAME + b"; server_max_window_bits=9")) == (
        False,
        False,
        9,
        15,
    )


@pytest.mark.parametrize("offers", [b"", b" ", b",", b"other", b"permessage-deflate2", b"x; permessage-deflate"])
def test_nothing_is_offered(offers: bytes) -> None:
    assert agree(offers) is None
    assert read_offers(offers) is not None, "this is no error"


BAD_GRAMMAR = [
    *(
        b";",
        b"a;",
        b"a;;b",
        b"a b",
        b"a;b=",
        b"a;=b",
        b"a;b=c d",
        b"a; b c",
        b'a;b="',
        b'a;b=""',
        b'a;b="c',
        b'a;b="c"d',
    ),
    *(
        b'a;b="c d"',
        b'a;b="c,d"',
        b'a;b="c;d"',
        b'a;b="\\"',
        b'a;b="\\\\"',
        b"a=b",
        b"\x00",
        b"a\x00",
        b"\xff",
        b'"a"',
        b"a/b",
    ),
    *(
        b"permessage-deflate; server_max_window_bits=",
        b"permessage-deflate;, permessage-deflate",
        b"(a)",
        b"a;b=c=d",
        b"a\nb",
    ),
]


@pytest.mark.parametrize("field", BAD_GRAMMAR)
def test_bad_grammar(field: bytes) -> None:
    for whole in (field, b"permessage-deflate, " + field, field + b", permessage-deflate"):
        assert read_offers(whole) is None
        assert agree(whole) is None


def test_offers_are_read_in_order() -> None:
    assert read_offers(b'a, b;c ; d=e,,\tf ; g = "h\\i"; j="k" ,') == [
        (b"a", []),
        (b"b", [(b"c", None), (b"d", b"e")]),
        (b"f", [(b"g", b"hi"), (b"j", b"k")]),
    ]


words = st.sampled_from(
    [
        b"a",
        b"permessage-deflate",
        b"server_max_window_bits",
        b";",
        b"; ",
        b"=",
        b",",
        b", ",
        b'"',
        b"\\",
        b" ",
        b"\t",
        b"10",
        b"\x00",
    ]
)


@settings(deadline=None, max_examples=1000)
@given(st.lists(words, max_size=12).map(b"".join))
def test_another_parser_agrees(field: bytes) -> None:
    offers = read_offers(field)
    try:
        # It strips what surrounds a whole field already, and reads quotes more strictly than RFC 2616 does.
        expected = [(name.encode(), [(key.encode(), value and value.encode()) for key, value in parameters])
                    for name, parameters in parse_extension(field.decode("latin-1").strip(" \t"))]  # fmt: skip
    except InvalidHeader:
        assert offers is None or b"\\" in field or not field.strip(b" \t,")
    else:
        assert offers == expected


parameter_lists = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "server_no_context_takeover",
                "client_no_context_takeover",
                "server_max_window_bits",
                "client_max_window_bits",
            ]
        ),
        # Not 8: the other one declines it, because zlib cannot write it; see Deflater.
        st.sampled_from([None, None, "9", "12", "15", "16", "09", "x"]),
    ),
    max_size=4,
)


@settings(deadline=None, max_examples=1000)
@given(parameter_lists)
def test_another_server_answers_the_same(parameters: list[ExtensionParameter]) -> None:
    factory = ServerPerMessageDeflateFactory(server_max_window_bits=12, client_max_window_bits=12)
    agreement = agree(build_extension([(ExtensionName("permessage-deflate"), parameters)]).encode())
    try:
        answer, extension = factory.process_request_params(parameters, [])
    except NegotiationError:
        assert agreement is None
        return
    assert agreement is not None
    assert facts(agreement) == (
        extension.local_no_context_takeover,
        extension.remote_no_context_takeover,
        extension.local_max_window_bits,
        extension.remote_max_window_bits,
    )
    assert sorted(parse_extension(agreement.field.decode())[0][1]) == sorted(answer)


@pytest.mark.parametrize("server_fresh", [False, True])
@pytest.mark.parametrize("client_fresh", [False, True])
@pytest.mark.parametrize("server_bits", [None, 8, 9, 12, 15])
@pytest.mark.parametrize("client_bits", [None, True, 9, 15])
def test_another_client_takes_the_answer(
    server_fresh: bool, client_fresh: bool, server_bits: int | None, client_bits: int | bool | None
) -> None:
    factory = ClientPerMessageDeflateFactory(server_fresh, client_fresh, server_bits, client_bits)
    agreement = agreed(build_extension([(factory.name, factory.get_request_params())]).encode())
    (_, answer), *others = parse_extension(agreement.field.decode())
    assert not others
    extension = factory.process_response_params(answer, [])
    assert facts(agreement) == (
        extension.remote_no_context_takeover,
        extension.local_no_context_takeover,
        extension.remote_max_window_bits,
        extension.local_max_window_bits,
    )


FRESH = b"; server_no_context_takeover; client_no_context_takeover"
OFFERS = [
    NAME + takeover + b"; client_max_window_bits%b; server_max_window_bits=%d" % (client, server)
    for takeover in (b"", FRESH)
    for client, server in ((b"", 15), (b"=8", 8), (b"=9", 9), (b"=15", 12))
]

bodies = st.one_of(
    st.binary(max_size=200),
    st.sampled_from(
        [b"", b"a", b"\0" * 5000, b"hello " * 800, bytes(range(256)) * 40, random.Random(1).randbytes(9000)]
    ),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(bodies, max_size=6), st.sampled_from(OFFERS))
def test_what_we_compress_another_implementation_reads(contents: list[bytes], offer: bytes) -> None:
    agreement = agreed(offer)
    deflater = Deflater(agreement)
    # As zlib: it takes a window of 8 bits for reading.
    peer = PerMessageDeflate(agreement.server_no_context_takeover, False, agreement.server_max_window_bits, 15)
    for content in contents:
        squeezed = deflater.deflate(content)
        assert squeezed and not squeezed.endswith(TAIL)
        assert peer.decode(Frame(Opcode.BINARY, squeezed, True, True)).data == content


@settings(deadline=None, max_examples=150)
@given(st.lists(st.lists(bodies, min_size=1, max_size=3), max_size=5), st.sampled_from(OFFERS))
def test_what_another_implementation_compresses_we_read(contents: list[list[bytes]], offer: bytes) -> None:
    agreement = agreed(offer)
    peer = PerMessageDeflate(False, agreement.client_no_context_takeover, 15, max(agreement.client_max_window_bits, 9))
    raw = b""
    for pieces in contents:
        for i, piece in enumerate(pieces):
            encoded = peer.encode(Frame(Opcode.CONT if i else Opcode.BINARY, piece, fin=i == len(pieces) - 1))
            raw += frame(encoded.opcode, bytes(encoded.data), fin=encoded.fin, rsv=0x40 if encoded.rsv1 else 0)
    assert play([raw], NO_LIMIT, agreement) == [Event(BINARY, b"".join(pieces)) for pieces in contents]


@pytest.mark.parametrize("bits", range(8, 13))
def test_the_window_is_never_larger_than_agreed(bits: int) -> None:
    """Read an octet at a time, so that nothing but the window remembers what came before."""
    dice = random.Random(bits)
    deflater = Deflater(agreed(NAME + b"; server_max_window_bits=%d" % bits))
    reader = zlib.decompressobj(-bits)
    words = [dice.randbytes(dice.randrange(3, 40)) for _ in range(60)]
    for _ in range(20):
        content = b"".join(dice.choices(words, k=100))
        squeezed = deflater.deflate(content) + TAIL
        read = b""
        while squeezed:
            read += reader.decompress(squeezed, 1)
            squeezed = reader.unconsumed_tail
        assert read == content[: len(read)]
        read += reader.decompress(b"")
        assert read == content


def squeeze(content: bytes, flush: int = zlib.Z_SYNC_FLUSH) -> bytes:
    compressor = zlib.compressobj(wbits=-12)
    squeezed = compressor.compress(content) + compressor.flush(flush)
    return squeezed.removesuffix(TAIL)


# RFC 7692 section 7.2.3
EXAMPLES = {
    "one block": b"\xf2\x48\xcd\xc9\xc9\x07\x00",
    "no compression": b"\x00\x05\x00\xfa\xffHello\x00",
    "a final block": b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00",
    "two blocks": b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00",
}


@pytest.mark.parametrize("payload", EXAMPLES.values(), ids=EXAMPLES)
@pytest.mark.parametrize("offer", [NAME, NAME + FRESH])
def test_the_examples_of_the_rfc(payload: bytes, offer: bytes) -> None:
    for at in range(len(payload) + 1):
        raw = frame(1, payload[:at], fin=False, rsv=0x40) + frame(0, payload[at:])
        raw += frame(1, payload, rsv=0x40)
        assert play([raw], agreement=agreed(offer)) == [Event(TEXT, "Hello")] * 2


def test_a_window_goes_on_from_message_to_message() -> None:
    """Section 7.2.3.2: the second time, "Hello" is a reference to the first."""
    raw = frame(1, b"\xf2\x48\xcd\xc9\xc9\x07\x00", rsv=0x40) + frame(1, b"\xf2\x00\x11\x00\x00", rsv=0x40)
    assert play([raw], agreement=agreed(NAME)) == [Event(TEXT, "Hello")] * 2
    assert play([raw], agreement=agreed(NAME + FRESH)) == [Event(TEXT, "Hello"), Event(ERROR, 1007)]


def test_a_final_block_ends_its_window_and_no_more() -> None:
    raw = frame(1, EXAMPLES["a final block"], rsv=0x40) * 2 + frame(1, EXAMPLES["one block"], rsv=0x40)
    assert play([raw], agreement=agreed(NAME)) == [Event(TEXT, "Hello")] * 3
    raw = frame(1, EXAMPLES["a final block"], rsv=0x40) + frame(1, b"\xf2\x00\x11\x00\x00", rsv=0x40)
    assert play([raw], agreement=agreed(NAME)) == [Event(TEXT, "Hello"), Event(ERROR, 1007)]


def test_messages_that_are_not_compressed_come_between() -> None:
    raw = frame(1, squeeze(b"one"), rsv=0x40) + frame(1, b"two") + frame(2, b"th", fin=False) + frame(0, b"ree")
    expected = [Event(TEXT, "one"), Event(TEXT, "two"), Event(BINARY, b"three")]
    assert play([raw], agreement=agreed(NAME)) == expected


@pytest.mark.parametrize(
    "raw",
    [
        frame(9, rsv=0x40),
        frame(8, rsv=0x40),
        frame(3, rsv=0x40),
        frame(1, rsv=0x60),
        frame(1, b"a", fin=False) + frame(0, rsv=0x40),
    ],
)
def test_rsv1_belongs_to_the_first_frame_of_a_message(raw: bytes) -> None:
    assert play([raw], agreement=agreed(NAME)) == [Event(ERROR, 1002)]


@pytest.mark.parametrize(
    "payload", [b"\xff", b"\x06", b"\x00\x05\x00\x00\x00Hello", squeeze(b"x" * 99)[:-1] + b"\xff\xff\xff"]
)
def test_what_is_no_deflate_data(payload: bytes) -> None:
    assert play([frame(2, payload, rsv=0x40)], agreement=agreed(NAME)) == [Event(ERROR, 1007)]


def test_a_compressed_text_is_judged_as_it_comes() -> None:
    compressor = zlib.compressobj(wbits=-12)
    start = compressor.compress(b"\xf4\x90") + compressor.flush(zlib.Z_SYNC_FLUSH)
    assert play([frame(1, start, fin=False, rsv=0x40)], agreement=agreed(NAME)) == [Event(ERROR, 1007)]
    assert play([frame(1, squeeze(b"\xc3"), rsv=0x40)], agreement=agreed(NAME)) == [Event(ERROR, 1007)]


@pytest.mark.parametrize("pieces", [1, 3])
def test_the_limit_counts_what_comes_out(pieces: int) -> None:
    payload = squeeze(b"x" * 1000)
    size = -(-len(payload) // pieces)
    cut = [payload[at : at + size] for at in range(0, len(payload), size)]
    raw = b"".join(
        frame(0 if i else 2, piece, fin=i == len(cut) - 1, rsv=0 if i else 0x40) for i, piece in enumerate(cut)
    )
    assert play([raw], 1000, agreed(NAME)) == [Event(BINARY, b"x" * 1000)]
    assert play([raw], 999, agreed(NAME)) == [Event(ERROR, 1009)]
    noise = random.Random(7).randbytes(100)
    assert play([frame(2, squeeze(noise), rsv=0x40)], 100, agreed(NAME)) == [Event(BINARY, noise)], "it grew on the way"


@pytest.mark.parametrize("payload", [squeeze(bytes(1 << 26)), squeeze(bytes(1 << 26), zlib.Z_FINISH) + b"\x00"])
def test_a_bomb_costs_no_memory(payload: bytes) -> None:
    """64 MiB of zeros in 64 KiB."""
    raw = frame(2, payload, rsv=0x40)
    tracemalloc.start()
    try:
        assert play([raw], 1 << 20, agreed(NAME)) == [Event(ERROR, 1009)]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


def test_final_blocks_are_counted() -> None:
    """Each costs a decompressor: a frame of them would be minutes of work."""
    final = squeeze(b"x", zlib.Z_FINISH)
    few, many = final * (MOST_ENDS - 1) + b"\x00", final * 20000 + b"\x00"
    agreement = agreed(NAME)
    expected = [Event(BINARY, b"x" * (MOST_ENDS - 1))] * 3
    assert play([frame(2, few, rsv=0x40) * 3], agreement=agreement) == expected, "of each message on its own"
    assert play([frame(2, many, rsv=0x40)], agreement=agreement) == [Event(ERROR, 1007)]


def test_nothing_is_made_before_it_is_used_nor_kept_where_nothing_is_taken_over() -> None:
    for offer, kept in ((NAME, True), (NAME + FRESH, False)):
        inflater, deflater = Inflater(agreed(offer)), Deflater(agreed(offer))
        assert inflater.inflating is None and deflater.deflating is None
        assert deflater.deflate(b"") == b"\x00" and deflater.deflating is None
        assert inflater.inflate(deflater.deflate(b"Hello"), True, 5) == b"Hello"
        assert (inflater.inflating is not None, deflater.deflating is not None) == (kept, kept)


@settings(deadline=None, max_examples=500)
@given(st.binary(max_size=60), st.binary(max_size=60), st.booleans(), st.integers(0, 100))
def test_nothing_raises(first: bytes, second: bytes, last: bool, most: int) -> None:
    inflater = Inflater(agreed(NAME))
    content = inflater.inflate(first, last, most)
    if content is not None and len(content) <= most:
        inflater.inflate(second, True, most)
