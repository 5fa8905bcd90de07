"""permessage-deflate (RFC 7692): what is agreed on, every combination of parameters both ways, and bombs.

Here the websockets library is the other end: its implementation of the extension is not ours. Where the offer itself or what
follows it is wrong, the hand-made peer makes it.
"""

from __future__ import annotations

import functools
import itertools
import random
import zlib
from collections.abc import Iterator

import pytest
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.sync.client import connect as connect_client

from tests.integration.support import MIB, Server, fresh_key, serve
from tests.integration.test_backpressure import GROWTH, Memory, others_are_served
from tests.integration.websocket.peer import (
    APPS,
    BINARY,
    CONTINUATION,
    PING,
    PONG,
    RSV1,
    TEXT,
    Frame,
    Peer,
    connect,
    frame,
    handshake_bytes,
)

APP = f"{APPS}.scenarios:app"
MAX_SIZE = MIB
# RFC 7692 section 7.2.1: a sender removes these four octets from the end of what it has deflated.
TAIL = b"\0\0\xff\xff"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve(APP, "--no-access-log", "--ws-max-size", str(MAX_SIZE), "--ws-ping-interval", "0") as running:
        with connect(running) as peer:
            offer(peer.open("/echo", headers=["Sec-WebSocket-Extensions: permessage-deflate"])).finish()
        yield running


@pytest.fixture
def peer(server: Server) -> Iterator[Peer]:
    with connect(server) as connection:
        yield connection


def offer(peer: Peer) -> Peer:
    """It was agreed on."""
    assert peer.handshake.all(b"sec-websocket-extensions") != []
    return peer


def agreed(peer: Peer) -> dict[str, str | None] | None:
    """The parameters in the server's answer; None if it declined."""
    lines = peer.handshake.all(b"sec-websocket-extensions")
    assert len(lines) <= 1
    if not lines:
        return None
    name, *parameters = (part.strip() for part in lines[0].decode().split(";"))
    assert name == "permessage-deflate"
    pairs = [parameter.partition("=") for parameter in parameters]
    assert len({key for key, _, _ in pairs}) == len(pairs), "a parameter is repeated"
    return {key: value if equals else None for key, equals, value in pairs}


