"""Target: permessage-deflate, the offers of a handshake and the two halves of a connection.

Invariant: for any field value agree() raises nothing, what it reads does not change when it is written again, and what it
accepts is an answer that RFC 7692 allows to one of the offers. For any messages, under any agreement, what Deflater makes
is read back by Inflater, in any pieces, with no more than asked for at once. For any bytes Inflater raises nothing and
gives no more than one byte beyond the bound.
"""

from __future__ import annotations

import random

from ladybug.protocol.deflate import Agreement, Deflater, Inflater, Offer, agree, read_offers
from tests.fuzz.fuzzing import cut_up, fuzz, mutate

NAME = b"permessage-deflate"
PARAMETERS = (
    *(b"server_no_context_takeover", b"client_no_context_takeover", b"client_max_window_bits"),
    *(b"server_max_window_bits=%d" % bits for bits in (7, 8, 9, 12, 15, 16)),
    *(b"client_max_window_bits=%d" % bits for bits in (7, 8, 9, 12, 15, 16)),
    *(b'server_max_window_bits="10"', b'client_max_window_bits="1\\0"', b"server_max_window_bits", b"x", b"x=y"),
)
BITS = [b"%d" % bits for bits in range(8, 16)]
DICTIONARY = (NAME, *PARAMETERS, b";", b"; ", b",", b"=", b'"', b"\\", b" ", b"\t", b"\x00", b"\xff", b"8", b"08")


def written(offers: list[Offer]) -> bytes:
    return b",".join(
        b";".join([name, *(key if value is None else key + b'="' + value + b'"' for key, value in parameters)])
        for name, parameters in offers
    )


def an_offer(dice: random.Random) -> bytes:
    return b"; ".join(
        [dice.choice((NAME, NAME, NAME, b"other")), *dice.choices(PARAMETERS, k=dice.choice((0, 1, 2, 3)))]
    )


def is_answer(agreement: Agreement, parameters: list[tuple[bytes, bytes | None]]) -> bool:
    """Whether the answer fits the offer: sections 7.1.1.1, 7.1.1.2, 7.1.2.1, 7.1.2.2."""
    offer = dict(parameters)
    if len(offer) != len(parameters):
        return False
    ((name, answered),) = read_offers(agreement.field) or [(b"", [])]
    answer = dict(answered)
    assert name == NAME and len(answer) == len(answered)
    server, client = agreement.server_max_window_bits, agreement.client_max_window_bits
    assert answer.get(b"server_max_window_bits", b"15") == b"%d" % server
    assert answer.get(b"client_max_window_bits", b"15") == b"%d" % client
    assert (b"server_no_context_takeover" in answer) is agreement.server_no_context_takeover
    assert (b"client_no_context_takeover" in answer) is agreement.client_no_context_takeover
    assert 8 <= server <= 15 and 8 <= client <= 15
    bounds = [offer.get(b"server_max_window_bits") or b"15", offer.get(b"client_max_window_bits") or b"15"]
    return (
        all(bound in BITS for bound in bounds)
        and (b"server_no_context_takeover" in offer) <= agreement.server_no_context_takeover
        and server <= int(bounds[0])
        and client <= int(bounds[1])
        and (b"client_max_window_bits" in offer) >= (b"client_max_window_bits" in answer)
    )


def offers(dice: random.Random) -> Agreement | None:
    field = mutate(dice, b", ".join(an_offer(dice) for _ in range(dice.randrange(4))), DICTIONARY)
    read = read_offers(field)
    agreement = agree(field)
    if read is None:
        assert agreement is None, field
        return None
    assert read_offers(written(read)) == read, field
    if agreement is not None:
        assert any(is_answer(agreement, parameters) for name, parameters in read if name == NAME), field
    return agreement


def content(dice: random.Random) -> bytes:
    words = [b"hello", b" ", b"{}", dice.randbytes(5), bytes(300)]
    return b"".join(dice.choices(words, k=dice.choice((0, 1, 5, 200))))


def there_and_back(dice: random.Random, agreement: Agreement) -> None:
    # The same bounds in both directions: what goes out must be what may come in.
    bits = agreement.server_max_window_bits
    mirrored = Agreement(False, agreement.server_no_context_takeover, 15, bits, b"")
    deflater, inflater = Deflater(agreement), Inflater(mirrored)
    for _ in range(dice.randrange(1, 5)):
        expected = content(dice)
        pieces = cut_up(dice, deflater.deflate(expected))
        inflated = b""
        for i, piece in enumerate(pieces):
            most = len(expected) - len(inflated)
            out = inflater.inflate(piece, i == len(pieces) - 1, most)
            assert out is not None and len(out) <= most
            inflated += out
        assert inflated == expected


def target(dice: random.Random) -> None:
    agreement = offers(dice) or agree(NAME)
    assert agreement is not None
    there_and_back(dice, agreement)
    inflater = Inflater(agreement)
    for piece in cut_up(dice, mutate(dice, Deflater(agreement).deflate(content(dice)), DICTIONARY)):
        most = dice.choice((0, 1, 100, 10_000))
        out = inflater.inflate(piece, dice.random() < 0.2, most)
        if out is None or len(out) > most:
            return
        assert len(out) <= most


def test_deflate() -> None:
    fuzz(target)
