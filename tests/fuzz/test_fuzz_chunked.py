"""Target: the chunked coding, ChunkedDecoder.

Invariant: for any bytes in any pieces nothing raises, content, end and refusal do not depend on the pieces, what has to be
kept is bounded, and where llhttp accepts the same bytes its content is the same.
"""

from __future__ import annotations

import random

from ladybug.protocol.chunked import MORE, ChunkedDecoder
from ladybug.protocol.limits import MAX_CHUNK_LINE, Limits
from tests.fuzz.fuzzing import cut_up, fuzz, mutate
from tests.protocol.test_chunked import BODIES, BROKEN_BODIES, Reference, decode

SEEDS = [raw for raw, _ in BODIES.values()] + [raw for raw, _ in BROKEN_BODIES.values()]
DICTIONARY = (
    *(
        b"\r\n",
        b"\r",
        b"\n",
        b"0\r\n\r\n",
        b"0\r\n",
        b"1\r\nx\r\n",
        b"5\r\nhello\r\n",
        b";",
        b";a=b",
        b"=",
        b'"',
        b" ",
        b"\t",
    ),
    *(b"a: b\r\n", b":", b"\x00", b"\xff", b"f", b"F", b"00", b"123456789012345"),
)
LIMITS = Limits(fields=4, fields_size=30, body=40)


def target(dice: random.Random) -> None:
    raw = mutate(dice, b"".join(dice.choices(SEEDS, k=dice.choice((1, 1, 2)))), DICTIONARY)
    limits = dice.choice((LIMITS, Limits()))
    pieces = cut_up(dice, raw)
    expected = decode([raw], limits)
    assert decode(pieces, limits) == expected, raw
    if expected.end >= 0:
        reference = Reference(raw[: expected.end])
        if reference.error is None:
            assert (reference.content, reference.complete) == (expected.content, True), raw
    check_what_is_kept(pieces, limits)


def check_what_is_kept(pieces: list[bytes], limits: Limits) -> None:
    decoder = ChunkedDecoder(limits)
    data = b""
    for piece in pieces:
        data = data[decoder.position :] + piece
        decoder.position = 0
        while True:
            before = decoder.position
            answer = decoder.decode(data)
            assert decoder.position >= before
            if answer == MORE:
                break
            if decoder.refusal is not None or decoder.position == before:
                return
        assert len(data) - decoder.position <= max(MAX_CHUNK_LINE, limits.fields_size) + 2


def test_chunked() -> None:
    fuzz(target)