def deflated(data: bytes, bits: int = 15) -> bytes:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -bits)
    return (deflater.compress(data) + deflater.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


dice = random.Random(7692)
MESSAGES: list[str | bytes] = [
    "",
    b"",
    "a",
    "käse " * 1000,
    b"\0" * 100_000,
    dice.randbytes(50_000),
    "the same again, the same again",
    "the same again, the same again",
    # Repeats what lies further back than the smallest window.
    (filler := dice.randbytes(3000)) + b"x" * 40_000 + filler,
    b"",
    "over",
]

BITS = (None, 9, 12, 15)


@pytest.mark.parametrize("server_bits", BITS)
@pytest.mark.parametrize("client_bits", (*BITS, True))
def test_every_combination_of_parameters(server: Server, server_bits: int | None, client_bits: int | None) -> None:
    for server_forgets, client_forgets in itertools.product((False, True), repeat=2):
        parameters = ClientPerMessageDeflateFactory(
            server_no_context_takeover=server_forgets,
            client_no_context_takeover=client_forgets,
            server_max_window_bits=server_bits,
            client_max_window_bits=client_bits,
        )
        uri = f"ws://127.0.0.1:{server.port}/echo"
        with connect_client(uri, compression=None, extensions=[parameters], proxy=None) as client:
            assert [extension.name for extension in client.protocol.extensions] == ["permessage-deflate"]
            for message in MESSAGES:
                client.send(message)
                assert client.recv(timeout=15) == message
            # In pieces, compressed as a whole.
            client.send(iter(["first ", "", "second ", "third"]))
            assert client.recv(timeout=15) == "first second third"


def test_what_repeats_becomes_short(peer: Peer) -> None:
    offer(peer.open("/echo", headers=["Sec-WebSocket-Extensions: permessage-deflate"]))
    peer.send_text("x" * 50_000)
    got = peer.read_frame()
    assert (got.opcode, got.rsv) == (TEXT, RSV1)
    assert len(got.payload) < 1000
    assert zlib.decompressobj(-15).decompress(got.payload + TAIL) == b"x" * 50_000
    peer.finish()


@pytest.mark.parametrize("bits", range(8, 16))
def test_the_window_is_not_larger_than_was_asked_for(server: Server, peer: Peer, bits: int) -> None:
    """A client that has said so has no memory for more; whoever cannot keep to it must decline (RFC 7692 7.1.2.1)."""
    asked = f"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits={bits}"
    peer.open("/echo", headers=[asked])
    parameters = agreed(peer)
    block = random.Random(bits).randbytes(2000)
    data = block + b"-" * (1 << bits) + block
    peer.send_bytes(data)
    got = peer.read_frame()
    if parameters is None:
        assert bits == 8, "declined without need"
        assert got == Frame(BINARY, data)
        return
    given = parameters["server_max_window_bits"]
    assert given is not None and 8 <= int(given) <= bits
    assert got.rsv == RSV1
    assert zlib.decompressobj(-int(given)).decompress(got.payload + TAIL) == data
    peer.finish()


DECLINED = (
    "permessage-deflate; unknown",
    "permessage-deflate; unknown=1",
    "permessage-deflate; server_max_window_bits=7",
    "permessage-deflate; server_max_window_bits=16",
    "permessage-deflate; server_max_window_bits=010",
    "permessage-deflate; server_max_window_bits=ten",
    "permessage-deflate; server_max_window_bits",
    "permessage-deflate; client_max_window_bits=7",
    "permessage-deflate; client_max_window_bits=16",
    "permessage-deflate; server_no_context_takeover=1",
    "permessage-deflate; client_no_context_takeover=true",
    "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
    "permessage-deflate; client_max_window_bits; client_max_window_bits=10",
    "permessage-bzip2",
    "x-webkit-deflate-frame",
    "permessage-deflates",
)


@pytest.mark.parametrize("asked", DECLINED)
def test_what_cannot_be_agreed_on_is_declined(peer: Peer, asked: str) -> None:
    """RFC 7692 section 7.1: such an offer is declined, the WebSocket opened without it."""
    peer.open("/echo", headers=[f"Sec-WebSocket-Extensions: {asked}"])
    assert agreed(peer) is None
    peer.send_text("x" * 1000)
    assert peer.read_frame() == Frame(TEXT, b"x" * 1000)
    peer.finish()


@pytest.mark.parametrize(
    "asked", ["permessage-deflate; server_max_window_bits=", "; foo", "permessage-deflate; =1", "a b"]
)
def test_what_is_no_list_of_extensions_is_refused_or_declined(peer: Peer, asked: str) -> None:
    """RFC 6455 section 9.1: a server that cannot parse it must fail the handshake; many ignore it."""
    peer.send(handshake_bytes("/echo", headers=[f"Sec-WebSocket-Extensions: {asked}"]))
    response = peer.read_head()
    assert response.status in (400, 101)
    assert response.all(b"sec-websocket-extensions") == []


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["permessage-deflate"], {}),
        (["Permessage-Deflate"], None),
        (["permessage-deflate;server_no_context_takeover"], {"server_no_context_takeover"}),
        (['permessage-deflate; server_max_window_bits="10"'], {"server_max_window_bits"}),
        (["permessage-deflate; unknown, permessage-deflate"], {}),
        (["permessage-bzip2", "permessage-deflate"], {}),
        (["foo, bar; baz=1, permessage-deflate; client_no_context_takeover"], {"client_no_context_takeover"}),
    ],
)
def test_the_first_offer_that_will_do_is_taken(peer: Peer, lines: list[str], expected: set[str] | None) -> None:
    peer.open("/echo", headers=[f"Sec-WebSocket-Extensions: {line}" for line in lines])
    parameters = agreed(peer)
    if expected is None:  # whether names are compared with or without case, no RFC says
        assert parameters in (None, {})
    else:
        assert parameters is not None and set(parameters) >= set(expected)
    peer.finish()


def test_without_the_option_nothing_is_agreed_on() -> None:
    with serve(APP, "--no-ws-per-message-deflate") as server, connect(server) as peer:
        peer.open("/echo", headers=["Sec-WebSocket-Extensions: permessage-deflate"])
        assert agreed(peer) is None
        peer.send_text("x" * 1000)
        assert peer.read_frame() == Frame(TEXT, b"x" * 1000)
        peer.send_frame(TEXT, deflated(b"hi"), rsv=RSV1)
        peer.expect_close(1002, None)


def test_client_context_takeover_is_not_asked_back_without_an_offer(peer: Peer) -> None:
    """RFC 7692 section 7.1.2.2: without client_max_window_bits in the offer it must not be in the answer."""
    parameters = agreed(peer.open("/echo", headers=["Sec-WebSocket-Extensions: permessage-deflate"]))
    assert parameters is not None and "client_max_window_bits" not in parameters


# -- by hand


@pytest.fixture
def compressed(peer: Peer) -> Peer:
    return offer(peer.open("/echo", headers=["Sec-WebSocket-Extensions: permessage-deflate"]))


def inflated(got: Frame) -> bytes:
    if not got.rsv & RSV1:
        return got.payload
    return zlib.decompressobj(-15).decompress(got.payload + TAIL)


def test_a_message_may_be_uncompressed(compressed: Peer) -> None:
    """RFC 7692 section 6: each side decides for each message."""
    compressed.send_text("plain")
    assert inflated(compressed.read_frame()) == b"plain"
    compressed.send_frame(TEXT, deflated(b"deflated"), rsv=RSV1)
    assert inflated(compressed.read_frame()) == b"deflated"
    compressed.finish()


@pytest.mark.parametrize("cut", [0, 1, 3, 7])
def test_a_compressed_message_in_pieces(compressed: Peer, cut: int) -> None:
    data = deflated(b"in pieces " * 10)
    compressed.send(
        frame(TEXT, data[:cut], fin=False, rsv=RSV1)
        + frame(PING, b"between")
        + frame(CONTINUATION, b"", fin=False)
        + frame(CONTINUATION, data[cut:])
    )
    frames = [compressed.read_frame(), compressed.read_frame()]
    assert Frame(PONG, b"between") in frames
    (message,) = (got for got in frames if got.opcode == TEXT)
    assert inflated(message) == b"in pieces " * 10
    compressed.finish()


def test_a_final_block_is_taken_too(compressed: Peer) -> None:
    """RFC 7692 section 7.2.3.4 and 7.2.3.5: blocks with BFINAL, and more than one block."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    final = deflater.compress(b"final") + deflater.flush(zlib.Z_FINISH)
    compressed.send_frame(TEXT, final + b"\0", rsv=RSV1)
    assert inflated(compressed.read_frame()) == b"final"
    compressed.send_frame(TEXT, deflated(b"next"), rsv=RSV1)
    assert inflated(compressed.read_frame()) == b"next"
    compressed.finish()


@pytest.mark.parametrize(
    ("data", "codes"),
    [
        (frame(TEXT, b"\xff" * 20, rsv=RSV1), (1002, 1007)),
        (frame(TEXT, deflated(b"x" * 100)[:-3] + b"\x07\x07\x07", rsv=RSV1), (1002, 1007)),
        (frame(TEXT, deflated(b"\xff\xfe"), rsv=RSV1), (1007,)),
        (frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b", rsv=RSV1), (1002,)),
        (frame(PING, b"a", rsv=RSV1), (1002,)),
        (frame(TEXT, deflated(b"a"), rsv=RSV1 | 1), (1002,)),
        (frame(8, b"\x03\xe8", rsv=RSV1), (1002,)),
    ],
    ids=["no deflate", "damaged", "no utf-8", "continuation", "ping", "another bit", "close"],
)
def test_a_violation_fails_the_connection(compressed: Peer, data: bytes, codes: tuple[int, ...]) -> None:
    compressed.send(data)
    got = compressed.read_frame()
    assert got.opcode == 8
    assert int.from_bytes(got.payload[:2], "big") in codes


# -- bombs


@functools.cache
def bomb(size: int) -> bytes:
    """`size` zeros, a thousandth of it on the wire."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    pieces = [deflater.compress(b"\0" * MIB) for _ in range(size // MIB)]
    return (b"".join(pieces) + deflater.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


@pytest.mark.parametrize("pieces", [1, 5, 5000])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_bomb_is_1009_and_costs_no_memory(server: Server, compressed: Peer, opcode: int, pieces: int) -> None:
    data = bomb(256 * MIB)
    step = -(-len(data) // pieces)
    frames = [
        frame(
            CONTINUATION if at else opcode,
            data[at : at + step],
            rsv=0 if at else RSV1,
            fin=at + step >= len(data),
        )
        for at in range(0, len(data), step)
    ]
    memory = Memory(server)
    compressed.feed([b"".join(frames)])
    compressed.expect_close(1009, None)
    memory.check(GROWTH + 2 * MAX_SIZE)
    others_are_served(server)


def test_a_message_of_exactly_the_limit_passes(compressed: Peer) -> None:
    compressed.send_frame(BINARY, deflated(b"\0" * MAX_SIZE), rsv=RSV1)
    assert inflated(compressed.read_frame()) == b"\0" * MAX_SIZE
    compressed.send_frame(BINARY, deflated(b"\0" * (MAX_SIZE + 1)), rsv=RSV1)
    compressed.expect_close(1009, None)


def test_many_bombs_at_once_cost_no_memory(server: Server) -> None:
    data = frame(BINARY, bomb(256 * MIB), rsv=RSV1)
    memory = Memory(server)
    peers = [connect(server) for _ in range(20)]
    for peer in peers:
        peer.open("/echo", headers=["Sec-WebSocket-Extensions: permessage-deflate"])
    for peer in peers:
        peer.feed([data])
    for peer in peers:
        peer.expect_close(1009, None)
        peer.close()
    memory.check(GROWTH + 20 * 512 * 1024)


def test_a_flood_of_small_bombs_nobody_receives_stops_the_client(server: Server, peer: Peer) -> None:
    """Each is within the limit of a message: it is the queue that must count what they have become."""
    key = fresh_key()
    offer(
        peer.open(f"/deaf?{key}", headers=["Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover"])
    )
    assert server.read_note(key) == "deaf"
    message = frame(BINARY, deflated(b"\0" * MAX_SIZE), rsv=RSV1)
    memory = Memory(server)
    limit = 4000 * len(message)
    assert peer.flood(message * 10, limit) < limit
    others_are_served(server)
    memory.check(GROWTH + 2 * MAX_SIZE)
    peer.reset()


def test_many_compressed_websockets_cost_little_each(server: Server) -> None:
    count = 100
    memory = Memory(server)
    peers = [connect(server) for _ in range(count)]
    for peer in peers:
        peer.open("/echo", headers=["Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"])
        peer.send_frame(TEXT, deflated(b"x" * 1000, 9), rsv=RSV1)
        peer.read_frame()
    # zlib's own defaults would be 300 KiB each, both directions together.
    memory.check(GROWTH + count * 160 * 1024)
    for peer in peers:
        peer.reset()
